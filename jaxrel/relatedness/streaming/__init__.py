"""Streamed tasks: learn from a subsample, then evaluate on all samples in blocks."""

from jaxrel.relatedness.streaming.devices import Progress, told
from jaxrel.relatedness.streaming.evaluation import check_evaluation, evaluated
from jaxrel.relatedness.streaming.learning import learned
from jaxrel.relatedness.streaming.plan import Plan, plan_of

__all__ = ["Plan", "Progress", "check_evaluation", "evaluated", "learned", "plan_of", "told"]
