"""A tokenizer of few words, the tensors of small text encoders, and folders of texts for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
import tokenizers
from fixtures.make_text_oracles import CONFIGS, oracle_tensors
from paths import FIXTURES

TOPICS = {"sea": "w1 w2 w3 w4", "sky": "w5 w6 w7 w8", "sand": "w9 w10 w11 w12"}
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


def write_text_study(folder: Path) -> None:
    """The folders `notes` and `letters` of texts on three topics, and `tiny`, an encoder with random weights."""
    rng = np.random.default_rng(0)
    for name in ("notes", "letters"):
        for topic, words in TOPICS.items():
            of_topic = folder / name / topic
            of_topic.mkdir(parents=True)
            for number in range(45):
                text = " ".join(rng.choice(words.split(), rng.integers(3, 9)))
                (of_topic / f"{number}.txt").write_text(f"{text} {name} {number}")
    (folder / "tiny").mkdir()
    with np.load(FIXTURES / "text_oracles.npz", allow_pickle=False) as oracles:
        tensors = {name: value.astype(np.float32) for name, value in tensors_of("bert", dict(oracles)).items()}
    safetensors.numpy.save_file(tensors, folder / "tiny" / "model.safetensors")
    (folder / "tiny" / "config.json").write_text(json.dumps(CONFIGS["bert"]))
    tiny_tokenizer().save(str(folder / "tiny" / "tokenizer.json"))
