"""Labelled texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32

from jaxrel.data import splitting
from jaxrel.data.labelled import LabelledData, Modality, Split

__all__ = ["TextData", "fingerprint", "hash_order"]


@dataclass(frozen=True, eq=False)
class TextData(LabelledData):
    """A part of a set of texts, in memory.

    Args:
        name: name of the data set.
        split: ``"train"`` or ``"test"``.
        texts: n strings; an empty one is a sample like any other.
        labels: class of each text; -1 if unknown.
        class_names: name of each class.
        licence: the licence as stated where the data came from.
        provider: where the data came from.
        skipped: name of each unreadable file, and the reason.
        targets: regression targets, if there are no classes.

    Raises:
        ValueError: the texts are not a tuple of strings, or a label does not fit.
    """

    modality: ClassVar[Modality] = "texts"
    name: str
    split: Split
    texts: tuple[str, ...] = field(repr=False)
    labels: Int32[np.ndarray, " n"] = field(repr=False)
    class_names: tuple[str, ...]
    licence: str
    provider: str
    skipped: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    targets: Float64[np.ndarray, " n"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check texts and labels against one another."""
        if not isinstance(self.texts, tuple):
            raise ValueError(f"texts of {self.name} are a {type(self.texts).__name__}, expected a tuple of strings")
        for index, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise ValueError(f"text {index} of {self.name} is a {type(text).__name__}, expected a string")
        self._check_labels()

    @property
    def samples(self) -> tuple[str, ...]:
        """The texts."""
        return self.texts

    def _fingerprint(self) -> str:
        return fingerprint(self.texts, self.labels)


def fingerprint(texts: Sequence[str], labels: Int[np.ndarray, " n"]) -> str:
    """SHA-256, in hexadecimal, of the texts, each with its length, and the labels."""
    digest = hashlib.sha256(f"{len(texts)} texts".encode())
    for text in texts:
        content = _bytes(text)
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()


def hash_order(
    texts: Sequence[str], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """:func:`jaxrel.data.splitting.hash_order` by the texts, white space collapsed and case folded."""
    contents = (_bytes(" ".join(text.casefold().split())) for text in texts)
    return splitting.hash_order(contents, labels, spellings=map(_bytes, texts))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a lone surrogate is not a character, but a string may contain it
