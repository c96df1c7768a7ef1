"""An encoder without weights: the mean colour of each field of a grid laid over the image."""

from __future__ import annotations

import jax
from flax import nnx

from jaxrel.encoders import Encoder, EncoderPlugin, Preprocessing, from_network

_FIELDS = 8


class Grid(nnx.Module):
    """Maps `(b, s, s, 3)` to `(b, 8 * 8 * 3)`, for s a multiple of 8."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """The means of the fields."""
        batch, side, _, channels = images.shape
        fields = images.reshape(batch, _FIELDS, side // _FIELDS, _FIELDS, side // _FIELDS, channels)
        return fields.mean(axis=(2, 4)).reshape(batch, -1)


def _load(*, seed: int, image_size: int | None) -> Encoder:
    del seed  # it has no weights to draw
    preprocessing = Preprocessing(image_size or 32, mean=(127.5,) * 3, std=(127.5,) * 3)
    return from_network(Grid(), preprocessing, name="grid", pretraining="none", licence="none needed")


GRID = EncoderPlugin("grid", "images", _load)
