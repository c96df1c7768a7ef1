"""Reads compressed files and pickles that may be malicious, in memory bounded by their size on disk."""

from __future__ import annotations

import gzip
import math
import os
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["check_pickle", "gunzip", "read_npz"]

_RATIO = 100  # largest compression ratio; texts and drawings have 3 to 30
_SMALL = 2**26  # bytes that any file may unpack to
_CHUNK = 2**20


def gunzip(path: Path) -> bytes:
    """Content of a gzipped file.

    Raises:
        ValueError: the file is damaged, or unpacks to more than 100 times its size (and 64 MiB).
    """
    limit, chunks, size = _limit(path), [], 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise ValueError(
                        f"{path} unpacks to more than {limit:,} bytes: unpack it yourself if that is right"
                    )
                chunks.append(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not gzipped: {error}") from error
    return b"".join(chunks)


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, or those of the given names that it contains.

    Raises:
        ValueError: the file is damaged or holds no array, unpacks to more than 100 times its size (and 64 MiB), or has
            an array of Python objects, which are never unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_contents(path, len(archive.infolist()))
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if not members:  # which a table of contents of size 0 looks like
                raise ValueError("it holds no array")
            wanted = members.keys() if names is None else [name for name in names if name in members]
            if (size := sum(members[name].file_size for name in wanted)) > _limit(path):
                raise ValueError(f"it unpacks to {size:,} bytes: save it without compression if that is right")
            arrays = {}
            for name in wanted:
                with archive.open(members[name]) as stream:
                    _check_array(stream, members[name].file_size)
                with archive.open(members[name]) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            return arrays
    except Exception as error:  # a damaged zip or header raises almost any exception
        raise ValueError(str(error) or type(error).__name__) from error


def _check_contents(path: Path, found: int) -> None:
    """Raise ValueError if the number of entries of a zip file differs from the number in its end record.

    `zipfile` reads too few entries if the length of a comment is damaged.
    """
    with path.open("rb") as file:
        file.seek(-22, os.SEEK_END)
        end = file.read()
    told = int.from_bytes(end[10:12], "little")
    if end.startswith(b"PK\x05\x06") and told not in (found, 0xFFFF):
        raise ValueError(f"its table of contents has {found} of {told} entries")


def _check_array(stream: IO[bytes], size: int) -> None:
    """Raise ValueError unless the array that follows is as large as its header says, before anything is allocated."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"an array of version {version} is not read")
    held = size - stream.tell()
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"an array of shape {shape} and type {dtype} has {held:,} bytes")


def check_pickle(stream: Any) -> None:
    """Raise UnpicklingError if the pickle that begins here would allocate more memory than it has bytes.

    An unpickler allocates the declared length of a string and the declared index of a memo before it reads them. The
    position of the stream, which is in memory or memory-mapped, is restored.
    """
    start = stream.tell()
    try:
        for opcode, argument, position in pickletools.genops(stream):  # reads the strings: they are as long as they say
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > (position or 0):
                raise pickle.UnpicklingError(f"entry {argument} of the memo comes after {position} bytes")
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from error
    stream.seek(start)


def _limit(path: Path) -> int:
    return max(_SMALL, _RATIO * path.stat().st_size)
