"""Assigns tensors of PyTorch files to NNX layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxrel.encoders.checkpoints.files import CheckpointError
from jaxrel.encoders.checkpoints.tensors import find_prefix, refuse_surplus, take
from jaxrel.encoders.images.layers import ConvNorm, Layer

__all__ = ["as_variable", "load_torch_tensors", "state_of", "to_channels_last"]


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
    kernel_type = np.dtype(dtype)
    other_type = jnp.promote_types(kernel_type, np.float32)
    # PyTorch counts the batches its running statistics have seen; inference has no use for it.
    remaining = {name: value for name, value in tensors.items() if not name.endswith(".num_batches_tracked")}
    for layer, prefixes in layers:
        for name, variable in _variables(layer, prefixes):
            kind = kernel_type if variable is layer.kernel else other_type
            weights = take(remaining, name, variable.shape, kind, layout=to_channels_last)
            if isinstance(layer, ConvNorm) and variable is layer.var and (weights < 0).any():
                raise CheckpointError(
                    f"tensor {name!r}, of variances, holds {weights.min()}: the checkpoint is damaged"
                )
            variable.set_value(jnp.asarray(weights))
    refuse_surplus(remaining)


def _variables(layer: Layer, prefixes: tuple[str, ...]) -> Iterator[tuple[str, nnx.Variable[jax.Array]]]:
    """The variables of a layer by the names of their tensors."""
    yield f"{prefixes[0]}.weight", layer.kernel
    if isinstance(layer, ConvNorm):
        yield f"{prefixes[1]}.weight", layer.scale
        yield f"{prefixes[1]}.running_mean", layer.mean
        yield f"{prefixes[1]}.running_var", layer.var
    yield f"{prefixes[-1]}.bias", layer.bias


def state_of(
    tensors: Mapping[str, np.ndarray], *, anchor: str, classifier: str
) -> tuple[dict[str, np.ndarray], int | None]:
    """The tensors of a network in a user's checkpoint, and the number of its classes.

    The names may have any prefix ("module.", "backbone.", ...); tensors without it are of something else. A head that
    is not a linear classifier of the name, with a bias, is left out, and then there are no classes.

    Args:
        tensors: PyTorch's state dictionary.
        anchor: name of the first tensor in the network alone.
        classifier: name of its linear classifier.

    Raises:
        CheckpointError: the checkpoint has several networks of the kind.
    """
    prefix = find_prefix(tensors, anchor)
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    weight, bias = (state.get(f"{classifier}.{name}") for name in ("weight", "bias"))
    if weight is not None and (weight.ndim > 2 or (weight.ndim == 2 and bias is not None)):
        return state, len(weight)
    return {name: value for name, value in state.items() if name.partition(".")[0] not in _HEADS}, None


_HEADS = (
    *("fc", "_fc", "head", "heads", "classifier", "linear", "mlp"),
    *("projection_head", "projector", "predictor", "prototypes"),
)


def to_channels_last(value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, (out, in) to (in, out), vectors as they are."""
    return value.transpose((2, 3, 1, 0)) if value.ndim == 4 else value.T


def as_variable(tensor: np.ndarray, *, shape: tuple[int, ...], is_kernel: bool) -> np.ndarray:
    """A tensor of PyTorch with the axes of a variable, of which heads have one of their own."""
    value = to_channels_last(tensor) if is_kernel else tensor
    return value.reshape(shape) if value.size == math.prod(shape) and value.ndim != len(shape) else value
