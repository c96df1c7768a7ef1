"""Networks of inverted-residual blocks, such as MobileNetV2 and EfficientNet-Lite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.layers import ConvNorm, Linear, Padding, global_mean

__all__ = ["InvertedResidual", "InvertedResidualNet", "Stage"]


class Stage(NamedTuple):
    """A run of inverted-residual blocks; `stride` is that of its first block."""

    kernel_size: int
    stride: int
    expansion: int
    width: int
    depth: int


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
        self.project = conv_norm(width, out_width, activation=None)
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
        features = global_mean(self.head(x))
        return EncoderOutput(features, None if self.classifier is None else self.classifier(features))
