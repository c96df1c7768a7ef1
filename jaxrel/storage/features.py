"""Extracted features on disk: tables of rows in shards, memory-mapped, each shard finished and intact or absent.

A table is a Zarr 3 array without compression, one chunk for each shard: any Zarr reader opens it, and a shard is read
by mapping its file into memory. A chunk is written as a whole, the last one with zeros after its rows.

    ROOT/ab/abcd.../zarr.json     shape, type and shard size; among the attributes, key and provenance
    ROOT/ab/abcd.../c/7/0         rows of shard 7
    ROOT/ab/abcd.../finished/7    SHA-256 that the rows of shard 7 must have; written when they are on the disk
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrel.storage.records import write_atomically

__all__ = ["SCHEMA_VERSION", "FeatureStore", "FeatureType", "StoreError", "Table", "numpy_type"]

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
"""Increased when older versions of this file would misread what newer ones write."""

FeatureType = Literal["float32", "bfloat16"]

Json = dict[str, Any]

_TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class StoreError(RuntimeError):
    """A feature store cannot be read or written to; the message says what to do."""


def numpy_type(name: str) -> np.dtype[Any]:
    """The dtype of this name; ValueError if features cannot be stored in it."""
    if name not in _TYPES:
        raise ValueError(f"unknown type of features {name!r}: there are {', '.join(_TYPES)}.")
    return _TYPES[name]


@dataclass(frozen=True)
class FeatureStore:
    """Tables of features under the folder `root`, which is made when the first table is.

    The folder of a table is named by the hash of its key, shape, type and shard size, so keys may contain any
    characters and tables of different keys never collide. Any number of processes may read and write a store. They
    replace whole files, so two that write the same table at once do the same work twice, with identical bits; no lock
    outlives a process.
    """

    root: Path

    def table(
        self,
        key: Mapping[str, str | int],
        *,
        shape: tuple[int, int],
        dtype: FeatureType = "float32",
        shard_size: int,
        provenance: Mapping[str, Any] | None = None,
    ) -> Table:
        """Open the table of this key, created if needed; its existing rows are kept.

        Args:
            key: everything the rows depend on.
            shape: number of rows and their width.
            dtype: type of the features on the disk.
            shard_size: rows that are written and checked together.
            provenance: where the rows come from, as JSON values for people. The first value is kept.

        Raises:
            ValueError: a size is below 1, or the type unknown.
            StoreError: the folder cannot be written to, or a newer jaxrel has made the table.
        """
        if min(*shape, shard_size) < 1:
            raise ValueError(f"a table of shape {shape} in shards of {shard_size} rows: pass sizes of at least 1.")
        numpy_type(dtype)
        array = _zarr_array(key, shape, dtype, shard_size)
        metadata = self._folder(array) / "zarr.json"
        try:
            found = _read_metadata(metadata)
            if found is None or _without_provenance(found) != array:
                if metadata.exists():
                    _log.warning("%s is damaged, or of another table: it is written anew", metadata)
                found = _with_provenance(array, provenance or {})
                write_atomically(metadata, _encoded(found))
        except OSError as error:
            raise StoreError(
                f"no features can be kept in {self.root}: {error}. Choose a folder that can be written to."
            ) from error
        return Table._of(metadata.parent, found)

    def tables(self) -> list[Table]:
        """All tables, including unfinished ones, in no particular order.

        Raises:
            StoreError: a newer jaxrel has made one of the tables.
        """
        found = {path: _read_metadata(path) for path in sorted(self.root.glob("*/*/zarr.json"))}
        return [Table._of(path.parent, document) for path, document in found.items() if document is not None]

    def _folder(self, array: Json) -> Path:
        name = hashlib.sha256(_dumped(array)).hexdigest()
        return self.root / name[:2] / name


class Table:
    """Rows of features, filled shard by shard and read like an array; opened by :meth:`FeatureStore.table`.

    `table[rows]` gives the rows of an integer, a slice, or an array of integers or booleans. A slice within one shard
    is a read-only view of the file, not a copy; `np.asarray(table)` reads everything into memory. A shard is
    checked against its SHA-256 when this object first reads it.

    Attributes:
        folder: folder of the table.
        key: everything the rows depend on.
        provenance: where the rows come from.
        shape: number of rows and their width.
        dtype: type of the features, float32 or bfloat16 (of `ml_dtypes`).
        shard_size: rows in each shard but the last, which may have fewer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: Mapping[str, str | int],
        provenance: Mapping[str, Any],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        shard_size: int,
    ) -> None:
        """Describe a table in `folder`; nothing is read yet."""
        self.folder = folder
        self.key = dict(key)
        self.provenance = dict(provenance)
        self.shape = shape
        self.dtype = dtype
        self.shard_size = shard_size
        self._intact: set[int] = set()

    @classmethod
    def _of(cls, folder: Path, document: Json) -> Self:
        """The table that its metadata describes."""
        attributes = document["attributes"]["jaxrel"]
        rows, width = document["shape"]
        return cls(
            folder,
            key=attributes["key"],
            provenance=attributes["provenance"],
            shape=(rows, width),
            dtype=numpy_type(document["data_type"]),
            shard_size=document["chunk_grid"]["configuration"]["chunk_shape"][0],
        )

    @property
    def fingerprint(self) -> str:
        """A hash of everything that determines the rows, which are not read."""
        described = {"key": self.key, "shape": list(self.shape), "type": self.dtype.name}
        return hashlib.sha256(_dumped(described)).hexdigest()

    @property
    def ndim(self) -> int:
        """Number of axes: rows and columns."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the features in bytes."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def num_shards(self) -> int:
        """Number of shards, finished or not."""
        return -(-self.shape[0] // self.shard_size)

    @property
    def complete(self) -> bool:
        """Whether every shard is finished and intact."""
        return not self.missing()

    def missing(self) -> list[int]:
        """The shards that are unfinished or damaged; all others have been checked."""
        return [shard for shard in range(self.num_shards) if not self._is_intact(shard)]

    def span(self, shard: int) -> slice:
        """The rows of a shard."""
        return slice(shard * self.shard_size, min((shard + 1) * self.shard_size, self.shape[0]))

    def write(self, shard: int, rows: Float[np.ndarray, "m d"]) -> None:
        """Write the rows of a shard to disk, replacing its content.

        Raises:
            ValueError: there is no such shard, or the rows differ from it in number or width.
            StoreError: they cannot be written, for instance to a full disk.
        """
        if not 0 <= shard < self.num_shards:
            raise ValueError(f"there is no shard {shard}: the table has shards 0 to {self.num_shards - 1}.")
        span = self.span(shard)
        if rows.shape != (span.stop - span.start, self.shape[1]):
            raise ValueError(
                f"rows of shape {rows.shape}: shard {shard} holds {(span.stop - span.start, self.shape[1])}."
            )
        chunk = np.zeros((self.shard_size, self.shape[1]), self.dtype)
        chunk[: len(rows)] = rows
        try:
            write_atomically(self._chunk(shard), chunk.tobytes())
            write_atomically(self._record(shard), self._seal(shard, chunk.tobytes()))
        except OSError as error:
            raise StoreError(
                f"shard {shard} of {self.folder} cannot be written: {error}. Finished shards are kept: fix the "
                f"cause and start again."
            ) from error
        self._intact.add(shard)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Table(shape={self.shape}, dtype={self.dtype.name}, folder={str(self.folder)!r})"

    def __getitem__(
        self, rows: int | np.integer[Any] | slice | Int[np.ndarray, " *k"] | Bool[np.ndarray, " n"]
    ) -> Float[np.ndarray, " *k d"]:
        """The selected rows, in the table's type; StoreError if one of them is missing or damaged."""
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            return self._consecutive(start, max(start, stop))
        chosen = np.arange(len(self))[rows]
        found = np.empty((*chosen.shape, self.shape[1]), self.dtype)
        shards = chosen // self.shard_size
        for shard in np.unique(shards):
            here = shards == shard
            found[here] = self._mapped(int(shard))[chosen[here] % self.shard_size]
        return found

    def __array__(self, dtype: np.typing.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """All rows, in memory."""
        if copy is False and self.num_shards > 1:
            raise ValueError("rows of several shards are an array only after a copy: leave out copy=False.")
        return np.array(self[:], dtype=dtype, copy=copy)

    def _consecutive(self, start: int, stop: int) -> np.ndarray:
        first, last = start // self.shard_size, max(start, stop - 1) // self.shard_size
        if first == last and start < stop:
            return self._mapped(first)[start - first * self.shard_size : stop - first * self.shard_size]
        found = np.empty((stop - start, self.shape[1]), self.dtype)
        for shard in range(first, last + 1) if start < stop else ():
            span = self.span(shard)
            low, high = max(start, span.start), min(stop, span.stop)
            found[low - start : high - start] = self._mapped(shard)[low - span.start : high - span.start]
        return found

    def _mapped(self, shard: int) -> np.ndarray:
        """The rows of a shard, memory-mapped from its file."""
        if not self._is_intact(shard):
            raise StoreError(f"shard {shard} of {self.folder} is missing or damaged: extract these features again.")
        chunk = np.memmap(self._chunk(shard), self.dtype, mode="r", shape=(self.shard_size, self.shape[1]))
        span = self.span(shard)
        return chunk.view(np.ndarray)[: span.stop - span.start]

    def _is_intact(self, shard: int) -> bool:
        if shard not in self._intact and self._agrees(shard):
            self._intact.add(shard)
        return shard in self._intact

    def _agrees(self, shard: int) -> bool:
        """Whether the file of a shard has the SHA-256 recorded when it was finished."""
        try:
            noted = self._record(shard).read_bytes()
            content = self._chunk(shard).read_bytes()
        except FileNotFoundError:
            return False
        intact = noted == self._seal(shard, content)
        if not intact:
            _log.warning("shard %d of %s is damaged and has to be extracted again", shard, self.folder)
        return intact

    def _seal(self, shard: int, content: bytes) -> bytes:
        """The expected record of a shard: a hash of its position and bytes, so that no shard is mistaken for
        another."""
        digest = hashlib.sha256(f"{self.folder.name}/{shard}\0".encode())
        digest.update(content)
        return digest.hexdigest().encode()

    def _chunk(self, shard: int) -> Path:
        return self.folder / "c" / str(shard) / "0"

    def _record(self, shard: int) -> Path:
        return self.folder / "finished" / str(shard)


def _zarr_array(key: Mapping[str, str | int], shape: tuple[int, int], dtype: FeatureType, shard_size: int) -> Json:
    """Zarr's metadata of a table without its provenance; its hash names the folder."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_size, shape[1]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {"jaxrel": {"key": dict(key)}},
    }


def _with_provenance(array: Json, provenance: Mapping[str, Any]) -> Json:
    attributes = {"schema_version": SCHEMA_VERSION, **array["attributes"]["jaxrel"], "provenance": dict(provenance)}
    return {**array, "attributes": {"jaxrel": attributes}}


def _without_provenance(document: Json) -> Json:
    return {**document, "attributes": {"jaxrel": {"key": document["attributes"]["jaxrel"]["key"]}}}


def _read_metadata(path: Path) -> Json | None:
    """The content of `zarr.json` without its own SHA-256; None if the file is missing or damaged.

    Raises:
        StoreError: its schema is newer than this code.
    """
    try:
        content = path.read_bytes()
        document = json.loads(content)
        attributes = document["attributes"]["jaxrel"]
        del attributes["sha256"]
        version = attributes["schema_version"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if _encoded(document) != content:
        return None
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path.parent} was made by a newer jaxrel (schema {version}; this one reads up to {SCHEMA_VERSION}): "
            "upgrade jaxrel, or choose another folder for the features."
        )
    return document if version == SCHEMA_VERSION else None


def _encoded(document: Json) -> bytes:
    """The bytes of `zarr.json`: the document with its own SHA-256 among the attributes."""
    attributes = {**document["attributes"]["jaxrel"], "sha256": hashlib.sha256(_dumped(document)).hexdigest()}
    return _dumped({**document, "attributes": {"jaxrel": attributes}})


def _dumped(document: Json) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
