"""Assigns tensors of a checkpoint to a network of the BERT family."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxrel.encoders.checkpoints.tensors import find_prefix, refuse_surplus, take

if TYPE_CHECKING:
    from jaxrel.encoders.texts.bert import BertEncoder, Family

__all__ = ["load_hugging_face_tensors"]

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
    """The tensor name of the variable at this path in the network."""
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
