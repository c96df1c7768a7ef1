"""Inverted-residual networks in Flax NNX, for inference: what EfficientNet-Lite and MobileNetV2 share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxrel.encoders.encoder import EncoderOutput

__all__ = [
    "ConvNorm",
    "InvertedResidual",
    "InvertedResidualNet",
    "Linear",
    "Padding",
    "Stage",
    "depthwise_convolution",
]

Padding = Literal["SAME", "SYMMETRIC"]
"""SAME: as TensorFlow pads, by the image size, rather on the right. SYMMETRIC: (k - 1) / 2 on each side."""

Pads = Sequence[tuple[int, int]]


class Stage(NamedTuple):
    """A run of inverted-residual blocks; `stride` is that of its first block."""

    kernel_size: int
    stride: int
    expansion: int
    width: int
    depth: int


def depthwise_convolution(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], *, stride: int, pads: Pads
) -> Float[Array, "b h2 w2 c"]:
    """Convolve each channel with its own kernel.

    On a CPU as a sum of shifted multiples, for there XLA's grouped convolution makes whole networks seven to ten times
    slower (benchmarks/depthwise.py); elsewhere as the grouped convolution it is.
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
    )


def shifted_multiply_adds(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], *, stride: int, pads: Pads
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution as a sum over the kernel's elements of shifted images times that element."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = kernel.shape[:2]
    rows = (x.shape[1] - height) // stride * stride + 1
    columns = (x.shape[2] - width) // stride * stride + 1
    shifted = (
        x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
        for i in range(height)
        for j in range(width)
    )
    return sum(shifted, start=jnp.zeros((), x.dtype))


class ConvNorm(nnx.Module):
    """A convolution without bias, batch normalisation by running statistics and, optionally, ReLU6."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        kernel_size: int = 1,
        *,
        rng: np.random.Generator,
        stride: int = 1,
        depthwise: bool = False,
        activate: bool = True,
        padding: Padding,
        epsilon: float,
    ) -> None:
        """Draw the initial weights."""
        fan_in = 1 if depthwise else in_width
        self.kernel = nnx.Param(_he_normal(rng, (kernel_size, kernel_size, fan_in, out_width)))
        zeros, ones = np.zeros(out_width, np.float32), np.ones(out_width, np.float32)
        self.scale = nnx.Param(jnp.asarray(ones))
        self.bias = nnx.Param(jnp.asarray(zeros))
        self.mean = nnx.BatchStat(jnp.asarray(zeros))
        self.var = nnx.BatchStat(jnp.asarray(ones))
        self.stride = stride
        self.depthwise = depthwise
        self.activate = activate
        self.padding = padding
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Convolve, normalise, activate."""
        gain = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
        x = self._convolve(x, self.kernel[...]) * gain + (self.bias[...] - self.mean[...] * gain)
        return jnp.clip(x, 0, 6) if self.activate else x

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        size = kernel.shape[0]
        if size == 1 and self.stride == 1:  # as a matrix product, which XLA does 1.5 times faster on a CPU
            return jnp.matmul(x, kernel[0, 0], precision=lax.Precision.HIGHEST)
        if self.padding == "SAME":
            pads: Pads = lax.padtype_to_pads(x.shape[1:3], (size, size), (self.stride, self.stride), "SAME")
        else:
            pads = [((size - 1) // 2, (size - 1) // 2)] * 2
        if self.depthwise:
            return depthwise_convolution(x, kernel, stride=self.stride, pads=pads)
        return lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )


class Linear(nnx.Module):
    """A linear map with bias."""

    def __init__(self, in_width: int, out_width: int, *, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        self.kernel = nnx.Param(_he_normal(rng, (in_width, out_width)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(out_width, np.float32)))

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b c"]:
        """Apply the map."""
        return jnp.matmul(x, self.kernel[...], precision=lax.Precision.HIGHEST) + self.bias[...]


def _he_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> jax.Array:
    """He's initial weights. Drawn by NumPy: compiling JAX's generator for every shape takes ten seconds."""
    return jnp.asarray(rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[:-1])) ** 0.5))


class InvertedResidual(nnx.Module):
    """Expand by a 1 x 1 convolution, filter each channel, project back; add the input if the shape fits."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        *,
        kernel_size: int,
        stride: int,
        expansion: int,
        conv_norm: Callable[..., ConvNorm],
    ) -> None:
        """Make the layers by `conv_norm`."""
        width = in_width * expansion
        self.expand = conv_norm(in_width, width) if expansion > 1 else None
        self.depthwise = conv_norm(width, width, kernel_size, stride=stride, depthwise=True)
        self.project = conv_norm(width, out_width, activate=False)
        self.residual = stride == 1 and in_width == out_width

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Apply the block."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class InvertedResidualNet(nnx.Module):
    """A strided 3 x 3 stem, stages of inverted-residual blocks, a 1 x 1 head, the mean over the image.

    Args:
        stages: the blocks.
        stem_width: channels after the stem.
        feature_width: channels after the head.
        num_logits: classes of the linear classifier on the features; None for no classifier.
        padding: how images are padded before a convolution.
        epsilon: added to the variance in batch normalisation.
        rng: draws the initial weights.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        stem_width: int = 32,
        feature_width: int = 1280,
        num_logits: int | None,
        padding: Padding,
        epsilon: float,
        rng: np.random.Generator,
    ) -> None:
        """Draw the initial weights."""
        conv_norm = partial(ConvNorm, padding=padding, epsilon=epsilon, rng=rng)

        self.stem = conv_norm(3, stem_width, 3, stride=2)
        blocks, width = [], stem_width
        for stage in stages:
            for i in range(stage.depth):
                block = InvertedResidual(
                    width,
                    stage.width,
                    kernel_size=stage.kernel_size,
                    stride=stage.stride if i == 0 else 1,
                    expansion=stage.expansion,
                    conv_norm=conv_norm,
                )
                blocks.append(block)
                width = stage.width
        self.blocks = nnx.List(blocks)
        self.head = conv_norm(width, feature_width)
        self.classifier = None if num_logits is None else Linear(feature_width, num_logits, rng=rng)

    def __call__(self, x: Float[Array, "b h w 3"]) -> EncoderOutput:
        """Features and logits of preprocessed images."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        features = self.head(x).mean((1, 2))
        return EncoderOutput(features, None if self.classifier is None else self.classifier(features))
