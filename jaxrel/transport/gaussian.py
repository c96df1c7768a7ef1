"""Gaussian summaries of classes and the Bures (2-Wasserstein) distance between Gaussians, for all pairs of classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core import linalg

__all__ = ["bures_distances", "gaussian_moments"]

_HIGHEST = jax.lax.Precision.HIGHEST
# Rounding moves a zero eigenvalue of a float matrix by about two eps of the largest one.
_RANK_TOLERANCE = 4


def gaussian_moments(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    num_classes: int,
    *,
    weights: Float[ArrayLike, " n"] | None = None,
) -> tuple[Float[Array, "k d"], Float[Array, "k d d"], Float[Array, " k"]]:
    """`(means, covariances, mass)` of each class. Covariances are weighted and divided by the mass.

    A sample of weight 0, or with a label outside `0..num_classes - 1`, is ignored; its features may even be NaN. A
    class without samples has mean 0, covariance 0 and mass 0.

    Args:
        features: floating-point features.
        labels: integer labels.
        num_classes: k, static.
        weights: non-negative weights; None gives every sample weight 1.

    Raises:
        ValueError: for shapes or dtypes other than these, or concrete weights that are negative.

    Samples are arranged in blocks of one class each, so time is n d^2, not k n d^2, and memory is
    (n + k d) d + k d^2. Covariances are computed from centred features, so a common offset costs no accuracy.
    """
    _check_moments(features, labels, num_classes, weights)
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    n, d = features.shape
    weights = jnp.ones(n, features.dtype) if weights is None else jnp.asarray(weights, features.dtype)
    present = (weights > 0) & (labels >= 0) & (labels < num_classes)
    keys = jnp.where(present, labels, num_classes)
    order = jnp.argsort(keys, stable=True)
    start = jnp.searchsorted(keys[order], jnp.arange(num_classes + 1))

    # Class k fills ceil(n_k / width) blocks, so there are at most n / width + num_classes blocks.
    width = max(d, 8)
    until = jnp.cumsum(-(-jnp.diff(start) // width))
    block = jnp.arange(-(-n // width) + num_classes)
    owner = jnp.searchsorted(until, block, side="right")
    owner_or_last = jnp.minimum(owner, num_classes - 1)
    before = jnp.concatenate([jnp.zeros_like(until[:1]), until])[owner_or_last]
    slot = (start[owner_or_last] + (block - before) * width)[:, None] + jnp.arange(width)
    inside = (slot < start[owner_or_last + 1][:, None]) & (owner < num_classes)[:, None]
    index = order[jnp.minimum(slot, n - 1)]

    # A double `where`: a masked feature may be NaN and must not reach the gradient either.
    points = jnp.where(inside[..., None], features[index], 0)
    share = jnp.where(inside, weights[index], 0)
    mass = jax.ops.segment_sum(jnp.sum(share, axis=1), owner, num_classes)
    share = share / jnp.where(mass > 0, mass, 1)[owner_or_last][:, None]
    weighted_sum = jnp.einsum("bw,bwd->bd", share, points, precision=_HIGHEST)
    means = jax.ops.segment_sum(weighted_sum, owner, num_classes)

    centred = jnp.where(inside[..., None], points - means[owner_or_last][:, None, :], 0)
    scatter = jnp.einsum("bw,bwi,bwj->bij", share, centred, centred, precision=_HIGHEST)
    return means, jax.ops.segment_sum(scatter, owner, num_classes), mass


def bures_distances(
    means_x: Float[ArrayLike, "r d"],
    covariances_x: Float[ArrayLike, "r d d"],
    means_y: Float[ArrayLike, "t d"],
    covariances_y: Float[ArrayLike, "t d d"],
) -> Float[Array, "r t"]:
    """Squared 2-Wasserstein distance between all pairs of Gaussians. It is never negative, and 0 for equal Gaussians.

        ||m1 - m2||^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2
    (Dowson and Landau, J. Multivariate Analysis 12, 1982; Peyre and Cuturi, Computational OT, remark 2.31).

    Args:
        means_x, means_y: floating-point means, of the same dtype as the covariances.
        covariances_x, covariances_y: symmetric, positive semi-definite up to rounding; any rank, 0 included. The
            symmetric part is used, and eigenvalues below rounding (4 eps of the largest) count as 0.

    Raises:
        ValueError: for shapes that do not match or numbers that are not floating point.

    With S = L L^T the last term is the sum of the singular values of L1^T L2. Singular values have an error of eps,
    whereas square roots of eigenvalues would have one of sqrt(eps). Each covariance is first scaled to size 1, so tiny
    and huge ones have the same relative accuracy: a few d eps (tr S1 + tr S2).

    The derivative in S1 is I - T with T the optimal map from the first Gaussian to the second,
    T = S1^-1/2 (S1^1/2 S2 S1^1/2)^1/2 S1^-1/2, with the pseudo-inverse where S1 is singular: finite everywhere,
    0 at equal Gaussians on their range, and without the infinite part of the derivative towards directions in which
    S1 has no variance. Rows are computed one at a time, so memory is (r + t) d^2, also for the gradient.
    """
    _check_gaussians(means_x, covariances_x, means_y, covariances_y)
    means_x, covariances_x, means_y, covariances_y = map(jnp.asarray, (means_x, covariances_x, means_y, covariances_y))
    roots_x, roots_y = (_root(jax.lax.stop_gradient(covariances)) for covariances in (covariances_x, covariances_y))

    # Recomputed in the backward pass, which would otherwise keep the maps of all pairs.
    @jax.checkpoint
    def row(one: tuple[Float[Array, " d"], Float[Array, "d d"], _Root]) -> Float[Array, " t"]:
        mean, covariance, root = one
        between = jnp.sum((mean - means_y) ** 2, axis=-1)
        return between + _bures(covariance, covariances_y, root, roots_y)

    return jax.lax.map(row, (means_x, covariances_x, roots_x))


class _Root(NamedTuple):
    """`S = scale^2 factor factor^T` without eigenvalues below rounding; `inverse^T factor` projects onto the range."""

    scale: Float[Array, "*b"]
    trace: Float[Array, "*b"]
    factor: Float[Array, "*b d d"]
    inverse: Float[Array, "*b d d"]


def _root(covariance: Float[Array, "*b d d"]) -> _Root:
    # Positive semi-definite: the largest entry is on the diagonal, and lies between lambda_max / d and lambda_max.
    size = jnp.max(jnp.diagonal(covariance, axis1=-2, axis2=-1), axis=-1)
    size = jnp.where(size > 0, size, 0)
    values, vectors = linalg.eigh(covariance / jnp.where(size > 0, size, 1)[..., None, None])
    kept = values > _RANK_TOLERANCE * float(jnp.finfo(covariance.dtype).eps) * values[..., -1:]
    kept &= size[..., None] > 0
    values = jnp.where(kept, values, 1)
    factor = jnp.where(kept, jnp.sqrt(values), 0)
    inverse = jnp.where(kept, 1 / jnp.sqrt(values), 0)
    trace = jnp.sum(jnp.where(kept, values, 0), axis=-1)
    return _Root(jnp.sqrt(size), trace, vectors * factor[..., None, :], vectors * inverse[..., None, :])


@jax.custom_jvp
def _bures(
    covariance_x: Float[Array, "d d"],
    covariances_y: Float[Array, "t d d"],
    root_x: _Root,
    roots_y: _Root,
) -> Float[Array, " t"]:
    """Squared Bures distance from one covariance to several. The covariances are arguments only for the derivative."""
    del covariance_x, covariances_y
    cross = jnp.einsum("ki,tkj->tij", root_x.factor, roots_y.factor, precision=_HIGHEST)
    fidelity = jnp.sum(linalg.singular_values(cross), axis=-1)
    spread = root_x.scale**2 * root_x.trace + roots_y.scale**2 * roots_y.trace
    return jnp.maximum(spread - 2 * root_x.scale * roots_y.scale * fidelity, 0)


@_bures.defjvp
def _bures_jvp(
    primals: tuple[Float[Array, "d d"], Float[Array, "t d d"], _Root, _Root],
    tangents: tuple[Float[Array, "d d"], Float[Array, "t d d"], _Root, _Root],
) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
    *_, root_x, roots_y = primals
    tangent_x, tangents_y, *_ = tangents
    cross = jnp.einsum("ki,tkj->tij", root_x.factor, roots_y.factor, precision=_HIGHEST)
    left, values, right = linalg.svd(cross)
    ratio = jnp.where(root_x.scale > 0, roots_y.scale / jnp.where(root_x.scale > 0, root_x.scale, 1), 0)
    inverse_ratio = jnp.where(roots_y.scale > 0, root_x.scale / jnp.where(roots_y.scale > 0, roots_y.scale, 1), 0)
    identity = jnp.eye(cross.shape[-1], dtype=cross.dtype)
    # L1^T L2 = U s V^T: the map is L1^+T U s U^T L1^+, and with V and L2 for its inverse.
    axes_x = jnp.einsum("ki,tij->tkj", root_x.inverse, left, precision=_HIGHEST)
    axes_y = jnp.einsum("tki,tji->tkj", roots_y.inverse, right, precision=_HIGHEST)
    map_x = jnp.einsum("tik,tk,tjk->tij", axes_x, ratio[:, None] * values, axes_x, precision=_HIGHEST)
    map_y = jnp.einsum("tik,tk,tjk->tij", axes_y, inverse_ratio[:, None] * values, axes_y, precision=_HIGHEST)
    tangent = jnp.sum((identity - map_x) * tangent_x, axis=(-1, -2))
    return _bures(*primals), tangent + jnp.sum((identity - map_y) * tangents_y, axis=(-1, -2))


def _check_moments(features: Any, labels: Any, num_classes: int, weights: Any) -> None:
    if features.ndim != 2 or 0 in features.shape or not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(f"features must be floating point (n d), got {features.dtype} {features.shape}")
    if labels.shape != features.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers ({features.shape[0]},), got {labels.dtype} {labels.shape}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if weights is None:
        return
    if weights.shape != labels.shape:
        raise ValueError(f"weights must have the shape of labels, {labels.shape}, got {weights.shape}")
    if not isinstance(weights, jax.core.Tracer) and bool(np.any(np.asarray(weights) < 0)):
        raise ValueError("weights must not be negative")


def _check_gaussians(means_x: Any, covariances_x: Any, means_y: Any, covariances_y: Any) -> None:
    for side, means, covariances in (("x", means_x, covariances_x), ("y", means_y, covariances_y)):
        if means.ndim != 2 or covariances.shape != (*means.shape, *means.shape[1:]):
            raise ValueError(
                f"means_{side} must be (k d) and covariances_{side} (k d d), got {means.shape} and {covariances.shape}"
            )
        if not (jnp.issubdtype(means.dtype, jnp.floating) and jnp.issubdtype(covariances.dtype, jnp.floating)):
            raise ValueError(f"means_{side} and covariances_{side} must be floating point")
    if means_x.shape[1] != means_y.shape[1]:
        raise ValueError(f"both sides must have one dimension, got {means_x.shape[1]} and {means_y.shape[1]}")
