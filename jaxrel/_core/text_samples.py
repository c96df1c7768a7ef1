"""The samples of encoders of texts: texts, pairs of texts, and words in their sentences."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

__all__ = ["TextKind", "TextSample", "Word", "kind_of", "parts_of"]


class Word(NamedTuple):
    """A word in its sentence, for labels of words such as entities or parts of speech.

    Attributes:
        sentence: the words of the sentence, in order.
        position: which of them it is, from 0.
    """

    sentence: tuple[str, ...]
    position: int


TextSample: TypeAlias = str | tuple[str, str] | Word
TextKind = Literal["text", "pair", "word"]


def kind_of(sample: Any) -> TextKind | None:
    """What a sample is: a string, a tuple of two strings or a :class:`Word`; None if it is none of these."""
    match sample:
        case str():
            return "text"
        case Word(tuple(sentence), position):
            return "word" if 0 <= position < len(sentence) else None
        case (str(), str()) if isinstance(sample, tuple):
            return "pair"
    return None


def parts_of(sample: TextSample) -> tuple[str, ...]:
    """The strings of a sample; of a word its position too, so that different samples of a kind have different parts."""
    match sample:
        case str():
            return (sample,)
        case Word(sentence, position):
            return (str(position), str(len(sentence)), *sentence)
    return sample
