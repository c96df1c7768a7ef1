"""Encoders scored by many metrics on one target: a table of ranks, its files and its picture."""
