"""Tensors of a checkpoint into the network."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxrel.encoders.checkpoints.tensors import find_prefix, refuse_surplus, take
from jaxrel.encoders.images.vision_transformers.config import VisionTransformerConfig
from jaxrel.encoders.images.vision_transformers.families import FAMILIES
from jaxrel.encoders.images.vision_transformers.network import VisionTransformer
from jaxrel.encoders.images.weights import to_channels_last

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
        if short.startswith(entry.unused):
            continue
        for joint, parts in _JOINT.items():
            if joint in short:
                pieces = np.split(value, len(parts)) if value.ndim and len(value) % len(parts) == 0 else ()
                names = (short.replace(joint, part) for part in parts)
                plain |= dict(zip(names, pieces, strict=False))
                break
        else:
            plain[short] = value
    if (name := entry.tensors.get("positions", "")) in plain:
        plain[name] = _positions(plain[name], config)
    return plain


_JOINT: Mapping[str, tuple[str, ...]] = {  # matrices one above the other, in PyTorch's attention and DINOv2's gates
    "attention.in_proj_": ("attention.query.", "attention.key.", "attention.value."),
    "mlp.weights_in.": ("mlp.gate_proj.", "mlp.up_proj."),
    "mlp.weights_out.": ("mlp.down_proj.",),
}


def _positions(positions: np.ndarray, config: VisionTransformerConfig) -> np.ndarray:
    """Learned positions, those of patches interpolated from the grid they were learned on."""
    flat = positions.reshape(-1, positions.shape[-1])
    prefix = int("class_token" in FAMILIES[config.family].tensors)
    old = math.isqrt(len(flat) - prefix)
    if old == config.grid or old**2 != len(flat) - prefix:
        return flat
    accurate = np.promote_types(flat.dtype, np.float32) if flat.dtype.kind == "f" else np.dtype(np.float32)
    grid = flat[prefix:].astype(accurate).reshape(old, old, -1)
    rows = _cubic_weights(old, config.grid, antialias=config.num_registers > 0).astype(accurate)
    resized = np.einsum("ai,bj,ijd->abd", rows, rows, grid, optimize=True)
    return np.concatenate([flat[:prefix].astype(accurate), resized.reshape(config.grid**2, -1)])


def _cubic_weights(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """Weights `(new, old)` of PyTorch's bicubic interpolation along an axis.

    Keys' kernel with a = -3/4 and repeated edges; with anti-aliasing a = -1/2, widened where there are fewer points
    than before, and edges left out.
    """
    a = -0.5 if antialias else -0.75
    stretch = max(old / new, 1.0) if antialias else 1.0
    margin = 0 if antialias else 2
    places = np.arange(-margin, old + margin)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.abs(places - centres[:, None]) / stretch
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    kernel = np.where(x <= 1, near, np.where(x < 2, far, 0))
    weights: np.ndarray = kernel @ np.eye(old)[places.clip(0, old - 1)]
    return weights / weights.sum(1, keepdims=True)


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
        layout = functools.partial(_as_variable, shape=shape, is_kernel=last == "kernel")
        values = [
            take(remaining, tensor.format(i), shape, dtype, layout=layout)
            for i in range(config.num_layers if stacked else 1)
        ]
        value = np.stack(values) if stacked else values[0]
        filled.append((path, variable.replace(jnp.asarray(value))))
    refuse_surplus(remaining)
    network: VisionTransformer = nnx.merge(graph, nnx.from_flat_state(filled))
    return network


def _as_variable(tensor: np.ndarray, *, shape: tuple[int, ...], is_kernel: bool) -> np.ndarray:
    value = to_channels_last(tensor) if is_kernel else tensor
    # Attention keeps its heads on an axis of their own, and tokens have an axis for the batch.
    return value.reshape(shape) if value.size == math.prod(shape) and value.ndim != len(shape) else value
