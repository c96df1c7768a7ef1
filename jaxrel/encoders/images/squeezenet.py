"""SqueezeNet 1.1."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.layers import ConvBias, global_mean, max_pool

__all__ = ["Fire", "SqueezeNet"]

SQUEEZED_WIDTHS = ((16, 16), (32, 32), (48, 48, 64, 64))
"""Channels after the first convolution of each fire block; a max-pool precedes each group of blocks."""


class Fire(nnx.Module):
    """A 1 x 1 convolution to few channels, then 1 x 1 and 3 x 3 convolutions side by side, each with ReLU.

    Args:
        in_width: channels of the input.
        squeezed_width: channels after the first convolution; the other two each have four times as many.
        rng: draws the initial weights.
    """

    def __init__(self, in_width: int, squeezed_width: int, *, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        convolution = partial(ConvBias, padding="SYMMETRIC", rng=rng)
        self.squeeze = convolution(in_width, squeezed_width)
        self.expand_1x1 = convolution(squeezed_width, 4 * squeezed_width)
        self.expand_3x3 = convolution(squeezed_width, 4 * squeezed_width, 3)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Apply the block."""
        x = self.squeeze(x)
        return jnp.concatenate([self.expand_1x1(x), self.expand_3x3(x)], axis=-1)


class SqueezeNet(nnx.Module):
    """SqueezeNet 1.1: features are the mean over the image of the last fire block.

    Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size, 2016. The
    logits are also means over the image, of the output of the last convolution after ReLU, and hence not negative.

    Args:
        num_logits: classes of the classifier; None for no classifier.
        rng: draws the initial weights.
    """

    def __init__(self, *, num_logits: int | None = 1000, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        self.stem = ConvBias(3, 64, 3, stride=2, padding="VALID", rng=rng)
        groups, width = [], 64
        for group in SQUEEZED_WIDTHS:
            blocks = []
            for squeezed_width in group:
                blocks.append(Fire(width, squeezed_width, rng=rng))
                width = 8 * squeezed_width
            groups.append(nnx.List(blocks))
        self.groups = nnx.List(groups)
        self.classifier = None if num_logits is None else ConvBias(width, num_logits, padding="VALID", rng=rng)

    def __call__(self, x: Float[Array, "b h w 3"]) -> EncoderOutput:
        """Features and logits of preprocessed images."""
        x = self.stem(x)
        for group in self.groups:
            x = max_pool(x, padding="CEILING")
            for block in group:
                x = block(x)
        logits = None if self.classifier is None else global_mean(self.classifier(x))
        return EncoderOutput(global_mean(x), logits)

    def torch_names(self) -> Iterator[tuple[ConvBias, tuple[str]]]:
        """Each layer with its prefix in torchvision's file."""
        yield self.stem, ("features.0",)
        position = 2  # of the first max-pool; the ReLU between has a place of its own
        for group in self.groups:
            for block in group:
                position += 1
                yield block.squeeze, (f"features.{position}.squeeze",)
                yield block.expand_1x1, (f"features.{position}.expand1x1",)
                yield block.expand_3x3, (f"features.{position}.expand3x3",)
            position += 1
        if self.classifier is not None:
            yield self.classifier, ("classifier.1",)
