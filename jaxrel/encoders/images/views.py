"""Augmented views of images, with changes that should not affect an encoder, for scoring without labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, UInt8

from jaxrel._core.programs import compiled
from jaxrel.encoders.encoder import check_images
from jaxrel.encoders.samples import as_samples

__all__ = ["ImageAugmentation", "ImageView", "image_views"]

_CHUNK = 256  # images warped at once


@dataclass(frozen=True)
class ImageAugmentation:
    """Ranges of random changes, drawn uniformly for each image.

    The defaults preserve the class of digits, clothes, drawings and photographs. What they assume is part of the
    score: a class that differs from another by orientation alone needs `rotation=0`, one that differs by brightness
    `contrast=brightness=0`. Images are not mirrored by default, as mirrored letters are other letters.

    Args:
        rotation: largest angle in degrees, either way.
        scaling: largest relative change of size: 0.15 means between 0.85 and 1.15 of it.
        shift: largest shift in each direction, as a share of the side.
        contrast: largest relative change of the distances of pixels from the image's mean.
        brightness: largest change of all pixels, as a share of the range from black to white.
        noise: standard deviation of the noise of each pixel, as a share of the same range.
        mirror: whether half of the images are mirrored left to right.

    Raises:
        ValueError: a number is negative or not finite, or `scaling` is not below 1.
    """

    rotation: float = 15.0
    scaling: float = 0.15
    shift: float = 0.1
    contrast: float = 0.3
    brightness: float = 0.1
    noise: float = 0.05
    mirror: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name in ("rotation", "scaling", "shift", "contrast", "brightness", "noise"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}: pass a finite number of at least 0.")
        if self.scaling >= 1:
            raise ValueError(f"scaling is {self.scaling}: pass a number below 1.")


@dataclass(frozen=True)
class ImageView:
    """One of any number of independent augmented copies of images, each image changed in its own way.

    Args:
        number: which copy, from 0.
        augmentation: ranges of the changes.
        seed: draws the changes.

    Raises:
        ValueError: `number` is negative.
    """

    number: int
    augmentation: ImageAugmentation = ImageAugmentation()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.number < 0:
            raise ValueError(f"number is {self.number}: pass an integer of at least 0.")

    def __call__(self, images: UInt8[ArrayLike, "n h w c"], *, first: int = 0) -> UInt8[np.ndarray, "n h w c"]:
        """The view of images; the view of an image depends only on its position and the fields above.

        Args:
            images: `(n, h, w, c)` uint8, c = 1 or 3.
            first: position of the first of the images in the whole of which they are a part.

        Raises:
            ValueError: the images are not `(n, h, w, 1 or 3)` uint8.
        """
        pixels: Any = as_samples(images)
        check_images(pixels)
        key = jax.random.split(jax.random.key(self.seed), self.number + 1)[self.number]
        view = np.empty_like(pixels)
        for start in range(0, len(pixels), _CHUNK):
            chunk = pixels[start : start + _CHUNK]
            padded = np.pad(chunk, ((0, _CHUNK - len(chunk)), (0, 0), (0, 0), (0, 0)))
            changed = _augmented(padded, first + start, key, self.augmentation)
            view[start : start + len(chunk)] = changed[: len(chunk)]
        return view


def image_views(
    images: UInt8[ArrayLike, "n h w c"],
    *,
    num_views: int = 2,
    augmentation: ImageAugmentation = ImageAugmentation(),
    seed: int = 0,
    first: int = 0,
) -> tuple[UInt8[np.ndarray, "n h w c"], ...]:
    """Independent augmented copies of all images, each image changed in its own way.

    The view of an image depends on its position, the view's number and the seed, so a sample of the images that
    starts at the first has the same views. Pixels outside the image repeat those of its edge.

    Args:
        images: `(n, h, w, c)` uint8, c = 1 or 3.
        num_views: how many copies.
        augmentation: ranges of the changes.
        seed: draws the changes.
        first: position of the first of the images in the whole of which they are a part.

    Returns:
        `num_views` arrays of the shape and type of `images`.

    Raises:
        ValueError: the images are not `(n, h, w, 1 or 3)` uint8, or `num_views` is below 1.
    """
    if num_views < 1:
        raise ValueError(f"num_views is {num_views}: pass an integer of at least 1.")
    return tuple(ImageView(number, augmentation, seed)(images, first=first) for number in range(num_views))


@partial(compiled, static_argnames="augmentation")
def _augmented(
    images: UInt8[Array, "b h w c"], start: int, key: Array, augmentation: ImageAugmentation
) -> UInt8[Array, "b h w c"]:
    keys = jax.vmap(partial(jax.random.fold_in, key))(start + jnp.arange(len(images)))
    changed = jax.vmap(partial(_augment, augmentation=augmentation))(images / jnp.float32(255), keys)
    return jnp.round(255 * jnp.clip(changed, 0, 1)).astype(jnp.uint8)


def _augment(image: Float[Array, "h w c"], key: Array, *, augmentation: ImageAugmentation) -> Float[Array, "h w c"]:
    """One image under one draw: moved, then its contrast and brightness changed, then noise."""
    geometry_key, light_key, noise_key = jax.random.split(key, 3)
    moved = _warp(image, _draw_affine(geometry_key, image.shape, augmentation))
    contrast, brightness = jax.random.uniform(light_key, (2,), minval=-1)
    mean = moved.mean()
    lit = mean + (1 + augmentation.contrast * contrast) * (moved - mean) + augmentation.brightness * brightness
    return lit + augmentation.noise * jax.random.normal(noise_key, image.shape)


def _draw_affine(
    key: Array, shape: tuple[int, ...], augmentation: ImageAugmentation
) -> tuple[Float[Array, "2 2"], Float[Array, " 2"]]:
    """Matrix and offset that take a place in the view, from the centre, to the place in the image it shows."""
    mirror_key, key = jax.random.split(key)
    angle, size, down, right = jax.random.uniform(key, (4,), minval=-1)
    angle = jnp.deg2rad(augmentation.rotation) * angle
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.array([[cosine, -sine], [sine, cosine]]) / (1 + augmentation.scaling * size)
    if augmentation.mirror:
        matrix = matrix * jnp.array([1, jax.random.rademacher(mirror_key, ())])
    return matrix, augmentation.shift * jnp.array([down * shape[0], right * shape[1]])


def _warp(
    image: Float[Array, "h w c"], affine: tuple[Float[Array, "2 2"], Float[Array, " 2"]]
) -> Float[Array, "h w c"]:
    """The image under an affine map of its plane, bilinear."""
    matrix, offset = affine
    height, width, _ = image.shape
    centre = jnp.array([height - 1, width - 1]) / 2
    places = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1) - centre
    sources = jnp.moveaxis(places @ matrix.T + offset + centre, -1, 0)
    sample = partial(jax.scipy.ndimage.map_coordinates, coordinates=tuple(sources), order=1, mode="nearest")
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
