"""The baseline encoder without weights: the image itself, small and grey."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxrel.encoders.encoder import EncoderOutput

__all__ = ["Pixels"]


class Pixels(nnx.Module):
    """Resizes an image to `side` x `side` grey pixels, which are its features."""

    def __init__(self, side: int) -> None:
        """Set the side in pixels."""
        self.side = side

    def __call__(self, x: Float[Array, "b h w c"]) -> EncoderOutput:
        """The pixels, row by row."""
        grey = x.mean(-1)
        small = jax.image.resize(grey, (len(grey), self.side, self.side), "linear", antialias=True)
        return EncoderOutput(small.reshape(len(grey), -1), None)
