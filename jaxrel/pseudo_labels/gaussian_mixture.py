"""Mixtures of Gaussians by expectation maximisation, from a k-means start."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel._core import linalg
from jaxrel._core.programs import compiled
from jaxrel.pseudo_labels.kmeans import isotropic_standardisation, kmeans

__all__ = ["Covariance", "Mixture", "gaussian_mixture"]

Covariance = Literal["spherical", "diagonal", "tied"]

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture:
    """`p(z) = sum_j pi_j N(z; mu_j, Sigma_j)`, fitted to samples.

    Attributes:
        responsibilities: `p(j | z_i)`; those of a sample of weight 0 mean nothing.
        proportions: pi.
        means: mu; a component of proportion 0 has that of all samples.
        covariances: the diagonal of each component, or the one matrix that all share.
        log_likelihood: `log p(z_i)`, averaged over the samples by weight.
        num_iterations: rounds of expectation and maximisation.
    """

    responsibilities: Float[Array, "n k"]
    proportions: Float[Array, " k"]
    means: Float[Array, "k d"]
    covariances: Float[Array, "k d"] | Float[Array, "d d"]
    log_likelihood: Float[Array, ""]
    num_iterations: Int[Array, ""]


@functools.partial(compiled, static_argnames=("num_components", "covariance", "num_restarts"))
def gaussian_mixture(
    features: Float[Array, "n d"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    num_components: int,
    covariance: Covariance = "diagonal",
    num_restarts: int = 4,
    max_iterations: Int[ArrayLike, ""] = 100,
    tolerance: Float[ArrayLike, ""] = 1e-3,
    regularisation: Float[ArrayLike, ""] = 1e-3,
) -> Mixture:
    """A local maximum of the likelihood near the best k-means partition.

    Args:
        features, weights, key, num_restarts: as in `kmeans`, which makes the start.
        num_components: k, static.
        covariance: "spherical" (one variance for each component), "diagonal" (one for each component and feature) or
            "tied" (one matrix that all components share).
        max_iterations: at most this many rounds.
        tolerance: stop when a round changes the log-likelihood by no more than this.
        regularisation: added to all variances, relative to the mean variance of the features (1 where all samples are
            equal). Positive: it keeps a component from collapsing onto a sample.

    The samples are centred and scaled to a mean variance of 1 first, and densities are kept as logarithms. Expanded
    Mahalanobis distances are off by about `eps / regularisation` of the squared radius of the samples, so do not take
    a regularisation much below 1e-4 in float32.

    Time is `n k d` an iteration, `n k d + n d^2 + d^3` for "tied".
    """
    if covariance not in get_args(Covariance):
        raise ValueError(f"covariance must be one of {', '.join(get_args(Covariance))}, got {covariance!r}.")
    start = kmeans(features, weights, key, num_clusters=num_components, num_restarts=num_restarts)
    standardise = isotropic_standardisation(features, weights)
    points = jnp.where(weights[:, None] > 0, standardise(features), 0)
    shares = weights / jnp.sum(weights)
    num_features = points.shape[1]
    # The scatter within components is that of all samples, which no round changes, less that of the means.
    total = _second_moment(points, shares)

    def covariances_of(membership: Array, proportions: Array, means: Array) -> Array:
        if covariance == "tied":
            within = total - _second_moment(means, proportions)
            return within + regularisation * jnp.eye(num_features, dtype=points.dtype)
        diagonal = jnp.maximum(_averages(membership, proportions, points**2) - means**2, 0) + regularisation
        if covariance == "diagonal":
            return diagonal
        return jnp.broadcast_to(jnp.mean(diagonal, axis=1, keepdims=True), diagonal.shape)

    def maximise(responsibilities: Float[Array, "n k"]) -> tuple[Array, Array, Array]:
        membership = shares[:, None] * responsibilities
        proportions = jnp.sum(membership, axis=0)
        means = _averages(membership, proportions, points)
        return proportions, means, covariances_of(membership, proportions, means)

    def expect(proportions: Array, means: Array, covariances: Array) -> tuple[Float[Array, "n k"], Float[Array, ""]]:
        log_densities = _tied_log_densities if covariance == "tied" else _diagonal_log_densities
        joint = jnp.log(proportions) + log_densities(points, means, covariances)
        densities = jax.nn.logsumexp(joint, axis=1)
        return jnp.exp(joint - densities[:, None]), jnp.sum(shares * densities)

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        responsibilities, log_likelihood, _, iteration = state
        responsibilities, increased = expect(*maximise(responsibilities))
        return responsibilities, increased, jnp.abs(increased - log_likelihood), iteration + 1

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Bool[Array, ""]:
        _, _, change, iteration = state
        return (change > tolerance) & (iteration < max_iterations)

    infinity = jnp.asarray(jnp.inf, points.dtype)
    hard = jax.nn.one_hot(start.labels, num_components, dtype=points.dtype)
    responsibilities, _, _, num_iterations = jax.lax.while_loop(
        unfinished, step, (hard, -infinity, infinity, jnp.asarray(0))
    )
    proportions, means, covariances = maximise(responsibilities)
    responsibilities, log_likelihood = expect(proportions, means, covariances)
    scale = standardise.scale[0]
    return Mixture(
        responsibilities=responsibilities,
        proportions=proportions,
        means=means * scale + standardise.mean,
        covariances=covariances * scale**2,
        log_likelihood=log_likelihood - num_features * jnp.log(scale),
        num_iterations=num_iterations,
    )


def _averages(
    membership: Float[Array, "n k"], proportions: Float[Array, " k"], values: Float[Array, "n d"]
) -> Float[Array, "k d"]:
    """Mean value of each component, 0 where it has no samples."""
    sums = jnp.matmul(membership.T, values, precision=_HIGHEST)
    return sums / jnp.where(proportions > 0, proportions, 1)[:, None]


def _second_moment(values: Float[Array, "n d"], shares: Float[Array, " n"]) -> Float[Array, "d d"]:
    root = jnp.sqrt(shares)[:, None] * values
    return jnp.matmul(root.T, root, precision=_HIGHEST)


def _diagonal_log_densities(
    points: Float[Array, "n d"], means: Float[Array, "k d"], variances: Float[Array, "k d"]
) -> Float[Array, "n k"]:
    squares = jnp.matmul(points**2, (1 / variances).T, precision=_HIGHEST)
    inner = jnp.matmul(points, (means / variances).T, precision=_HIGHEST)
    distances = jnp.maximum(squares - 2 * inner + jnp.sum(means**2 / variances, axis=1), 0)
    return -(distances + jnp.sum(jnp.log(2 * math.pi * variances), axis=1)) / 2


def _tied_log_densities(
    points: Float[Array, "n d"], means: Float[Array, "k d"], covariance: Float[Array, "d d"]
) -> Float[Array, "n k"]:
    root = linalg.cholesky(covariance)
    # The inverse root once, and two products: faster than to solve for all samples.
    whitening = linalg.triangular_solve(root, jnp.eye(root.shape[0], dtype=root.dtype)).T
    points, means = (jnp.matmul(z, whitening, precision=_HIGHEST) for z in (points, means))
    inner = jnp.matmul(points, means.T, precision=_HIGHEST)
    distances = jnp.maximum(jnp.sum(points**2, axis=1)[:, None] - 2 * inner + jnp.sum(means**2, axis=1), 0)
    return -(distances + jnp.sum(jnp.log(2 * math.pi * jnp.diagonal(root) ** 2))) / 2
