"""What readers give, and what they share."""

from __future__ import annotations

import codecs
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64, Int, Shaped, UInt8

from jaxrel._core.packed_files import gunzip

if TYPE_CHECKING:
    from jaxrel.data.readers.picture_files import Pictures

__all__ = [
    "AbsentError",
    "ClassSamples",
    "Samples",
    "Skipped",
    "broken_samples",
    "find_classes",
    "find_targets",
    "lines_of",
    "read_bytes",
    "read_text",
]

Skipped: TypeAlias = tuple[tuple[str, str], ...]
"""Name of each file that cannot be read, and why."""


class Samples(NamedTuple):
    """Images or texts, with integers or the names of classes for labels.

    Attributes:
        samples: the images or texts, or what gives images by slices.
        labels: class of each; -1, or an empty name, where it is not known.
        parts: the source's own split of each, "train", "validation" or "test"; None where it has no such splits.
        skipped: files that cannot be read.
    """

    samples: UInt8[np.ndarray, "n h w *c"] | Pictures | tuple[str, ...]
    labels: Shaped[np.ndarray, " n"]
    parts: Shaped[np.ndarray, " n"] | None = None
    skipped: Skipped = ()


class ClassSamples(NamedTuple):
    """Samples with the names of their classes, or with `targets`, numbers to predict, and -1 for all labels.

    The other attributes are those of :class:`Samples`.
    """

    samples: UInt8[np.ndarray, "n h w *c"] | Pictures | tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    licence: str = "not stated"
    parts: Shaped[np.ndarray, " n"] | None = None
    skipped: Skipped = ()
    targets: Float64[np.ndarray, " n"] | None = None


_NUMBERS = "to predict numbers pass regression=True (--regression), else make classes of them, such as low and high"


class AbsentError(Exception):
    """What was asked for is not there, or the library that reads it is not installed; the message says which."""


def broken_samples(name: str, skipped: Skipped) -> str:
    """What to say of samples that cannot be read, of which there is at least one."""
    (file, reason), *others = skipped
    told = reason if reason.startswith(file) else f"{file} cannot be read: {reason}"
    count = f" ({len(others):,} more of {name} cannot be read)" if others else ""
    return f"{told}{count}: mend it or take it out, or pass skip_broken=True (--skip-broken) to leave out such samples"


def find_classes(samples: Samples) -> ClassSamples:
    """The classes that occur among the labels, named by them: numbers in their order, other names sorted.

    There are none where no sample has a label.

    Raises:
        ValueError: there is not one label for each sample, or labels are neither integers nor names, or are numbers
            with a fraction, or -1 and 1.
    """
    content, labels, parts, skipped = samples
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise ValueError(
            f"labels have shape {labels.shape}: for one-hot labels pass labels.argmax(axis=1); where a sample has "
            "several labels, each column is a set of its own, labels[:, j]"
        )
    if labels.shape != (len(content),) or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"labels of shape {labels.shape} and type {labels.dtype}, wanted {(len(content),)} and integers or strings"
            + (f"; {_NUMBERS}" if labels.dtype.kind == "f" else "")
        )
    known = labels != ("" if labels.dtype.kind == "U" else -1)
    if labels.dtype.kind == "i" and np.array_equal(np.unique(labels), [-1, 1]):
        raise ValueError("labels are -1 and 1, and -1 marks a sample of unknown class: number the classes from 0")
    values, indices = np.unique(labels[known], return_inverse=True)
    names = values.astype(str)
    ranks = _ranks(names)
    class_names = tuple(names[np.argsort(ranks)].tolist())
    numbers = np.full(len(labels), -1)
    numbers[known] = ranks[indices]
    return ClassSamples(content, numbers, class_names, parts=parts, skipped=skipped)


def find_targets(samples: Samples) -> ClassSamples:
    """The labels as numbers to predict.

    Raises:
        ValueError: there is not one finite number for each sample.
    """
    content, labels, parts, skipped = samples
    if labels.shape != (len(content),):
        raise ValueError(f"numbers to predict have shape {labels.shape}, wanted {(len(content),)}")
    targets = np.full(len(labels), np.nan)
    for index, label in enumerate(labels.tolist()):
        with suppress(ValueError):
            targets[index] = float(label)
    if (bad := np.flatnonzero(~np.isfinite(targets))).size:
        raise ValueError(
            f"sample {bad[0]} has {labels[bad[0]].item()!r:.40} for its number to predict ({bad.size:,} such samples): "
            "take these out, or pass another column"
        )
    unlabelled = np.full(len(labels), -1)
    return ClassSamples(content, unlabelled, (), parts=parts, skipped=skipped, targets=targets)


def _ranks(names: Shaped[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """Place of each of some sorted names: by value where all of them are whole numbers."""
    try:
        numbers = names.astype(float)
    except ValueError:
        return np.arange(len(names))
    if not np.array_equal(numbers, np.rint(numbers)):
        raise ValueError(
            f"labels are numbers such as {names[numbers != np.rint(numbers)][0]}, which are no classes: {_NUMBERS}"
        )
    return np.argsort(np.argsort(numbers, kind="stable"))


def read_bytes(path: Path) -> bytes:
    """Content of a file, unpacked when its name ends in ``.gz``.

    Raises:
        ValueError: the file is not gzipped though it should be, damaged, or unpacks to more than 100 times its size.
    """
    return gunzip(path) if path.suffix.lower() == ".gz" else path.read_bytes()


def read_text(path: Path, *, encoding: str = "utf-8-sig") -> str:
    """Content of a file as text, unpacked when its name ends in ``.gz``.

    By default it is UTF-8, or UTF-16 where a byte order mark says so; the mark is skipped.

    Raises:
        ValueError: bytes that are none of the encoding. They are never guessed at or replaced: a text of wrong
            characters would be scored without a word.
    """
    content = read_bytes(path)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not {encoding.removesuffix('-sig').upper()}: byte {error.object[error.start]:#04x} at position "
            f"{error.start}; convert it, e.g. iconv -f latin1 -t utf-8 {path.name}"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{path} holds the character NUL, as UTF-16 without a byte order mark does: convert it to UTF-8"
        )
    return text


def lines_of(text: str) -> list[str]:
    """Lines that end in a line feed alone; `str.splitlines` would also part a text at a dozen rare characters."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
