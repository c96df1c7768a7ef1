"""Input checks of the metrics, and the common form of the input in kernels.

Concrete values are checked at once. Inside a transformation values are unknown: `Sample.valid` records whether they are
valid, and the score of invalid input is NaN with `ScoreStatus.INVALID_INPUT`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrel._core.arrays import to_array
from jaxrel._core.programs import compiled
from jaxrel._core.standardisation import ROUNDINGS
from jaxrel.metrics.origin import about_centre
from jaxrel.metrics.result import ScoreStatus
from jaxrel.task import Task

__all__ = [
    "LabelledSample",
    "Sample",
    "checked_labelled_probabilities",
    "checked_labelled_sample",
    "checked_positive_integer",
    "checked_positive_number",
    "checked_probabilities",
    "checked_sample",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sample:
    """Features and how often each sample occurs; features of weight 0 are 0."""

    features: Float[Array, "n d"]
    weights: Float[Array, " n"]
    valid: Bool[Array, ""]

    @property
    def status(self) -> Int[Array, ""]:
        """`ScoreStatus` bits that the input alone decides."""
        rounding = ROUNDINGS * jnp.finfo(self.features.dtype).eps
        distances = jnp.abs(self.features - self.features[jnp.argmax(self.weights)])
        distances = jnp.max(jnp.where(self.weights[:, None] > 0, distances, 0), axis=0)
        constant = jnp.all(distances <= rounding * jnp.max(jnp.abs(self.features), axis=0))
        return jnp.where(self.valid, 0, ScoreStatus.INVALID_INPUT) | jnp.where(
            constant, ScoreStatus.CONSTANT_FEATURES, 0
        )

    @property
    def total(self) -> Float[Array, ""]:
        """The number of samples, each counted as often as its weight says."""
        return jnp.sum(self.weights)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelledSample(Sample):
    """A sample with one-hot classes; rows of weight 0 are 0."""

    memberships: Float[Array, "n c"]

    @property
    def status(self) -> Int[Array, ""]:
        """`ScoreStatus` bits that the input alone decides."""
        one_class = jnp.sum(self.class_sizes > 0) < 2
        return super().status | jnp.where(one_class, ScoreStatus.SINGLE_CLASS, 0)

    @property
    def class_sizes(self) -> Float[Array, " c"]:
        """Number of samples in each class."""
        return self.weights @ self.memberships


def checked_sample(features: Any, weights: Any = None, *, shift_invariant: bool = False) -> Sample:
    """Features and weights, checked as by `Task`, but with weights as given: they are counts.

    Args:
        features: `(n, d)` real numbers. float64 is kept if JAX has 64-bit types enabled; the rest becomes float32.
        weights: `(n,)` non-negative numbers, not all 0, in float32 the largest from 1e-31 to 4e31; None means 1 each.
            0 is an absent sample whose features may be anything, 2 the sample twice.
        shift_invariant: whether the features may be shifted, so that float64 with a large offset keeps its precision.

    Raises:
        ValueError: as `Task`.
    """
    if shift_invariant:
        (features,) = about_centre((features, weights))
    return _sample_of(Task(features, weights=weights).loaded(), weights)


def checked_labelled_sample(
    features: Any, labels: Any, weights: Any = None, num_classes: Any = None, *, shift_invariant: bool = False
) -> LabelledSample:
    """As `checked_sample`, with labels `(n,)`: integers, or names of classes, numbered as by `Task`.

    `num_classes` is inferred from concrete labels and weights, and required otherwise.

    Raises:
        ValueError: as `Task`.
    """
    if labels is None:
        raise ValueError("this metric needs labels: pass the class of each sample, or choose a label-free metric.")
    if shift_invariant:
        (features,) = about_centre((features, weights))
    task = Task(features, labels, weights=weights, num_classes=num_classes).loaded()
    classes, class_count = task.labelled
    sample = _sample_of(task, weights)
    memberships, known = _memberships(classes, sample.weights, class_count, sample.features.dtype)
    return LabelledSample(sample.features, sample.weights, sample.valid & known, memberships)


def checked_probabilities(probabilities: Any, weights: Any = None) -> Sample:
    """As `checked_sample` for rows that are distributions over classes; each is divided by its sum.

    Raises:
        ValueError: as `Task`, for a negative entry and for a row that does not sum to 1 within 1 %.
    """
    return _of_distributions(checked_sample(probabilities, weights))


def checked_labelled_probabilities(
    probabilities: Any, labels: Any, weights: Any = None, num_classes: Any = None
) -> LabelledSample:
    """As `checked_labelled_sample`, with rows as for `checked_probabilities`.

    Raises:
        ValueError: as both.
    """
    return _of_distributions(checked_labelled_sample(probabilities, labels, weights, num_classes))


_S = TypeVar("_S", bound=Sample)


def _of_distributions(sample: _S) -> _S:
    rows, wrong, valid = _distributions(sample.features, sample.weights)
    if not isinstance(valid, jax.core.Tracer) and not bool(valid):
        row = int(jnp.argmax(wrong))
        entries = sample.features[row]
        raise ValueError(
            f"probabilities[{row}] sums to {float(entries.sum()):g} with least entry {float(entries.min()):g} "
            f"({int(jnp.sum(wrong))} such rows): pass distributions over classes, for logits jax.nn.softmax(logits)."
        )
    return dataclasses.replace(sample, features=rows, valid=sample.valid & valid)


@compiled
def _distributions(
    rows: Float[Array, "n s"], weights: Float[Array, " n"]
) -> tuple[Float[Array, "n s"], Bool[Array, " n"], Bool[Array, ""]]:
    """Rows of sum 1, a mask of rows that are not distributions, and whether all are."""
    sums = jnp.sum(rows, axis=1)
    distribution = (jnp.min(rows, axis=1) >= 0) & (jnp.abs(sums - 1) <= 0.01)
    wrong = (weights > 0) & ~distribution
    return rows / jnp.where(distribution, sums, 1)[:, None], wrong, ~jnp.any(wrong)


def checked_positive_integer(name: str, value: Any) -> int:
    """An integer of at least 1."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be an integer, got {value!r}.") from error
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}.")
    return number


