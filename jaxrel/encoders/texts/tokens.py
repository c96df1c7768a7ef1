"""Texts as rows of tokens, and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxrel.encoders.checkpoints.files import CheckpointError, import_extra, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "LENGTHS",
    "TokenBatch",
    "check_texts",
    "pad",
    "plain_copy",
    "prompt_length",
    "read_tokenizer",
    "read_tokenizer_config",
]

LENGTHS = tuple(2**power for power in range(4, 18))
"""Lengths in tokens to which batches are padded, so that an encoder is compiled for few shapes."""


class TokenBatch(NamedTuple):
    """Texts as rows of tokens, each padded at its end to the same length; the mask is true for the tokens."""

    ids: Int32[Array | np.ndarray, "b s"]
    mask: Bool[Array | np.ndarray, "b s"]


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        ValueError: there are none, one is not a string or not valid Unicode, or a single string was passed.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts must be a sequence of strings, got the string {texts[:40]!r}; pass [text]")
    texts = list(texts)
    if not texts:
        raise ValueError("texts must not be empty; pass at least one string")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"texts must be strings, got {type(text).__name__} at position {i}; convert it by str, or leave out "
                "samples that have no text"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text at position {i} is not valid Unicode ({error}); "
                "repair it, e.g. text.encode(errors='replace').decode()"
            ) from error
    return texts


def pad(sequences: Sequence[Sequence[int]], max_length: int) -> TokenBatch:
    """The sequences as rows of the next length of the ladder."""
    lengths = np.array([len(ids) for ids in sequences])
    width = min([length for length in LENGTHS if length >= lengths.max()] + [max_length])
    ids = np.zeros((len(sequences), width), np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return TokenBatch(ids, np.arange(width) < lengths[:, None])


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


def read_tokenizer_config(path: Path, tokenizer: Tokenizer) -> int | None:
    """How many tokens of a text count by a tokenizer_config.json; None where it does not say.

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
    return length if type(length) is int and 0 < length < 10**9 else None


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
