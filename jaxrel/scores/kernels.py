"""What the kernels of the metrics share: compilation, scale, centring, one decomposition for all classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrel.scores.validation import LabelledSample, Sample

__all__ = ["centred", "class_coefficients", "entropy", "kernel", "left_singular", "safe_divide", "unit_scale"]


def kernel(function: Callable[..., Any], *, static: tuple[str, ...] = ()) -> Any:
    """Compile a pure function of arrays, with matrix products in the full precision of the dtype."""

    @functools.wraps(function)
    def precise(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **options)

    return jax.jit(precise, static_argnames=static)


def safe_divide(numerator: Float[Array, "*b"], denominator: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The quotient, 0 where the denominator is."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def unit_scale(features: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Features divided by their largest absolute value, so that squares neither overflow nor vanish."""
    return safe_divide(features, jnp.max(jnp.abs(features)))


def centred(features: Float[Array, "n d"], weights: Float[Array, " n"]) -> Float[Array, "n d"]:
    """Features minus their weighted mean, 0 where the weight is; the second pass removes the rounding of the first."""
    for _ in range(2):
        features = features - weights @ features / jnp.sum(weights)
    return jnp.where(weights[:, None] > 0, features, 0)


def left_singular(
    sample: Sample, features: Float[Array, "n d"]
) -> tuple[Float[Array, "n r"], Float[Array, " r"], Bool[Array, " r"]]:
    """Left singular vectors and values of `diag(sqrt(weights)) features`, and which values are not rounding.

    A singular value decomposition, not the eigenvectors of a Gram matrix: squared, a value of 1e-4 of the largest
    would drown in the rounding of float32. `r = min(n, d)`; `O(n d r)` operations. Values below `max(n, d)` roundings
    of the largest, and their vectors, are returned as 0.
    """
    rows = jnp.sqrt(sample.weights)[:, None] * features
    vectors, values, _ = jnp.linalg.svd(rows, full_matrices=False)
    resolved = values > sample.rounding * values[0]
    return vectors * resolved, values * resolved, resolved


def class_coefficients(sample: LabelledSample, vectors: Float[Array, "n r"]) -> Float[Array, "r c"]:
    """Coordinates of the weighted class indicators, `vectors^T diag(sqrt(weights)) memberships`."""
    return vectors.T @ (jnp.sqrt(sample.weights)[:, None] * sample.memberships)


def entropy(probabilities: Float[Array, "*b c"]) -> Float[Array, "*b"]:
    """`-sum p log p` in nats, `0 log 0 = 0`."""
    positive = probabilities > 0
    return -jnp.sum(jnp.where(positive, probabilities * jnp.log(jnp.where(positive, probabilities, 1)), 0), axis=-1)
