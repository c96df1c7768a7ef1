"""Words with tags: every word of a sentence is a sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxrel._core.text_samples import Word
from jaxrel.data.readers.samples import Skipped

__all__ = ["TaggedWords", "tagged_words"]

_NO_TAG = -100  # by which PyTorch's losses leave out a word


class TaggedWords(NamedTuple):
    """The words of sentences.

    Attributes:
        words: the samples, in order.
        tags: tag of each, as it was given; None if there is none.
        rows: which sentence each is of.
        where: name of each.
        skipped: words without a visible character, which tokenizers leave nothing of.
    """

    words: tuple[Word, ...]
    tags: list[Any]
    rows: Int[np.ndarray, " n"]
    where: list[str]
    skipped: Skipped


def tagged_words(
    sentences: Iterable[Any], tags: Iterable[Any], *, names: tuple[str, str], where: Sequence[str]
) -> TaggedWords:
    """The words of sentences and their tags; no tag is None or -100, or None instead of the list of a sentence.

    Args:
        sentences: a list of strings for each sentence.
        tags: a list of as many tags for each, or None.
        names: the columns of both, for errors.
        where: name of each sentence.

    Raises:
        ValueError: a sentence is not a list of strings, or its tags are not a list of the same length.
    """
    words: list[Word] = []
    kept: list[Any] = []
    rows: list[int] = []
    told: list[str] = []
    skipped: list[tuple[str, str]] = []
    for row, (place, cells, marks) in enumerate(zip(where, sentences, tags, strict=True)):
        sentence = _sentence(cells, names[0], place)
        for position, tag in enumerate(_tags(marks, names[1], len(sentence), place)):
            name = f"word {position} of {place}"
            if not any(letter.isprintable() and not letter.isspace() for letter in sentence[position]):
                skipped.append((name, f"{sentence[position]!r} has no visible character"))
                continue
            words.append(Word(sentence, position))
            kept.append(None if tag == _NO_TAG else tag)
            rows.append(row)
            told.append(name)
    return TaggedWords(tuple(words), kept, np.array(rows, np.intp), told, tuple(skipped))


def _sentence(cells: Any, name: str, place: str) -> tuple[str, ...]:
    if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells):
        raise ValueError(f"{place} has {cells!r:.40} for {name!r}, expected a list of words, as in other rows")
    return tuple(cells)


def _tags(tags: Any, name: str, length: int, place: str) -> list[Any]:
    if tags is None:
        return [None] * length
    if not isinstance(tags, list) or len(tags) != length:
        raise ValueError(f"{place} has {tags!r:.40} for {name!r}, expected a list of {length} tags, one for each word")
    return tags
