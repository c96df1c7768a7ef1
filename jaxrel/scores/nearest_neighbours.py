"""Leave-one-out accuracy of the k nearest neighbours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel.scores.kernels import centred, kernel, safe_divide, unit_scale
from jaxrel.scores.result import Score, make_score
from jaxrel.scores.validation import LabelledSample, checked_labelled_sample, checked_positive_integer
from jaxrel.transport.costs import squared_distance

__all__ = ["nearest_neighbours_score"]


def nearest_neighbours_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    num_neighbours: int = 1,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Share of samples whose class is the most frequent among their nearest others, 0 to 1; higher is better.

    Args:
        features: `(n, d)`; Euclidean distance.
        labels: `(n,)` integers.
        num_neighbours: votes for each sample, at least 1; another number needs no compilation.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice, so that each is a neighbour of the other.
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score`. Samples as far as the last neighbour (up to rounding) share the remaining votes in proportion to
        their weights, so that the order of samples is irrelevant; among classes of equal votes the smallest label is
        taken. Where there are fewer others than `num_neighbours`, all vote; undefined where a sample has no other.

    Raises:
        ValueError: for `num_neighbours < 1`, else see `checked_labelled_sample`.

    Source: Renggli et al., "Which model to transfer? Finding the needle in the growing haystack", CVPR 2022.

    `O(n^2 (d + log n))` operations, `O(n^2)` memory.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes)
    votes = checked_positive_integer("num_neighbours", num_neighbours)
    return _nearest_neighbours(sample, jnp.asarray(votes, sample.features.dtype))


@kernel
def _nearest_neighbours(sample: LabelledSample, num_neighbours: Float[Array, ""]) -> Score:
    weights = sample.weights
    features = unit_scale(centred(unit_scale(sample.features), weights))
    distances = squared_distance(features, features)
    rounding = 8 * jnp.finfo(features.dtype).eps * jnp.max(distances)
    # One of the copies of a sample is itself.
    others = jnp.where(jnp.eye(weights.shape[0], dtype=bool), jnp.maximum(weights - 1, 0), weights)
    shares = jax.vmap(_vote_shares, in_axes=(0, 0, None, None))(distances, others, num_neighbours, rounding)
    predicted = jnp.argmax(shares @ sample.memberships, axis=1)
    correct = predicted == jnp.argmax(sample.memberships, axis=1)
    alone = (weights > 0) & (jnp.sum(others, axis=1) == 0)
    return make_score(safe_divide(weights @ correct, sample.total), valid=sample.valid, undefined=jnp.any(alone))


def _vote_shares(
    distances: Float[Array, " n"],
    available: Float[Array, " n"],
    num_neighbours: Float[Array, ""],
    rounding: Float[Array, ""],
) -> Float[Array, " n"]:
    """How many of the votes each sample has: all it can within the radius, an equal part of its own on the radius."""
    distances = jnp.where(available > 0, distances, jnp.inf)
    order = jnp.argsort(distances)
    enough = jnp.cumsum(available[order]) >= num_neighbours
    radius = jnp.min(jnp.where(enough, distances[order], jnp.inf))
    inside = jnp.where(distances < radius - rounding, available, 0)
    on_radius = jnp.where(jnp.abs(distances - radius) <= rounding, available, 0)
    remaining = num_neighbours - jnp.sum(inside)
    return inside + on_radius * jnp.clip(safe_divide(remaining, jnp.sum(on_radius)), 0, 1)
