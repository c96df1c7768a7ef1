"""The one rule by which every set is ordered and split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int, UInt64

__all__ = ["hash_order"]

_TRAIN_BELOW = np.uint64(3 << 62)  # three quarters of the 64-bit hashes


def hash_order(
    contents: Iterable[bytes], labels: Int[np.ndarray, " n"], *, spellings: Iterable[bytes] | None = None
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Order that depends on nothing but the samples, and the split that goes with it.

    A sample's place is the hash of its content, and it is a training sample when the hash is in the lower three
    quarters of the range. So the split needs no file, seed or order of the source; the same sample is on the same
    side in every set that holds it; copies of a sample are never on both sides (whatever their labels, in whose
    order they are put); and any beginning of the order is a random sample of the set.

    The content of an image is its pixels: images that are nearly alike are not recognised as copies. The content of
    a text is the text with its white space collapsed and its case folded: texts that differ in these alone are copies.

    Args:
        contents: content of each of the n samples.
        labels: class of each sample.
        spellings: what orders copies of one label, where they are not the same to the last byte.

    Returns:
        The indices that put the set in order, and whether each sample, in that order, is a training sample.
    """
    keys = _hashes(contents)
    order = np.lexsort((keys if spellings is None else _hashes(spellings), labels, keys))
    return order, keys[order] < _TRAIN_BELOW


def _hashes(contents: Iterable[bytes]) -> UInt64[np.ndarray, " n"]:
    digests = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
