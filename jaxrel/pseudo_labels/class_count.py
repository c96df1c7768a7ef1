"""The number of clusters for which two halves of the samples agree best on the partition."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Shaped

from jaxrel._core.programs import compiled
from jaxrel.pseudo_labels.kmeans import best_of_restarts, isotropic_standardisation, nearest_centres, seed_centres

__all__ = ["ClassCount", "adjusted_rand_index", "class_count"]

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassCount:
    """A number of clusters.

    Attributes:
        count: the candidate with the best agreement, the largest of several that nearly tie; 1 if none is good.
        agreements: the mean adjusted Rand index of each candidate between the partitions of two halves.
    """

    count: Int[Array, ""]
    agreements: Float[Array, " c"]


@functools.partial(compiled, static_argnames=("candidates", "num_splits", "num_restarts"))
def class_count(
    first_view: Float[Array, "n d"],
    second_view: Float[Array, "n d"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    candidates: tuple[int, ...],
    least_agreement: Float[ArrayLike, ""] = 0.5,
    tolerance: Float[ArrayLike, ""] = 0.01,
    num_splits: int = 4,
    num_restarts: int = 4,
    max_iterations: Int[ArrayLike, ""] = 50,
) -> ClassCount:
    """The most stable number of clusters (Lange, Roth, Braun and Buhmann, Neural Computation, 2004).

    The samples are split in two halves at random, and each is clustered by k-means. The nearest centres of either half
    define another partition of the other half, and the adjusted Rand index measures their agreement. With one cluster
    too many some class is split, with one too few two classes are merged, and the halves may choose different ones. The
    index is averaged over both directions and all splits.

    Args:
        first_view, second_view: two augmentations of the same samples, row by row. One half is used in the first view
            and the other in the second, so that they share neither samples nor augmentation. Pass the same features
            twice for the published method.
        weights: not negative, of positive sum; only their ratios matter. All of a sample is in one half.
        key: draws the splits and the seeds.
        candidates: numbers of clusters, at least 2 each; static.
        least_agreement: below it even the best candidate is no partition, and the count is 1.
        tolerance: candidates whose agreement is lower than the best by no more than this share tie, and the largest of
            them is taken: classes in well-separated groups are as stable when they are joined by group.
        num_splits, num_restarts: in one batch; static.
        max_iterations: as in `kmeans`.

    Deviations: disagreement is corrected for chance by the adjusted Rand index, instead of a ratio to that of random
    labels, and a candidate that leaves a cluster empty has agreement 0.

    It counts compact clusters that both halves find. Classes that overlap make the maximum flat: on 1000 raw images of
    ten handwritten digits 6 to 15 clusters agree to 0.68 - 0.75 and the best is 8, so take the count as rough; views
    that differ by more than classes do push it to the smallest candidates. A class in several pieces counts as that
    many, a small class can be missed by one half, and one long cluster is reproducibly cut in two. One cluster too many
    of K equal classes may lower the agreement by as little as `0.3 / K`, so more than 30 need a smaller tolerance.
    Every candidate needs some ten samples for each cluster.

    Candidates share their seeds and are done one after the other. Time is that of `2 c num_splits` calls of `kmeans`
    with the largest candidate on all samples.
    """
    if not candidates or min(candidates) < 2:
        raise ValueError(f"candidates must be numbers of at least 2, got {candidates}.")
    standardise = isotropic_standardisation(first_view, weights)
    exists = weights[:, None] > 0
    views = jnp.stack([jnp.where(exists, standardise(view), 0) for view in (first_view, second_view)])
    amounts = weights * (jnp.sum(weights > 0) / jnp.sum(weights))
    counts = jnp.asarray(candidates)

    def split_agreements(keys: Shaped[Array, "*_"]) -> Float[Array, " c"]:
        halves = _random_halves(amounts, keys[0])
        seed = functools.partial(seed_centres, num_clusters=max(candidates), num_restarts=num_restarts)
        seeds = jax.vmap(seed)(views, halves, keys[1:])

        def agreement(count: Int[Array, ""]) -> Float[Array, ""]:
            live = jnp.arange(max(candidates)) < count
            own = jax.vmap(functools.partial(best_of_restarts, live=live, max_iterations=max_iterations))(
                views, halves, seeds
            )
            other = jax.vmap(functools.partial(nearest_centres, live=live))(views, own.centres[::-1])
            rand_index = functools.partial(adjusted_rand_index, num_a=max(candidates), num_b=max(candidates))
            complete = jnp.all((own.sizes > 0) | ~live)
            return jnp.where(complete, jnp.mean(jax.vmap(rand_index)(own.labels, other, halves)), 0)

        return jax.lax.map(agreement, counts)

    keys = jax.random.split(key, (num_splits, 3))  # of the halves and of the seeds in each
    agreements = jnp.mean(jax.vmap(split_agreements)(keys), axis=0)
    best = jnp.max(agreements)
    good = (agreements >= (1 - tolerance) * best) & (best >= least_agreement)
    return ClassCount(count=jnp.max(jnp.where(good, counts, 1)), agreements=agreements)


@functools.partial(compiled, static_argnames=("num_a", "num_b"))
def adjusted_rand_index(
    labels_a: Int[Array, " n"], labels_b: Int[Array, " n"], weights: Float[Array, " n"], *, num_a: int, num_b: int
) -> Float[Array, ""]:
    """Agreement of two partitions on pairs of samples: 1 where they are equal, 0 on average by chance.

    Hubert and Arabie (Journal of Classification, 1985); labels are `0 .. num_a - 1` and `0 .. num_b - 1`. Weights are
    numbers of copies, so their scale matters, by about one part in their sum. Two partitions of no pair or all pairs
    have index 1.
    """
    rows = weights * jax.nn.one_hot(labels_a, num_a, dtype=weights.dtype, axis=0)
    counts = jnp.matmul(rows, jax.nn.one_hot(labels_b, num_b, dtype=weights.dtype), precision=_HIGHEST)
    total = jnp.sum(counts)

    def ordered_pairs(sizes: Float[Array, "*k"]) -> Float[Array, ""]:
        return jnp.sum(sizes**2) - total

    together, all_pairs = ordered_pairs(counts), ordered_pairs(total)
    pairs_a, pairs_b = ordered_pairs(jnp.sum(counts, axis=1)), ordered_pairs(jnp.sum(counts, axis=0))
    expected = pairs_a / jnp.where(all_pairs > 0, all_pairs, 1) * pairs_b
    range_ = (pairs_a + pairs_b) / 2 - expected
    return jnp.where(range_ > 0, (together - expected) / jnp.where(range_ > 0, range_, 1), 1)


def _random_halves(weights: Float[Array, " n"], key: PRNGKeyArray) -> Float[Array, "2 n"]:
    """Weights of a random half of the samples, and of the others."""
    exists = weights > 0
    draws = jnp.where(exists, jax.random.uniform(key, weights.shape), 1)
    rank = jnp.argsort(jnp.argsort(draws))
    in_first = 2 * rank < jnp.sum(exists)
    return jnp.stack([jnp.where(in_first, weights, 0), jnp.where(in_first, 0, weights)])
