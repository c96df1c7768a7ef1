"""Tasks and heads in standardised features, the space in which maps are learned."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrel._core.standardisation import Standardisation
from jaxrel.heads import Head
from jaxrel.task import Task

__all__ = ["on_standardised", "standardised"]


def standardised(task: Task, standardise: Standardisation) -> Task:
    """The task with standardised features. Padded rows are 0."""
    return task.replaced(features=jnp.where(task.weights[:, None] > 0, standardise(task.features), 0))


def on_standardised(head: Head, standardise: Standardisation) -> Head:
    """The head that gives the same logits on standardised features."""
    return Head(weights=head.weights * standardise.scale, bias=head(standardise.mean))
