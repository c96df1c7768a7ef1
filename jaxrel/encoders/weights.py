"""PyTorch tensors into NNX layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrel.encoders.layers import ConvNorm, Linear

__all__ = ["load_torch_tensors"]


def load_torch_tensors(
    layers: Iterable[tuple[ConvNorm | Linear, tuple[str, ...]]],
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: np.dtype | type = np.float32,
) -> None:
    """Set the variables of each layer from the tensors whose names start with the given prefixes.

    Args:
        layers: a :class:`ConvNorm` with the prefixes of its convolution and its normalisation, or a
            :class:`Linear` with its own.
        tensors: PyTorch's state dictionary.
        dtype: floating-point type the variables get.

    Raises:
        ValueError: a tensor is missing, has another shape than its variable, or is left over.
    """
    # PyTorch counts the batches its running statistics have seen; inference has no use for it.
    remaining = {name: value for name, value in tensors.items() if not name.endswith(".num_batches_tracked")}
    for layer, prefixes in layers:
        for variable, name in _variables(layer, prefixes):
            if name not in remaining:
                raise ValueError(f"the file has no tensor {name!r}; it is not of this architecture")
            value = _to_channels_last(remaining.pop(name))
            if value.shape != variable.shape:
                raise ValueError(
                    f"tensor {name!r} has shape {value.shape} (channels last), expected {variable.shape}; "
                    "it is not of this architecture"
                )
            variable.set_value(jnp.asarray(value, dtype))
    if remaining:
        raise ValueError(f"the file has tensors this architecture lacks: {', '.join(list(remaining)[:5])}")


def _variables(layer: ConvNorm | Linear, prefixes: tuple[str, ...]) -> list[tuple[nnx.Variable[jax.Array], str]]:
    if isinstance(layer, ConvNorm):
        convolution, norm = prefixes
        return [
            (layer.kernel, f"{convolution}.weight"),
            (layer.scale, f"{norm}.weight"),
            (layer.bias, f"{norm}.bias"),
            (layer.mean, f"{norm}.running_mean"),
            (layer.var, f"{norm}.running_var"),
        ]
    (linear,) = prefixes
    return [(layer.kernel, f"{linear}.weight"), (layer.bias, f"{linear}.bias")]


def _to_channels_last(value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, (out, in) to (in, out), vectors as they are."""
    return value.transpose((2, 3, 1, 0)) if value.ndim == 4 else value.T
