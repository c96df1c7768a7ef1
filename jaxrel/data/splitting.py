"""The rule by which every data set is ordered, split and sampled."""

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
    """An order that depends only on the samples, and the split that follows from it.

    Samples are ordered by the hash of their content, and a sample is a training sample if its hash is in the lower
    three quarters of the range. So the split depends on no file, seed or order of the source; the same sample is on
    the same side in every set that contains it; copies of a sample are never on both sides (whatever their labels, by
    which copies are ordered); and any prefix of the order is a random sample of the set.

    If all samples of a class would be on one side and at least two of them differ, the one whose hash is nearest to
    the threshold moves to the other side. So even a rare class is in both parts; a sample of such a class may be on a
    different side in another set. (Copies with labels of several classes stay if their move would take the last sample
    of another class.)

    The content of an image is its pixels: near-duplicate images are not recognised as copies. The content of
    a text is the text with its white space collapsed and its case folded: texts that differ only in these are copies.

    Args:
        contents: content of each of the n samples.
        labels: class of each sample.
        spellings: order of copies with the same label that are not identical to the byte.

    Returns:
        The indices that put the set in order, and whether each sample, in that order, is a training sample.
    """
    keys = _hashes(contents)
    in_train = _sides(keys, labels)
    order = np.lexsort((keys if spellings is None else _hashes(spellings), labels, keys))
    return order, in_train[order]


def draw(labels: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " size"]:
    """Draw samples by class from samples in random order: in proportion to the class sizes, and at least one of each
    class.

    The number drawn from each class follows the Sainte-Laguë method: sample r (from 0) of a class of n_c has the rank
    (r + 1/2) / n_c,
    and the lowest ranks are drawn, the first of each class before all others. So a draw contains every smaller one. If
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
    """Whether each sample is a training sample: by its hash, except where all contents of a class would be on one
    side."""
    if len(keys) == 0:
        return np.zeros(0, bool)
    contents, content_of = np.unique(keys, return_inverse=True)
    _, classes = np.unique(labels, return_inverse=True)
    # Each pair of class and content once.
    pairs = np.unique(classes.astype(np.int64) * len(contents) + content_of)
    class_of, content = np.divmod(pairs, len(contents))
    by_content = np.argsort(content, kind="stable")
    sorted_content = content[by_content]
    train = contents < _TRAIN_BELOW
    on_side = np.stack([np.bincount(class_of[train[content] == side], minlength=classes.max() + 1) for side in (0, 1)])
    for rare in np.flatnonzero((on_side.min(axis=0) == 0) & (on_side.sum(axis=0) > 1)):
        if on_side[:, rare].min():
            continue  # by moving a content that it shares with an earlier class
        own = content[slice(*np.searchsorted(class_of, [rare, rare + 1]))]
        side = int(train[own[0]])
        for moved in own[::-1] if side else own:  # nearest to the threshold first
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
