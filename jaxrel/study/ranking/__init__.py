"""Encoders ranked for targets by transferability, with the terms of references: plan, execute, table, report."""
