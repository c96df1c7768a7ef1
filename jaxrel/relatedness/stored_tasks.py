"""Tasks whose features stay where they are, on disk as a rule, and are read a part at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxrel._core.arrays import is_real, real_array
from jaxrel._core.labels import renumbering
from jaxrel.task import Task

__all__ = ["Rows", "StoredTask", "subsample"]


class Rows(Protocol):
    """What features are read from: an array, `numpy.memmap`, `jaxrel.storage.features.Table` and the like."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and their width."""

    @property
    def dtype(self) -> Any:
        """Type of the numbers."""

    def __getitem__(self, rows: Any, /) -> Any:
        """The rows of a slice, or of an array of integers."""


@dataclass(frozen=True, eq=False)
class StoredTask:
    """Labelled samples of which only labels and weights are in memory.

    Attributes:
        features: `(n, d)`, anything with `shape` and `dtype` that gives rows for a slice and for an array of integers.
            Computed with in float32, or in float64 where they are of that type and JAX has it enabled.
        labels: `(n,)` as those of a `Task`, as the numbers of their classes.
        weights: `(n,)` as those of a `Task`, with the largest made 1; None means 1 each.
        num_classes, class_names: as those of a `Task`.

    Raises:
        ValueError: as `Task`, but for the values of features, which are looked at when they are read.
    """

    features: Rows
    labels: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"] = None  # type: ignore[assignment]
    num_classes: int = None  # type: ignore[assignment]
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check labels and weights; fill in what is None."""
        features = self.features
        dtype = getattr(features, "dtype", None)
        readable = isinstance(dtype, np.dtype) and is_real(dtype)
        if not readable or isinstance(features, jax.Array | np.ma.MaskedArray):
            features = np.asarray(real_array("features", features))
        shape = tuple(getattr(features, "shape", ()))
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"features must have shape (n, d) with n >= 1 and d >= 1, got {shape}.")
        # The checks of a Task, on features that cost nothing.
        checked = Task(
            np.zeros((shape[0], 1), np.float32),
            self.labels,
            weights=self.weights,
            num_classes=self.num_classes,
            class_names=self.class_names,
        )
        labels, num_classes = checked.labelled
        for name, value in (
            ("features", features),
            ("labels", np.asarray(labels)),
            ("weights", np.asarray(checked.weights)),
            ("num_classes", num_classes),
            ("class_names", checked.class_names),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, name: str, task: Any) -> StoredTask:
        """A stored task as it is, a labelled `Task` as one; a ValueError names anything else."""
        if isinstance(task, cls):
            return task
        if not isinstance(task, Task):
            raise ValueError(f"{name} must be a StoredTask or a Task, got {type(task).__name__}.")
        if task.labels is None:
            raise ValueError(f"{name} has no labels: pass Task(features, labels).")
        return cls(task.features, task.labels, task.weights, task.num_classes, task.class_names)  # type: ignore[arg-type]

    def with_classes_of(self, known: StoredTask) -> StoredTask:
        """As `Task.with_classes_of`."""
        changes = renumbering(self.class_names, self.num_classes, known.class_names, known.num_classes)
        if changes is None:
            return self
        numbers, names = changes
        return replace(self, labels=numbers[self.labels], num_classes=len(names), class_names=names)

    @property
    def num_samples(self) -> int:
        """Rows of the features, those of weight 0 included."""
        return self.features.shape[0]

    @property
    def num_features(self) -> int:
        """Width of the features."""
        return self.features.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is computed with."""
        wide = self.features.dtype == np.float64 and jax.config.jax_enable_x64  # type: ignore[attr-defined]
        return np.dtype(np.float64 if wide else np.float32)

    def rows(self, which: slice | Int[np.ndarray, " k"]) -> Float[np.ndarray, "k d"]:
        """Some rows of the features, in memory; those of weight 0 as zeros."""
        found = np.asarray(self.features[which], self.dtype)
        live = self.weights[which] > 0
        return found if live.all() else np.where(live[:, None], found, 0)

    def class_weights(self) -> Float[np.ndarray, " k"]:
        """Total weight of each class."""
        return np.bincount(self.labels, self.weights.astype(np.float64), self.num_classes)

    def check_values(self, name: str, rows_at_once: int) -> None:
        """Read everything once; a ValueError says where a value is not finite."""
        for start in range(0, self.num_samples, rows_at_once):
            found = self.rows(slice(start, start + rows_at_once))
            if not np.isfinite(found).all():
                row, column = np.argwhere(~np.isfinite(found))[0]
                raise ValueError(
                    f"{name}.features[{start + row}, {column}] is {found[row, column]}: remove or impute such samples, "
                    "or give them weight 0."
                )


def subsample(task: StoredTask, size: int, rng: np.random.Generator) -> Task:
    """About `size` samples as a task in memory, drawn class by class, at least one of each class that has one.

    Weights are scaled so that every class weighs what it does in the whole: the class prior is that of the whole.
    """
    live = task.weights > 0
    counts = np.bincount(task.labels[live], minlength=task.num_classes)
    wanted = np.minimum(counts, np.maximum(1, counts * min(1.0, size / max(counts.sum(), 1)))).astype(np.int64)
    shuffled = rng.permutation(np.flatnonzero(live))
    by_class = shuffled[np.argsort(task.labels[shuffled], kind="stable")]
    rank = np.arange(by_class.size) - (np.cumsum(counts) - counts)[task.labels[by_class]]
    chosen = np.sort(by_class[rank < wanted[task.labels[by_class]]])
    labels, weights = task.labels[chosen], task.weights[chosen].astype(np.float64)
    drawn = np.bincount(labels, weights, task.num_classes)
    scale = task.class_weights() / np.where(drawn > 0, drawn, 1)
    return Task(task.rows(chosen), labels, weights=weights * scale[labels], num_classes=task.num_classes)
