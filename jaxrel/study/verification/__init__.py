"""Verifies whether scores predict the accuracy after training on your own target: train, compare, report."""
