r"""Ground costs between reference logits u and target logits v, and between features.

For a loss `ell(v) = LSE(v) - LSE(v + log B_k)` and `delta = v_j - u_i`, each cost of prediction space is an upper
bound of `ell(v_j) - ell(u_i)`, and `margin <= range <= euclidean`. None changes when a constant is added to all the
logits of a point. Shapes: `(..., n, c)` against `(..., m, c)` gives `(..., n, m)`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["euclidean_cost", "feature_distance", "margin_between", "margin_cost", "range_cost", "squared_distance"]


def _differences(u: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b n m c"]:
    # Only ever reduced over its last axis, so the compiler fuses it and the array is not formed.
    return v[..., None, :, :] - u[..., :, None, :]


def margin_cost(
    u: Float[Array, "*b n c"], v: Float[Array, "*b m c"], log_label_map: Float[Array, "*b c"]
) -> Float[Array, "*b n m"]:
    r"""`max_c delta_c - <r, delta>` with `r = softmax(u_i + log B_k)`: directed, the tightest of the three.

    The loss is convex in LSE(v) and `-LSE(v + log B_k)` lies under its tangent at u, hence the bound.
    `log_label_map` is log B_k, the row of the target class; -inf stands for B_kc = 0.
    """
    return _margin(u, jax.nn.softmax(u + log_label_map[..., None, :], axis=-1), v)


def margin_between(x: Float[Array, "*b n 2*c"], y: Float[Array, "*b m 2*c"]) -> Float[Array, "*b n m"]:
    """`margin_cost` as a function of two point clouds alone: x holds (u, r), y holds v and c numbers more."""
    u, r = jnp.split(x, 2, axis=-1)
    v, _ = jnp.split(y, 2, axis=-1)
    return _margin(u, r, v)


def _margin(u: Float[Array, "*b n c"], r: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
    # Both parts see v - u only through differences from a common origin, which keeps the products small.
    origin = jnp.mean(u, axis=-1, keepdims=True)
    u = u - origin
    v = v - jnp.mean(v, axis=-1, keepdims=True)
    largest = jnp.max(_differences(u, v), axis=-1)
    mean_u = jnp.sum(r * u, axis=-1)
    mean_v = jnp.einsum("...nc,...mc->...nm", r, v, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(largest - (mean_v - mean_u[..., :, None]), 0)


def range_cost(u: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
    """`max_c delta_c - min_c delta_c`."""
    delta = _differences(u, v)
    return jnp.max(delta, axis=-1) - jnp.min(delta, axis=-1)


def euclidean_cost(u: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
    """`sqrt(2) * ||delta - mean(delta)||_2`."""
    u = u - jnp.mean(u, axis=-1, keepdims=True)
    v = v - jnp.mean(v, axis=-1, keepdims=True)
    return _safe_sqrt(2 * jnp.sum(_differences(u, v) ** 2, axis=-1))


def feature_distance(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """`||x_i - y_j||_2` for wide features.

    Expanded norm of centred points, clamped at 0: one matrix product instead of n * m * d differences. Its error is
    about sqrt(eps) times the radius of the cloud, and only for points nearer to each other than that.
    """
    return _safe_sqrt(squared_distance(x, y))


def squared_distance(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """`||x_i - y_j||_2^2` by the expanded norm of centred points, clamped at 0."""
    centre = jnp.mean(y, axis=-2, keepdims=True)
    x, y = x - centre, y - centre
    inner = jnp.einsum("...nd,...md->...nm", x, y, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.sum(x**2, axis=-1)[..., :, None] + jnp.sum(y**2, axis=-1)[..., None, :] - 2 * inner
    return jnp.maximum(squared, 0)


def _safe_sqrt(squared: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Square root whose derivative at 0 is 0; NaN stays NaN."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0 * squared)
