"""The samples that a matrix of scores is computed from, one set of them for each data set and encoder."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxrel.storage.features import Table
from jaxrel.study.sources import Progress, Source, restricted_to, silent
from jaxrel.task import Task

__all__ = ["Outline", "RowCache", "Rows", "Samples", "StoredFeatures", "TrainingSamples"]


class Outline(NamedTuple):
    """What is known of samples without a look at their features; no class count means no labels."""

    num_samples: int
    width: int
    num_classes: int | None
    largest_class: int | None


class Rows(NamedTuple):
    """The samples themselves, on the host."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"] | None
    weights: Float[np.ndarray, " n"]


class Samples(Protocol):
    """Anything that has samples to score."""

    @property
    def name(self) -> str:
        """How tables and files call it."""

    def check(self, encoder: str) -> None:
        """Raise ValueError where this encoder's features cannot be had; cheap, called before any work."""

    def fingerprint(self, encoder: str) -> str:
        """What the samples are determined by: equal fingerprints mean equal samples."""

    def outline(self, encoder: str) -> Outline:
        """Their shape and class count."""

    def rows(self, encoder: str) -> Rows:
        """The samples, read when they are scored."""

    def restricted_to(self, encoders: Collection[str]) -> Samples:
        """What of them a worker needs for these encoders."""


class StoredFeatures:
    """A data set whose features lie in tables of a feature store, from which rows are mapped when they are scored.

        table = FeatureStore(folder).table({"data": "mine", "encoder": "my-net"}, shape=(50_000, 512), shard_size=1024)
        mine = StoredFeatures("mine", {"my-net": table}, labels)

    It is scored as it is and has no held-out samples: :func:`jaxrel.study.rank` does not take it.
    """

    def __init__(
        self,
        name: str,
        tables: Mapping[str, Table],
        labels: Int[ArrayLike, " n"] | None = None,
        *,
        weights: Float[ArrayLike, " n"] | None = None,
        num_classes: int | None = None,
    ) -> None:
        """Name the data set; no row is read.

        Args:
            name: how tables and files call it.
            tables: by encoder name, features of the same samples.
            labels: `(n,)` integers `0 .. num_classes - 1`, or None for metrics that need none.
            weights: `(n,)`, 0 is an absent sample; None means 1 each.
            num_classes: the class count; None means the largest label plus one.

        Raises:
            ValueError: there is no table, tables have other numbers of rows than there are labels, or labels and
                weights are none.
        """
        if not tables:
            raise ValueError(f"{name!r} has no table: pass one for each encoder.")
        first = next(iter(tables.values()))
        for encoder, table in tables.items():
            if len(table) != len(first):
                raise ValueError(
                    f"tables of {name!r} have {len(first)} rows and, of encoder {encoder!r}, {len(table)}: "
                    "pass features of the same samples."
                )
        try:
            self._task = Task(np.zeros((len(first), 1)), labels, weights=weights, num_classes=num_classes)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
        self.name = name
        self._tables = dict(tables)

    def check(self, encoder: str) -> None:
        """Raise ValueError where there is no table of this encoder."""
        if encoder not in self._tables:
            raise ValueError(f"{self.name!r} has no features of encoder {encoder!r}: it has {', '.join(self._tables)}.")

    def fingerprint(self, encoder: str) -> str:
        """Hash of the table's key, which its rows are determined by, and of labels and weights."""
        table = self._tables[encoder]
        described = [encoder, table.key, table.shape, table.dtype.name, self._task.num_classes]
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for leaf in (self._task.labels, self._task.weights):
            digest.update(b"" if leaf is None else np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def outline(self, encoder: str) -> Outline:
        """From the table's shape and the labels."""
        return _outline(self._task, self._tables[encoder].shape[1])

    def rows(self, encoder: str) -> Rows:
        """All rows of the table; StoreError where some are missing or damaged."""
        return _rows(self._task, self._tables[encoder][:])

    def restricted_to(self, encoders: Collection[str]) -> StoredFeatures:
        """With the tables of these encoders only."""
        kept = copy.copy(self)
        kept._tables = {name: table for name, table in self._tables.items() if name in encoders}
        return kept


class TrainingSamples:
    """The training samples of a source, as other metrics see them."""

    def __init__(self, source: Source, progress: Progress) -> None:
        """Of this source; `progress` is told what its features take."""
        self.name = source.name
        self._source = source
        self._progress = progress

    def check(self, encoder: str) -> None:
        """As the source."""
        self._source.check(encoder, views=False, held_out=False)

    def fingerprint(self, encoder: str) -> str:
        """That of the source."""
        return self._source.fingerprint(encoder)

    def outline(self, encoder: str) -> Outline:
        """From the samples, which a source extracts if need be."""
        task = self._task(encoder)
        return _outline(task, task.num_features)

    def rows(self, encoder: str) -> Rows:
        """The training samples."""
        task = self._task(encoder)
        return _rows(task, np.asarray(task.features))

    def restricted_to(self, encoders: Collection[str]) -> TrainingSamples:
        """As the source; nobody on a worker is told of progress."""
        return TrainingSamples(restricted_to(encoders, self._source), silent)

    def _task(self, encoder: str) -> Task:
        return self._source.features(encoder, self._progress).train


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


def _outline(task: Task, width: int) -> Outline:
    if task.labels is None or task.num_classes is None:
        return Outline(task.num_samples, width, None, None)
    counts = np.bincount(np.asarray(task.labels)[np.asarray(task.weights) > 0])
    return Outline(task.num_samples, width, task.num_classes, int(counts.max()))


def _rows(task: Task, features: np.ndarray) -> Rows:
    return Rows(features, None if task.labels is None else np.asarray(task.labels), np.asarray(task.weights))
