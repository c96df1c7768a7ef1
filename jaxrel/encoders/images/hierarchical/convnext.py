"""ConvNeXt, and its second version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrel.encoders.checkpoints.tensors import shape_of
from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.hierarchical.layers import (
    Layers,
    accurate,
    depths_of,
    fill,
    output,
)
from jaxrel.encoders.images.layers import depthwise_convolution, global_mean
from jaxrel.encoders.images.stages import StagedNetwork, checked_stage

__all__ = ["ConvNeXt"]

_EPSILON = 1e-6  # of all normalisations except the last, whatever the configuration says


class ResponseNorm(nnx.Module):
    """Global response normalisation: x + scale * x * N / mean(N) + bias, N the norm of a channel over the image."""

    def __init__(self, width: int, *, dtype: DTypeLike) -> None:
        """Initialise it as the identity."""
        self.scale = nnx.Param(jnp.zeros(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalise, float32 at least."""
        x = accurate(x)
        norms = jnp.sqrt((x**2).sum((1, 2), keepdims=True))
        response = norms / (norms.mean(-1, keepdims=True) + _EPSILON)
        return x + self.scale[...] * (x * response) + self.bias[...]


class Block(nnx.Module):
    """A depthwise 7 x 7 convolution and a feed-forward network of four times the width, added to their input."""

    def __init__(
        self,
        width: int,
        *,
        activation: Callable[[jax.Array], jax.Array],
        layer_scale: bool,
        response_norm: bool,
        dtype: DTypeLike,
    ) -> None:
        """Make the layers."""
        layers = Layers.of(dtype)
        self.depthwise: Any = layers.convolution(width, width, (7, 7), feature_group_count=width)
        self.norm = layers.norm(width, epsilon=_EPSILON)
        self.expand = layers.linear(width, 4 * width)
        self.response = ResponseNorm(4 * width, dtype=dtype) if response_norm else None
        self.contract = layers.linear(4 * width, width)
        self.layer_scale = nnx.Param(jnp.ones(width, dtype)) if layer_scale else None
        self.activation = activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply the block."""
        kernel = self.depthwise.kernel[...]
        y = depthwise_convolution(x.astype(kernel.dtype), kernel, stride=1, pads=[(3, 3)] * 2)
        y = self.activation(self.expand(self.norm(y + self.depthwise.bias[...])))
        y = self.contract(y if self.response is None else self.response(y))
        return x + (y if self.layer_scale is None else self.layer_scale[...] * y)


class Stage(nnx.Module):
    """Blocks, before which all stages but the first halve the image by a 2 x 2 convolution."""

    def __init__(self, in_width: int, width: int, depth: int, *, halve: bool, **block: Any) -> None:
        """Make the layers; `block` has the options of a block."""
        layers = Layers.of(block["dtype"])
        self.merge_norm = layers.norm(in_width, epsilon=_EPSILON) if halve else None
        self.merge = layers.convolution(in_width, width, (2, 2), strides=2) if halve else None
        self.blocks = nnx.List(Block(width, **block) for _ in range(depth))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Apply the stage."""
        if self.merge is not None and self.merge_norm is not None:
            x = accurate(self.merge(self.merge_norm(x)))
        for block in self.blocks:
            x = block(x)
        return x


class ConvNeXt(StagedNetwork):
    """A ConvNeXt with the weights, widths and depths of a checkpoint.

    Liu et al., A ConvNet for the 2020s, 2022; Woo et al., ConvNeXt V2, 2023, whose response normalisation is used if
    its tensors exist.

    Args:
        tensors: by the names of the variables here.
        num_logits: classes of the classifier; None for no classifier.
        layer: the stage, from 1, after which features are taken; None for the last.
        activation: activation of the feed-forward networks.
        epsilon: added to the variance in the last normalisation.
        image_size: height and width of an image in pixels.
        dtype: type of variables and products.

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
        widths = [shape_of(tensors, f"stages.{i}.blocks.0.norm.weight", ndim=1)[0] for i in range(len(depths))]
        patch_size = shape_of(tensors, "patches.weight", ndim=4)[-1]
        smallest = patch_size * 2 ** (len(depths) - 1)
        if image_size % patch_size or image_size < smallest:
            raise ValueError(
                f"image_size is {image_size}: pass a multiple of the {patch_size} pixels of a patch, of {smallest} at "
                "least"
            )
        layers = Layers.of(dtype)
        self.patches = layers.convolution(3, widths[0], (patch_size,) * 2, strides=patch_size)
        self.patches_norm = layers.norm(widths[0], epsilon=_EPSILON)
        self.stages = nnx.List(
            Stage(
                widths[max(i - 1, 0)],
                widths[i],
                depth,
                halve=i > 0,
                activation=activation,
                layer_scale="stages.0.blocks.0.layer_scale" in tensors,
                response_norm="stages.0.blocks.0.response.weight" in tensors,
                dtype=dtype,
            )
            for i, depth in enumerate(depths)
        )
        self.norm = layers.norm(widths[-1], epsilon=epsilon)
        self.classifier = None if num_logits is None else layers.linear(widths[-1], num_logits)
        fill(self, tensors, dtype=dtype)

    def _before_stages(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b h w c"]:
        return accurate(self.patches_norm(self.patches(images)))

    def _last(self, x: Float[Array, "b h w c"]) -> EncoderOutput:
        return output(self.norm(global_mean(x)), self.classifier)
