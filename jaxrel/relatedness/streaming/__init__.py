"""Tasks that are not in memory at once: learned on a part, evaluated on all samples in blocks."""

from jaxrel.relatedness.streaming.evaluation import evaluate_bound_in_blocks, task_relatedness_in_blocks

__all__ = ["evaluate_bound_in_blocks", "task_relatedness_in_blocks"]
