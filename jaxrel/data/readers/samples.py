"""The results of readers, and functions that readers share."""

from __future__ import annotations

import codecs
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64, Int, Shaped, UInt8

from jaxrel._core.packed_files import gunzip
from jaxrel._core.text_samples import TextSample

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
"""Name of each unreadable file, and the reason."""


class Samples(NamedTuple):
    """Images or texts, labelled by integers or class names.

    Attributes:
        samples: the images or texts, or an object that returns images by slices.
        labels: class of each; -1 or an empty name if unknown.
        parts: the source's own split of each, "train", "validation" or "test"; None if it has no such splits.
        skipped: unreadable files.
    """

    samples: UInt8[np.ndarray, "n h w *c"] | Pictures | tuple[TextSample, ...]
    labels: Shaped[np.ndarray, " n"]
    parts: Shaped[np.ndarray, " n"] | None = None
    skipped: Skipped = ()


class ClassSamples(NamedTuple):
    """Samples with their class names, or with regression `targets` and -1 for all labels.

    The other attributes are those of :class:`Samples`.
    """

    samples: UInt8[np.ndarray, "n h w *c"] | Pictures | tuple[TextSample, ...]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    licence: str = "not stated"
    parts: Shaped[np.ndarray, " n"] | None = None
    skipped: Skipped = ()
    targets: Float64[np.ndarray, " n"] | None = None


_NUMBERS = "to predict numbers pass regression=True (--regression), else make classes of them, such as low and high"


class AbsentError(Exception):
    """The requested data do not exist, or the library that reads them is not installed; the message says which."""


def broken_samples(name: str, skipped: Skipped) -> str:
    """The error message about unreadable samples, of which there is at least one."""
    (file, reason), *others = skipped
    told = reason if reason.startswith(file) else f"{file} cannot be read: {reason}"
    count = f" ({len(others):,} more of {name} cannot be read)" if others else ""
    return f"{told}{count}: repair or remove it, or pass skip_broken=True (--skip-broken) to leave out such samples"


def find_classes(samples: Samples) -> ClassSamples:
    """The classes that occur among the labels, named by their labels: numbers in numerical order, other names sorted.

    There are no classes if no sample has a label.

    Raises:
        ValueError: there is not one label for each sample, labels are neither integers nor names, or labels are
            fractional numbers, or -1 and 1.
    """
    content, labels, parts, skipped = samples
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise ValueError(
            f"labels have shape {labels.shape}: for one-hot labels pass labels.argmax(axis=1); if a sample has "
            f"several labels, use each column labels[:, j] as a data set of its own"
        )
    if labels.shape != (len(content),) or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"labels of shape {labels.shape} and type {labels.dtype}, expected {(len(content),)} and integers "
            f"or strings" + (f"; {_NUMBERS}" if labels.dtype.kind == "f" else "")
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
    """The labels as regression targets.

    Raises:
        ValueError: a sample does not have exactly one finite number.
    """
    content, labels, parts, skipped = samples
    if labels.shape != (len(content),):
        raise ValueError(f"numbers to predict have shape {labels.shape}, expected {(len(content),)}")
    targets = np.full(len(labels), np.nan)
    for index, label in enumerate(labels.tolist()):
        with suppress(ValueError):
            targets[index] = float(label)
    if (bad := np.flatnonzero(~np.isfinite(targets))).size:
        raise ValueError(
            f"sample {bad[0]} has {labels[bad[0]].item()!r:.40} for its number to predict ({bad.size:,} such samples): "
            "remove these, or pass another column"
        )
    unlabelled = np.full(len(labels), -1)
    return ClassSamples(content, unlabelled, (), parts=parts, skipped=skipped, targets=targets)


def _ranks(names: Shaped[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """Position of each sorted name: by value if all names are integers."""
    try:
        numbers = names.astype(float)
    except ValueError:
        return np.arange(len(names))
    if not np.array_equal(numbers, np.rint(numbers)):
        raise ValueError(
            f"labels are numbers such as {names[numbers != np.rint(numbers)][0]}, which are not classes: {_NUMBERS}"
        )
    return np.argsort(np.argsort(numbers, kind="stable"))


def read_bytes(path: Path) -> bytes:
    """Content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        ValueError: the file is not gzipped although it should be, is damaged, or decompresses to more than 100 times
            its size.
    """
    return gunzip(path) if path.suffix.lower() == ".gz" else path.read_bytes()


def read_text(path: Path, *, encoding: str = "utf-8-sig") -> str:
    """Content of a file as text, decompressed if its name ends in ``.gz``.

    The default is UTF-8, or UTF-16 if there is a byte order mark for it; the mark is skipped.

    Raises:
        ValueError: the bytes are invalid in this encoding. They are never guessed or replaced, because texts with
            wrong characters would be scored silently.
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
    """Lines that end in a line feed only; `str.splitlines` would also split a text at a dozen rare characters."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
