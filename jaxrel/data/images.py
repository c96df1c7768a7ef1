"""Labelled images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Shaped, UInt8

from jaxrel.data import splitting
from jaxrel.data.labelled import LabelledData, Modality, Split

__all__ = ["ImageData", "fingerprint", "hash_order", "with_channels"]


@dataclass(frozen=True, eq=False)
class ImageData(LabelledData):
    """A part of a set of images, in memory.

    Args:
        name: name of the data set.
        split: ``"train"`` or ``"test"``.
        images: grey (c = 1) or colour (c = 3) images, 0 to 255.
        labels: class of each image; -1 if unknown.
        class_names: name of each class.
        licence: the licence as stated where the data came from.
        provider: where the data came from.
        skipped: name of each unreadable file, and the reason.
        targets: regression targets, if there are no classes.

    Raises:
        ValueError: a shape, a type or a label does not fit.
    """

    modality: ClassVar[Modality] = "images"
    name: str
    split: Split
    images: UInt8[np.ndarray, "n h w c"] = field(repr=False)
    labels: Int32[np.ndarray, " n"] = field(repr=False)
    class_names: tuple[str, ...]
    licence: str
    provider: str
    skipped: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    targets: Float64[np.ndarray, " n"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the arrays against one another."""
        images = self.images
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"images of {self.name} have shape {images.shape} and type {images.dtype}, "
                "expected (n, h, w, 1 or 3) and uint8"
            )
        self._check_labels()

    @property
    def samples(self) -> UInt8[np.ndarray, "n h w c"]:
        """The images."""
        return self.images

    def _fingerprint(self) -> str:
        return fingerprint(self.images, self.labels)


def fingerprint(images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"]) -> str:
    """SHA-256, in hexadecimal, of the shape, the pixels and the labels."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(images.tobytes())
    digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()


def hash_order(
    images: Shaped[np.ndarray, "n ..."], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """:func:`jaxrel.data.splitting.hash_order` by the pixels."""
    return splitting.hash_order((image.tobytes() for image in images), labels)


def with_channels(pixels: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "n ..."]:
    """The images as `(n, h, w, c)`; grey ones may be `(n, h, w)`."""
    return pixels[..., np.newaxis] if pixels.ndim == 3 else pixels
