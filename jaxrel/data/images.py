"""Labelled images and the one rule by which every set is ordered and split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8, UInt64

__all__ = ["ImageData", "Split", "fingerprint", "hash_order"]

Split = Literal["train", "test"]

_TRAIN_BELOW = np.uint64(3 << 62)  # three quarters of the 64-bit hashes


@dataclass(frozen=True, eq=False)
class ImageData:
    """A part of a data set, in memory.

    Args:
        name: name of the data set.
        split: ``"train"`` or ``"test"``.
        images: grey (c = 1) or colour (c = 3) images, 0 to 255.
        labels: class of each image.
        class_names: name of each class.
        licence: the licence as stated where the data came from.
        provider: where the data came from.

    Raises:
        ValueError: a shape, a type or a label does not fit.
    """

    name: str
    split: Split
    images: UInt8[np.ndarray, "n h w c"] = field(repr=False)
    labels: Int32[np.ndarray, " n"] = field(repr=False)
    class_names: tuple[str, ...]
    licence: str
    provider: str

    def __post_init__(self) -> None:
        """Check the arrays against one another."""
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"images of {self.name} have shape {images.shape} and type {images.dtype}, "
                "wanted (n, h, w, 1 or 3) and uint8"
            )
        if labels.shape != images.shape[:1] or labels.dtype != np.int32:
            raise ValueError(
                f"labels of {self.name} have shape {labels.shape} and type {labels.dtype}, "
                f"wanted {images.shape[:1]} and int32"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"labels of {self.name} go from {labels.min()} to {labels.max()}, "
                f"wanted 0 to {self.num_classes - 1} for {self.num_classes} class names"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, those without an image included."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images and labels, in their order."""
        return fingerprint(self.images, self.labels)


def fingerprint(images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"]) -> str:
    """SHA-256, in hexadecimal, of the shape, the pixels and the labels."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(images.tobytes())
    digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()


def hash_order(
    images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Order that depends on nothing but the images, and the split that goes with it.

    An image's place is the hash of its pixels, and it is a training image when the hash is in the lower
    three quarters of the range. So the split needs no file, seed or order of the source; the same image is
    on the same side in every set that holds it; copies of an image are never on both sides (whatever their
    labels, in whose order they are put); and any beginning of the order is a random sample of the set.
    Images that are nearly alike are not recognised as copies.

    Returns:
        The indices that put the set in order, and whether each image, in that order, is a training image.
    """
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    keys: UInt64[np.ndarray, " n"] = np.frombuffer(digests, dtype=">u8").astype(np.uint64)
    order = np.lexsort((labels, keys))
    return order, keys[order] < _TRAIN_BELOW
