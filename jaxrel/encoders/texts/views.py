"""Augmented views of texts, with changes that should not affect an encoder, for scoring without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxrel._core.text_samples import TextSample, Word

__all__ = ["TextAugmentation", "TextView"]


@dataclass(frozen=True)
class TextAugmentation:
    """Ranges from which every text draws its own change: a run of its words is kept, then single words are left out.

    What this assumes is part of the score: that any large part of a text is of the same class as the whole. Where a
    single word decides ("not"), pass `least_kept=1` and `deletion=0`, and make views by other means.

    Args:
        least_kept: the run of words that is kept is from this share of the text to all of it.
        deletion: probability with which a word of the run is left out.

    Raises:
        ValueError: `least_kept` is not in (0, 1], or `deletion` not in [0, 1).
    """

    least_kept: float = 0.5
    deletion: float = 0.1

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if not 0 < self.least_kept <= 1:
            raise ValueError(f"least_kept is {self.least_kept}: pass a number above 0 and up to 1.")
        if not 0 <= self.deletion < 1:
            raise ValueError(f"deletion is {self.deletion}: pass a number from 0 to below 1.")


@dataclass(frozen=True)
class TextView:
    """One of any number of independent augmented copies of texts, each text changed in its own way.

    Args:
        number: which copy, from 0.
        augmentation: ranges of the changes.
        seed: draws the changes.

    Raises:
        ValueError: `number` is negative.
    """

    number: int
    augmentation: TextAugmentation = TextAugmentation()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.number < 0:
            raise ValueError(f"number is {self.number}: pass an integer of at least 0.")

    def __call__(self, texts: Sequence[TextSample], *, first: int = 0) -> tuple[TextSample, ...]:
        """The view of n texts; the view of a text depends only on its position and the fields above.

        Words are what white space separates; at least one of them is kept. Each text of a pair is changed; of a
        sentence, the word itself is kept.

        Args:
            texts: n strings, pairs of strings, or words in sentences.
            first: position of the first of the texts in the whole of which they are a part.
        """
        return tuple(
            _augmented(text, self.augmentation, np.random.default_rng((self.seed, self.number, position)))
            for position, text in enumerate(texts, start=first)
        )


def _augmented(sample: TextSample, augmentation: TextAugmentation, rng: np.random.Generator) -> TextSample:
    match sample:
        case str():
            return _augmented_text(sample, augmentation, rng)
        case Word(sentence, position):
            kept = _kept(len(sentence), augmentation, rng, needed=position)
            return Word(tuple(sentence[place] for place in kept), kept.index(position))
    first, second = sample
    return _augmented_text(first, augmentation, rng), _augmented_text(second, augmentation, rng)


def _augmented_text(text: str, augmentation: TextAugmentation, rng: np.random.Generator) -> str:
    words = text.split()
    return " ".join(words[place] for place in _kept(len(words), augmentation, rng)) if words else text


def _kept(
    num_words: int, augmentation: TextAugmentation, rng: np.random.Generator, *, needed: int | None = None
) -> list[int]:
    """The places of the words that are kept, among them the one that is needed."""
    length = max(1, round(rng.uniform(augmentation.least_kept, 1) * num_words))
    low, high = 0, num_words - length
    if needed is not None:
        low, high = max(low, needed - length + 1), min(high, needed)
    start = rng.integers(low, high + 1)
    kept = rng.uniform(size=length) >= augmentation.deletion
    kept[rng.integers(length) if needed is None else needed - start] = True
    places: list[int] = (start + np.flatnonzero(kept)).tolist()
    return places
