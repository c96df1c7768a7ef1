"""The small convolutional networks of the zoo, as pure functions of a dictionary of arrays.

A convolution is a matrix product of patches: under `vmap` over several sets of weights it stays a batched product,
where XLA's own convolution would become a grouped one, which is slow on CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jaxrel.encoders import Encoder, from_network
from jaxrel.encoders.preprocessing import Preprocessing

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Encode",
    "Parameters",
    "initial_parameters",
    "layer_output",
    "small_encoder",
]

Parameters = dict[str, Any]  # of arrays, or of trees of them
# Features of parameters and images; a static argument, so hashable.
Encode = Callable[[Parameters, Float[Array, "b 28 28"]], Float[Array, "b d"]]
SIDE = 28
MEAN, DEVIATION = 0.25, 0.35  # of the pixels of all sets together, roughly


@dataclass(frozen=True)
class Architecture:
    """3 x 3 convolutions with ReLU, then either dense layers with ReLU or the mean over the image.

    `channels` and `strides` are of the convolutions, `hidden` of the dense layers; the last width is the features'.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    hidden: tuple[int, ...]

    @property
    def num_features(self) -> int:
        """Width of the features."""
        return (*self.channels, *self.hidden)[-1]

    @property
    def flat_width(self) -> int:
        """Numbers that the first dense layer sees."""
        side = SIDE
        for stride in self.strides:
            side = -(-side // stride)
        return side * side * (self.channels[-1] if self.channels else 1)

    def __call__(self, parameters: Parameters, images: Float[Array, "b 28 28"]) -> Float[Array, "b d"]:
        """Features of images with pixels from 0 to 1."""
        return self.of_standardised(parameters, (images[..., None] - MEAN) / DEVIATION)

    def of_standardised(self, parameters: Parameters, x: Float[Array, "b 28 28 1"]) -> Float[Array, "b d"]:
        """Features of standardised pixels."""
        for layer, stride in enumerate(self.strides):
            x = jax.nn.relu(layer_output(parameters, f"convolution {layer}", patches(x, stride)))
        if not self.hidden:
            return x.mean((1, 2))
        x = x.reshape(len(x), -1)
        for layer in range(len(self.hidden)):
            x = jax.nn.relu(layer_output(parameters, f"dense {layer}", x))
        return x


ARCHITECTURES = {
    "medium": Architecture((16, 32, 48), (2, 2, 2), (128,)),
    "wide": Architecture((24, 48, 64), (2, 2, 2), (128,)),
    "narrow": Architecture((8, 16, 32), (2, 2, 2), (64,)),
    "shallow": Architecture((24,), (4,), (128,)),
    "dense": Architecture((), (), (192, 128)),
    "averaged": Architecture((24, 48, 64), (2, 2, 2), ()),
    # Of the second zoo:
    "deep": Architecture((16, 24, 32, 48, 64), (2, 1, 2, 1, 2), (128,)),
    "tiny": Architecture((8, 16), (2, 2), (64,)),
    "broad": Architecture((32, 64, 128), (2, 2, 2), ()),
}


def initial_parameters(architecture: Architecture, key: PRNGKeyArray) -> Parameters:
    """Weights after He, biases 0."""
    shapes = {}
    inputs = 1
    for layer, channels in enumerate(architecture.channels):
        shapes[f"convolution {layer}"] = (9 * inputs, channels)
        inputs = channels
    inputs = architecture.flat_width
    for layer, width in enumerate(architecture.hidden):
        shapes[f"dense {layer}"] = (inputs, width)
        inputs = width
    parameters = {}
    for name, (inputs, outputs) in shapes.items():
        key, own = jax.random.split(key)
        parameters[f"{name} weights"] = jax.random.normal(own, (inputs, outputs)) * jnp.sqrt(2 / inputs)
        parameters[f"{name} bias"] = jnp.zeros(outputs)
    return parameters


class SmallNetwork(nnx.Module):
    """A network of the zoo with its parameters, as the library trains it."""

    def __init__(self, architecture: Architecture, parameters: Parameters) -> None:
        """Keep both."""
        self.architecture = architecture
        self.parameters = nnx.Dict({name: nnx.Param(jnp.asarray(value)) for name, value in parameters.items()})

    def __call__(self, x: Float[Array, "b 28 28 1"]) -> Float[Array, "b d"]:
        """Features of standardised pixels."""
        parameters = {name: parameter[...] for name, parameter in self.parameters.items()}
        return self.architecture.of_standardised(parameters, x)


def small_encoder(name: str, architecture: Architecture, parameters: Parameters) -> Encoder:
    """An encoder of the library."""
    preprocessing = Preprocessing(SIDE, (255 * MEAN,), (255 * DEVIATION,))
    return from_network(SmallNetwork(architecture, parameters), preprocessing, name=name)


def layer_output(parameters: Parameters, name: str, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
    """An affine map."""
    output: Array = x @ parameters[f"{name} weights"] + parameters[f"{name} bias"]
    return output


def patches(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b h2 w2 nine_c"]:
    """The 3 x 3 neighbourhood of every `stride`-th pixel, zeros around the image."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row in range(3)
        for column in range(3)
    ]
    return jnp.concatenate(shifted, axis=-1)
