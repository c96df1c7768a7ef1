"""A task to measure metrics on: features of an encoder that has learnt something, made from a seed."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ["SIZES", "Problem", "Size", "make_problem"]

SOURCE_CLASSES = 100
DIRECTIONS = 64  # that features have in common
NOISE = 0.2  # share of the variance that is independent in every feature


@dataclass(frozen=True)
class Size:
    """Samples, features and classes of a task."""

    samples: int
    features: int
    classes: int

    def __str__(self) -> str:
        return f"{self.samples:,} x {self.features:,}, {self.classes} classes"


SIZES = {"small": (Size(500, 128, 10),), "full": (Size(5000, 768, 100), Size(5000, 2048, 100))}


@dataclass(frozen=True)
class Problem:
    """All that a metric may need, by the names of `jaxrel.metrics.NEEDS`; floats are float32, as encoders make them.

    Attributes:
        features: `(n, d)`.
        labels: `(n,)`, every class occurs.
        targets: `(n, c)` real numbers, for regression.
        source_probabilities: `(n, s)`, of the classes of a source head.
        source_labels: `(n,)`, the largest of these.
        aligned_features: `(n, d)`, of the same samples under another encoder.
        reference_features, reference_labels: another task of the same size.
        first_view, second_view: `(n, d)`, of the same samples, each with noise of its own.
    """

    features: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    source_probabilities: np.ndarray
    source_labels: np.ndarray
    aligned_features: np.ndarray
    reference_features: np.ndarray
    reference_labels: np.ndarray
    first_view: np.ndarray
    second_view: np.ndarray

    def with_unit_features(self) -> Problem:
        """The same with features of norm 1, which a regularisation in their squares fits."""
        names = ("features", "reference_features")
        unit = {name: (a := getattr(self, name)) / np.linalg.norm(a, axis=1, keepdims=True) for name in names}
        return replace(self, **unit)

    def in_double_precision(self) -> Problem:
        """The same with float64 in place of float32."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return Problem(**{name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in arrays.items()})


@functools.lru_cache(1)
def make_problem(size: Size, seed: int = 0) -> Problem:
    """Classes that vary about means along common directions, some more than others, with noise in every feature."""
    rng = np.random.default_rng(seed)
    strengths = (1 + np.arange(DIRECTIONS)) ** -0.5
    strengths *= np.sqrt((1 - NOISE) / np.sum(strengths**2))
    encoders = rng.normal(size=(2, DIRECTIONS, size.features))

    def task() -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.concatenate([np.arange(size.classes), rng.integers(size.classes, size=most)]))
        means = rng.normal(size=(size.classes, DIRECTIONS))
        return (0.8 * means[labels] + 0.6 * rng.normal(size=(size.samples, DIRECTIONS))) * strengths, labels

    def encoded(positions: np.ndarray, encoder: np.ndarray) -> np.ndarray:
        noise = np.sqrt(NOISE) * rng.normal(size=(size.samples, size.features))
        return (0.4 + 0.5 * (positions @ encoder + noise)).astype(np.float32)

    most = size.samples - size.classes
    positions, labels = task()
    reference, reference_labels = task()
    logits = positions @ rng.normal(size=(DIRECTIONS, SOURCE_CLASSES)) * 3
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    targets = positions @ rng.normal(size=(DIRECTIONS, size.classes)) + rng.normal(size=(size.samples, size.classes))
    return Problem(
        features=encoded(positions, encoders[0]),
        labels=labels,
        targets=targets.astype(np.float32),
        source_probabilities=probabilities.astype(np.float32),
        source_labels=probabilities.argmax(axis=1),
        aligned_features=encoded(positions, encoders[1]),
        reference_features=encoded(reference, encoders[0]),
        reference_labels=reference_labels,
        first_view=encoded(positions, encoders[0]),
        second_view=encoded(positions, encoders[0]),
    )
