"""Features of many images: fixed batch shapes, progress, and resumption from a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from jaxrel.encoders.encoder import Encoder, check_images

__all__ = ["SHARD_SIZE", "ArrayStore", "extract_features"]

SHARD_SIZE = 512
"""Images in a stored shard, at most (more only if one batch has more)."""


class ArrayStore(Protocol):
    """Where finished shards of features are kept, for instance a :class:`jaxrel.store.FeatureStore`."""

    def read(self, key: str) -> np.ndarray | None:
        """The array written under `key`, or None."""

    def write(self, key: str, array: np.ndarray) -> None:
        """Keep `array` under `key`."""


def extract_features(
    encoder: Encoder,
    images: UInt8[np.ndarray, "n h w c"],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    store: ArrayStore | None = None,
    data_fingerprint: str | None = None,
) -> Float[np.ndarray, "n d"]:
    """Features of all images, in order.

    Each batch has `batch_size` images (the last one is filled up with black images, whose features are cut
    off), so the encoder is compiled once. With a `store`, features are kept in shards of about 512 images: a run
    that was killed starts again at its first unfinished shard and ends with the same bits as one that was not.

    Args:
        encoder: what gives the features.
        images: `(n, h, w, c)` uint8, c = 1 or 3.
        batch_size: images encoded at once.
        progress: called with (images done, n) after each batch, and after each shard that the store held.
        store: keeps finished shards.
        data_fingerprint: a hash of exactly these images in this order, part of the shards' keys. Default: the
            SHA-256 of `images`.

    Returns:
        `(n, d)` float32, d = encoder.feature_width.

    Raises:
        ValueError: the images are not `(n, h, w, 1 or 3)` uint8, or batch_size < 1.
    """
    check_images(images)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if store is not None and data_fingerprint is None:
        data_fingerprint = _fingerprint(images)
    n = len(images)
    features = np.empty((n, encoder.feature_width), np.float32)
    shard_size = batch_size * max(1, SHARD_SIZE // batch_size)
    for start in range(0, n, shard_size):
        shard = slice(start, min(start + shard_size, n))
        key = f"features/{encoder.fingerprint}/{data_fingerprint}/{batch_size}/{shard.start}-{shard.stop}"
        stored = None if store is None else store.read(key)
        if stored is not None:
            features[shard] = stored
            _report(progress, shard.stop, n)
            continue
        for first in range(shard.start, shard.stop, batch_size):
            batch = images[first : min(first + batch_size, shard.stop)]
            padding = ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0))
            output = encoder(np.pad(batch, padding))
            features[first : first + len(batch)] = np.asarray(output.features)[: len(batch)]
            _report(progress, first + len(batch), n)
        if store is not None:
            store.write(key, features[shard])
    return features


def _fingerprint(images: np.ndarray) -> str:
    return hashlib.sha256(repr(images.shape).encode() + np.ascontiguousarray(images).tobytes()).hexdigest()


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
