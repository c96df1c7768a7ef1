"""Residual networks: ResNet-18, 34, 50, 101 and 152."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.layers import ConvNorm, Layer, Linear, global_mean, max_pool
from jaxrel.encoders.images.stages import StagedNetwork, checked_stage

__all__ = ["DEPTHS", "ResNet", "Residual", "ResidualNet", "stage_names"]

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks in the four stages of each ResNet."""


class Residual(nnx.Module):
    """Convolutions one after another, to whose result the block's input is added, then ReLU.

    Args:
        in_width: channels of the input, which a convolution brings to the shape of the result where that is another.
        width: channels of the 3 x 3 convolutions.
        stride: 2 halves the image.
        bottleneck: whether there are 1 x 1, 3 x 3 and 1 x 1 convolutions, the last to four times the width, or else
            3 x 3 and 3 x 3.
        gain: multiplies the initial weights of the last convolution.
        rng: draws the initial weights.
    """

    def __init__(
        self, in_width: int, width: int, *, stride: int, bottleneck: bool, gain: float, rng: np.random.Generator
    ) -> None:
        """Draw the initial weights."""
        convolution = partial(ConvNorm, padding="SYMMETRIC", epsilon=1e-5, rng=rng)
        widths = (in_width, width, width, 4 * width) if bottleneck else (in_width, width, width)
        kernel_sizes = (1, 3, 1) if bottleneck else (3, 3)
        last, strided = len(kernel_sizes) - 1, kernel_sizes.index(3)
        self.convolutions = nnx.List(
            convolution(
                widths[i],
                widths[i + 1],
                kernel_size,
                stride=stride if i == strided else 1,
                activation=None if i == last else "relu",
                gain=gain if i == last else 1.0,
            )
            for i, kernel_size in enumerate(kernel_sizes)
        )
        same_shape = stride == 1 and in_width == widths[-1]
        self.shortcut = None if same_shape else convolution(in_width, widths[-1], stride=stride, activation=None)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Apply the block."""
        y = x
        for convolution in self.convolutions:
            y = convolution(y)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def stage_names(stages: Iterable[Iterable[Residual]]) -> Iterator[tuple[ConvNorm, tuple[str, str]]]:
    """Each layer of stages of residual blocks with its prefixes in a PyTorch file: (convolution, normalisation)."""
    for i, stage in enumerate(stages, start=1):
        for j, block in enumerate(stage):
            prefix = f"layer{i}.{j}"
            for k, convolution in enumerate(block.convolutions, start=1):
                yield convolution, (f"{prefix}.conv{k}", f"{prefix}.bn{k}")
            if block.shortcut is not None:
                yield block.shortcut, (f"{prefix}.downsample.0", f"{prefix}.downsample.1")


class ResidualNet(StagedNetwork):
    """A strided 7 x 7 stem, a max-pool, stages of residual blocks, the mean over the image, a linear classifier.

    Args:
        depths: blocks of each stage. The first block of each stage but the first halves the image.
        width: channels of the 3 x 3 convolutions in the first stage; each later stage has twice as many.
        bottleneck: the kind of blocks, see :class:`Residual`.
        num_logits: classes of the classifier; None for no classifier.
        layer: the stage, from 1, whose mean over the image gives the features. There are logits after the last only,
            but the variables of all stages, so that weight files fit.
        rng: draws the initial weights.

    Raises:
        ValueError: there is no such layer.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        width: int,
        bottleneck: bool,
        num_logits: int | None,
        layer: int,
        rng: np.random.Generator,
    ) -> None:
        """Draw the initial weights."""
        self.layer = checked_stage(layer, len(depths))
        # A branch adds to the variance of its input. With gains of 1 / sqrt(number of blocks), n branches multiply it
        # by at most (1 + 2 / n)^n < e^2, however deep the network.
        make_block = partial(Residual, bottleneck=bottleneck, gain=sum(depths) ** -0.5, rng=rng)
        self.stem = ConvNorm(3, 64, 7, stride=2, activation="relu", padding="SYMMETRIC", epsilon=1e-5, rng=rng)
        stages, in_width = [], 64
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                block = make_block(in_width, width * 2**i, stride=2 if i > 0 and j == 0 else 1)
                blocks.append(block)
                in_width = block.convolutions[-1].bias.shape[0]
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.classifier = None if num_logits is None else Linear(in_width, num_logits, rng=rng)

    def _before_stages(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        return max_pool(self.stem(images), padding="SYMMETRIC")

    def _last(self, x: Float[Array, "b h w c"]) -> EncoderOutput:
        features = global_mean(x)
        return EncoderOutput(features, None if self.classifier is None else self.classifier(features))


class ResNet(ResidualNet):
    """A ResNet as in torchvision ("v1.5": a bottleneck halves the image in its 3 x 3 convolution).

    He et al., Deep Residual Learning for Image Recognition, 2016. Weight files of torchvision's resnet18 to
    resnet152 fit, and timm's of the same names, whose tensors have the same names; timm's variants with another stem
    or shortcut (resnet50d and the like) do not.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_logits: classes of the linear classifier; None for no classifier.
        layer: the stage, 1 to 4, whose mean over the image gives the features. There are logits after the last only,
            but the variables of all stages, so that weight files fit.
        rng: draws the initial weights.

    Raises:
        ValueError: there is no such depth or layer.
    """

    def __init__(self, depth: int, *, num_logits: int | None = 1000, layer: int = 4, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth!r}")
        super().__init__(DEPTHS[depth], width=64, bottleneck=depth >= 50, num_logits=num_logits, layer=layer, rng=rng)

    def torch_names(self) -> Iterator[tuple[Layer, tuple[str, ...]]]:
        """Each layer with its prefixes in a PyTorch file: (convolution, normalisation) or (linear,)."""
        yield self.stem, ("conv1", "bn1")
        yield from stage_names(self.stages)
        if self.classifier is not None:
            yield self.classifier, ("fc",)
