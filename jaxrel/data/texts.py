"""Labelled texts."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32

from jaxrel._core.text_samples import TextSample, Word, kind_of, parts_of
from jaxrel.data import splitting
from jaxrel.data.labelled import LabelledData, Modality, Split

__all__ = ["TextData", "fingerprint", "hash_order"]


@dataclass(frozen=True, eq=False)
class TextData(LabelledData):
    """A part of a set of texts, in memory.

    Args:
        name: name of the data set.
        split: ``"train"`` or ``"test"``.
        texts: n strings, of which an empty one is a sample like any other; or n pairs of strings, as tuples; or n words
            in their sentences (:class:`jaxrel.data.Word`).
        labels: class of each text; -1 if unknown.
        class_names: name of each class.
        licence: the licence as stated where the data came from.
        provider: where the data came from.
        skipped: name of each unreadable file, and the reason.
        targets: regression targets, if there are no classes.

    Raises:
        ValueError: the texts are not a tuple of strings, pairs or words, or a label does not fit.
    """

    modality: ClassVar[Modality] = "texts"
    name: str
    split: Split
    texts: tuple[TextSample, ...] = field(repr=False)
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
        kinds = list(map(kind_of, self.texts))
        for index, (text, kind) in enumerate(zip(self.texts, kinds, strict=True)):
            if kind is None:
                raise ValueError(f"text {index} of {self.name} is a {type(text).__name__}, expected a string")
            if kind != kinds[0]:
                raise ValueError(f"text {index} of {self.name} is a {kind}, but text 0 a {kinds[0]}: pass one kind")
        self._check_labels()

    @property
    def samples(self) -> tuple[TextSample, ...]:
        """The texts."""
        return self.texts

    def _fingerprint(self) -> str:
        return fingerprint(self.texts, self.labels)


def fingerprint(texts: Sequence[TextSample], labels: Int[np.ndarray, " n"]) -> str:
    """SHA-256, in hexadecimal, of the kind of texts, of the texts, each part with its length, and the labels."""
    kind = kind_of(texts[0]) if texts else "text"
    digest = hashlib.sha256(f"{len(texts)} {kind}s".encode())
    for part in itertools.chain.from_iterable(map(parts_of, texts)):
        content = _bytes(part)
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()


def hash_order(
    texts: Sequence[TextSample], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """:func:`jaxrel.data.splitting.hash_order` by the texts, white space collapsed and case folded.

    The content of a pair is that of its joined texts, so that joining them changes no split. The content of a word is
    its sentence, so that the words of a sentence are never on both sides.
    """
    contents = (_bytes(" ".join(" ".join(_content(text)).casefold().split())) for text in texts)
    return splitting.hash_order(contents, labels, spellings=(_bytes("\0".join(parts_of(text))) for text in texts))


def _content(text: TextSample) -> Sequence[str]:
    return text.sentence if isinstance(text, Word) else parts_of(text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a lone surrogate is not a character, but a string may contain it