def checked_positive_number(name: str, value: Any, dtype: Any, *, largest: float = math.inf) -> Float[Array, ""]:
    """One positive finite number, at most `largest`; not checked inside a transformation, where it is unknown."""
    if not isinstance(value, jax.core.Tracer):
        number = np.asarray(value)
        if number.shape != () or number.dtype.kind not in "iuf" or not (np.isfinite(number) and 0 < number <= largest):
            bound = "" if largest == math.inf else f" of at most {largest:g}"
            raise ValueError(f"{name} must be one positive finite number{bound}, got {value!r}.")
    return jnp.asarray(value, dtype)


def _sample_of(task: Task, weights: Any) -> Sample:
    """The samples of a task with weights as given; the task keeps only their ratios."""
    if weights is None and not isinstance(task.features, jax.core.Tracer):
        return Sample(task.features, task.weights, jnp.asarray(True))  # The task has seen every value.
    counts = task.weights if weights is None else jnp.asarray(to_array("weights", weights))
    return _masked_sample(task.features, counts.astype(task.features.dtype))


@compiled
def _masked_sample(features: Float[Array, "n d"], counts: Float[Array, " n"]) -> Sample:
    live = counts > 0
    finite = jnp.all(jnp.isfinite(features), axis=1)
    # Sums of products of larger or smaller ones are infinite or 0, and quotients of these can be finite and wrong.
    limits = jnp.finfo(counts.dtype)
    largest = jnp.max(counts)
    bounded = (largest >= limits.tiny / limits.eps) & (largest <= limits.max * limits.eps)
    valid = jnp.all(finite | ~live) & jnp.all(jnp.isfinite(counts) & (counts >= 0)) & bounded
    return Sample(jnp.where(live[:, None], features, 0), counts, valid)


@functools.partial(compiled, static_argnames=("num_classes", "dtype"))
def _memberships(
    labels: Int[Array, " n"], counts: Float[Array, " n"], num_classes: int, dtype: Any
) -> tuple[Float[Array, "n c"], Bool[Array, ""]]:
    """Classes one-hot, 0 for absent samples, and whether all others have one."""
    live = counts > 0
    known = (labels >= 0) & (labels < num_classes)
    memberships = jnp.where(live[:, None], jax.nn.one_hot(labels, num_classes, dtype=dtype), 0)
    return memberships, jnp.all(known | ~live)
