"""Checkpoints of the BERT family: their tensors into the network, and encoders of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxrel.encoders.checkpoints.files import locate_checkpoint, read_checkpoint, read_json
from jaxrel.encoders.checkpoints.tensors import check_size, find_prefix, refuse_surplus, take
from jaxrel.encoders.encoder import Encoder
from jaxrel.encoders.texts.encoder import text_encoder
from jaxrel.encoders.texts.sentence_transformers import read_modules
from jaxrel.encoders.texts.tokens import read_tokenizer

if TYPE_CHECKING:
    from jaxrel.encoders.texts.bert import BertEncoder, Family, Pooling

__all__ = ["load_hugging_face_tensors", "load_text_encoder"]

_FILES = ("config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json", "*_Pooling/config.json")


def load_text_encoder(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    pooling: Pooling | None = None,
    layer: int | None = None,
    normalise: bool | None = None,
    max_length: int | None = None,
    dtype: np.dtype[Any] | type = np.float32,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder of a checkpoint of the BERT family.

    A checkpoint of sentence-transformers, which has a modules.json, is used as that project does: with its pooling
    (mean or cls) and its largest length; where it has the module Normalize, that is applied.

    Args:
        checkpoint: a local folder with config.json, tokenizer.json and weights, a file of weights beside the other
            two, or the name of a repository of the Hugging Face hub.
        name: the encoder's name, part of its fingerprint. Default: `checkpoint`.
        revision: branch, tag or commit of the repository.
        pooling: "mean" of the hidden states, "cls" for that of the first token, or BERT's "pooler"; then no
            modules.json is read. Default: what modules.json says, where there is one, else "mean".
        layer: take the hidden states after this many layers. Default: after the last.
        normalise: whether features are scaled to unit length. Default: what modules.json says, else not.
        max_length: texts are cut off after so many tokens. Default: as sentence-transformers does, else as many as the
            network takes.
        dtype: type of the weights, e.g. `jnp.bfloat16`; features are float32 in any case.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: the checkpoint cannot be had or read (`CheckpointError`), is of
            another architecture, or an option does not fit it; modules.json has another pooling or module.
        ImportError: the extra "text" is not installed.
    """
    from jaxrel.encoders.texts.bert import BertConfig, BertEncoder

    path = locate_checkpoint(checkpoint, revision=revision, files=_FILES)
    folder = path if path.is_dir() else path.parent
    if pooling is None:
        modules = read_modules(folder)
        folder, pooling = folder / modules.transformer, modules.pooling
        path = path / modules.transformer if path.is_dir() else path
        normalise = modules.normalise if normalise is None else normalise
        max_length = modules.max_length if max_length is None else max_length
    config = BertConfig.from_hugging_face(read_json(folder / "config.json"))
    tensors = read_checkpoint(path)
    check_size(config.num_weights, tensors, folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json", vocabulary_size=config.vocabulary_size)
    network = BertEncoder(config, pooling=pooling, layer=layer, normalise=bool(normalise))
    load_hugging_face_tensors(network, tensors, dtype=dtype)
    return text_encoder(
        network,
        tokenizer,
        name=str(checkpoint) if name is None else name,
        max_length=config.max_length if max_length is None else max_length,
        description=network.description,
        pretraining=pretraining,
        licence=licence,
    )


_TENSORS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
}
_BERT_LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "output_norm": "output.LayerNorm",
}
_DISTILBERT_LAYER = {
    "attention.query": "attention.q_lin",
    "attention.key": "attention.k_lin",
    "attention.value": "attention.v_lin",
    "attention.output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "expand": "ffn.lin1",
    "contract": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
_LAYERS: Mapping[Family, tuple[str, Mapping[str, str]]] = {
    "bert": ("encoder.layer", _BERT_LAYER),
    "roberta": ("encoder.layer", _BERT_LAYER),
    "distilbert": ("transformer.layer", _DISTILBERT_LAYER),
}

# Heads of the tasks that checkpoints were trained for, and a constant table that older ones keep.
_IGNORED = re.compile(
    r"embeddings\.position_ids|"
    r"(pooler|cls|lm_head|classifier|pre_classifier|qa_outputs|vocab_transform|vocab_layer_norm|vocab_projector)\..*"
)


def load_hugging_face_tensors(
    network: BertEncoder, tensors: Mapping[str, np.ndarray], *, dtype: np.dtype | type = np.float32
) -> None:
    """Set the variables of a network from a checkpoint of its family.

    Args:
        network: gets the variables.
        tensors: the checkpoint's, linear maps as (out, in), under any prefix ("bert." in checkpoints with a head).
            Heads are ignored, and so is a pooler that the network does not use.
        dtype: floating-point type the variables get.

    Raises:
        ValueError: a tensor is missing, has another shape than its variable, or is left over.
    """
    from flax import nnx

    remaining = _without_prefix(tensors)
    for path, variable in nnx.iter_graph(network):
        if isinstance(variable, nnx.Variable):
            layout = np.transpose if path[-1] == "kernel" else np.asarray
            name = _tensor_name(path, network.config.family)
            variable.set_value(jnp.asarray(take(remaining, name, variable.shape, dtype, layout=layout)))
    refuse_surplus(name for name in remaining if not _IGNORED.fullmatch(name))


def _tensor_name(path: Sequence[Any], family: Family) -> str:
    """What the tensor of a variable is called that has this place in the network."""
    end = "bias" if path[-1] == "bias" else "weight"
    if path[0] != "layers":
        return f"{_TENSORS[path[0]]}.{end}"
    stem, names = _LAYERS[family]
    return f"{stem}.{path[1]}.{names['.'.join(path[2:-1])]}.{end}"


def _without_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's tensors by their names without prefix, gains and biases of normalisation by those of today."""
    prefix = find_prefix(tensors, "embeddings.word_embeddings.weight")
    named: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue  # a head
        short = name.removeprefix(prefix)
        short = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", short)
        short = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", short)
        if short in named:
            raise ValueError(f"the checkpoint has more than one tensor {short!r}")
        named[short] = tensor
    return named
