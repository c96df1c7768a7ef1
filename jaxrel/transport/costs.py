r"""Ground costs between reference logits u and target logits v, and between features.

For a loss `ell(v) = LSE(v) - LSE(v + log B_k)` and `delta = v_j - u_i`, each cost of prediction space is an upper
bound of `ell(v_j) - ell(u_i)`, and `margin <= range <= euclidean`. None changes when a constant is added to all the
logits of a point. Shapes: `(..., n, c)` against `(..., m, c)` gives `(..., n, m)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrel.transport.certificates import exact_scale

__all__ = [
    "CostFunction",
    "euclidean_cost",
    "feature_distance",
    "feature_distance_error",
    "margin_between",
    "margin_cost",
    "margin_points",
    "range_cost",
    "squared_distance",
    "squared_distance_error",
]

CostFunction = Callable[[Any, Any], Any]


def _differences(u: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b n m c"]:
    # It is only reduced over its last axis, so the compiler fuses it and never forms the array.
    return jnp.asarray(v[..., None, :, :] - u[..., :, None, :])


def _differences_by_class(u: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b c n m"]:
    # With the reduction over an outer axis, loops vectorise along the points: derivatives take a fifth of the time.
    return jnp.asarray(v.mT[..., :, None, :] - u.mT[..., :, :, None])


@jax.custom_jvp
def _largest_difference(u: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
    return jnp.max(_differences_by_class(u, v), axis=-3)


@_largest_difference.defjvp
def _largest_difference_jvp(
    primals: tuple[Float[Array, "*b n c"], Float[Array, "*b m c"]],
    tangents: tuple[Float[Array, "*b n c"], Float[Array, "*b m c"]],
) -> tuple[Float[Array, "*b n m"], Float[Array, "*b n m"]]:
    """The mean derivative of the differences that are largest up to rounding.

    An exact comparison, as in `jnp.max`, may find none (0 / 0), because the compiler may compute a difference twice and
    round it differently.
    """
    u, v = primals
    largest = _largest_difference(u, v)
    size = jnp.max(jnp.abs(u), axis=-1)[..., :, None] + jnp.max(jnp.abs(v), axis=-1)[..., None, :]
    least = largest - 4 * float(jnp.finfo(u.dtype).eps) * size
    attained = _differences_by_class(u, v) >= least[..., None, :, :]
    moved = jnp.sum(jnp.where(attained, _differences_by_class(*tangents), 0), axis=-3)
    return largest, moved / jnp.maximum(jnp.sum(attained, axis=-3), 1)


def margin_cost(
    u: Float[Array, "*b n c"], v: Float[Array, "*b m c"], log_label_map: Float[Array, "*b c"]
) -> Float[Array, "*b n m"]:
    r"""`max_c delta_c - <r, delta>` with `r = softmax(u_i + log B_k)`: directed, the tightest of the three.

    It is a bound because the loss is convex in LSE(v) and `-LSE(v + log B_k)` lies under its tangent at u.
    `log_label_map` is log B_k, the row of the target class, with -inf where B_kc = 0.
    """
    return margin_between(*margin_points(u, v, log_label_map))


def margin_points(
    u: Float[Array, "*b n c"], v: Float[Array, "*b m c"], log_label_map: Float[Array, "*b c"]
) -> tuple[Float[Array, "*b n 2*c"], Float[Array, "*b m 2*c"]]:
    """The points of `margin_between`: (u, r), and v padded to the same width."""
    u = u - jnp.mean(u, axis=-1, keepdims=True)
    r = jax.nn.softmax(u + log_label_map[..., None, :], axis=-1)
    return jnp.concatenate([u, r], axis=-1), jnp.concatenate([v, v], axis=-1)


def margin_between(x: Float[Array, "*b n s"], y: Float[Array, "*b m s"]) -> Float[Array, "*b n m"]:
    """`margin_cost` as a function of two point clouds alone."""
    u, r = jnp.split(x, 2, axis=-1)
    v, _ = jnp.split(y, 2, axis=-1)
    # Both parts depend on v - u only through differences from a common origin, which keeps the products small.
    origin = jnp.mean(u, axis=-1, keepdims=True)
    u = u - origin
    v = v - jnp.mean(v, axis=-1, keepdims=True)
    largest = _largest_difference(u, v)
    mean_u = jnp.sum(r * u, axis=-1)
    mean_v = jnp.einsum("...nc,...mc->...nm", r, v, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(largest - (mean_v - mean_u[..., :, None]), 0)


def range_cost(u: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
    """`max_c delta_c - min_c delta_c`."""
    return _largest_difference(u, v) + _largest_difference(-u, -v)


def euclidean_cost(u: Float[Array, "*b n c"], v: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
    """`sqrt(2) * ||delta - mean(delta)||_2`."""
    u = u - jnp.mean(u, axis=-1, keepdims=True)
    v = v - jnp.mean(v, axis=-1, keepdims=True)
    return _safe_sqrt(2 * jnp.sum(_differences(u, v) ** 2, axis=-1))


def feature_distance(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """`||x_i - y_j||_2` for wide features of any scale.

    It is the expanded norm of centred points, clamped at 0: one matrix product instead of n * m * d differences. Its
    error is about sqrt(eps) times the radius of the cloud, and only for points nearer to each other than that.
    """
    x, y, unit = _of_unit_size(*_about_centre(x, y))
    return _safe_sqrt(_expanded(x, y)) * unit


def squared_distance(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """`||x_i - y_j||_2^2` by the expanded norm of centred points, clamped at 0."""
    return _expanded(*_about_centre(x, y))


def feature_distance_error(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """Bound on the error of `feature_distance`: `|sqrt s - sqrt t| <= min(sqrt |s - t|, |s - t| / sqrt s)`."""
    x, y, unit = _of_unit_size(*_about_centre(x, y))
    error, distance = _expansion_error(x, y), _safe_sqrt(_expanded(x, y))
    root = jnp.sqrt(error)
    # Where the distance is below sqrt(error), so is the quotient by it.
    return (error / jnp.maximum(distance, root) + 4 * jnp.finfo(x.dtype).eps * distance) * unit


def squared_distance_error(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """Bound on the error of `squared_distance`, if it does not overflow."""
    return _expansion_error(*_about_centre(x, y))


def _about_centre(
    x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]
) -> tuple[Float[Array, "*b n d"], Float[Array, "*b m d"]]:
    # Any centre is valid, so it has no derivative. It must be bitwise the same for both clouds, or one is shifted
    # against the other. A mean may differ, as the compiler may compute it again for each cloud. The median of nine
    # points does not, as none of its coordinates is rounded.
    nine = jax.lax.stop_gradient(y[..., [i * (y.shape[-2] - 1) // 8 for i in range(9)], :])
    thirds = _median_of_three(*(nine[..., i : i + 3, :] for i in (0, 3, 6)))
    centre = _median_of_three(*(thirds[..., i : i + 1, :] for i in range(3)))
    return x - centre, y - centre


def _median_of_three(
    first: Float[Array, "*b k d"], second: Float[Array, "*b k d"], third: Float[Array, "*b k d"]
) -> Float[Array, "*b k d"]:
    """The median of three points in each coordinate."""
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    return jnp.maximum(low, jnp.minimum(high, third))


def _of_unit_size(
    x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]
) -> tuple[Float[Array, "*b n d"], Float[Array, "*b m d"], Float[Array, "*b 1 1"]]:
    """Points divided by a power of two, so that squares neither overflow nor vanish."""
    largest = jnp.maximum(*(jnp.max(jnp.abs(points), axis=(-1, -2), keepdims=True) for points in (x, y)))
    unit = exact_scale(jax.lax.stop_gradient(largest))
    return x / unit, y / unit, unit


def _expanded(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    inner = jnp.einsum("...nd,...md->...nm", x, y, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.sum(x**2, axis=-1)[..., :, None] + jnp.sum(y**2, axis=-1)[..., None, :] - 2 * inner
    return jnp.maximum(squared, 0)


def _expansion_error(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    r"""`(d + 8) u (||x|| + ||y||)^2` with `u = eps / 2`: d u from the three sums, the rest from adding them.

    Centring rounds coordinates, which moves `x - y` by `u (||x|| + ||y||)` and the square of its norm by twice that
    times the norm. Values below the smallest number of the dtype are lost.
    """
    norms = jnp.sqrt(jnp.sum(x**2, axis=-1))[..., :, None] + jnp.sqrt(jnp.sum(y**2, axis=-1))[..., None, :]
    limits = jnp.finfo(x.dtype)
    return (x.shape[-1] + 8) * float(limits.eps) / 2 * norms**2 + (x.shape[-1] + 8) * float(limits.tiny)


def _safe_sqrt(squared: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Square root whose derivative at 0 is 0; NaN stays NaN."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0 * squared)
