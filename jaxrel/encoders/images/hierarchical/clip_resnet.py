"""The residual networks of CLIP."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrel.encoders.checkpoints.tensors import shape_of, take
from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.hierarchical.layers import accurate, depths_of
from jaxrel.encoders.images.layers import ConvNorm, Layer, Linear
from jaxrel.encoders.images.positions import resized_positions
from jaxrel.encoders.images.resnet import Residual, stage_names
from jaxrel.encoders.images.stages import StagedNetwork, checked_stage
from jaxrel.encoders.images.weights import load_torch_tensors

__all__ = ["ClipResNet"]

_POSITIONS = "attnpool.positional_embedding"
_HEAD_WIDTH = 64
_STRIDE = 32  # pixels along a side for which there is one place at the end


class PooledResidual(Residual):
    """A bottleneck that halves the image by means of 2 x 2 pixels, on both of its branches."""

    def __init__(self, in_width: int, width: int, *, halve: bool, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        super().__init__(in_width, width, stride=1, bottleneck=True, gain=1.0, rng=rng)
        self.halve = halve

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Apply the block."""
        first, second, last = self.convolutions
        y = second(first(x))
        if self.halve:
            x, y = _halved(x), _halved(y)
        return nnx.relu(last(y) + (x if self.shortcut is None else self.shortcut(x)))


def _halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    batch, height, width, channels = x.shape
    pairs = accurate(x).reshape(batch, height // 2, 2, width // 2, 2, channels)
    return pairs.mean((2, 4)).astype(x.dtype)


class AttentionPool(nnx.Module):
    """Attention of the mean over the image to all places and itself, and a linear map into the joint space."""

    def __init__(self, width: int, out_width: int, *, grid: int, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        self.positions = nnx.Param(jnp.zeros((grid**2 + 1, width)))
        self.query, self.key, self.value = (Linear(width, width, rng=rng) for _ in range(3))
        self.out = Linear(width, out_width, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Pool the image."""
        places = accurate(x).reshape(len(x), -1, x.shape[-1])
        tokens = jnp.concatenate([places.mean(1, keepdims=True), places], axis=1) + self.positions[...]
        heads = (*tokens.shape[:2], -1, _HEAD_WIDTH)
        query = self.query(tokens[:, 0]).reshape(len(x), -1, _HEAD_WIDTH)
        key, value = (layer(tokens).reshape(heads) for layer in (self.key, self.value))
        precision = jax.lax.Precision.HIGHEST
        logits = jnp.einsum("bhd,bkhd->bhk", query, key, precision=precision) / math.sqrt(_HEAD_WIDTH)
        attended = jnp.einsum("bhk,bkhd->bhd", jax.nn.softmax(logits), value, precision=precision)
        return self.out(attended.reshape(len(x), -1))


class ClipResNet(StagedNetwork):
    """A residual network of CLIP with the weights, widths and depths of a checkpoint.

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021: three convolutions
    before the first stage, means of 2 x 2 pixels instead of strides, attention pooling. Positions are interpolated to
    other image sizes as in `timm`.

    Args:
        tensors: by OpenAI's names, without "visual.".
        layer: the stage, from 1, after which features are taken; None for the last, which attention pools.
        image_size: height and width of an image in pixels.
        dtype: type of kernels and products.

    Raises:
        ValueError: the tensors are of another architecture, there is no such layer, or the images do not fit.
    """

    def __init__(
        self, tensors: Mapping[str, np.ndarray], *, layer: int | None, image_size: int, dtype: DTypeLike
    ) -> None:
        """Make the network and set its variables."""
        if image_size % _STRIDE:
            raise ValueError(f"image_size is {image_size}: pass a multiple of {_STRIDE}")
        depths = depths_of(tensors, r"layer([1-4])\.(\d+)\.")
        self.layer = checked_stage(layer, len(depths))
        rng, grid = np.random.default_rng(0), image_size // _STRIDE
        width = shape_of(tensors, "layer1.0.conv1.weight", ndim=4)[0]
        self.stem = nnx.List(
            ConvNorm(*widths, 3, stride=stride, activation="relu", padding="SYMMETRIC", epsilon=1e-5, rng=rng)
            for widths, stride in (((3, width // 2), 2), ((width // 2, width // 2), 1), ((width // 2, width), 1))
        )
        stages, in_width = [], width
        for i, depth in enumerate(depths):
            out_width = 4 * width * 2**i
            widths_before = [in_width] + [out_width] * (depth - 1)
            stages.append(
                nnx.List(
                    PooledResidual(before, width * 2**i, halve=i > 0 and j == 0, rng=rng)
                    for j, before in enumerate(widths_before)
                )
            )
            in_width = out_width
        self.stages = nnx.List(stages)
        self.pool = AttentionPool(in_width, shape_of(tensors, "attnpool.c_proj.weight", ndim=2)[0], grid=grid, rng=rng)
        shape_of(tensors, _POSITIONS, ndim=2)
        positions = resized_positions(tensors[_POSITIONS], grid, prefix=1, antialias=True)
        remaining, wide = dict(tensors) | {_POSITIONS: positions}, jnp.promote_types(dtype, jnp.float32)
        self.pool.positions.set_value(jnp.asarray(take(remaining, _POSITIONS, self.pool.positions.shape, wide)))
        load_torch_tensors(self.torch_names(), remaining, dtype=dtype)

    def _before_stages(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b h w c"]:
        x = images
        for convolution in self.stem:
            x = convolution(x)
        return _halved(x)

    def _last(self, x: Float[Array, "b h w c"]) -> EncoderOutput:
        return EncoderOutput(self.pool(x), None)

    @staticmethod
    def image_size_of(tensors: Mapping[str, np.ndarray]) -> int:
        """Height and width of the images of the training, by the positions learned."""
        return _STRIDE * math.isqrt(shape_of(tensors, _POSITIONS, ndim=2)[0] - 1)

    def torch_names(self) -> Iterator[tuple[Layer, tuple[str, ...]]]:
        """Each layer with its prefixes in a PyTorch file: (convolution, normalisation) or (linear,)."""
        for i, convolution in enumerate(self.stem, start=1):
            yield convolution, (f"conv{i}", f"bn{i}")
        yield from stage_names(self.stages)
        for role, layer in zip("qkvc", (self.pool.query, self.pool.key, self.pool.value, self.pool.out), strict=True):
            yield layer, (f"attnpool.{role}_proj",)
