"""Label-free accuracy: a linear probe fitted to half of the samples predicts the clusters of other samples' views."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel._core import linalg
from jaxrel._core.halves import second_half
from jaxrel._core.programs import compiled
from jaxrel.pseudo_labels.kmeans import kmeans
from jaxrel.pseudo_labels.view_whitening import view_whitening

__all__ = [
    "CLUSTER_COUNTS",
    "SAMPLES_A_CLUSTER",
    "cluster_counts_of",
    "cross_view_hits",
    "occupied",
    "probe_hits",
]

CLUSTER_COUNTS = (10, 20, 50)
SAMPLES_A_CLUSTER = 4  # two in each half, on average

_HIGHEST = jax.lax.Precision.HIGHEST


def cluster_counts_of(num_samples: int) -> tuple[int, ...]:
    """The numbers of clusters for which there are enough samples."""
    return tuple(count for count in CLUSTER_COUNTS if count * SAMPLES_A_CLUSTER <= num_samples)


@functools.partial(compiled, static_argnames=("cluster_counts", "num_directions", "num_restarts"))
def cross_view_hits(
    features: Float[Array, "n d"],
    first_view: Float[Array, "n d"],
    second_view: Float[Array, "n d"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    cluster_counts: tuple[int, ...] = CLUSTER_COUNTS,
    ridge: Float[ArrayLike, ""] = 0.1,
    num_directions: int = 30,
    num_restarts: int = 4,
) -> Float[Array, " n"]:
    """For each sample, the share of its two views whose cluster a probe fitted to the other half predicts correctly.

    Clusters are computed as in `ViewClusters` for each number of clusters, and hits are averaged over these numbers. A
    hit among C clusters counts `(E - 1) / (C - 1)`, where E clusters have samples, so a hit counts little if there are
    few clusters to choose from. For an encoder that has collapsed to m points, E is at most m, however accurate the
    probe. The mean over the samples is a label-free score. It is 1 for an encoder that separates the samples and is
    invariant to the augmentation. It needs no class count.

    Args:
        features: features without augmentation, `(n, d)`; n is more than twice the largest number of clusters.
        first_view, second_view: features of two augmentations of the same samples, row by row.
        weights: 0 is an absent sample.
        key: draws the initial clusters and the halves.
        cluster_counts: numbers of clusters, at least 2 each; static.
        ridge: ridge of the probe, see `probe_hits`.
        num_directions, num_restarts: as in `ViewClusters`; static.

    The function is pure and runs under `vmap` over encoders. It takes the time of `kmeans` for each number of clusters,
    plus `n d^2 + d^3`.
    """
    whitening = view_whitening(features, first_view, second_view, weights, num_directions=num_directions)
    points = whitening(features)
    clusters = [kmeans(points, weights, key, num_clusters=count, num_restarts=num_restarts) for count in cluster_counts]
    labels = jnp.stack([found.labels for found in clusters])
    standardise = whitening.standardisation
    views = jnp.stack([standardise(first_view), standardise(second_view)])
    hits = probe_hits(
        standardise(features),
        views,
        labels,
        weights,
        second_half(jnp.zeros_like(labels[0]), weights, jax.random.fold_in(key, 1)),
        num_classes=max(cluster_counts),
        ridge=ridge,
    )
    worth = [
        (occupied(found, weights, count) - 1) / (count - 1) for found, count in zip(labels, cluster_counts, strict=True)
    ]
    return jnp.mean(jnp.stack(worth)[:, None] * hits, axis=0)


def occupied(labels: Int[Array, " n"], weights: Float[Array, " n"], num_classes: int) -> Float[Array, ""]:
    """Number of classes that have samples."""
    return jnp.sum(jax.ops.segment_sum(weights, labels, num_classes) > 0).astype(weights.dtype)


def probe_hits(
    features: Float[Array, "n d"],
    views: Float[Array, "v n d"],
    labels: Int[Array, "l n"],
    weights: Float[Array, " n"],
    second: Bool[Array, " n"],
    *,
    num_classes: int,
    ridge: Float[ArrayLike, ""],
) -> Float[Array, "l n"]:
    """Share of the views of each sample whose label a ridge classifier fitted to the other half predicts correctly.

    It is least squares on class indicators, `W = (X^T X + ridge I)^{-1} X^T Y`, with X and Y centred and X^T X a mean
    over samples. All labellings share one factorisation of each half. `second` marks the samples of the second half.
    """
    exists = weights > 0
    indicators = jax.nn.one_hot(labels, num_classes, dtype=features.dtype)

    def responses(in_half: Array) -> Float[Array, "l v n k"]:
        shares = jnp.where(in_half & exists, weights, 0)
        shares = shares / jnp.sum(shares)
        mean = jnp.matmul(shares, features, precision=_HIGHEST)
        centred = features - mean
        weighted = shares[:, None] * centred
        eigenvalues, axes = linalg.eigh(jnp.matmul(weighted.T, centred, precision=_HIGHEST))
        class_shares = jnp.einsum("n,lnk->lk", shares, indicators)
        moments = jnp.einsum("nd,lnk->ldk", weighted, indicators - class_shares[:, None], precision=_HIGHEST)
        rotated = jnp.einsum("de,ldk->lek", axes, moments, precision=_HIGHEST)
        slopes = rotated / (jnp.maximum(eigenvalues, 0) + ridge)[:, None]
        inputs = jnp.matmul(views - mean, axes, precision=_HIGHEST)
        found: Array = jnp.einsum("vne,lek->lvnk", inputs, slopes, precision=_HIGHEST)
        return found + class_shares[:, None, None]

    # Each half is evaluated by the probe of the other half.
    by_half = jax.vmap(responses)(jnp.stack([second, ~second]))
    predicted = jnp.argmax(jnp.where(second[:, None], by_half[1], by_half[0]), axis=-1)
    return jnp.mean(predicted == labels[:, None], axis=1)
