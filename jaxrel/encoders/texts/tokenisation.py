"""The tokens of texts, of pairs of texts and of words in sentences, by a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from jaxrel._core.text_samples import TextKind, TextSample, Word, kind_of
from jaxrel.encoders.texts.tokens import Tokens, check_texts, plain_copy, prompt_length

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Tokenisation"]


class Tokenisation:
    """Makes tokens of samples, as `transformers` does.

    The longer text of a pair is truncated first. A word is encoded within its sentence; of a sentence of more than
    `max_length` tokens, windows that overlap by half are made, and the word is in the first that has it, so that every
    word has features, with at least a quarter of a window before it unless it is near the start of its sentence.

    Args:
        tokenizer: adds the special tokens.
        max_length: number of tokens of a sample that count, special ones included.
        prompt: prefix of each text, of the first text of each pair, or of each sentence.
        pools_prompt: whether the states of the tokens of the prompt are pooled.
        has_types: whether tokens of pairs have types.
        takes: kinds of samples that the network takes.
        name: name of the encoder, for errors.

    Raises:
        ValueError: `max_length` leaves no room for a token of a text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        prompt: str,
        pools_prompt: bool,
        has_types: bool,
        takes: Collection[TextKind],
        name: str,
    ) -> None:
        """Configure copies of the tokenizer."""
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= special:
            raise ValueError(f"max_length is {max_length}: pass more than the {special} special tokens of every text")
        self.tokenizer, self._windows = plain_copy(tokenizer), plain_copy(tokenizer)
        self.tokenizer.enable_truncation(max_length)
        self._windows.enable_truncation(max_length, stride=(max_length - special) // 2)
        # Bytes of words are other tokens after a space than at the start of a text, where few words are.
        state = json.dumps(json.loads(tokenizer.to_str())["pre_tokenizer"])
        self._before_word = " " if '"add_prefix_space": false' in state else ""
        self._max_length = max_length
        self._prompt = prompt
        self._not_pooled = 0 if pools_prompt else prompt_length(tokenizer, prompt)
        self._has_types = has_types
        self._takes = takes
        self._name = name

    def __call__(self, samples: Sequence[TextSample]) -> list[Tokens]:
        """The tokens of each sample.

        Raises:
            ValueError: see :func:`check_texts`; `max_length` leaves no room for a pair; a word has no token.
        """
        samples = check_texts(samples, takes=self._takes, encoder=self._name)
        if (kind := kind_of(samples[0])) == "word":
            return self._of_words(samples)
        if kind == "pair":
            return self._of_pairs(samples)
        encodings = self.tokenizer.encode_batch([self._prompt + text for text in samples])
        return [Tokens(encoding.ids, None, self._after_prompt(encoding.ids)) for encoding in encodings]

    def _after_prompt(self, ids: Sequence[int]) -> tuple[int, int] | None:
        return (self._not_pooled, len(ids)) if self._not_pooled else None

    def _of_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        special = self.tokenizer.num_special_tokens_to_add(is_pair=True)
        if self._max_length <= special:
            raise ValueError(
                f"max_length is {self._max_length}: pass more than the {special} special tokens of a pair of texts"
            )
        encodings = self.tokenizer.encode_batch([(self._prompt + first, second) for first, second in pairs])
        return [
            Tokens(encoding.ids, encoding.type_ids if self._has_types else None, self._after_prompt(encoding.ids))
            for encoding in encodings
        ]

    def _of_words(self, words: Sequence[Word]) -> list[Tokens]:
        before = self._prompt.split()
        sentences = list(dict.fromkeys(word.sentence for word in words))
        encodings = self._windows.encode_batch(
            [[self._before_word + each for each in (*before, *sentence)] for sentence in sentences],
            is_pretokenized=True,
        )
        windows = {
            sentence: [(window.ids, window.word_ids) for window in (encoding, *encoding.overflowing)]
            for sentence, encoding in zip(sentences, encodings, strict=True)
        }
        return [self._of_word(word, len(before) + word.position, windows[word.sentence]) for word in words]

    def _of_word(self, word: Word, number: int, windows: Sequence[tuple[list[int], list[int | None]]]) -> Tokens:
        for ids, numbers in windows:
            if number in numbers:
                first = numbers.index(number)
                return Tokens(ids, None, (first, first + 1))
        raise ValueError(
            f"the tokenizer of {self._name} leaves nothing of the word {word.sentence[word.position]!r} in "
            f"{' '.join(word.sentence)[:60]!r}: remove this word from the sentence"
        )
