"""The samples that scores are computed from, one set of them for each data set and encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxrel.task import Task

__all__ = ["Outline", "RowCache", "Rows", "outline_of", "rows_of"]


class Outline(NamedTuple):
    """What is known of samples without a look at their features; no class count means no labels."""

    num_samples: int
    width: int
    num_classes: int | None
    largest_class: int | None
    partly_labelled: bool = False


class Rows(NamedTuple):
    """The samples themselves, on the host."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"] | None
    weights: Float[np.ndarray, " n"]


def outline_of(task: Task) -> Outline:
    """What there is to know of the samples of a task; where some have no label, of those that have one."""
    partly, task = task.partly_labelled, task.of_labelled()
    if task.labels is None:
        return Outline(task.num_samples, task.num_features, None, None)
    labels, occurring = _occurring(task)
    counts = np.bincount(labels[np.asarray(task.weights) > 0])
    return Outline(task.num_samples, task.num_features, occurring, int(counts.max()), partly)


def rows_of(task: Task) -> Rows:
    """The samples of a task, read if needed; where some have no label, those that have one."""
    task = task.of_labelled()
    labels = None if task.labels is None else _occurring(task)[0]
    return Rows(task.rows(slice(None)), labels, np.asarray(task.weights))


def _occurring(task: Task) -> tuple[np.ndarray, int]:
    """Labels as numbers of the classes that occur, as no metric says anything of one that does not; and their count."""
    labels = np.asarray(task.labels)
    occurring = np.unique(labels[np.asarray(task.weights) > 0])
    return np.searchsorted(occurring, np.minimum(labels, occurring[-1])).astype(np.int32), occurring.size


class RowCache:
    """Rows that were used last, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        """Keep this much, and the latest rows in any case."""
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, str], Rows] = OrderedDict()

    def get(self, key: tuple[str, str], load: Callable[[], Rows]) -> Rows:
        """The rows of this key."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        rows = self._kept[key] = load()
        self._bytes += rows.features.nbytes
        while len(self._kept) > 1 and self._bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.features.nbytes
        return rows
