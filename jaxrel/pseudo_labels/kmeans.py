"""Weighted k-means: greedy k-means++ seeds, Lloyd's iterations, the best of several restarts."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel._core.programs import compiled
from jaxrel._core.standardisation import Standardisation

__all__ = ["Clusters", "best_of_restarts", "isotropic_standardisation", "kmeans", "nearest_centres", "seed_centres"]

_HIGHEST = jax.lax.Precision.HIGHEST
# An expanded squared distance is off by a few eps of the largest squared norm.
_ROUNDING = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clusters:
    """A partition of samples.

    Attributes:
        labels: the cluster of each sample; arbitrary for a sample of weight 0.
        centres: weighted means of the clusters; of an empty one, some sample.
        inertia: `sum_i w_i ||z_i - centre_{label_i}||^2`.
        sizes: the weight in each cluster.
        num_iterations: Lloyd iterations done, the one that found no label to change included.
    """

    labels: Int[Array, " n"]
    centres: Float[Array, "k d"]
    inertia: Float[Array, ""]
    sizes: Float[Array, " k"]
    num_iterations: Int[Array, ""]


@functools.partial(compiled, static_argnames=("num_clusters", "num_restarts"))
def kmeans(
    features: Float[Array, "n d"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    num_clusters: int,
    num_restarts: int = 4,
    max_iterations: Int[ArrayLike, ""] = 50,
) -> Clusters:
    """Weighted k-means: the partition of least inertia that Lloyd's iterations find from greedy k-means++ seeds.

    Args:
        features: finite where the weight is positive.
        weights: not negative, of positive sum. A weight of 2 is the sample twice, a weight of 0 no sample: as seeds
            are drawn by inverting a cumulative sum, both give the partition of the duplicated or shortened samples,
            from the same key and up to rounding.
        key: draws the seeds.
        num_clusters: k, static.
        num_restarts: independent starts, all in one batch, static.
        max_iterations: the largest number of Lloyd iterations. If it is reached, centres are still the means of their
            samples, but some sample may be nearer to another centre.

    If there are fewer distinct samples than clusters, the inertia is 0 up to rounding and some clusters are empty. The
    result is invariant to a common offset and to the scale of features or weights. Distances are accurate to sqrt(eps)
    of the radius of the samples, so in float32 an outlier a thousand times as far away hides differences between near
    samples.

    Time is `num_restarts n k d (log k + iterations)`, memory `num_restarts n k`. A batch takes as long as its slowest
    problem.
    """
    if num_clusters < 1 or num_restarts < 1:
        raise ValueError(f"num_clusters and num_restarts must be positive, got {num_clusters} and {num_restarts}.")
    standardise = isotropic_standardisation(features, weights)
    points = jnp.where(weights[:, None] > 0, standardise(features), 0)
    seeds = seed_centres(points, weights, key, num_clusters=num_clusters, num_restarts=num_restarts)
    clusters = best_of_restarts(
        points, weights, seeds, live=jnp.ones(num_clusters, bool), max_iterations=max_iterations
    )
    return dataclasses.replace(
        clusters,
        centres=clusters.centres * standardise.scale + standardise.mean,
        inertia=clusters.inertia * standardise.scale[0] ** 2,
    )


def nearest_centres(
    features: Float[Array, "n d"], centres: Float[Array, "k d"], *, live: Bool[Array, " k"] | None = None
) -> Int[Array, " n"]:
    """The nearest centre of each sample, the first of several equally near; only among those that are `live`."""
    origin = jnp.mean(centres, axis=0)
    live = jnp.ones(centres.shape[0], bool) if live is None else live
    return _first_smallest(_relative_distances(features - origin, centres - origin, live))[0]


def isotropic_standardisation(features: Float[Array, "n d"], weights: Float[Array, " n"]) -> Standardisation:
    """Mean 0 and a mean variance of 1 by one scale for all features, which keeps ratios of distances.

    Means are taken relative to one of the samples, so that equal samples have a deviation of exactly 0; where all are
    equal, the scale is 1.
    """
    total = jnp.sum(weights)
    origin = features[jnp.argmax(weights)]
    differences = jnp.where(weights[:, None] > 0, features - origin, 0)
    shift = jnp.matmul(weights, differences, precision=_HIGHEST) / total
    deviations = jnp.where(weights[:, None] > 0, differences - shift, 0)
    # Divided by the largest, squares neither overflow nor vanish.
    largest = jnp.max(jnp.abs(deviations))
    largest = jnp.where(largest > 0, largest, 1)
    variance = jnp.sum(weights * jnp.mean((deviations / largest) ** 2, axis=1)) / total
    scale = largest * jnp.sqrt(jnp.where(variance > 0, variance, 1))
    return Standardisation(mean=origin + shift, scale=jnp.broadcast_to(scale, shift.shape))


def seed_centres(
    points: Float[Array, "n d"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    num_clusters: int,
    num_restarts: int,
) -> Float[Array, "r k d"]:
    """Greedy k-means++ (Arthur and Vassilvitskii, SODA 2007, Section 4): samples far from those chosen before.

    Each seed is the best, by the inertia it leaves, of `2 + log k` samples drawn in proportion to weight times squared
    distance from the nearest seed; the number is that of scikit-learn. The first seeds are themselves seeds of fewer
    clusters. Where all samples coincide with seeds, the sample is one of the largest product of the two.

    Points must be centred. Time is `r n k d log k`.
    """
    norms = jnp.sum(points**2, axis=1)
    num_candidates = 2 + int(math.log(num_clusters))
    draws = jax.random.uniform(key, (num_restarts, num_clusters, num_candidates), points.dtype)

    def distances(centres: Float[Array, "c d"]) -> Float[Array, "c n"]:
        inner = jnp.matmul(centres, points.T, precision=_HIGHEST)
        return jnp.maximum(norms + jnp.sum(centres**2, axis=1)[:, None] - 2 * inner, 0)

    def next_seed(closest: Float[Array, " n"], draw: Float[Array, " c"]) -> tuple[Array, Array]:
        candidates = points[_inverse_distribution(weights * closest, draw)]
        remaining = jnp.minimum(closest, distances(candidates))
        best = jnp.argmin(jnp.sum(weights * remaining, axis=1))
        return remaining[best], candidates[best]

    def seeds(draws: Float[Array, "k c"]) -> Float[Array, "k d"]:
        first = points[_inverse_distribution(weights, draws[0, :1])]
        _, others = jax.lax.scan(next_seed, distances(first)[0], draws[1:])
        return jnp.concatenate([first, others])

    return jax.vmap(seeds)(draws)


def best_of_restarts(
    points: Float[Array, "n d"],
    weights: Float[Array, " n"],
    seeds: Float[Array, "r k d"],
    *,
    live: Bool[Array, " k"],
    max_iterations: Int[ArrayLike, ""],
) -> Clusters:
    """Lloyd's iterations from r sets of seeds, and of these the partition of least inertia."""
    restarts = jax.vmap(lambda centres: _lloyd(points, weights, centres, live, max_iterations))(seeds)
    best = jnp.argmin(restarts.inertia)
    return jax.tree.map(lambda leaf: leaf[best], restarts)


