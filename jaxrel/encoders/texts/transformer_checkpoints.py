"""Assigns tensors of a checkpoint to a transformer of its family."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrel.encoders.checkpoints.tensors import find_prefix, refuse_surplus, take
from jaxrel.encoders.texts.families import Family
from jaxrel.encoders.texts.transformer import Transformer

__all__ = ["load_transformer_tensors"]


def load_transformer_tensors(
    network: Transformer, tensors: Mapping[str, np.ndarray], family: Family, *, dtype: np.dtype[Any] | type = np.float32
) -> None:
    """Set the variables of a network from a checkpoint of its family.

    Args:
        network: gets the variables.
        tensors: the checkpoint's, linear maps as (out, in), under any prefix ("model." in checkpoints with a head).
            Heads and decoders behind an encoder are ignored.
        family: of the checkpoint.
        dtype: floating-point type the variables get.

    Raises:
        CheckpointError: a tensor is missing, has another shape than its variable, or is left over.
    """
    remaining = _plain_names(tensors, family)
    for path, variable in nnx.iter_graph(network):
        if isinstance(variable, nnx.Variable):
            layout = np.transpose if path[-1] == "kernel" else np.asarray
            name = _tensor_name(path, family)
            variable.set_value(jnp.asarray(take(remaining, name, variable.shape, dtype, layout=layout)))
    refuse_surplus(remaining)


def _tensor_name(path: Sequence[Any], family: Family) -> str:
    """What the tensor of a variable is called that has this place in the network."""
    end = "bias" if path[-1] == "bias" else "weight"
    if path[0] != "layers":
        return f"{family.tensors[path[0]]}.{end}"
    return f"{family.layer.format(path[1])}{family.layer_tensors['.'.join(path[2:-1])]}.{end}"


def _plain_names(tensors: Mapping[str, np.ndarray], family: Family) -> dict[str, np.ndarray]:
    """The network's tensors by their names without prefix, joint matrices taken apart."""
    prefix = find_prefix(tensors, family.anchor)
    plain: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if not name.startswith(prefix) or re.fullmatch(family.unused, short):
            continue
        old, new = next(((old, new) for old, new in family.replaced.items() if old in short), ("", ("",)))
        parts = np.split(tensor, len(new)) if tensor.ndim and len(tensor) % len(new) == 0 else [tensor]
        plain |= {short.replace(old, each, 1): part for each, part in zip(new, parts, strict=False)}
    return plain
