"""Readers of weights: locating checkpoints, reading their files, and mapping the names of their tensors."""
