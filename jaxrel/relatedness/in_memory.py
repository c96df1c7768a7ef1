"""Learning and evaluation of tasks in memory, compiled once for each size class and structure of the method."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrel._core.checks import is_traced
from jaxrel._core.programs import compiled
from jaxrel._core.size_classes import in_size_class
from jaxrel.relatedness.bound import Contributions
from jaxrel.relatedness.checks import checked_tasks, class_counts
from jaxrel.relatedness.methods import Method
from jaxrel.relatedness.result import Relatedness, Transformation
from jaxrel.task import Task

__all__ = ["block_sizes", "checked_training_tasks", "evaluated", "fit", "loaded_alike", "shareable"]


def shareable(task: Task) -> Task:
    """The task in a form that shares compiled programs: padded to its size class, without class names."""
    task = in_size_class(task.loaded())
    return Task.tree_unflatten((task.num_classes, None, False), (task.features, task.labels, task.weights))


def loaded_alike(*tasks: Task) -> list[Task]:
    """The tasks in memory, in the widest of their dtypes."""
    dtype = functools.reduce(jnp.promote_types, (task.dtype for task in tasks))

    def cast(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return [jax.tree.map(cast, task.loaded()) for task in tasks]


def checked_training_tasks(reference: Task, target: Task) -> tuple[Task, Task]:
    """Two labelled tasks of one width and dtype with a sample in each class; anything else is a ValueError."""
    reference, target = map(shareable, loaded_alike(*checked_tasks(reference, target, None)[:2]))
    return reference, target


# Compiled for each new shape and each new structure of the method; the numbers of the method are traced.
@compiled
def fit(method: Method, *given: Any) -> Transformation:
    """Learn the transformation by the method from a reference, a target, a head, a key and a starting point."""
    return method.fit(*given)


@functools.partial(compiled, static_argnames="block_sizes")
def _evaluate(
    method: Method, transformation: Transformation, reference: Task, target: Task, *, block_sizes: tuple[int, int]
) -> tuple[Relatedness, Contributions]:
    return method.evaluate(transformation, reference, target, block_sizes)


def evaluated(
    method: Method,
    transformation: Transformation,
    reference: Task,
    target: Task,
    *,
    sizes: tuple[int, int] | None = None,
) -> tuple[Relatedness, Contributions]:
    """The bound on shareable tasks, and the contribution of each sample. Computes block sizes that are None."""
    if sizes is None and not is_traced(transformation, reference, target):
        sizes = block_sizes(transformation, reference, target)
    return _evaluate(method.for_evaluation(), transformation, reference, target, block_sizes=sizes)


def block_sizes(transformation: Transformation, reference: Task, target: Task) -> tuple[int, int]:
    """The smallest `block_sizes` of `evaluate_bound` that leave nothing out, rounded up to share compilations.

    The arrays must be concrete.
    """
    num_target = max(transformation.conditional.shape[0], target.num_classes or 0)
    counts_r = class_counts(reference, transformation.conditional.shape[1])
    counts_t = class_counts(target, num_target)
    used = np.asarray(transformation.conditional) > 0
    rows, columns = max(1, int((used @ counts_r).max())), max(1, int(counts_t.max()))
    return (min(_rounded_up(rows), reference.num_samples), min(_rounded_up(columns), target.num_samples))


def _rounded_up(size: int) -> int:
    """The next of 2 or 3 times a power of two: at most half too large."""
    step = max(1, 2 ** (max(size, 1).bit_length() - 2))
    return -(-size // step) * step
