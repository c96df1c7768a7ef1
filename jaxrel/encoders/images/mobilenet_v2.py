"""MobileNetV2 of width 1.0."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxrel.encoders.images.inverted_residuals import InvertedResidualNet, Stage
from jaxrel.encoders.images.layers import ConvNorm, Linear

__all__ = ["MobileNetV2"]

STAGES = (
    Stage(kernel_size=3, stride=1, expansion=1, width=16, depth=1),
    Stage(kernel_size=3, stride=2, expansion=6, width=24, depth=2),
    Stage(kernel_size=3, stride=2, expansion=6, width=32, depth=3),
    Stage(kernel_size=3, stride=2, expansion=6, width=64, depth=4),
    Stage(kernel_size=3, stride=1, expansion=6, width=96, depth=3),
    Stage(kernel_size=3, stride=2, expansion=6, width=160, depth=3),
    Stage(kernel_size=3, stride=1, expansion=6, width=320, depth=1),
)


class MobileNetV2(InvertedResidualNet):
    """MobileNetV2 as a function to features and, if there is a classifier, logits.

    Args:
        num_logits: classes of the linear classifier; None for no classifier.
        rng: draws the initial weights.
    """

    def __init__(self, *, num_logits: int | None = None, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        super().__init__(STAGES, num_logits=num_logits, padding="SYMMETRIC", epsilon=1e-5, rng=rng)

    def torch_names(self) -> Iterator[tuple[ConvNorm | Linear, tuple[str, ...]]]:
        """Each layer with its prefixes in the PyTorch file: (convolution, normalisation) or (linear,)."""
        yield self.stem, ("features.0.0", "features.0.1")
        for i, block in enumerate(self.blocks, start=1):
            layers = [layer for layer in (block.expand, block.depthwise, block.project) if layer is not None]
            for j, layer in enumerate(layers):  # three entries a layer; the third is the activation
                yield layer, (f"features.{i}.conv.{3 * j}", f"features.{i}.conv.{3 * j + 1}")
        last = len(self.blocks) + 1
        yield self.head, (f"features.{last}.0", f"features.{last}.1")
        if self.classifier is not None:
            yield self.classifier, ("classifier.1",)
