r"""Label-free scores from the distance between target features and reference features of the same encoder.

An encoder is preferred if, in its features, the target resembles the data it was trained on. The scores are negative
distances. They are 0 for equal distributions, and invariant to scale and to common shifts and rotations of both sides.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from jaxrel._core.checks import positive_number
from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.kernels import about_median, kernel, least_reaching, safe_divide
from jaxrel.metrics.origin import about_centre
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import Sample, checked_sample
from jaxrel.transport import SinkhornConfig, TransportStatus, sinkhorn

__all__ = ["energy_distance_score", "mmd_score", "sinkhorn_divergence_score"]

_ABSOLUTE = SinkhornConfig(epsilon_unit="cost")
# With few features, points are often closer than the rounding of a product; with many features they are not.
_NARROW = 16


@pads_samples
def energy_distance_score(
    features: Float[ArrayLike, "n d"],
    reference_features: Float[ArrayLike, "m d"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    reference_weights: Float[ArrayLike, " m"] | None = None,
) -> Score:
    r"""Minus the normalised energy distance, -1 to 0; higher is better.

        -(2 E||X - Y|| - E||X - X'|| - E||Y - Y'||) / (2 E||X - Y||)

    Args:
        features, reference_features: `(n, d)` and `(m, d)`.
        weights, reference_weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).

    Returns:
        A `Score`; 0 if and only if the two weighted samples are the same (up to rounding, and where all points are
        one). Expectations run over all pairs, a sample with itself included.

    Raises:
        ValueError: for different widths, else see `checked_sample`.

    Source: Székely and Rizzo, "Energy statistics: a class of statistics based on distances", 2013, section 9: their
    coefficient of inhomogeneity. The energy distance itself is in units of the features, which encoders do not share.

    `O((n + m)^2 d)` operations, `O((n + m)^2)` memory.
    """
    return _energy_distance(*_checked_pair(features, reference_features, weights, reference_weights))


@kernel
def _energy_distance(sample: Sample, reference: Sample) -> Score:
    points, signed = _pooled(sample, reference)
    distances = _distances(points)
    n = sample.features.shape[0]
    across = 2 * signed[:n] @ distances[:n, n:] @ -signed[n:]
    # The signed measure of mass 0 collects all three expectations, with the opposite sign.
    value = safe_divide(signed @ distances @ signed, across)
    return make_score(jnp.minimum(value, 0), sample.status | reference.status)


@pads_samples
def mmd_score(
    features: Float[ArrayLike, "n d"],
    reference_features: Float[ArrayLike, "m d"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    reference_weights: Float[ArrayLike, " m"] | None = None,
) -> Score:
    r"""Minus the squared maximum mean discrepancy under a Gaussian kernel; higher is better.

        -(E k(X, X') + E k(Y, Y') - 2 E k(X, Y)),   k(x, y) = exp(-||x - y||^2 / (2 h^2))

    Args:
        features, reference_features: `(n, d)` and `(m, d)`.
        weights, reference_weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).

    Returns:
        A `Score` from -2 to 0: about -0.8 for two dense samples far apart, whose distance is the bandwidth, and less
        where one is dense and the other is wide. The bandwidth h is the median distance between points that differ, of
        the two samples pooled with half of the mass each: the least that half of the mass of all pairs reach, up to 32
        roundings of it. Where all points are one the score is 0. Points of more than 16 features differ where their
        distance is above the rounding of the dtype, in float32 about 1e-3 of their distance to the middle of all.
        Expectations run over all pairs, a sample with itself included (the biased statistic, which is never below 0).

    Raises:
        ValueError: for different widths, else see `checked_sample`.

    Source: Gretton et al., "A kernel two-sample test", JMLR 2012.

    `O((n + m)^2 d)` operations, `O((n + m)^2)` memory.
    """
    return _mmd(*_checked_pair(features, reference_features, weights, reference_weights))


@kernel
def _mmd(sample: Sample, reference: Sample) -> Score:
    points, signed = _pooled(sample, reference)
    squared = _squared_distances(points)
    mass = jnp.abs(signed)
    bandwidth = _median_of_pairs(squared, mass)
    gaussian = jnp.exp(-safe_divide(squared, 2 * bandwidth))
    value = signed @ gaussian @ signed
    return make_score(-jnp.maximum(value, 0), sample.status | reference.status)


@pads_samples
def sinkhorn_divergence_score(
    features: Float[ArrayLike, "n d"],
    reference_features: Float[ArrayLike, "m d"],
    *,
    epsilon: Float[ArrayLike, ""] = 0.05,
    weights: Float[ArrayLike, " n"] | None = None,
    reference_weights: Float[ArrayLike, " m"] | None = None,
) -> Score:
    r"""Minus the normalised Sinkhorn divergence, -1 to 0; higher is better.

        -(OT(X, Y) - OT(X, X) / 2 - OT(Y, Y) / 2) / E||X - Y||

    with `OT` the entropic transport of distances, at a regularisation of `epsilon E||X - Y||` in all three.

    Args:
        features, reference_features: `(n, d)` and `(m, d)`.
        epsilon: relative to the mean distance between the samples, positive. The score is that of the Wasserstein
            distance W_1 for a small one, and `energy_distance_score` for a large one.
        weights, reference_weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).

    Returns:
        A `Score`; 0 if and only if the two weighted samples are the same (up to the tolerance of the solver, and where
        all points are one).

    Raises:
        ValueError: for different widths and an epsilon that is not positive, else see `checked_sample`.

    Source: Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences", AISTATS 2019.
    Deviation: divided by the mean distance, as the divergence itself is in units of the features.

    `O((n + m)^2 (d + s))` operations with s the iterations of Sinkhorn's algorithm, `O((n + m)^2)` memory.
    """
    sample, reference = _checked_pair(features, reference_features, weights, reference_weights)
    epsilon = positive_number("epsilon", epsilon, "pass a share of the mean distance", sample.features.dtype)
    return _sinkhorn_divergence(sample, reference, epsilon)


@kernel
def _sinkhorn_divergence(sample: Sample, reference: Sample, epsilon: Float[Array, ""]) -> Score:
    points, signed = _pooled(sample, reference)
    distances = _distances(points)
    n = sample.features.shape[0]
    x, y = signed[:n], -signed[n:]
    # In units of the mean distance, so that epsilon is a number of its own and has no derivative.
    cost = safe_divide(distances, x @ distances[:n, n:] @ y)
    size = max(x.size, y.size)

    def filled(array: Array) -> Array:
        return jnp.pad(array, [(0, size - length) for length in array.shape])

    x, y = filled(x), filled(y)
    entropic = sinkhorn(
        jnp.stack([filled(cost[:n, n:]), filled(cost[:n, :n]), filled(cost[n:, n:])]),
        jnp.stack([x, x, y]),
        jnp.stack([y, x, y]),
        epsilon=epsilon,
        config=_ABSOLUTE,
    )
    across, *own = entropic.value
    return make_score(
        -jnp.clip(across - sum(own) / 2, 0, 1),
        sample.status | reference.status,
        converged=jnp.all(entropic.status & TransportStatus.NOT_CONVERGED == 0),
    )


def _checked_pair(
    features: Float[ArrayLike, "n d"],
    reference_features: Float[ArrayLike, "m d"],
    weights: Float[ArrayLike, " n"] | None,
    reference_weights: Float[ArrayLike, " m"] | None,
) -> tuple[Sample, Sample]:
    features, reference_features = about_centre((features, weights), (reference_features, reference_weights))
    sample, reference = checked_sample(features, weights), checked_sample(reference_features, reference_weights)
    widths = sample.features.shape[1], reference.features.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(f"features have width {widths[0]}, reference_features {widths[1]}: pass those of one encoder.")
    return sample, reference


def _pooled(sample: Sample, reference: Sample) -> tuple[Float[Array, "n_m d"], Float[Array, " n_m"]]:
    """All points at unit scale, and the measure of one sample minus that of the other."""
    signed = jnp.concatenate([sample.weights / sample.total, -reference.weights / reference.total])
    points = jnp.concatenate([sample.features, reference.features])
    return about_median(points, jnp.abs(signed)), signed


def _distances(points: Float[Array, "n d"]) -> Float[Array, "n n"]:
    squared = _squared_distances(points)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def _squared_distances(points: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Between all pairs, 0 where it is rounding."""
    if points.shape[1] <= _NARROW:
        differences = points[:, None] - points
        # One rounding wherever a distance is read again, as the median is compared with the distances it is one of.
        return jax.lax.optimization_barrier(jnp.sum(differences**2, axis=-1))
    norms = jnp.sum(points**2, axis=1)
    # About the origin of the norms, by which what is rounding is known.
    squared = norms + norms[:, None] - 2 * jnp.matmul(points, points.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(squared > 8 * jnp.finfo(squared.dtype).eps * (norms + norms[:, None]), squared, 0)


def _median_of_pairs(values: Float[Array, "n n"], mass: Float[Array, " n"]) -> Float[Array, ""]:
    """The least positive value such that the pairs at or below it have half of the mass of all positive ones."""
    fixed, shares = jax.lax.stop_gradient((values, mass))

    def weigh(pairs: Bool[Array, "n n"]) -> Float[Array, ""]:
        # The mass of a pair is a product, so that no matrix of masses has to be read beside the values.
        return shares @ jnp.sum(jnp.where(pairs, shares, 0), axis=1)

    # Pairs of few distinct masses often make exactly one half, which the rounding of sums must not turn into less.
    half = weigh(fixed > 0) / 2 * (1 - 32 * jnp.finfo(values.dtype).eps)
    median = least_reaching(jnp.where(fixed > 0, fixed, jnp.inf), weigh, half)
    # Taken from the pairs, so that the derivative is that of the pairs in the middle.
    return jnp.max(jnp.where(values == median, values, 0))
