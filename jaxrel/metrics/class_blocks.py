"""Decompositions of the samples of each class."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrel._core.labels import largest_class as largest_class_of
from jaxrel.metrics.decomposition import singular_values_of
from jaxrel.metrics.validation import LabelledSample, checked_positive_integer
from jaxrel.relatedness.blocks import class_order, members

__all__ = ["checked_largest_class", "class_singular_values"]


def checked_largest_class(labels: Any, largest_class: Any, weights: Any = None) -> int:
    """Static size of a block that holds any class, up to twice the required size so that few sizes are compiled.

    It is the number of samples if `largest_class` is None and labels are traced. Samples of weight 0 do not count.

    Raises:
        ValueError: unless `largest_class` is None or an integer of at least 1.
    """
    num_samples = len(labels)
    if largest_class is None and isinstance(labels, jax.core.Tracer):
        return num_samples
    if largest_class is None:
        known = weights is not None and not isinstance(weights, jax.core.Tracer)
        largest_class = largest_class_of(labels, np.asarray(weights) > 0 if known else None)
    size = checked_positive_integer("largest_class", largest_class)
    return min(num_samples, 1 << (size - 1).bit_length())


def class_singular_values(
    sample: LabelledSample, rows: Float[Array, "n r"], block_size: int
) -> tuple[Float[Array, "c k"], Bool[Array, ""]]:
    """Singular values of the rows of each class, one class at a time, and whether all classes fit into blocks.

    Rows are used as they are: multiply those of a weighted sample by the square roots of its weights. With blocks of m
    rows it takes `O(c m r min(m, r))` operations.
    """
    num_classes = sample.memberships.shape[1]
    classes = class_order(jnp.argmax(sample.memberships, axis=1), num_classes, sample.weights)
    index, weights = members(classes, sample.weights, block_size)

    def of_one_class(block: tuple[Array, Array]) -> Float[Array, " k"]:
        index, weights = block
        return singular_values_of(jnp.where(weights[:, None] > 0, rows[index], 0))

    fits = jnp.max(jnp.sum((sample.memberships > 0) & (sample.weights > 0)[:, None], axis=0)) <= block_size
    return jax.lax.map(of_one_class, (index, weights)), fits
