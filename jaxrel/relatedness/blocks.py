"""Class blocks: gathered and padded samples of one class, as transport is solved for one target class at a time."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrel.task import Task

__all__ = [
    "VALIDATION_EVERY",
    "ClassOrder",
    "class_order",
    "heaviest",
    "kept_aside",
    "members",
    "sample_members",
    "within_class_rank",
]

VALIDATION_EVERY = 4  # One of so many training samples of each class is in the validation split.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassOrder:
    """Samples sorted by class, padding last.

    `order` holds the sample indices class by class, `start` the position at which each class begins (the last entry is
    the start of the padding), and `cumulative` the running total of the weights in this order.
    """

    order: Int[Array, " n"]
    start: Int[Array, " k+1"]
    cumulative: Float[Array, " n"]


def class_order(labels: Int[Array, " n"], num_classes: int, weights: Float[Array, " n"]) -> ClassOrder:
    """Sort samples by class, with samples of weight 0 last."""
    keys = jnp.where(weights > 0, labels, num_classes)
    order = jnp.argsort(keys, stable=True)
    start = jnp.searchsorted(keys[order], jnp.arange(num_classes + 1))
    return ClassOrder(order, start, jnp.cumsum(weights[order]))


def within_class_rank(labels: Int[Array, " n"], classes: ClassOrder) -> Int[Array, " n"]:
    """For each sample, the number of earlier samples of its class."""
    places = jnp.arange(labels.size, dtype=labels.dtype)
    return jnp.zeros_like(labels).at[classes.order].set(places) - classes.start[labels]


def kept_aside(task: Task, *, every: int) -> tuple[Task, Task]:
    """Hold out every `every`-th sample of each class: `(rest, held out)`. Smaller classes are in both. Pure."""
    labels, num_classes = task.labelled
    classes = class_order(labels, num_classes, task.weights)
    rare = (classes.start[1:] - classes.start[:-1])[labels] < every
    aside = within_class_rank(labels, classes) % every == every - 1
    return (
        task.replaced(weights=jnp.where(aside & ~rare, 0, task.weights)),
        task.replaced(weights=jnp.where(aside | rare, task.weights, 0)),
    )


def members(
    classes: ClassOrder, weights: Float[Array, " n"], width: int
) -> tuple[Int[Array, "k m"], Float[Array, "k m"]]:
    """The first `width` samples of each class and their weights, 0 where a class has fewer."""
    slots = classes.start[:-1, None] + jnp.arange(width)
    inside = slots < classes.start[1:, None]
    index = classes.order[jnp.minimum(slots, classes.order.shape[0] - 1)]
    return index, jnp.where(inside, weights[index], 0)


def heaviest(weights: Float[Array, "k n"], width: int) -> tuple[Int[Array, "k m"], Float[Array, "k m"]]:
    """The `width` samples of largest weight in each row, and their weights."""
    if width >= weights.shape[1]:
        return jnp.broadcast_to(jnp.arange(weights.shape[1]), weights.shape), weights
    heavy, index = jax.lax.top_k(weights, width)
    return index, heavy


def sample_members(
    classes: ClassOrder, class_index: Int[Array, "*b s"], uniform: Float[Array, "*b s"]
) -> Int[Array, "*b s"]:
    """Draw for each slot a sample of class `class_index`, with probability proportional to its weight.

    `uniform` in [0, 1) is the position inside the class; evenly spread positions draw nearly without replacement.
    """
    before = jnp.concatenate([jnp.zeros(1, classes.cumulative.dtype), classes.cumulative])
    first, last = classes.start[class_index], classes.start[class_index + 1]
    lower, upper = before[first], before[last]
    slot = jnp.searchsorted(classes.cumulative, lower + uniform * (upper - lower), side="right")
    # Rounding of the running total must not lead into the neighbouring class.
    return classes.order[jnp.clip(slot, first, jnp.maximum(last - 1, first))]
