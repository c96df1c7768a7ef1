"""Splits labelled samples into training and validation samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

__all__ = ["Partition", "stratified_partition"]

_VALIDATION_SHARE = 0.2


class Partition(NamedTuple):
    """Rows of samples, in increasing order."""

    train: Int[np.ndarray, " m"]
    validation: Int[np.ndarray, " v"]


def stratified_partition(
    labels: Int[np.ndarray, " n"], *, seed: int, class_names: Sequence[object] | None = None
) -> Partition:
    """Draw a fifth of the samples of each class for validation, at least one, and train on the others.

    The number per class does not depend on the seed.

    Args:
        labels: class of each sample.
        seed: seed of the draw.
        class_names: names of the classes in errors; None uses their numbers.

    Raises:
        ValueError: there is only one class, or a class has one sample, which cannot be in both parts.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if classes.size < 2:
        raise ValueError(f"there are samples of {classes.size} class: pass labelled samples of at least 2 classes.")
    if sizes.min() < 2:
        number = int(classes[sizes.argmin()])
        name = number if class_names is None else class_names[number]
        raise ValueError(
            f"class {name!r} has 1 labelled sample, and at least 2 are needed, for training and validation: pass "
            "more samples, or leave the class out."
        )
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(labels == one))[: max(1, round(_VALIDATION_SHARE * size))]
        for one, size in zip(classes.tolist(), sizes.tolist(), strict=True)
    ]
    validation = np.sort(np.concatenate(drawn))
    return Partition(np.setdiff1d(np.arange(len(labels)), validation), validation)
