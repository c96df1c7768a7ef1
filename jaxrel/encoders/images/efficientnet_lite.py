"""EfficientNet-Lite: EfficientNet without squeeze-excitation, with ReLU6, stem and head of fixed size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from jaxrel.encoders.images.inverted_residuals import InvertedResidualNet, Stage
from jaxrel.encoders.images.layers import ConvNorm, Linear

__all__ = ["EfficientNetLite"]

BASE_STAGES = (
    Stage(kernel_size=3, stride=1, expansion=1, width=16, depth=1),
    Stage(kernel_size=3, stride=2, expansion=6, width=24, depth=2),
    Stage(kernel_size=5, stride=2, expansion=6, width=40, depth=2),
    Stage(kernel_size=3, stride=2, expansion=6, width=80, depth=3),
    Stage(kernel_size=5, stride=1, expansion=6, width=112, depth=3),
    Stage(kernel_size=5, stride=2, expansion=6, width=192, depth=4),
    Stage(kernel_size=3, stride=1, expansion=6, width=320, depth=1),
)


class EfficientNetLite(InvertedResidualNet):
    """EfficientNet-Lite with an ImageNet classifier.

    Args:
        width_factor: multiplies the base network's widths (not those of the stem and the head).
        depth_factor: multiplies the depths of its stages (not those of the first and the last).
        num_logits: classes of the linear classifier; None for no classifier.
        rng: draws the initial weights.
    """

    def __init__(
        self, width_factor: float, depth_factor: float, *, num_logits: int | None = 1000, rng: np.random.Generator
    ) -> None:
        """Draw the initial weights."""
        ends = (0, len(BASE_STAGES) - 1)
        stages = [
            stage._replace(
                width=_round_width(stage.width * width_factor),
                depth=stage.depth if i in ends else math.ceil(stage.depth * depth_factor),
            )
            for i, stage in enumerate(BASE_STAGES)
        ]
        super().__init__(stages, num_logits=num_logits, padding="SAME", epsilon=1e-3, rng=rng)

    def torch_names(self) -> Iterator[tuple[ConvNorm | Linear, tuple[str, ...]]]:
        """Each layer with its prefixes in the PyTorch file: (convolution, normalisation) or (linear,)."""
        yield self.stem, ("_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            if block.expand is not None:
                yield block.expand, (f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
            yield block.depthwise, (f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
            yield block.project, (f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
        yield self.head, ("_conv_head", "_bn1")
        if self.classifier is not None:
            yield self.classifier, ("_fc",)


def _round_width(width: float) -> int:
    """The nearest multiple of 8, at least 8 and not more than 10 % below `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
