"""Layers of convolutional networks in Flax NNX, for inference.

Each layer computes in the type of its kernel. Products of bfloat16 numbers are summed, normalised and activated in
float32 and rounded only then; means over images and linear maps give float32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

__all__ = [
    "Activation",
    "ConvBias",
    "ConvNorm",
    "Layer",
    "Linear",
    "Padding",
    "convolution",
    "depthwise_convolution",
    "global_mean",
    "max_pool",
]

Activation = Literal["relu", "relu6"]

Padding = Literal["SAME", "SYMMETRIC", "VALID", "CEILING"]
"""How an image is padded for windows of size k.

SAME: as TensorFlow pads, by the image size, rather on the right. SYMMETRIC: (k - 1) / 2 on each side. VALID: not at
all; pixels on the right that fill no window are left out. CEILING: on the right, by what the last window lacks.
"""

Pads = Sequence[tuple[int, int]]


def _pads(shape: tuple[int, ...], size: int, stride: int, padding: Padding) -> Pads:
    """What is added before and after each of the two axes of images of `shape`."""
    match padding:
        case "SYMMETRIC":
            return [((size - 1) // 2, (size - 1) // 2)] * 2
        case "CEILING":
            return [(0, (size - length) % stride) for length in shape]
    return lax.padtype_to_pads(shape, (size, size), (stride, stride), padding)


def _accumulation_type(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c d"] | Float[Array, "k k 1 d"],
    *,
    stride: int = 1,
    padding: Padding,
    depthwise: bool = False,
) -> Float[Array, "b h2 w2 d"]:
    """Convolve in the type of the kernel; the sums are float32 at least."""
    x, size = x.astype(kernel.dtype), kernel.shape[0]
    pads = _pads(x.shape[1:3], size, stride, padding)
    if depthwise:
        return depthwise_convolution(x, kernel, stride=stride, pads=pads)
    if size == 1:  # as a matrix product, which XLA does 1.5 times faster on a CPU
        return _matmul(x[:, ::stride, ::stride], kernel[0, 0])
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=_accumulation_type(kernel),
    )


def _matmul(x: Float[Array, "*b c"], kernel: Float[Array, "c d"]) -> Float[Array, "*b d"]:
    return jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST, preferred_element_type=_accumulation_type(kernel))


def depthwise_convolution(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], *, stride: int, pads: Pads
) -> Float[Array, "b h2 w2 c"]:
    """Convolve each channel with its own kernel.

    On a CPU as a sum of shifted multiples, for there XLA's grouped convolution makes whole networks seven to ten times
    slower (`python -m benchmarks --only depthwise encoder`); elsewhere as the grouped convolution it is.
    """
    filtered: jax.Array = lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: shifted_multiply_adds(x, kernel, stride=stride, pads=pads),
        default=lambda x, kernel: grouped_convolution(x, kernel, stride=stride, pads=pads),
    )
    return filtered


def grouped_convolution(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], *, stride: int, pads: Pads
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution as XLA's grouped convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=lax.Precision.HIGHEST,
        preferred_element_type=_accumulation_type(kernel),
    )


def shifted_multiply_adds(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], *, stride: int, pads: Pads
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution as a sum over the kernel's elements of shifted images times that element."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0))).astype(_accumulation_type(kernel))
    height, width = kernel.shape[:2]
    rows = (x.shape[1] - height) // stride * stride + 1
    columns = (x.shape[2] - width) // stride * stride + 1
    shifted = (
        x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
        for i in range(height)
        for j in range(width)
    )
    return sum(shifted, start=jnp.zeros((), x.dtype))


def max_pool(
    x: Float[Array, "b h w c"], *, size: int = 3, stride: int = 2, padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """The largest value of each channel in windows of `size` x `size`; padding counts as minus infinity."""
    pads = _pads(x.shape[1:3], size, stride, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    rows = (x.shape[1] - size) // stride * stride + 1
    columns = (x.shape[2] - size) // stride * stride + 1
    x = reduce(jnp.maximum, (x[:, i : i + rows : stride] for i in range(size)))
    return reduce(jnp.maximum, (x[:, :, j : j + columns : stride] for j in range(size)))


def global_mean(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """The mean over the image of each channel, float32 at least."""
    # Without the barrier XLA of jaxlib 0.12 fuses the last residual block of bfloat16 networks into the mean on a CPU,
    # and the fused kernel reads memory that nothing wrote.
    return lax.optimization_barrier(x).mean((1, 2), dtype=_accumulation_type(x))


class ConvNorm(nnx.Module):
    """A convolution without bias, batch normalisation by running statistics and, optionally, an activation.

    Args:
        in_width: channels of the input.
        out_width: channels of the result.
        kernel_size: height and width of the kernel.
        rng: draws the initial weights.
        stride: step from one window to the next.
        depthwise: whether each channel has its own kernel.
        activation: what is applied to the result; None for nothing.
        padding: how images are padded.
        epsilon: added to the variance.
        gain: multiplies the initial weights.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        kernel_size: int = 1,
        *,
        rng: np.random.Generator,
        stride: int = 1,
        depthwise: bool = False,
        activation: Activation | None = "relu6",
        padding: Padding,
        epsilon: float,
        gain: float = 1.0,
    ) -> None:
        """Draw the initial weights."""
        fan_in = 1 if depthwise else in_width
        self.kernel = nnx.Param(_he_normal(rng, (kernel_size, kernel_size, fan_in, out_width), gain=gain))
        zeros, ones = np.zeros(out_width, np.float32), np.ones(out_width, np.float32)
        self.scale = nnx.Param(jnp.asarray(ones))
        self.bias = nnx.Param(jnp.asarray(zeros))
        self.mean = nnx.BatchStat(jnp.asarray(zeros))
        self.var = nnx.BatchStat(jnp.asarray(ones))
        self.stride = stride
        self.depthwise = depthwise
        self.activation = activation
        self.padding = padding
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Convolve, normalise, activate."""
        kernel = self.kernel[...]
        x = convolution(x, kernel, stride=self.stride, padding=self.padding, depthwise=self.depthwise)
        gain = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
        x = x * gain + (self.bias[...] - self.mean[...] * gain)
        return _activate(x, self.activation).astype(kernel.dtype)


class ConvBias(nnx.Module):
    """A convolution with bias (or with a normalisation folded into both) and, optionally, an activation.

    Args:
        in_width: channels of the input.
        out_width: channels of the result.
        kernel_size: height and width of the kernel.
        rng: draws the initial weights.
        stride: step from one window to the next.
        activation: what is applied to the result; None for nothing.
        padding: how images are padded.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        kernel_size: int = 1,
        *,
        rng: np.random.Generator,
        stride: int = 1,
        activation: Activation | None = "relu",
        padding: Padding,
    ) -> None:
        """Draw the initial weights."""
        self.kernel = nnx.Param(_he_normal(rng, (kernel_size, kernel_size, in_width, out_width)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(out_width, np.float32)))
        self.stride = stride
        self.activation = activation
        self.padding = padding

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Convolve, add the bias, activate."""
        kernel = self.kernel[...]
        x = convolution(x, kernel, stride=self.stride, padding=self.padding) + self.bias[...]
        return _activate(x, self.activation).astype(kernel.dtype)


class Linear(nnx.Module):
    """A linear map with bias."""

    def __init__(self, in_width: int, out_width: int, *, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        self.kernel = nnx.Param(_he_normal(rng, (in_width, out_width)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(out_width, np.float32)))

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b c"]:
        """Apply the map; the result is float32 at least."""
        kernel = self.kernel[...]
        return _matmul(x.astype(kernel.dtype), kernel) + self.bias[...]


Layer: TypeAlias = ConvNorm | ConvBias | Linear


def _activate(x: jax.Array, activation: Activation | None) -> jax.Array:
    match activation:
        case "relu":
            return jnp.maximum(x, 0)
        case "relu6":
            return jnp.clip(x, 0, 6)
    return x


def _he_normal(rng: np.random.Generator, shape: tuple[int, ...], *, gain: float = 1.0) -> jax.Array:
    """He's initial weights. Drawn by NumPy: compiling JAX's generator for every shape takes ten seconds."""
    deviation = gain * (2 / np.prod(shape[:-1])) ** 0.5
    return jnp.asarray(rng.standard_normal(shape, np.float32) * np.float32(deviation))
