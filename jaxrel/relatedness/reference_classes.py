"""Selection of the classes of a large reference task that a target task is compared with."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrel._core.checks import Key, checked_key, host_generator
from jaxrel._core.programs import compiled
from jaxrel._core.standardisation import standardisation_of
from jaxrel.relatedness.blocks import class_order
from jaxrel.relatedness.class_maps import class_costs
from jaxrel.relatedness.in_memory import checked_training_tasks, fit
from jaxrel.relatedness.methods import Joint
from jaxrel.relatedness.standardised import standardised
from jaxrel.task import Task
from jaxrel.transport import assign_classes

__all__ = ["restricted_to_classes", "select_reference_classes"]


def select_reference_classes(
    reference: Task,
    target: Task,
    *,
    num_classes: int,
    rule: Literal["nearest", "learned", "random"] = "nearest",
    method: Joint = Joint(class_map="soft"),  # noqa: B008 (immutable)
    key: Key = 0,
) -> tuple[int, ...]:
    """Select the reference classes to keep, in ascending order. Pass them to `restricted_to_classes`.

    Args:
        reference, target: labelled training samples of one encoder; every class has a sample.
        num_classes: the number of classes to keep.
        rule: `"nearest"`: first the classes that the target classes are assigned to, then the classes at the smallest
            transport cost from any target class. `"learned"`: the classes with the largest re-weighted prior D after
            `method` has learned Q. `"random"`: a random choice.
        method: the method for the rule `"learned"`.
        key: the random key for the rules `"random"` and `"learned"`.

    Raises:
        ValueError: for a number of classes below 1 or above that of the reference, an unknown rule, or tasks that
            `task_relatedness` rejects.
    """
    reference, target = checked_training_tasks(reference, target)
    _, num_reference = reference.labelled
    if not isinstance(num_classes, int) or not 1 <= num_classes <= num_reference:
        raise ValueError(f"num_classes must be an integer between 1 and {num_reference}, got {num_classes!r}.")
    match rule:
        case "random":
            rank = host_generator(key).permutation(num_reference)
        case "nearest":
            rank = np.asarray(_nearness(reference, target))
        case "learned":
            method = dataclasses.replace(method, setting="learned")
            learned = fit(method, reference, target, None, checked_key(key))
            rank = np.argsort(np.argsort(-np.asarray(learned.prior), kind="stable"))
        case _:
            raise ValueError(f"rule must be 'nearest', 'learned' or 'random', got {rule!r}.")
    return tuple(int(c) for c in np.flatnonzero(rank < num_classes))


@compiled
def _nearness(reference: Task, target: Task) -> jax.Array:
    """Rank of each reference class; the nearest has rank 0."""
    reference, target = (
        standardised(task, standardisation_of(task.features, task.weights)) for task in (reference, target)
    )
    orders = (class_order(*task.labelled, task.weights) for task in (target, reference))
    target_classes, reference_classes = orders
    costs = class_costs(target, target_classes, reference, reference_classes)
    # A target class assigned several classes owns the nearest; the others were assigned to it as none were left.
    own = jnp.argmin(jnp.where(assign_classes(costs), costs, jnp.inf), axis=1)
    first = jnp.zeros(costs.shape[1], bool).at[own].set(True)
    nearest = jnp.where(first, -1, 0) * (1 + jnp.max(costs)) + jnp.min(costs, axis=0)
    return jnp.argsort(jnp.argsort(nearest, stable=True), stable=True)


def restricted_to_classes(task: Task, classes: tuple[int, ...]) -> Task:
    """Keep only the samples of these classes, renumbered in the order given along with their names.

    Raises:
        ValueError: for repeated classes, classes that the task does not have, or if no sample is left.
    """
    labels, num_classes = task.labelled
    if len(set(classes)) != len(classes) or not all(0 <= c < num_classes for c in classes):
        raise ValueError(f"classes must be different numbers below {num_classes}, got {classes}.")
    renumbered = np.full(num_classes, -1)
    renumbered[list(classes)] = np.arange(len(classes))
    new = renumbered[np.asarray(labels)]
    kept = (new >= 0) & (np.asarray(task.weights) > 0)
    if not kept.any():
        raise ValueError(f"the task has no sample of the classes {classes}.")
    names = None if task.class_names is None else [task.class_names[c] for c in classes]
    return Task(
        task.features[kept],
        new[kept],
        weights=task.weights[kept],
        num_classes=len(classes),
        class_names=names,
    )
