"""A tokenizer of few words, and the tensors of small text encoders."""

from __future__ import annotations

import json

import numpy as np
import tokenizers
from fixtures.make_text_oracles import oracle_tensors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(30))]


def tensors_of(family: str, oracles: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return oracle_tensors(json.loads(str(oracles[f"{family}/shapes"])))


def tiny_tokenizer(words: list[str] = WORDS) -> tokenizers.Tokenizer:
    """Each word a token, between [CLS] and [SEP]."""
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.enable_padding(length=200)  # settings of its own, which must not matter
    tokenizer.enable_truncation(5)
    return tokenizer
