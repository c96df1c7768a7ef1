"""A small network of images, and a task that its features do not separate before they are tuned: also as a command."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrel.encoders.registry
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


def install(replace: Callable[[Any, str, Any], None]) -> None:
    """Add the encoders `tiny` and `wide`, networks of two widths."""
    for name, width in (("tiny", 5), ("wide", 9)):
        make = partial(_loaded, name, width)
        replace(jaxrel.encoders.registry.PLUGINS, name, encoders.EncoderPlugin(name, "images", make))


def _loaded(name: str, width: int, *, seed: int, image_size: int | None) -> encoders.Encoder:
    return tiny_encoder(width, name)


def write_halves(path: Path, num_samples: int = 200) -> None:
    images, labels = halves(num_samples)
    np.savez(path, images=images, labels=labels)


if __name__ == "__main__":
    from operator import setitem

    from jaxrel.__main__ import command

    install(setitem)
    command()