def _lloyd(
    points: Float[Array, "n d"],
    weights: Float[Array, " n"],
    seeds: Float[Array, "k d"],
    live: Bool[Array, " k"],
    max_iterations: Int[ArrayLike, ""],
) -> Clusters:
    """Each sample to its nearest live centre, each centre to the mean of its samples, until no label changes.

    An empty cluster moves to the sample farthest from its centre. Several move to the same one: the first of them
    takes it and the next iteration moves the others. Where no sample is away from its centre, it stays where it is.
    """
    num_clusters = seeds.shape[0]
    norms = jnp.sum(points**2, axis=1)
    exists = weights > 0
    rounding = _ROUNDING * jnp.finfo(points.dtype).eps * jnp.max(jnp.where(exists, norms, 0))

    def members(labels: Int[Array, " n"]) -> Float[Array, "k n"]:
        return weights * jax.nn.one_hot(labels, num_clusters, dtype=points.dtype, axis=0)

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        centres, labels, _, iteration = state
        nearest, relative = _first_smallest(_relative_distances(points, centres, live))
        distances = jnp.where(exists, relative + norms, 0)
        farthest = jnp.argmax(distances)
        membership = members(nearest)
        sizes = jnp.sum(membership, axis=1, keepdims=True)
        means = jnp.matmul(membership, points, precision=_HIGHEST) / jnp.where(sizes > 0, sizes, 1)
        elsewhere = jnp.where(distances[farthest] > rounding, points[farthest], centres)
        changed = jnp.any(exists & (nearest != labels))
        return jnp.where(sizes > 0, means, elsewhere), nearest, changed, iteration + 1

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Bool[Array, ""]:
        _, _, changed, iteration = state
        return changed & (iteration < max_iterations)

    start = (seeds, jnp.full(points.shape[0], -1), jnp.asarray(True), jnp.asarray(0))
    centres, labels, _, num_iterations = jax.lax.while_loop(unfinished, step, start)
    return Clusters(
        labels=labels,
        centres=centres,
        inertia=jnp.sum(weights * jnp.sum((points - centres[labels]) ** 2, axis=1)),
        sizes=jnp.sum(members(labels), axis=1),
        num_iterations=num_iterations,
    )


def _relative_distances(
    points: Float[Array, "n d"], centres: Float[Array, "k d"], live: Bool[Array, " k"]
) -> Float[Array, "k n"]:
    """`||z_i - centre_j||^2 - ||z_i||^2`, infinite for centres that are not live."""
    norms = jnp.where(live, jnp.sum(centres**2, axis=1), jnp.inf)
    return norms[:, None] - 2 * jnp.matmul(centres, points.T, precision=_HIGHEST)


def _first_smallest(values: Float[Array, "k n"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Argument and value of the minimum of each column."""
    # Unlike `argmin`, minima along the leading axis vectorise on a CPU: ten times as fast.
    num_rows = values.shape[0]
    smallest = jnp.min(values, axis=0)
    rows = jnp.where(values == smallest, jnp.arange(num_rows)[:, None], num_rows - 1)
    return jnp.min(rows, axis=0), smallest


def _inverse_distribution(mass: Float[Array, " n"], uniform: Float[Array, " c"]) -> Int[Array, " c"]:
    """Samples drawn in proportion to their mass; the first of largest mass where rounding finds none."""
    cumulative = jnp.cumsum(mass)
    index = jnp.searchsorted(cumulative, uniform * cumulative[-1], side="right", method="compare_all")
    return jnp.where(index < mass.shape[0], index, jnp.argmax(mass))
