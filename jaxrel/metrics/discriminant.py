r"""Linear discriminant analysis, shrunk towards a multiple of the identity: the classifier of SFDA and ETran.

With the covariance S of the features within classes, class means m_c and class shares pi_c,

    log p(c | x) = x^T A m_c - m_c^T A m_c / 2 + log pi_c + constant,   A = ((1 - lambda) S + lambda tr(S) / d I)^{-1}.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrel.metrics.decomposition import right_singular, rounding
from jaxrel.metrics.kernels import class_means, safe_divide
from jaxrel.metrics.validation import LabelledSample

__all__ = ["apart_beyond_rounding", "log_posteriors", "log_probabilities_from_white", "mean_own_probability"]

_LEAST_SHRINKAGE = 1e-10


def log_posteriors(
    sample: LabelledSample,
    features: Float[Array, "n d"],
    size: Float[Array, ""],
    shrinkage: Float[Array, ""] | None,
) -> tuple[Float[Array, "n c"], Float[Array, ""]]:
    """`log p(c | x)` of the samples it is fitted to, -inf for a class without samples, and the shrinkage lambda.

    Args:
        sample: weights and classes.
        features: approximately centred, and of size at most about 1.
        size: factor that restores the scale of the features.
        shrinkage: lambda; None for `exp(-5 * largest eigenvalue of S)`, at least 1e-10.
    """
    means = class_means(sample, features)
    within = jnp.where(sample.weights[:, None] > 0, features - sample.memberships @ means, 0)
    rows = jnp.sqrt(safe_divide(sample.weights, sample.total))[:, None] * within
    values, axes = right_singular(rows)
    if shrinkage is None:
        shrinkage = jnp.maximum(jnp.exp(-5 * (values[0] * size) ** 2), _LEAST_SHRINKAGE)
    # In exact arithmetic this is positive unless each class is one point. The limit is then a nearest-mean classifier
    # that separates classes that differ by more than rounding.
    negligible = rounding(features.dtype)
    ridge = jnp.maximum(shrinkage * jnp.sum(values**2) / features.shape[1], negligible**2)
    variances = (1 - shrinkage) * values**2 + ridge
    axes = jnp.where((values > negligible * values[0])[:, None], axes, 0)
    white = axes.T / jnp.sqrt(variances)
    outside = _apart_outside(means, axes, jnp.max(jnp.linalg.norm(features, axis=1)))
    return log_probabilities_from_white(sample, within @ white, means @ white, outside**2 / ridge), shrinkage


def log_probabilities_from_white(
    sample: LabelledSample, within: Float[Array, "n r"], centres: Float[Array, "c r"], apart: Float[Array, "c c"]
) -> Float[Array, "n c"]:
    """`log p(c | x)` in coordinates whitened within classes, for samples minus the means of their classes.

    `apart` has the squared distances of the means in further directions. Samples and means are not centred about the
    overall mean, which would cancel if two means nearly agree in a direction in which classes hardly vary.
    """
    squared: Any = jax.lax.map(lambda centre: jnp.sum((centres - centre) ** 2, axis=1), centres)
    logits = within @ centres.T - sample.memberships @ (squared + apart) / 2
    return jax.nn.log_softmax(logits + log_shares(sample))


def _apart_outside(
    means: Float[Array, "c d"], axes: Float[Array, "r d"], reach: Float[Array, ""]
) -> Float[Array, "c c"]:
    """Distances of the class means outside of the directions in which classes vary, where samples equal their mean."""
    outside = means
    for _ in range(2):  # The second pass removes the rounding of the first.
        outside = outside - (outside @ axes.T) @ axes
    return apart_beyond_rounding(outside, reach)


def apart_beyond_rounding(points: Float[Array, "c d"], reach: Float[Array, ""]) -> Float[Array, "c c"]:
    """Distances of all pairs, or 0 if they are only rounding of numbers as large as `reach`.

    With a ridge of 1e-10 even the rounding of inner products would separate two classes that share a sample. Only
    differences of means have small enough errors.
    """
    apart: Any = jax.lax.map(lambda point: jnp.linalg.norm(points - point, axis=1), points)
    return jnp.where(apart > rounding(points.dtype) * reach, apart, 0)


def log_shares(sample: LabelledSample) -> Float[Array, " c"]:
    """Logarithms of the shares of the classes, -inf for one without samples."""
    shares = safe_divide(sample.class_sizes, sample.total)
    return jnp.where(shares > 0, jnp.log(jnp.where(shares > 0, shares, 1)), -jnp.inf)


def mean_own_probability(sample: LabelledSample, log_probabilities: Float[Array, "n c"]) -> Float[Array, ""]:
    """Mean probability of the correct class over samples."""
    own = jnp.sum(jnp.where(sample.memberships > 0, jnp.exp(log_probabilities), 0), axis=1)
    return safe_divide(sample.weights @ own, sample.total)
