"""Tensors of weight files into NNX layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxrel.encoders.layers import ConvNorm, Layer

__all__ = ["load_tensors", "load_torch_tensors", "to_channels_last"]


def load_torch_tensors(
    layers: Iterable[tuple[Layer, tuple[str, ...]]],
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: DTypeLike = np.float32,
) -> None:
    """Set the variables of each layer from the tensors of PyTorch whose names start with the given prefixes.

    Args:
        layers: a :class:`ConvNorm` with the prefixes of its convolution and its normalisation, or a
            :class:`ConvBias` or :class:`Linear` with its own.
        tensors: PyTorch's state dictionary.
        dtype: floating-point type the kernels get; the other variables get at least float32.

    Raises:
        ValueError: a tensor is missing, has another shape than its variable, or is left over.
    """
    load_tensors(
        ((layer, _torch_names(layer, prefixes)) for layer, prefixes in layers),
        {
            name: to_channels_last(value)
            for name, value in tensors.items()
            # PyTorch counts the batches its running statistics have seen; inference has no use for it.
            if not name.endswith(".num_batches_tracked")
        },
        dtype=dtype,
    )


def load_tensors(
    layers: Iterable[tuple[Layer, tuple[str, ...]]],
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: DTypeLike = np.float32,
) -> None:
    """Set the variables of each layer from tensors in its own layout (channels last).

    Args:
        layers: each layer with the names of its tensors: kernel, scale, bias, mean and variance of a
            :class:`ConvNorm`, kernel and bias of a :class:`ConvBias` or :class:`Linear`.
        tensors: the tensors by name; kernels of convolutions are `(k, k, in, out)`, of linear maps `(in, out)`.
        dtype: floating-point type the kernels get; the other variables get at least float32.

    Raises:
        ValueError: a tensor is missing, has another shape than its variable, or is left over.
    """
    kernel_type = np.dtype(dtype)
    other_type = jnp.promote_types(kernel_type, np.float32)
    remaining = dict(tensors)
    for layer, names in layers:
        for variable, name in zip(_variables(layer), names, strict=True):
            if name not in remaining:
                raise ValueError(f"the file has no tensor {name!r}; it is not of this architecture")
            value = remaining.pop(name)
            if value.shape != variable.shape:
                raise ValueError(
                    f"tensor {name!r} has shape {value.shape} (channels last), expected {variable.shape}; "
                    "it is not of this architecture"
                )
            variable.set_value(jnp.asarray(value, kernel_type if variable is layer.kernel else other_type))
    if remaining:
        raise ValueError(f"the file has tensors this architecture lacks: {', '.join(list(remaining)[:5])}")


def _variables(layer: Layer) -> tuple[nnx.Variable[jax.Array], ...]:
    if isinstance(layer, ConvNorm):
        return layer.kernel, layer.scale, layer.bias, layer.mean, layer.var
    return layer.kernel, layer.bias


def _torch_names(layer: Layer, prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Names in the order of the layer's variables."""
    if isinstance(layer, ConvNorm):
        convolution, norm = prefixes
        statistics = ("weight", "bias", "running_mean", "running_var")
        return (f"{convolution}.weight", *(f"{norm}.{name}" for name in statistics))
    (prefix,) = prefixes
    return f"{prefix}.weight", f"{prefix}.bias"


def to_channels_last(value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, (out, in) to (in, out), vectors as they are."""
    return value.transpose((2, 3, 1, 0)) if value.ndim == 4 else value.T
