"""The one rule by which every set is ordered, split and drawn from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int, UInt64

__all__ = ["draw", "hash_order"]

_TRAIN_BELOW = np.uint64(3 << 62)  # three quarters of the 64-bit hashes


def hash_order(
    contents: Iterable[bytes], labels: Int[np.ndarray, " n"], *, spellings: Iterable[bytes] | None = None
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Order that depends on nothing but the samples, and the split that goes with it.

    A sample's place is the hash of its content, and it is a training sample when the hash is in the lower three
    quarters of the range. So the split needs no file, seed or order of the source; the same sample is on the same
    side in every set that holds it; copies of a sample are never on both sides (whatever their labels, in whose
    order they are put); and any beginning of the order is a random sample of the set.

    A class whose samples would all be on one side, where it has two that differ, has the one whose hash is nearest to
    the threshold on the other side. So a class may be rare and is still in both parts; a sample of such a class may be
    on another side in another set. (Copies with labels of several classes stay where their move would take the last
    sample of another class.)

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
    in_train = _sides(keys, labels)
    order = np.lexsort((keys if spellings is None else _hashes(spellings), labels, keys))
    return order, in_train[order]


def draw(labels: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " size"]:
    """Draw samples by class, from samples in random order: in proportion to the classes, and of each at least one.

    The number of each class is that of Sainte-Laguë: sample r (from 0) of a class of n_c has the rank (r + 1/2) / n_c,
    and the lowest ranks are drawn, the first of each class before all others. So a draw holds every smaller one. Where
    there are more classes than samples to draw, the larger classes are drawn from.

    Args:
        labels: class of each sample.
        size: number of samples to draw, at most n.

    Returns:
        Indices of the samples drawn, in increasing order.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    places = np.empty(len(labels), np.int64)
    places[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    ranks = (places + 0.5) / counts[classes]
    return np.sort(np.lexsort((ranks, places > 0))[:size])


def _sides(keys: UInt64[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether each sample is a training sample: by its hash, but where all contents of a class would be on one side."""
    if len(keys) == 0:
        return np.zeros(0, bool)
    contents, content_of = np.unique(keys, return_inverse=True)
    _, classes = np.unique(labels, return_inverse=True)
    # Each class with each of its contents, once.
    pairs = np.unique(classes.astype(np.int64) * len(contents) + content_of)
    class_of, content = np.divmod(pairs, len(contents))
    by_content = np.argsort(content, kind="stable")
    sorted_content = content[by_content]
    train = contents < _TRAIN_BELOW
    on_side = np.stack([np.bincount(class_of[train[content] == side], minlength=classes.max() + 1) for side in (0, 1)])
    for rare in np.flatnonzero((on_side.min(axis=0) == 0) & (on_side.sum(axis=0) > 1)):
        if on_side[:, rare].min():
            continue  # by the move of a content that it shares with a class before it
        own = content[slice(*np.searchsorted(class_of, [rare, rare + 1]))]
        side = int(train[own[0]])
        for moved in own[::-1] if side else own:  # the nearest to the threshold first
            sharing = class_of[by_content[slice(*np.searchsorted(sorted_content, [moved, moved + 1]))]]
            if on_side[side, sharing].min() > 1:
                train[moved] = not side
                on_side[side, sharing] -= 1
                on_side[1 - side, sharing] += 1
                break
    return train[content_of]


def _hashes(contents: Iterable[bytes]) -> UInt64[np.ndarray, " n"]:
    digests = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
