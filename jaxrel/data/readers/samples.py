"""What readers give, and what they share."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int, Shaped, UInt8

__all__ = ["AbsentError", "ClassSamples", "Samples", "find_classes", "lines_of", "read_bytes", "read_text"]

Samples: TypeAlias = tuple[UInt8[np.ndarray, "n h w *c"] | tuple[str, ...], Shaped[np.ndarray, " n"]]
"""Images or texts, and their labels: integers, or strings that name the classes."""


class ClassSamples(NamedTuple):
    """Samples of a set of which nothing is known beforehand."""

    samples: UInt8[np.ndarray, "n h w *c"] | tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    licence: str = "not stated"


class AbsentError(Exception):
    """What was asked for is not there, or the library that reads it is not installed; the message says which."""


def find_classes(samples: Samples) -> ClassSamples:
    """The classes that occur among the labels, named by them: numbers in their order, other names sorted.

    Raises:
        ValueError: there is not one label for each sample, or labels are neither integers nor names, are empty, or are
            numbers with a fraction.
    """
    content, labels = samples
    if labels.shape != (len(content),) or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"labels of shape {labels.shape} and type {labels.dtype}, wanted {(len(content),)} and integers or strings"
        )
    values, indices = np.unique(labels, return_inverse=True)
    names = values.astype(str)
    if "" in names:
        raise ValueError(f"the label of sample {np.flatnonzero(labels == '')[0]} is empty")
    ranks = _ranks(names)
    class_names = tuple(names[np.argsort(ranks)].tolist())
    return ClassSamples(content, ranks[indices], class_names)


def _ranks(names: Shaped[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """Place of each of some sorted names: by value where all of them are whole numbers."""
    try:
        numbers = names.astype(float)
    except ValueError:
        return np.arange(len(names))
    if not np.array_equal(numbers, np.rint(numbers)):
        raise ValueError(f"labels are numbers such as {names[numbers != np.rint(numbers)][0]}, which are no classes")
    return np.argsort(np.argsort(numbers, kind="stable"))


def read_bytes(path: Path) -> bytes:
    """Content of a file, unpacked when its name ends in ``.gz``.

    Raises:
        ValueError: the file is not gzipped though it should be, or damaged.
    """
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not gzipped: {error}") from error


def read_text(path: Path, *, encoding: str = "utf-8-sig") -> str:
    """Content of a file as text, unpacked when its name ends in ``.gz``; by default UTF-8, a byte order mark skipped.

    Raises:
        ValueError: bytes that are none of the encoding. They are never guessed at or replaced: a text of wrong
            characters would be scored without a word.
    """
    try:
        return read_bytes(path).decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at position {error.start}; "
            f"convert it, e.g. iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def lines_of(text: str) -> list[str]:
    """Lines that end in a line feed alone; `str.splitlines` would also part a text at a dozen rare characters."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
