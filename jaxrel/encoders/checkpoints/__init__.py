"""Readers of weights: where a checkpoint is, what its file holds, how its tensors are named."""
