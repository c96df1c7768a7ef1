"""Tensors of a checkpoint into the network."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxrel.encoders.checkpoints.files import CheckpointError
from jaxrel.encoders.checkpoints.tensors import find_prefix, refuse_surplus, take
from jaxrel.encoders.images.positions import resized_biases, resized_positions
from jaxrel.encoders.images.vision_transformers.config import VisionTransformerConfig
from jaxrel.encoders.images.vision_transformers.families import FAMILIES
from jaxrel.encoders.images.vision_transformers.network import VisionTransformer
from jaxrel.encoders.images.weights import as_variable

__all__ = ["network_of", "tower_of"]


def tower_of(tensors: Mapping[str, np.ndarray], config: VisionTransformerConfig) -> dict[str, np.ndarray]:
    """Tensors of the image tower, without prefix: joint matrices taken apart, positions brought to the image size."""
    entry = FAMILIES[config.family]
    plain: dict[str, np.ndarray] = {}
    wrapper = find_prefix(tensors, f"{entry.tensors['patches']}.weight")  # "module.", say; heads lie beside the tower
    wrapper = wrapper.removesuffix(next((each for each in entry.prefixes if wrapper.endswith(each)), ""))
    for name, value in tensors.items():
        if not name.startswith(wrapper):
            continue
        name = name.removeprefix(wrapper)
        short = name.removeprefix(next((each for each in entry.prefixes if name.startswith(each)), ""))
        if short.startswith(entry.unused) or short.endswith("relative_position_index"):
            continue
        parts = {short: value}
        for joint, roles in _JOINT.items():
            if joint in short:
                pieces = np.split(value, len(roles)) if value.ndim and len(value) % len(roles) == 0 else ()
                parts = dict(zip((short.replace(joint, role) for role in roles), pieces, strict=False))
                break
        if twice := plain.keys() & parts.keys():
            raise CheckpointError(f"the checkpoint has two tensors {min(twice)!r}, one of them {name!r}: leave one out")
        plain |= parts
    if (name := entry.tensors.get("positions", "")) in plain:
        prefix = int("class_token" in entry.tensors)
        plain[name] = resized_positions(plain[name], config.grid, prefix=prefix, antialias=config.num_registers > 0)
    biases = entry.tensors.get("blocks.position_biases", "")
    if (shared := plain.pop(_SHARED_BIASES, None)) is not None:
        plain |= {biases.format(i): shared for i in range(config.num_layers)}
    for name in filter(plain.__contains__, {biases.format(i) for i in range(config.num_layers)}):
        plain[name] = resized_biases(plain[name], config.grid, suffix=3)
    return plain


_SHARED_BIASES = "encoder.relative_position_bias.relative_position_bias_table"


_JOINT: Mapping[str, tuple[str, ...]] = {  # matrices one above the other, in PyTorch's attention and DINOv2's gates
    "attention.in_proj_": ("attention.query.", "attention.key.", "attention.value."),
    "mlp.weights_in.": ("mlp.gate_proj.", "mlp.up_proj."),
    "mlp.weights_out.": ("mlp.down_proj.",),
    "pooler.layernorm.": ("layernorm.",),  # BEiT's, where it takes the mean of the patches
}


@functools.cache
def _architecture(config: VisionTransformerConfig, dtype: np.dtype[Any]) -> tuple[Any, nnx.State[Any, Any]]:
    """The network without numbers: made once, so that encoders of one architecture share what is compiled."""
    network = nnx.eval_shape(lambda: VisionTransformer(config, dtype=dtype))
    return nnx.split(network)


def network_of(
    tensors: Mapping[str, np.ndarray], config: VisionTransformerConfig, dtype: DTypeLike
) -> VisionTransformer:
    """The network with the tensors of a checkpoint.

    Raises:
        CheckpointError: a tensor is missing, has another shape than its variable, or is left over.
    """
    graph, state = _architecture(config, np.dtype(dtype))
    remaining = dict(tensors)
    names = FAMILIES[config.family].tensors
    if not config.num_registers:
        remaining.pop(names.get("registers", ""), None)  # DINOv3 keeps a table of none
    filled = []
    for path, variable in nnx.to_flat_state(state):
        place = ".".join(map(str, path))
        layer, _, last = place.rpartition(".")
        tensor = names[place] if place in names else f"{names[layer]}.{'bias' if last == 'bias' else 'weight'}"
        stacked = "{}" in tensor
        shape = variable.shape[1:] if stacked else variable.shape
        layout = functools.partial(as_variable, shape=shape, is_kernel=last == "kernel")
        values = [
            take(remaining, tensor.format(i), shape, dtype, layout=layout)
            for i in range(config.num_layers if stacked else 1)
        ]
        value = np.stack(values) if stacked else values[0]
        filled.append((path, variable.replace(jnp.asarray(value))))
    refuse_surplus(remaining)
    network: VisionTransformer = nnx.merge(graph, nnx.from_flat_state(filled))
    return network
