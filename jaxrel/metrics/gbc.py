r"""GBC: the overlap of the classes, each modelled as a Gaussian with independent features.

With mean m_c and variances v_c of class c, and `v = (v_a + v_b) / 2`,

    D(a, b) = sum_k (m_a - m_b)_k^2 / v_k / 8 + sum_k log(v_k / sqrt(v_ak v_bk)) / 2,
    GBC = -sum_{a != b} exp(-D(a, b)).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.kernels import class_means, kernel, safe_divide, unit_centred
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample, checked_positive_number

__all__ = ["gbc_score"]

_COVARIANCES = ("spherical", "diagonal")


@pads_samples
def gbc_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    covariance: str = "spherical",
    variance_floor: Float[ArrayLike, ""] = 1e-4,
    logarithm: bool = False,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Negative sum of the Bhattacharyya coefficients of all ordered class pairs, `-C (C - 1)` to 0; higher is better.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        covariance: "diagonal", or "spherical" for the mean variance in every direction.
        variance_floor: smallest variance of a feature within a class. A new value does not recompile.
        logarithm: return `-log(-GBC)`, which gives the same ranking. For wide features GBC is so close to 0 that it
            underflows in float32 and encoders tie.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score` that is invariant to shifts, and to rotations if spherical. It is invariant to the scale of the
        features unless a variance is at the floor, as for a class of one sample. A class without samples is left out.
        For one class GBC is 0 and its logarithm undefined.

    Raises:
        ValueError: for another covariance, a floor that is not positive, else see `checked_labelled_sample`.

    Source: Pándy, Agostinelli, Uijlings, Ferrari, Mensink, "Transferability estimation using Bhattacharyya class
    separability", CVPR 2022. The determinant of a spherical covariance `v I` is v^d; the authors' code, and so the
    published numbers, use v, which gives differences of spread little weight. Variances are divided by n_c, as in their
    code. The floor is at least the rounding of the largest centred feature, so the value is defined for features of any
    size.

    `O(n c d + c^2 d)` operations.
    """
    if covariance not in _COVARIANCES:
        raise ValueError(f"covariance must be one of {', '.join(_COVARIANCES)}, got {covariance!r}.")
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    floor = checked_positive_number("variance_floor", variance_floor, sample.features.dtype)
    return _gbc(sample, floor, jnp.asarray(covariance == "spherical"), jnp.asarray(logarithm))


@kernel
def _gbc(
    sample: LabelledSample, variance_floor: Float[Array, ""], spherical: Bool[Array, ""], logarithm: Bool[Array, ""]
) -> Score:
    features, size = unit_centred(sample)
    # In these units neither the squares of features nor the floor overflow; the value does not depend on the units.
    size = jax.lax.stop_gradient(size)
    unit = jnp.maximum(size, jnp.sqrt(variance_floor))
    features = features * (size / unit)
    rounding = jnp.asarray(jnp.finfo(features.dtype).eps, features.dtype) ** 2
    floor = jnp.maximum((jnp.sqrt(variance_floor) / unit) ** 2, rounding)
    means = class_means(sample, features)
    squares = (features - sample.memberships @ means) ** 2
    variances = safe_divide(sample.memberships.T @ (sample.weights[:, None] * squares), sample.class_sizes[:, None])
    variances = jnp.maximum(variances, floor)
    average = jnp.broadcast_to(jnp.mean(variances, axis=1, keepdims=True), variances.shape)
    variances = jnp.where(spherical, average, variances)

    def from_one_class(stats: tuple[Float[Array, " d"], Float[Array, " d"]]) -> Float[Array, " c"]:
        mean, variance = stats
        middle = (variance + variances) / 2
        shift = jnp.sum((mean - means) ** 2 / middle, axis=1) / 8
        # Take the logarithm of each ratio, because the product over many features would overflow.
        spread = jnp.sum(jnp.log(middle / variance) + jnp.log(middle / variances), axis=1) / 4
        return shift + spread

    distances: Any = jax.lax.map(from_one_class, (means, variances))
    present = sample.class_sizes > 0
    pairs = present & present[:, None] & ~jnp.eye(means.shape[0], dtype=bool)
    log_overlap = jax.nn.logsumexp(jnp.where(pairs, -distances, -jnp.inf))
    value = jnp.where(logarithm, -jnp.where(jnp.any(pairs), log_overlap, 0), -jnp.exp(log_overlap))
    return make_score(value, sample.status, undefined=logarithm & ~jnp.any(pairs))
