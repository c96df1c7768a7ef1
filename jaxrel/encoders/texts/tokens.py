"""Texts as rows of tokens, and tokenizers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxrel._core.text_samples import TextKind, TextSample, Word, kind_of, parts_of
from jaxrel.encoders.checkpoints.files import CheckpointError, import_extra, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "LENGTHS",
    "TokenBatch",
    "Tokens",
    "check_texts",
    "pad",
    "plain_copy",
    "prompt_length",
    "read_tokenizer",
    "read_tokenizer_config",
]

LENGTHS = tuple(2**power for power in range(4, 18))
"""Lengths in tokens to which batches are padded, so that an encoder is compiled for few shapes."""


class Tokens(NamedTuple):
    """The tokens of a sample.

    Attributes:
        ids: their numbers.
        types: to which text of a pair each belongs, 0 or 1; None for samples other than pairs.
        pooled: the first token whose state is pooled, and the first after those; None if all are.
    """

    ids: Sequence[int]
    types: Sequence[int] | None = None
    pooled: tuple[int, int] | None = None


class TokenBatch(NamedTuple):
    """Samples as rows of tokens, each padded at its end to the same length.

    Attributes:
        ids: the tokens.
        mask: true for the tokens, false for padding.
        types: 0 for the tokens of the first text of a pair, 1 for those of the second, as the tokenizer numbers them;
            None for samples other than pairs.
        pooled: true for the tokens whose states make the features: the first of a word in its sentence, or those after
            a prompt; None if all tokens count.
    """

    ids: Int32[Array | np.ndarray, "b s"]
    mask: Bool[Array | np.ndarray, "b s"]
    types: Int32[Array | np.ndarray, "b s"] | None = None
    pooled: Bool[Array | np.ndarray, "b s"] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of a network that not all samples have, by name."""
        return {name: value for name in ("types", "pooled") if (value := getattr(self, name)) is not None}


_OTHER_KINDS = {
    "text": "texts, of which it takes none",
    "pair": "pairs of texts, which it does not take: join each to one text (leave out pair=True, --pair), or choose a "
    "transformer of texts",
    "word": "words in sentences, which it does not take: choose a transformer of texts that pools the states of tokens",
}


def check_texts(
    texts: Sequence[TextSample], *, takes: Collection[TextKind] = ("text", "pair", "word"), encoder: str = "the encoder"
) -> list[Any]:
    """The texts as a list.

    Args:
        texts: strings; or pairs of strings, as tuples; or words in sentences.
        takes: kinds of texts that the encoder takes.
        encoder: its name, for errors.

    Raises:
        ValueError: there are none, one is not a string (or pair or word) or not valid Unicode, they are of several
            kinds or of one that the encoder does not take, or a single string was passed.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts must be a sequence of strings, got the string {texts[:40]!r}; pass [text]")
    texts = list(texts)
    if not texts:
        raise ValueError("texts must not be empty; pass at least one string")
    first = kind_of(texts[0])
    for i, text in enumerate(texts):
        if (kind := kind_of(text)) is None or not all(isinstance(part, str) for part in parts_of(text)):
            told = f"{text!r:.80}" if isinstance(text, Word) else type(text).__name__
            raise ValueError(
                "texts must be strings, or pairs of strings as tuples, or each a Word of a tuple of strings and a "
                f"position in it, got {told} at position {i}; convert it by str, or leave out samples that have no text"
            )
        if kind != first:
            raise ValueError(f"texts must be of one kind, got a {first} at position 0 and a {kind} at position {i}")
        try:
            for part in parts_of(text):
                part.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text at position {i} is not valid Unicode ({error}); "
                "repair it, e.g. text.encode(errors='replace').decode()"
            ) from error
    if first is not None and first not in takes:
        raise ValueError(f"the samples of {encoder} are {_OTHER_KINDS[first]}")
    return texts


def pad(rows: Sequence[Tokens], max_length: int) -> TokenBatch:
    """The tokens of samples of one kind, padded to the next length of the ladder."""
    lengths = np.array([len(row.ids) for row in rows])
    width = min([length for length in LENGTHS if length >= lengths.max()] + [max_length])

    def padded(sequences: Sequence[Sequence[int]]) -> Int32[np.ndarray, "b s"]:
        filled = np.zeros((len(rows), width), np.int32)
        for row, sequence in zip(filled, sequences, strict=True):
            row[: len(sequence)] = sequence
        return filled

    types = [row.types for row in rows if row.types is not None]
    spans = [row.pooled for row in rows if row.pooled is not None]
    places, pooled = np.arange(width), None
    if spans:
        start, stop = np.array(spans).T[..., None]
        pooled = (start <= places) & (places < stop)
    mask = places < lengths[:, None]
    return TokenBatch(padded([row.ids for row in rows]), mask, padded(types) if types else None, pooled)


def read_tokenizer(path: Path, *, vocabulary_size: int | None = None) -> Tokenizer:
    """The tokenizer in a tokenizer.json, for a network of so many tokens, where these are told.

    Raises:
        CheckpointError: there is no such file, it holds something else, or has no token or one that the network lacks.
        ImportError: tokenizers is not installed.
    """
    tokenizers = import_extra("tokenizers", extra="text")
    if not path.is_file():
        raise CheckpointError(
            f"there is no file {path}; tokenizers in other formats are saved as tokenizer.json by "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        tokenizer: Tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing more particular
        raise CheckpointError(f"{path} is not a tokenizer, or it is damaged ({error})") from error
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest < 0:
        raise CheckpointError(f"{path} has no tokens")
    if vocabulary_size is not None and largest >= vocabulary_size:
        raise CheckpointError(
            f"{path} has the token {largest}, but the network only {vocabulary_size} tokens: they do not belong "
            "together"
        )
    return tokenizer


_INPUTS = ("input_ids", "token_type_ids", "attention_mask")  # where a tokenizer_config.json does not say


class TokenizerConfig(NamedTuple):
    """The settings in a tokenizer_config.json that tokenizer.json lacks.

    Attributes:
        max_length: how many tokens of a text count; None where it does not say.
        has_types: whether the network is told the types of tokens.
    """

    max_length: int | None
    has_types: bool


def read_tokenizer_config(path: Path, tokenizer: Tokenizer) -> TokenizerConfig:
    """The settings of a tokenizer_config.json, or those without one.

    Raises:
        CheckpointError: it has a token added at the end of texts, which the tokenizer does not do.
    """
    settings = read_json(path) if path.is_file() else {}
    if settings.get("add_eos_token") is True and not any(plain_copy(tokenizer).encode("").special_tokens_mask[-1:]):
        raise CheckpointError(
            f"{path} asks for a token at the end of texts, which the tokenizer.json beside it does not add: save it "
            "anew by transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    length = settings.get("model_max_length")
    # A huge number stands for no limit.
    known = type(length) is int and 0 < length < 10**9
    return TokenizerConfig(
        length if known else None, "token_type_ids" in (settings.get("model_input_names") or _INPUTS)
    )


def prompt_length(tokenizer: Tokenizer, prompt: str) -> int:
    """How many tokens at the start of a text are those of a prompt, with special ones before it."""
    if not prompt:
        return 0
    special = plain_copy(tokenizer).encode(prompt).special_tokens_mask
    return len(special) - special[-1]


def plain_copy(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of a tokenizer without padding and truncation of its own."""
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
