"""The networks with ImageNet weights as functions of a dictionary, like those of `networks.py`.

Their images have 32 x 32 pixels, the fewest these networks take, which two cores can fine-tune on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float
from networks import Parameters

from jaxrel.encoders import load_network
from jaxrel.encoders.preprocessing import Preprocessing

__all__ = ["IMAGENET_ACCURACY", "IMAGE_SIZE", "ImageNetArchitecture", "imagenet_network"]

IMAGE_SIZE = 32
# Top-1 accuracy that the authors of the networks give. A network without weights has none.
IMAGENET_ACCURACY = {
    "mobilenet-v2": 0.720,
    "efficientnet-lite0": 0.751,
    "efficientnet-lite1": 0.767,
    "efficientnet-lite2": 0.776,
}


@dataclass(frozen=True)
class ImageNetArchitecture:
    """A network of `jaxrel.encoders`; its normalisation statistics are among the parameters but do not learn."""

    graph: nnx.GraphDef[Any]
    preprocessing: Preprocessing = field(repr=False)

    def __call__(self, parameters: Parameters, images: Float[Array, "b 28 28"]) -> Float[Array, "b d"]:
        """Features of images with pixels from 0 to 1."""
        statistics = jax.lax.stop_gradient(parameters["statistics"])
        network = nnx.merge(self.graph, parameters["weights"], statistics)
        features: Array = network(self.preprocessing(255 * images[..., None])).features
        return features


@cache
def imagenet_network(name: str) -> tuple[ImageNetArchitecture, Parameters]:
    """A network and its weights; NAME:random has random ones."""
    network, preprocessing = load_network(name, image_size=IMAGE_SIZE)
    graph, weights, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return ImageNetArchitecture(graph, preprocessing), {"weights": weights, "statistics": statistics}
