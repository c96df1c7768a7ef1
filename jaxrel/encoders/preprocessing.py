"""From uint8 images of any size to a network's input."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

__all__ = ["Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """Central square, resized with anti-aliasing, then `(pixels - mean) / std`.

    The result has as many channels as `mean` has numbers: grey images are repeated, and colours become grey by their
    mean where it has one.

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
        batch, height, width, channels = images.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images[:, top : top + side, left : left + side].astype(jnp.float32)
        resized = jax.image.resize(
            square, (batch, self.image_size, self.image_size, channels), "linear", antialias=True
        )
        scaled: jax.Array = (resized - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
        return scaled.mean(-1, keepdims=True) if len(self.mean) == 1 else scaled
