"""Files of arrays: IDX, npz, csv of pixels and pickled numpy arrays."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxrel._core import packed_files
from jaxrel.data.readers.samples import Samples, read_bytes
from jaxrel.storage.numpy_pickle import unpickle_arrays

__all__ = ["is_idx_folder", "read_csv", "read_idx", "read_idx_folder", "read_npz", "read_numpy_pickle"]

_IDX_UINT8 = 8  # the element type's code in an IDX header
_IDX_PARTS = ("train", "t10k")
_IDX_CONTENTS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def read_idx(path: Path) -> UInt8[np.ndarray, "*_"]:
    """Read one IDX file of bytes, plain or gzipped.

    Raises:
        ValueError: the file is not IDX, does not hold unsigned bytes, or its length differs from its header.
    """
    content = read_bytes(path)
    if len(content) < 4 or content[:3] != bytes([0, 0, _IDX_UINT8]):
        raise ValueError(
            f"{path} is not an IDX file of unsigned bytes: it begins with {content[:4].hex(' ')}, not 00 00 08"
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

    def read(name: str) -> UInt8[np.ndarray, "*_"]:
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not found:
            raise ValueError(f"{folder} has neither {name} nor {name}.gz; all four files of the set are needed")
        return read_idx(found[0])

    images, labels = ([read(f"{part}-{content}") for part in _IDX_PARTS] for content in _IDX_CONTENTS)
    parts = np.repeat(["train", "test"], [len(part) for part in labels])
    return Samples(np.concatenate(images), np.concatenate(labels), parts)


def is_idx_folder(folder: Path) -> bool:
    """Whether any of the four IDX files of an MNIST-like set is there."""
    names = (f"{part}-{content}" for part in _IDX_PARTS for content in _IDX_CONTENTS)
    return any((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names)


def read_npz(path: Path) -> Samples:
    """Read an npz file with the arrays ``images`` (n, h, w) or (n, h, w, c), or ``texts`` (n,), and ``labels`` (n,).

    Texts are a numpy array of strings; labels are integers or strings, -1 or "" for a sample of unknown class.

    Raises:
        ValueError: the file is damaged, lacks an array, or has one of Python objects (to be unpickled).
    """
    try:
        content = packed_files.read_npz(path, ("images", "texts", "labels"))
        labels = content["labels"]
        if {"texts", "images"} <= content.keys():
            raise ValueError("it has both images and texts; keep one of them")
        if "texts" not in content:
            return Samples(content["images"], labels)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not an npz file of images and labels: {error}. Write it with np.savez(path, images=images, "
            "labels=labels), or np.savez(path, texts=np.array(texts), labels=labels) for a list of strings."
        ) from error
    texts = content["texts"]
    if texts.ndim != 1 or texts.dtype.kind != "U":
        raise ValueError(f"{path} has texts of shape {texts.shape} and type {texts.dtype}, expected (n,) and strings")
    return Samples(tuple(texts.tolist()), labels)


def read_csv(path: Path, *, shape: tuple[int, int], top: int) -> Samples:
    """Read one sample per row: the pixels of an image of `shape`, then the label.

    Pixels of 0 to `top` become 0 to 255.

    Raises:
        ValueError: a row has another length, or an entry is not an integer or out of range.
    """
    table = np.loadtxt(io.StringIO(read_bytes(path).decode("ascii")), delimiter=",", ndmin=2)
    if table.shape[1] != math.prod(shape) + 1:
        raise ValueError(f"{path} has {table.shape[1]} columns, expected {math.prod(shape)} pixels and a label")
    pixels, labels = table[:, :-1], table[:, -1]
    if pixels.min() < 0 or pixels.max() > top or not np.array_equal(table, np.rint(table)):
        raise ValueError(f"{path} has pixels or labels that are not integers, or pixels outside of 0 to {top}")
    images = np.rint(pixels * (255 / top)).astype(np.uint8).reshape(-1, *shape)
    return Samples(images, labels.astype(np.int32))


def read_numpy_pickle(path: Path) -> np.ndarray:
    """Read one pickled array of integers, plain or gzipped, without running any code that the pickle names.

    Raises:
        ValueError: the pickle is damaged, or names or holds anything but an array of integers.
    """
    try:
        loaded = unpickle_arrays(read_bytes(path), element_types=("u1", "i4", "i8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a pickled array of integers: {error}") from error
    if not isinstance(loaded, np.ndarray):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not an array")
    return loaded
