"""Which reference classes may represent each target class, and the weights from which learning starts."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrel.relatedness.blocks import ClassOrder, sample_members
from jaxrel.task import Task
from jaxrel.transport import assign_classes, class_pair_costs

__all__ = ["ClassMap", "check_class_map", "class_costs", "initial_logits", "pruned"]

ClassMap = Literal["assigned", "soft", "identity"] | tuple[int | tuple[int, ...], ...]

_POINTS = 32  # of each class in the class-pair costs
_TEMPERATURE = 0.1  # of a soft start, relative to the mean transport cost between classes
_SMALLEST_SHARE = 1e-3


def check_class_map(class_map: Any) -> None:
    """Raise a ValueError for a value that is not a class map for any task."""
    if isinstance(class_map, tuple) and class_map:
        groups = [group if isinstance(group, tuple) else (group,) for group in class_map]
        if all(group and all(type(c) is int and c >= 0 for c in group) for group in groups):
            return
    elif class_map in ("assigned", "soft", "identity"):
        return
    raise ValueError(
        "class_map must be 'assigned', 'soft', 'identity' or a tuple with, for each target class, a reference class or "
        f"a tuple of reference classes, got {class_map!r}."
    )


def class_costs(target: Task, target_classes: ClassOrder, reference: Task, reference_classes: ClassOrder) -> Array:
    """Transport cost (t, r) between the features of each target class and each reference class, on a few points."""

    def spread(task: Task, classes: ClassOrder) -> Float[Array, "k s d"]:
        _, num_classes = task.labelled
        positions = (jnp.arange(_POINTS, dtype=task.features.dtype) + 0.5) / _POINTS
        own, positions = jnp.broadcast_arrays(jnp.arange(num_classes)[:, None], positions)
        return task.features[sample_members(classes, own, positions)]

    return class_pair_costs(spread(target, target_classes), spread(reference, reference_classes))


def initial_logits(
    class_map: ClassMap,
    target: Task,
    target_classes: ClassOrder,
    reference: Task,
    reference_classes: ClassOrder,
) -> tuple[Float[Array, "t r"] | None, Bool[Array, "t r"]]:
    """Initial logits of Q, and its support.

    The logits are None if each target class has one reference class, as there is nothing to learn in Q. Otherwise they
    are equal on the support of Q. For `"soft"`, half of each row goes to the assigned classes and half to a softmax of
    the class costs. A permutation is a strict local minimum of the bound (the slope of -x log x at 0 is infinite), so Q
    must start mixed; but from a uniform mixture, target classes end up sharing a reference class.
    """
    (_, num_reference), (_, num_target) = reference.labelled, target.labelled
    zero = jnp.zeros((num_target, num_reference), target.features.dtype)
    if isinstance(class_map, tuple):
        support = _given_support(class_map, num_target, num_reference)
        return zero if np.any(np.sum(support, axis=1) > 1) else None, jnp.asarray(support)
    if class_map == "identity":
        return None, jnp.eye(num_target, num_reference, dtype=bool)
    costs = class_costs(target, target_classes, reference, reference_classes)
    assigned = assign_classes(costs)
    if class_map == "assigned":
        return zero if num_reference > num_target else None, assigned
    mean = jnp.mean(costs)
    near = jax.nn.softmax(-costs / (_TEMPERATURE * jnp.where(mean > 0, mean, 1)), axis=1)
    own = assigned / jnp.sum(assigned, axis=1, keepdims=True)
    return jnp.log((near + own) / 2 + _SMALLEST_SHARE), jnp.ones(costs.shape, bool)


def pruned(conditional: Float[Array, "t r"]) -> Float[Array, "t r"]:
    """Q without the reference classes whose share of a target class is below a thousandth of its largest share.

    Learning drives irrelevant classes towards 0 without reaching it. Classes at exactly 0 do not enter the bound.
    """
    kept = jnp.where(conditional >= _SMALLEST_SHARE * jnp.max(conditional, axis=1, keepdims=True), conditional, 0)
    return kept / jnp.sum(kept, axis=1, keepdims=True)


def _given_support(class_map: tuple[int | tuple[int, ...], ...], num_target: int, num_reference: int) -> np.ndarray:
    groups = [group if isinstance(group, tuple) else (group,) for group in class_map]
    if len(groups) != num_target or max(max(group) for group in groups) >= num_reference:
        raise ValueError(
            f"class_map {class_map} must name, for each of {num_target} target classes, reference classes below "
            f"{num_reference}."
        )
    support = np.zeros((num_target, num_reference), bool)
    for row, group in enumerate(groups):
        support[row, list(group)] = True
    return support
