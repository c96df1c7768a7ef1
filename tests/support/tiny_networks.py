"""A small network of images, and a task that its features do not separate before they are tuned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrel import encoders
from jaxrel.encoders import Preprocessing

SIDE = 4
PREPROCESSING = Preprocessing(SIDE, (127.5,), (127.5,))


class TinyNet(nnx.Module):
    """A hidden layer, with a running statistic that is no parameter, and a classifier that the features do not see."""

    def __init__(self, width: int = 5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.kernel = nnx.Param(jnp.asarray(rng.normal(size=(SIDE * SIDE, width)) / SIDE, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.BatchStat(jnp.full(width, 0.1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x.reshape(len(x), -1) @ self.kernel[...] + self.bias[...] - self.mean[...])


def tiny_encoder(width: int = 5, name: str = "tiny") -> encoders.Encoder:
    return encoders.from_network(TinyNet(width), PREPROCESSING, name=name)


def halves(num_samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of two halves, light or dark each; the class is whether they are alike."""
    rng = np.random.default_rng(seed)
    light = rng.integers(0, 2, (num_samples, 2))
    images = np.repeat(light, SIDE * SIDE // 2, axis=1).reshape(num_samples, SIDE, SIDE, 1) * 150
    noise = rng.integers(0, 100, images.shape)
    return (images + noise).astype(np.uint8), (light[:, 0] == light[:, 1]).astype(np.int32)
