"""Swin: transformers whose tokens attend to each other within windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from jaxrel.encoders.checkpoints.tensors import shape_of
from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.hierarchical.layers import (
    Layers,
    accurate,
    depths_of,
    fill,
    output,
)
from jaxrel.encoders.images.layers import global_mean
from jaxrel.encoders.images.stages import StagedNetwork, checked_stage

__all__ = ["Swin"]

_MASKED = -100.0  # added to logits of pairs that are not neighbours, as in the original


class WindowAttention(nnx.Module):
    """Attention within windows of the image, with a bias for each head and each pair of relative places.

    Args:
        width: length of the vector of a token.
        num_biases: number of relative places, (2 w - 1)^2 for windows of w x w tokens.
        num_heads: attention heads; they divide the width.
        has_bias: whether the maps to queries, keys and values have one.
        shifted: whether windows begin in the middle of those of the block before.
        dtype: of variables and products.
    """

    def __init__(
        self, width: int, *, num_biases: int, num_heads: int, has_bias: bool, shifted: bool, dtype: DTypeLike
    ) -> None:
        """Make the layers."""
        if width % num_heads:
            raise ValueError(f"tokens have width {width}, biases {num_heads} heads: the heads must divide the width")
        linear = Layers.of(dtype).linear
        self.query, self.key, self.value = (linear(width, width, use_bias=has_bias) for _ in range(3))
        self.out = linear(width, width)
        self.position_biases = nnx.Param(jnp.zeros((num_biases, num_heads), dtype))
        self.window = (math.isqrt(num_biases) + 1) // 2
        self.shifted = shifted

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Attend; where the image is smaller than a window, it is the window."""
        batch, height, width, channels = x.shape
        window = min(self.window, height, width)
        shift = window // 2 if self.shifted and min(height, width) > self.window else 0
        x = jnp.pad(x, ((0, 0), (0, -height % window), (0, -width % window), (0, 0)))
        rows, columns = x.shape[1:3]
        windows = _windows(jnp.roll(x, (-shift, -shift), (1, 2)), window)  # (b, windows, tokens, c)
        query, key, value = (
            layer(windows).reshape(*windows.shape[:3], self.position_biases.shape[1], -1)
            for layer in (self.query, self.key, self.value)
        )
        wide = jnp.promote_types(value.dtype, jnp.float32)
        logits = jnp.einsum(
            "bnqhd,bnkhd->bnhqk", query, key, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide
        ) / math.sqrt(query.shape[-1])
        logits = logits + self.position_biases[...][_pairs(window, self.window)].transpose(2, 0, 1)
        if shift:
            regions = _windows(jnp.asarray(_regions(rows, columns, window, shift)), window)[0, ..., 0]
            apart = regions[:, :, None] != regions[:, None]
            logits = logits + jnp.where(apart, _MASKED, 0.0)[:, None].astype(wide)
        weights = jax.nn.softmax(logits).astype(value.dtype)
        attended = jnp.einsum("bnhqk,bnkhd->bnqhd", weights, value, precision=jax.lax.Precision.HIGHEST)
        y = self.out(attended.reshape(windows.shape))
        y = y.reshape(batch, rows // window, columns // window, window, window, channels)
        y = y.swapaxes(2, 3).reshape(batch, rows, columns, channels)
        return jnp.roll(y, (shift, shift), (1, 2))[:, :height, :width]


def _windows(x: Shaped[Array, "b h w c"], size: int) -> Shaped[Array, "b n t c"]:
    """The tokens of each window, `(b, windows, size^2, c)`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, size**2, channels)


def _regions(height: int, width: int, window: int, shift: int) -> Int[np.ndarray, "1 h w 1"]:
    """Numbers of the parts of a shifted image that were neighbours before."""
    rows, columns = (
        (np.arange(size) >= size - window).astype(int) + (np.arange(size) >= size - shift) for size in (height, width)
    )
    return (3 * rows[:, None] + columns)[None, ..., None]


def _pairs(window: int, largest: int) -> Int[np.ndarray, "n n"]:
    """Where the table of biases, made for windows of `largest`, has that of each pair of tokens of a window."""
    places = np.indices((window, window)).reshape(2, -1).T
    apart = places[:, None] - places + largest - 1
    return apart[..., 0] * (2 * largest - 1) + apart[..., 1]


class Block(nnx.Module):
    """Attention within windows and a feed-forward network, each of normalised tokens and added to them."""

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        prefix: str,
        *,
        shifted: bool,
        activation: Callable[[jax.Array], jax.Array],
        epsilon: float,
        dtype: DTypeLike,
    ) -> None:
        """Make the layers, of the shapes of the tensors whose names have the prefix."""
        layers = Layers.of(dtype)
        hidden_width, width = shape_of(tensors, f"{prefix}.expand.weight", ndim=2)
        num_biases, num_heads = shape_of(tensors, f"{prefix}.attention.position_biases", ndim=2)
        has_bias = f"{prefix}.attention.query.bias" in tensors
        self.norm1, self.norm2 = (layers.norm(width, epsilon=epsilon) for _ in range(2))
        self.attention = WindowAttention(
            width, num_biases=num_biases, num_heads=num_heads, has_bias=has_bias, shifted=shifted, dtype=dtype
        )
        self.expand, self.contract = layers.linear(width, hidden_width), layers.linear(hidden_width, width)
        self.activation = activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply the block."""
        x = x + self.attention(self.norm1(x))
        return x + self.contract(self.activation(self.expand(self.norm2(x))))


class Stage(nnx.Module):
    """Blocks, before which all stages but the first halve the image: four tokens become one of twice the width."""

    def __init__(self, tensors: Mapping[str, np.ndarray], prefix: str, depth: int, **block: Any) -> None:
        """Make the layers; `block` has the options of a block."""
        layers = Layers.of(block["dtype"])
        width = shape_of(tensors, f"{prefix}.blocks.0.norm1.weight", ndim=1)[0]
        halve = f"{prefix}.merge.weight" in tensors
        # Its epsilon is this, whatever the configuration says of the others.
        self.merge_norm = layers.norm(2 * width, epsilon=1e-5) if halve else None
        self.merge = layers.linear(2 * width, width, use_bias=False) if halve else None
        self.blocks = nnx.List(
            Block(tensors, f"{prefix}.blocks.{j}", shifted=j % 2 == 1, **block) for j in range(depth)
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Apply the stage."""
        if self.merge is not None and self.merge_norm is not None:
            x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
            four = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            x = accurate(self.merge(self.merge_norm(jnp.concatenate(four, -1))))
        for block in self.blocks:
            x = block(x)
        return x


class Swin(StagedNetwork):
    """A Swin with the weights, widths, depths, heads and windows of a checkpoint.

    Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, 2021. Stages whose image is
    smaller than a window use the biases of the existing positions, whereas `transformers` fails.

    Args:
        tensors: by the names of the variables here.
        num_logits: classes of the classifier; None for no classifier.
        layer: the stage, from 1, after which features are taken; None for the last.
        activation: activation of the feed-forward networks.
        epsilon: added to the variance in the normalisations of blocks and the last one.
        image_size: height and width of an image in pixels.
        dtype: of variables and products.

    Raises:
        ValueError: the tensors are of another architecture, there is no such layer, or the images do not fit.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        *,
        num_logits: int | None,
        layer: int | None,
        activation: Callable[[jax.Array], jax.Array],
        epsilon: float,
        image_size: int,
        dtype: DTypeLike,
    ) -> None:
        """Make the network and set its variables."""
        depths = depths_of(tensors, r"stages\.(\d+)\.blocks\.(\d+)\.")
        self.layer = checked_stage(layer, len(depths))
        width, _, _, patch_size = shape_of(tensors, "patches.weight", ndim=4)
        if image_size % patch_size:
            raise ValueError(f"image_size is {image_size}: pass a multiple of the {patch_size} pixels of a patch")
        layers = Layers.of(dtype)
        self.patches = layers.convolution(3, width, (patch_size,) * 2, strides=patch_size)
        self.patches_norm = layers.norm(width, epsilon=1e-5)
        self.stages = nnx.List(
            Stage(tensors, f"stages.{i}", depth, activation=activation, epsilon=epsilon, dtype=dtype)
            for i, depth in enumerate(depths)
        )
        width = shape_of(tensors, "norm.weight", ndim=1)[0]
        self.norm = layers.norm(width, epsilon=epsilon)
        self.classifier = None if num_logits is None else layers.linear(width, num_logits)
        fill(self, tensors, dtype=dtype)

    def _before_stages(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b h w c"]:
        return accurate(self.patches_norm(self.patches(images)))

    def _last(self, x: Float[Array, "b h w c"]) -> EncoderOutput:
        return output(global_mean(self.norm(x)), self.classifier)
