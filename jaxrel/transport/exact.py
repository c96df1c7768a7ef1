"""Exact optimal transport where it needs no linear program: on a line, and between points of equal weight."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel.transport.result import TransportStatus

__all__ = ["AssignmentResult", "assignment", "wasserstein_1d"]


def wasserstein_1d(
    x: Float[Array, "*b n"],
    y: Float[Array, "*b m"],
    a: Float[Array, "*b n"] | None = None,
    b: Float[Array, "*b m"] | None = None,
    *,
    p: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, "*b"]:
    """`W_p^p = min sum P_ij |x_i - y_j|^p` of weighted points on a line: the coupling of their quantiles.

    Args:
        x, y: points in any order; leading axes are batches and broadcast.
        a, b: weights, not negative, normalised here; a weight of 0 means no point, whatever its position (NaN
            included). They broadcast against the points; None weighs all points of a side equally.
        p: at least 1, may be traced. The p-th root is not taken.

    Raises:
        ValueError: for points that are not floating point, shapes that do not match, an empty side, concrete weights
            that are negative, or a concrete p below 1.

    Differentiable in points, weights and p; ties have the derivative of one of the optimal couplings, which at
    x_i = y_j is 0. The value is 0 where a side has no mass. Time is (n + m) log(n + m).
    (Peyre and Cuturi, Computational Optimal Transport, section 2.6.)
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    _check_points(x, y, a, b, p)
    dtype = jnp.result_type(x, y)
    x, share_x = _sorted_points(x.astype(dtype), a)
    y, share_y = _sorted_points(y.astype(dtype), b)
    batch = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    x, share_x = (jnp.broadcast_to(z, (*batch, z.shape[-1])) for z in (x, share_x))
    y, share_y = (jnp.broadcast_to(z, (*batch, z.shape[-1])) for z in (y, share_y))
    n, m = x.shape[-1], y.shape[-1]

    # Between two neighbouring levels of either distribution function both quantiles are constant.
    levels = jnp.concatenate([share_x, share_y], axis=-1)
    order = jnp.argsort(levels, axis=-1, stable=True)
    levels = jnp.take_along_axis(levels, order, axis=-1)
    width = jnp.diff(levels, axis=-1, prepend=jnp.zeros_like(levels[..., :1]))
    from_x = (order < n).astype(jnp.int32)
    before_x = jnp.cumsum(from_x, axis=-1) - from_x
    before_y = jnp.cumsum(1 - from_x, axis=-1) - (1 - from_x)
    quantile_x = jnp.take_along_axis(x, jnp.minimum(before_x, n - 1), axis=-1)
    quantile_y = jnp.take_along_axis(y, jnp.minimum(before_y, m - 1), axis=-1)
    distance = jnp.abs(quantile_x - quantile_y)
    apart = distance > 0  # at 0 the derivative of the absolute value is a choice: 0 is the one without a side
    value = jnp.sum(width * jnp.where(apart, jnp.where(apart, distance, 1) ** p, 0), axis=-1)
    return jnp.where((share_x[..., -1] > 0) & (share_y[..., -1] > 0), value, 0)


