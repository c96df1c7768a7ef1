"""Distances between labels: squared 2-Wasserstein distances between the samples of two classes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrel._core import linalg
from jaxrel._core.labels import largest_class
from jaxrel.metrics.kernels import safe_divide
from jaxrel.metrics.labelled_pairs import LabelledPair, PlacedPair
from jaxrel.metrics.validation import LabelledSample, checked_positive_integer
from jaxrel.transport import bures_distances, class_distances, gather_classes, gaussian_moments, squared_distance
from jaxrel.transport.costs import squared_distance_error

__all__ = ["Inner", "LabelDistances", "checked_blocks", "label_distances", "pooled_label_distances"]

Inner = Literal["exact", "gaussian"]

_MAX_ITERATIONS = 5000


class LabelDistances(NamedTuple):
    """Squared distances and bounds on their errors; arbitrary for a class without samples."""

    value: Float[Array, "r t"]
    error: Float[Array, "r t"]

    def error_of_plans(self, pair: LabelledPair) -> Float[Array, ""]:
        """Bound on the error of the mean distance under any plan: each class may be paired with its worst partner."""
        sizes = pair.reference.class_sizes, pair.target.class_sizes
        error = jnp.where((sizes[0] > 0)[:, None] & (sizes[1] > 0), self.error, 0)
        r, t = (size / jnp.sum(size) for size in sizes)
        return jnp.minimum(r @ jnp.max(error, axis=1), t @ jnp.max(error, axis=0))


class _Clouds(NamedTuple):
    """Samples of each class about their mean, the share of each, and the means."""

    points: Float[Array, "k s d"]
    shares: Float[Array, "k s"]
    means: Float[Array, "k d"]


class _Gaussians(NamedTuple):
    """Moments of each class."""

    covariances: Float[Array, "k d d"]
    means: Float[Array, "k d"]


def checked_blocks(
    pair: LabelledPair, reference_labels: Any, labels: Any, inner: str, block_sizes: Any
) -> tuple[LabelledPair, tuple[int, int]]:
    """Block sizes for the largest class of each task. The pair becomes invalid if they are too small.

    Args:
        pair: the tasks.
        reference_labels, labels: as the user passed them.
        inner: "gaussian" needs no block sizes: it works with samples if every class has fewer samples than features,
            and with covariances otherwise.
        block_sizes: two integers, or None for the smallest that leave nothing out, rounded up to share compilations.

    Raises:
        ValueError: for an unknown `inner`, block sizes that are not two positive integers or are too small, and block
            sizes of None with traced labels and an `inner` of "exact".
    """
    if inner not in ("exact", "gaussian"):
        raise ValueError(f'inner must be "exact" or "gaussian", got {inner!r}.')
    sides = pair.reference, pair.target
    if block_sizes is None:
        given = [("reference_labels", reference_labels), ("labels", labels)]
        sizes = [_largest_class(inner, *named, side) for named, side in zip(given, sides, strict=True)]
    else:
        if not isinstance(block_sizes, tuple | list) or len(block_sizes) != 2:
            raise ValueError(f"block_sizes must be two integers, of reference and target, got {block_sizes!r}.")
        sizes = [checked_positive_integer("block_sizes", size) for size in block_sizes]
    sizes = [min(size, side.features.shape[0]) for size, side in zip(sizes, sides, strict=True)]
    if inner == "gaussian" and not _few_samples((sizes[0], sizes[1]), pair):
        return pair, (pair.reference.features.shape[0], pair.target.features.shape[0])
    largest = [jnp.max(jnp.sum(side.memberships > 0, axis=0)) for side in sides]
    for name, size, needed in zip(("reference", "target"), sizes, largest, strict=True):
        if not isinstance(needed, jax.core.Tracer) and int(needed) > size:
            raise ValueError(f"a class of the {name} has {int(needed)} samples, more than its block size of {size}.")
    fits = (largest[0] <= sizes[0]) & (largest[1] <= sizes[1])
    target = dataclasses.replace(pair.target, valid=pair.target.valid & fits)
    return LabelledPair(pair.reference, target), (sizes[0], sizes[1])


def label_distances(
    pair: LabelledPair,
    place: PlacedPair,
    *,
    inner: Inner,
    block_sizes: tuple[int, int],
    relative_gap: Float[Array, ""] | None = None,
) -> LabelDistances:
    """Distance from each reference class to each target class, in the unit of the place.

    It is between the classes of both tasks after centring; add `offset_square` for the original classes. The gap is for
    "exact"; None is the resolution of the dtype.
    """
    summary, distances = _method(pair, inner, block_sizes, relative_gap)
    return distances(
        summary(place.reference, pair.reference, block_sizes[0]), summary(place.target, pair.target, block_sizes[1])
    )


def pooled_label_distances(
    pair: LabelledPair, place: PlacedPair, *, inner: Inner, block_sizes: tuple[int, int]
) -> LabelDistances:
    """`label_distances` between all classes of both tasks, reference classes first."""
    summary, distances = _method(pair, inner, block_sizes)
    size = max(block_sizes)
    sides = summary(place.reference, pair.reference, size), summary(place.target, pair.target, size)
    pooled = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *sides)
    return distances(pooled, pooled)


def _method(
    pair: LabelledPair, inner: Inner, block_sizes: tuple[int, int], relative_gap: Float[Array, ""] | None = None
) -> tuple[Callable[..., Any], Callable[..., LabelDistances]]:
    """Summaries of the classes of one task, and the function that gives their distances."""
    if inner == "exact":
        return _clouds, functools.partial(_exact_distances, relative_gap=relative_gap)
    if _few_samples(block_sizes, pair):
        return _clouds, _gaussian_distances_of_samples
    return _gaussians, _gaussian_distances


def _few_samples(block_sizes: tuple[int, int], pair: LabelledPair) -> bool:
    """Whether every class has fewer samples than features, so that covariances would be larger than the samples."""
    return max(block_sizes) < pair.target.features.shape[1]


def _clouds(features: Float[Array, "n d"], sample: LabelledSample, size: int) -> _Clouds:
    labels = jnp.argmax(sample.memberships, axis=1)
    num_classes = sample.memberships.shape[1]
    points, weights = gather_classes(features, labels, num_classes, size, weights=sample.weights)
    shares = safe_divide(weights, jnp.broadcast_to(jnp.sum(weights, axis=1, keepdims=True), weights.shape))
    means = jnp.einsum("ks,ksd->kd", shares, points)
    points = jnp.where(weights[..., None] > 0, points - means[:, None], 0)
    return _Clouds(points, shares, means)


def _gaussians(features: Float[Array, "n d"], sample: LabelledSample, _: int) -> _Gaussians:
    labels = jnp.argmax(sample.memberships, axis=1)
    num_classes = sample.memberships.shape[1]
    means, covariances, _mass = gaussian_moments(features, labels, num_classes, weights=sample.weights)
    return _Gaussians(covariances, means)


def _exact_distances(first: _Clouds, second: _Clouds, relative_gap: Float[Array, ""] | None) -> LabelDistances:
    """Distance of the means plus distance of the centred classes, into which a shift decomposes."""
    # float32 certifies no gap below about 1e-4, and larger ones for many samples.
    finest = 1e-3 if first.points.dtype == jnp.float32 else 1e-7
    about = class_distances(
        first.points,
        second.points,
        weights_x=first.shares,
        weights_y=second.shares,
        cost="squared_euclidean",
        relative_gap=finest if relative_gap is None else relative_gap,
        max_iterations=_MAX_ITERATIONS,
    )
    lower = jnp.maximum(about.lower, 0)
    between = squared_distance(first.means, second.means)
    rounding = squared_distance_error(first.means, second.means)
    return LabelDistances(between + (lower + about.upper) / 2, (about.upper - lower) / 2 + rounding)


def _gaussian_distances(first: _Gaussians, second: _Gaussians) -> LabelDistances:
    origins = jnp.zeros_like(first.means), jnp.zeros_like(second.means)
    about = bures_distances(origins[0], first.covariances, origins[1], second.covariances)
    return LabelDistances(squared_distance(first.means, second.means) + about, jnp.zeros_like(about))


def _gaussian_distances_of_samples(first: _Clouds, second: _Clouds) -> LabelDistances:
    """Gaussian distances from singular values of matrices of the size of the classes.

    With `S = F^T F`, where F has the rows `sqrt(share) point`, the trace of `(S1^1/2 S2 S1^1/2)^1/2` is the sum of the
    singular values of `F1 F2^T`.
    """
    x, y = (jnp.sqrt(side.shares)[..., None] * side.points for side in (first, second))

    def fidelity(one: Float[Array, "s d"]) -> Float[Array, " t"]:
        cross = jnp.einsum("sd,tqd->tsq", one, y)
        return jnp.sum(linalg.singular_values(cross), axis=-1)

    traces = [jnp.sum(rows**2, axis=(-1, -2)) for rows in (x, y)]
    about = jnp.maximum(traces[0][:, None] + traces[1] - 2 * jax.lax.map(fidelity, x), 0)
    return LabelDistances(squared_distance(first.means, second.means) + about, jnp.zeros_like(about))


def _largest_class(inner: str, name: str, labels: Any, sample: LabelledSample) -> int:
    """Block size for the largest class, which counts all samples if weights are traced."""
    if isinstance(labels, jax.core.Tracer):
        if inner == "gaussian":
            return sample.features.shape[0]
        raise ValueError(
            f"block_sizes must be given if {name} are traced: the number of samples in the largest class of the "
            'reference and of the target, or inner="gaussian".'
        )
    live = None if isinstance(sample.weights, jax.core.Tracer) else np.asarray(sample.weights) > 0
    size = largest_class(labels, live)
    # A multiple of an eighth of the power of two below: at most an eighth too large.
    step = max(1, 2 ** (size.bit_length() - 4))
    return -(-size // step) * step
