"""Means of hits on resampled samples, stratum by stratum: drawn by NumPy where values are known, else by JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxrel._core.checks import Key, host_generator

__all__ = ["resampled_means", "traced_means"]


def resampled_means(
    hits: Float[ArrayLike, " n"],
    shares: Float[ArrayLike, " n"],
    *,
    strata: Int[ArrayLike, " n"] | None = None,
    num_resamples: int = 1000,
    key: Key = 0,
) -> Float[np.ndarray, " r"]:
    """Means of `hits`, weighed by `shares`, of resamples of each stratum by itself.

    Of the m samples of a stratum m - 1 are drawn with replacement (Rao and Wu, 1988), so that the variance is unbiased
    for few samples too, and the stratum keeps its part of the shares. To these comes one observation that was not made,
    a hit and a miss of half its weight each: where all samples are hits, resamples are not certain of it either
    (Jeffreys' interval). The same key, shares and strata draw the same samples.
    """
    values, mass = np.asarray(hits, np.float64), np.asarray(shares, np.float64)
    groups = np.zeros(values.size, np.int32) if strata is None else np.asarray(strata)
    live = np.flatnonzero(mass > 0)
    live = live[np.argsort(groups[live], kind="stable")]
    values, mass = values[live], mass[live] / mass[live].sum()
    _, starts, sizes = np.unique(groups[live], return_index=True, return_counts=True)
    first, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    counted = (np.arange(live.size) > first) | (size == 1)  # m - 1 draws
    parts = np.add.reduceat(mass, starts)
    generator = host_generator(key)
    unseen = generator.beta(0.5, 1 / np.sum(mass**2), (2, num_resamples))
    means = np.empty(num_resamples)
    for position in range(num_resamples):
        drawn = first + (generator.random(live.size) * size).astype(np.int64)
        weights = counted * mass[drawn]
        hit = np.add.reduceat(weights * values[drawn], starts)
        means[position] = parts @ (hit / np.add.reduceat(weights, starts))
    return (1 - unseen.sum(axis=0)) * means + unseen[0]


def traced_means(
    hits: Float[Array, " n"],
    shares: Float[Array, " n"],
    strata: Int[Array, " n"],
    key: PRNGKeyArray,
    num_resamples: int,
) -> Float[Array, " r"]:
    """As `resampled_means`, drawn by JAX; NaN without shares."""
    live = shares > 0
    order = jnp.lexsort((strata, ~live))
    values, mass, groups = hits[order], (shares / jnp.sum(shares))[order], jnp.where(live, strata, -1)[order]
    index, begins = jnp.arange(mass.size), jnp.insert(groups[1:] != groups[:-1], 0, True)
    first, group = jax.lax.cummax(jnp.where(begins, index, 0)), jnp.cumsum(begins) - 1

    def sums(of: Array) -> Array:
        return jax.ops.segment_sum(of, group, mass.size)

    size = sums(jnp.ones_like(index))[group]
    counted = (index > first) | (size == 1)
    drawing, missing = jax.random.split(key)

    def mean(key: PRNGKeyArray) -> Float[Array, ""]:
        drawn = first + jax.random.randint(key, mass.shape, 0, size)
        weights = counted * mass[drawn]
        totals = sums(weights)
        return sums(mass) @ jnp.where(totals > 0, sums(weights * values[drawn]) / jnp.where(totals > 0, totals, 1), 0)

    means = jax.lax.map(mean, jax.random.split(drawing, num_resamples))
    unseen = jax.random.beta(missing, 0.5, 1 / jnp.sum(mass**2), (2, num_resamples))
    return (1 - jnp.sum(unseen, axis=0)) * means + unseen[0]
