"""The samples from which scores are computed, one set for each data set and encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxrel.task import Task

__all__ = ["Outline", "RowCache", "Rows", "outline_of", "rows_of"]


class Outline(NamedTuple):
    """Facts about samples that do not need their features; no class count means no labels."""

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
    """The facts about the samples of a task; if some have no label, about the labelled ones."""
    partly, task = task.partly_labelled, task.of_labelled()
    if task.labels is None:
        return Outline(task.num_samples, task.num_features, None, None)
    labels, occurring = _occurring(task)
    counts = np.bincount(labels[np.asarray(task.weights) > 0])
    return Outline(task.num_samples, task.num_features, occurring, int(counts.max()), partly)


def rows_of(task: Task) -> Rows:
    """The samples of a task, read if needed; if some have no label, only the labelled ones."""
    task = task.of_labelled()
    labels = None if task.labels is None else _occurring(task)[0]
    return Rows(task.rows(slice(None)), labels, np.asarray(task.weights))


def _occurring(task: Task) -> tuple[np.ndarray, int]:
    """Labels as indices of the classes that occur, because metrics ignore other classes, and their count."""
    labels = np.asarray(task.labels)
    occurring = np.unique(labels[np.asarray(task.weights) > 0])
    return np.searchsorted(occurring, np.minimum(labels, occurring[-1])).astype(np.int32), occurring.size


class RowCache:
    """A cache of the most recently used rows, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        """Keep at most this many bytes, but always the latest rows."""
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
