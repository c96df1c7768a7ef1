"""Preprocessing of uint8 images of any size to a network's input."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

__all__ = ["Preprocessing", "resized_square"]


@dataclass(frozen=True)
class Preprocessing:
    """Central square, resized with anti-aliasing, then `(pixels - mean) / std`.

    The result has one channel per number in `mean`: grey images are repeated, and colours are averaged to grey if it
    has one.

    Args:
        image_size: height and width of the result.
        mean: subtracted from the pixels 0..255, one number for each channel of the result.
        std: divides the difference.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b s s d"]:
        """Preprocessed images, float32."""
        pixels = self.resize(images)
        scaled: jax.Array = (pixels - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
        return scaled.mean(-1, keepdims=True) if len(self.mean) == 1 else scaled

    def resize(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b s s c"]:
        """The pixels of the result, 0..255."""
        return resized_square(images, self.image_size, "linear")


def resized_square(images: UInt8[Array, "b h w c"], size: int, method: str) -> Float[Array, "b s s c"]:
    """The central square of images, resized by an anti-aliased interpolation of :func:`jax.image.resize`."""
    batch, height, width, channels = images.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[:, top : top + side, left : left + side].astype(jnp.float32)
    return jax.image.resize(square, (batch, size, size, channels), method, antialias=True)
