"""How well a linear probe of half of the samples knows the clusters of the others in views that it has not seen."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxrel.pseudo_labels.kmeans import kmeans
from jaxrel.pseudo_labels.view_whitening import view_whitening

__all__ = ["CLUSTER_COUNTS", "cross_view_hits", "probe_hits"]

CLUSTER_COUNTS = (10, 20, 50)

_HIGHEST = jax.lax.Precision.HIGHEST


@functools.partial(jax.jit, static_argnames=("cluster_counts", "num_directions", "num_restarts"))
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
    """For each sample, the share of its two views whose clusters a probe of the other half of the samples tells.

    Clusters are those of `ViewClusters`, once for every number of clusters; shares are averaged over these. Their mean
    over the samples is a label-free score: 1 where an encoder keeps apart what tells samples from each other and
    leaves out what an augmentation changes. It asks for no class count. Where all samples are in one cluster, as under
    an encoder that has collapsed, nothing is told apart and there are no hits.

    Args:
        features: without augmentation, `(n, d)`; n above twice the largest number of clusters.
        first_view, second_view: of two augmentations of the same samples, row by row.
        weights: 0 is an absent sample.
        key: draws the starts of the clusters.
        cluster_counts: numbers of clusters; static.
        ridge: of the probe, see `probe_hits`.
        num_directions, num_restarts: as in `ViewClusters`; static.

    Pure; under `vmap` over encoders. Time is that of `kmeans` for every count, plus `n d^2 + d^3`.
    """
    whitening = view_whitening(features, first_view, second_view, weights, num_directions=num_directions)
    points = whitening(features)
    clusters = [kmeans(points, weights, key, num_clusters=count, num_restarts=num_restarts) for count in cluster_counts]
    labels = jnp.stack([found.labels for found in clusters])
    standardise = whitening.standardisation
    views = jnp.stack([standardise(first_view), standardise(second_view)])
    # Two batched factorisations that wait for the same two threads would wait for ever: 0 times a number that the
    # first one leads to puts the second one behind it.
    afterwards = 0 * sum(found.inertia for found in clusters)
    hits = probe_hits(
        standardise(features) + afterwards,
        views,
        labels,
        weights,
        num_classes=max(cluster_counts),
        ridge=ridge,
    )
    # One cluster is told right by anything: a collapsed encoder would be perfect.
    first = jnp.argmax(weights > 0)
    several = jnp.any((labels != labels[:, first][:, None]) & (weights > 0), axis=1)
    return jnp.mean(jnp.where(several[:, None], hits, 0), axis=0)


def probe_hits(
    features: Float[Array, "n d"],
    views: Float[Array, "v n d"],
    labels: Int[Array, "l n"],
    weights: Float[Array, " n"],
    *,
    num_classes: int,
    ridge: Float[ArrayLike, ""],
) -> Float[Array, "l n"]:
    """Share of the views of each sample whose label a ridge classifier fitted to the other half of the samples tells.

    Least squares on class indicators, `W = (X^T X + ridge I)^{-1} X^T Y` with X and Y centred and X^T X a mean over
    samples; one factorisation of each half serves all labellings. Halves are every other sample that exists.
    """
    exists = weights > 0
    second = jnp.cumsum(exists) % 2 == 0
    indicators = jax.nn.one_hot(labels, num_classes, dtype=features.dtype)

    def responses(in_half: Array) -> Float[Array, "l v n k"]:
        shares = jnp.where(in_half & exists, weights, 0)
        shares = shares / jnp.sum(shares)
        mean = jnp.matmul(shares, features, precision=_HIGHEST)
        centred = features - mean
        weighted = shares[:, None] * centred
        eigenvalues, axes = jnp.linalg.eigh(jnp.matmul(weighted.T, centred, precision=_HIGHEST))
        class_shares = jnp.einsum("n,lnk->lk", shares, indicators)
        moments = jnp.einsum("nd,lnk->ldk", weighted, indicators - class_shares[:, None], precision=_HIGHEST)
        rotated = jnp.einsum("de,ldk->lek", axes, moments, precision=_HIGHEST)
        slopes = rotated / (jnp.maximum(eigenvalues, 0) + ridge)[:, None]
        inputs = jnp.matmul(views - mean, axes, precision=_HIGHEST)
        found: Array = jnp.einsum("vne,lek->lvnk", inputs, slopes, precision=_HIGHEST)
        return found + class_shares[:, None, None]

    # Each half is judged by the probe of the other.
    by_half = jax.vmap(responses)(jnp.stack([second, ~second]))
    told = jnp.argmax(jnp.where(second[:, None], by_half[1], by_half[0]), axis=-1)
    return jnp.mean(told == labels[:, None], axis=1)