def _sorted_points(
    points: Float[Array, "*b n"], weights: Float[Array, "*b n"] | None
) -> tuple[Float[Array, "*b n"], Float[Array, "*b n"]]:
    """Points in ascending order and the share of mass up to each; points without weight are moved to 0."""
    weights = jnp.ones(points.shape[-1], points.dtype) if weights is None else jnp.asarray(weights, points.dtype)
    points, weights = jnp.broadcast_arrays(points, weights)
    points = jnp.where(weights > 0, points, 0)
    order = jnp.argsort(points, axis=-1)
    points, weights = (jnp.take_along_axis(z, order, axis=-1) for z in (points, weights))
    # Scaled first: the sum of huge weights may overflow. Both sides end at exactly 1.
    largest = jax.lax.stop_gradient(jnp.max(weights, axis=-1, keepdims=True))
    share = jnp.cumsum(weights / jnp.where(largest > 0, largest, 1), axis=-1)
    return points, share / jnp.where(largest > 0, share[..., -1:], 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AssignmentResult:
    """An optimal assignment between rows and columns.

    Attributes:
        value: mean cost of the matched pairs; NaN or infinite where the status says why.
        columns: column of each row, -1 for a row without one.
        rows: row of each column, -1 for a column without one.
        status: `TransportStatus` bits: INFEASIBLE where some pair had to be one of infinite cost, NOT_FINITE where the
            cost has a NaN or -inf.
    """

    value: Float[Array, "*b"]
    columns: Int[Array, "*b n"]
    rows: Int[Array, "*b m"]
    status: Int[Array, "*b"]


def assignment(cost: Float[Array, "*b n m"]) -> AssignmentResult:
    """The matching of min(n, m) rows with as many columns, each used at most once, of the least mean cost.

    For n = m it is the exact optimal transport between n points and n points of equal weight: a vertex of the
    transport polytope is a permutation (Birkhoff), and `value = min <P, C>` over plans with marginals 1 / n.

    Args:
        cost: floating point; leading axes are batches; +inf forbids a pair.

    Raises:
        ValueError: for a cost that is not floating point, has fewer than two axes or an axis of length 0.

    The derivative of the value is the matching over min(n, m) (envelope rule). Costs are scaled to [0, 1] for the
    solver, the Hungarian algorithm of optax, whose own rounding leaves the value within about min(n, m) eps times the
    range of the cost of the optimum; with forbidden pairs, that times min(n, m). Time is cubic: meant for up to a
    few hundred points. A batch takes as long as its slowest problem.
    """
    from optax.assignment import hungarian_algorithm

    cost = jnp.asarray(cost)
    if cost.ndim < 2 or 0 in cost.shape or not jnp.issubdtype(cost.dtype, jnp.floating):
        raise ValueError(f"cost must be floating point (*b n m), not empty, got {cost.dtype} {cost.shape}")
    n, m = cost.shape[-2:]
    fixed = jax.lax.stop_gradient(cost)
    invalid = jnp.any(jnp.isnan(fixed) | (fixed == -jnp.inf), axis=(-1, -2))
    finite = jnp.isfinite(fixed)
    # One forbidden pair costs more than any matching without: their number is made as small as it can be.
    scaled = jnp.where(finite, _to_unit_interval(jnp.where(finite, fixed, 0), finite), min(n, m) + 1)
    pairs = jax.vmap(hungarian_algorithm)(scaled.reshape(-1, n, m))
    row, column = (index.reshape(*cost.shape[:-2], -1) for index in pairs)

    columns = jnp.put_along_axis(jnp.full(fixed.shape[:-1], -1), row, column, axis=-1, inplace=False)
    rows = jnp.put_along_axis(jnp.full((*fixed.shape[:-2], m), -1), column, row, axis=-1, inplace=False)
    matched = jnp.take_along_axis(cost.reshape(*cost.shape[:-2], n * m), row * m + column, axis=-1)
    value = jnp.mean(matched, axis=-1)
    infeasible = ~invalid & jnp.any(matched == jnp.inf, axis=-1)
    status = TransportStatus.NOT_FINITE * invalid + TransportStatus.INFEASIBLE * infeasible
    return AssignmentResult(jnp.where(invalid, jnp.nan, value), columns, rows, status.astype(jnp.int32))


def _to_unit_interval(cost: Float[Array, "*b n m"], counted: Float[Array, "*b n m"]) -> Float[Array, "*b n m"]:
    largest = jnp.max(jnp.abs(cost), axis=(-1, -2), keepdims=True)
    cost = cost / jnp.where(largest > 0, largest, 1)
    smallest = jnp.min(jnp.where(counted, cost, jnp.inf), axis=(-1, -2), keepdims=True)
    span = jnp.max(jnp.where(counted, cost, -jnp.inf), axis=(-1, -2), keepdims=True) - smallest
    return (cost - smallest) / jnp.where(span > 0, span, 1)


def _check_points(
    x: Float[Array, "*b n"],
    y: Float[Array, "*b m"],
    a: Float[Array, "*b n"] | None,
    b: Float[Array, "*b m"] | None,
    p: Float[ArrayLike, ""],
) -> None:
    for name, points, weights in (("x", x, a), ("y", y, b)):
        if points.ndim < 1 or points.shape[-1] == 0 or not jnp.issubdtype(points.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point (*b n), not empty, got {points.dtype} {points.shape}")
        if weights is None:
            continue
        if jnp.shape(weights)[-1:] != points.shape[-1:]:
            raise ValueError(f"weights of {name} must end in {points.shape[-1:]}, got {jnp.shape(weights)}")
        if not isinstance(weights, jax.core.Tracer) and bool(np.any(np.asarray(weights) < 0)):
            raise ValueError(f"weights of {name} must not be negative")
    if jnp.shape(p):
        raise ValueError(f"p must be one number, got shape {jnp.shape(p)}")
    if not isinstance(p, jax.core.Tracer) and not bool(np.asarray(p) >= 1):
        raise ValueError(f"p must be at least 1, got {p}")
