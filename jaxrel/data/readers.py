"""File formats of labelled images: IDX, npz, csv and pickled numpy arrays.

Each reader gives images and integer labels as they are stored; what they should be is checked by the caller.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int, UInt8

__all__ = ["read_csv", "read_idx", "read_idx_folder", "read_npz", "read_numpy_pickle", "read_path"]

Samples: TypeAlias = tuple[UInt8[np.ndarray, "n h w *c"], Int[np.ndarray, "n"]]

_IDX_UINT8 = 8  # the element type's code in an IDX header


def _read_bytes(path: Path) -> bytes:
    """Content of a file, unpacked when its name ends in ``.gz``."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not gzipped: {error}") from error


def read_idx(path: Path) -> UInt8[np.ndarray, ...]:
    """Read one IDX file of bytes, plain or gzipped.

    Raises:
        ValueError: the file is not IDX, does not hold unsigned bytes, or is shorter or longer than it says.
    """
    content = _read_bytes(path)
    if len(content) < 4 or content[:3] != bytes([0, 0, _IDX_UINT8]):
        raise ValueError(
            f"{path} is no IDX file of unsigned bytes: it begins with {content[:4].hex(' ')}, not 00 00 08"
        )
    header_size = 4 + 4 * content[3]
    if len(content) < header_size:
        raise ValueError(f"{path} ends within its header: {len(content)} bytes of {header_size}")
    shape = tuple(np.frombuffer(content[4:header_size], ">u4").tolist())
    if len(content) - header_size != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(content) - header_size} elements, its header says {math.prod(shape)} {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


def read_idx_folder(folder: Path) -> Samples:
    """Read the four IDX files of an MNIST-like set (``train-`` and ``t10k-``), the two parts joined.

    Raises:
        ValueError: one of the four is missing (plain or with ``.gz``) or damaged.
    """

    def read(name: str) -> UInt8[np.ndarray, ...]:
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not found:
            raise ValueError(f"{folder} has neither {name} nor {name}.gz; all four files of the set are needed")
        return read_idx(found[0])

    images = [read(f"{part}-images-idx3-ubyte") for part in ("train", "t10k")]
    labels = [read(f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")]
    return np.concatenate(images), np.concatenate(labels)


def read_npz(path: Path) -> Samples:
    """Read an npz file with the arrays ``images`` (n, h, w) or (n, h, w, c) and ``labels`` (n,).

    Raises:
        ValueError: the file is damaged, lacks an array, or has one of Python objects (to be unpickled).
    """
    try:
        with zipfile.ZipFile(path):  # np.load would take a file that is no zip for a pickle or a single array
            content = np.load(path, allow_pickle=False)
        with content:
            return content["images"], content["labels"]
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no npz file of images and labels: {error}. "
            "Write it with np.savez(path, images=images, labels=labels)."
        ) from error


def read_path(path: Path) -> Samples:
    """Read what a user points to: an ``.npz`` file or a folder of IDX files.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is neither, or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return read_idx_folder(path)
    if path.suffix == ".npz":
        return read_npz(path)
    raise ValueError(f"{path} is neither a folder of IDX files nor an .npz file")


def read_csv(path: Path, *, shape: tuple[int, int], top: int) -> Samples:
    """Read one sample a row: the pixels of an image of `shape`, then the label.

    Pixels of 0 to `top` become 0 to 255.

    Raises:
        ValueError: a row has another length, or an entry is no integer or out of range.
    """
    table = np.loadtxt(io.StringIO(_read_bytes(path).decode("ascii")), delimiter=",", ndmin=2)
    if table.shape[1] != math.prod(shape) + 1:
        raise ValueError(f"{path} has {table.shape[1]} columns, wanted {math.prod(shape)} pixels and a label")
    pixels, labels = table[:, :-1], table[:, -1]
    if pixels.min() < 0 or pixels.max() > top or not np.array_equal(table, np.rint(table)):
        raise ValueError(f"{path} has pixels or labels that are no integers, or pixels outside of 0 to {top}")
    return np.rint(pixels * (255 / top)).astype(np.uint8).reshape(-1, *shape), labels.astype(np.int32)


class _PickledDtype:
    """Stand-in for ``numpy.dtype`` in a pickle: plain integers only, little-endian or of one byte."""

    def __init__(self, code: str, *_: bool) -> None:
        if code not in ("u1", "i4", "i8"):
            raise pickle.UnpicklingError(f"the element type {code!r} is not among u1, i4 and i8")
        self.dtype = np.dtype(code).newbyteorder("<")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[:5] not in ((3, "<", None, None, None), (3, "|", None, None, None)):
            raise pickle.UnpicklingError("the element type is not a plain little-endian integer")


class _PickledArray:
    """Stand-in for ``numpy.ndarray`` in a pickle: it reads bytes and never lets numpy rebuild objects."""

    array: np.ndarray

    def __setstate__(self, state: tuple[int, tuple[int, ...], _PickledDtype, bool, bytes]) -> None:
        _, shape, element, fortran_order, content = state
        if fortran_order or not isinstance(element, _PickledDtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("the array is not a C-ordered one of plain integers")
        self.array = np.frombuffer(content, element.dtype).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of one numpy array, to which no other name is known."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return lambda *_: _PickledArray()
            case "numpy", "ndarray":
                return _PickledArray
            case "numpy", "dtype":
                return _PickledDtype
        raise pickle.UnpicklingError(f"{module}.{name} is not among the names that a pickled array needs")


def read_numpy_pickle(path: Path) -> np.ndarray:
    """Read one pickled array of integers, plain or gzipped, without running anything that the pickle names.

    Raises:
        ValueError: the pickle is damaged, or names or holds anything but an array of integers.
    """
    try:
        loaded = _ArrayUnpickler(io.BytesIO(_read_bytes(path))).load()
    # A damaged pickle fails in many ways; those of these classes were found by changing bytes of a good one.
    except (
        pickle.UnpicklingError,
        EOFError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise ValueError(f"{path} is no pickled array of integers: {error}") from error
    if not isinstance(loaded, _PickledArray) or not hasattr(loaded, "array"):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not an array")
    return loaded.array
