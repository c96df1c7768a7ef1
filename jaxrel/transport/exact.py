"""Exact optimal transport between points of equal weight, by assignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.arrays import jax_array
from jaxrel._core.status import HasStatus
from jaxrel.transport.result import TransportStatus

__all__ = ["AssignmentResult", "assignment"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AssignmentResult(HasStatus):
    """An optimal assignment between rows and columns.

    Attributes:
        value: mean cost of the matched pairs; NaN or infinite if the status is not 0.
        columns: column of each row, -1 for an unmatched row.
        rows: row of each column, -1 for an unmatched column.
        status: `TransportStatus` bits: INFEASIBLE if every matching uses a pair of infinite cost, NOT_FINITE if the
            cost has a NaN or -inf.
    """

    value: Float[Array, "*b"]
    columns: Int[Array, "*b n"]
    rows: Int[Array, "*b m"]
    status: Int[Array, "*b"]

    statuses: ClassVar = TransportStatus


def assignment(cost: Float[ArrayLike, "*b n m"]) -> AssignmentResult:
    """Match min(n, m) rows to distinct columns at the least mean cost.

    For n = m it is the exact optimal transport between n points and n points of equal weight: the vertices of the
    transport polytope are permutations (Birkhoff), and `value = min <P, C>` over plans with marginals 1 / n.

    Args:
        cost: floating-point costs. Leading axes are batch axes; +inf forbids a pair.

    Raises:
        ValueError: for a cost that is not floating point, has fewer than two axes or an axis of length 0.

    The derivative of the value is the matching divided by min(n, m) (envelope rule). The solver is the Hungarian
    algorithm of optax, on costs scaled to [0, 1]. Rounding leaves the value within about min(n, m) eps times the range
    of the cost from the optimum, and min(n, m) times that with forbidden pairs. Time is cubic: use it for up to a few
    hundred points. A batch takes as long as its slowest problem.

    Examples:
        >>> import jax.numpy as jnp
        >>> matching = assignment(jnp.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]]))
        >>> print(matching.columns, f"{matching.value:.3f}")
        [1 0 2] 1.667
    """
    from optax.assignment import hungarian_algorithm

    cost = jax_array("cost", cost)
    if cost.ndim < 2 or 0 in cost.shape or not jnp.issubdtype(cost.dtype, jnp.floating):
        raise ValueError(f"cost must be floating point (*b n m), not empty, got {cost.dtype} {cost.shape}")
    n, m = cost.shape[-2:]
    fixed = jax.lax.stop_gradient(cost)
    invalid = jnp.any(jnp.isnan(fixed) | (fixed == -jnp.inf), axis=(-1, -2))
    finite = jnp.isfinite(fixed)
    # A forbidden pair costs more than any matching without one, so their number is minimised first.
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


def _to_unit_interval(cost: Float[Array, "*b n m"], counted: Bool[Array, "*b n m"]) -> Float[Array, "*b n m"]:
    largest = jnp.max(jnp.abs(cost), axis=(-1, -2), keepdims=True)
    cost = cost / jnp.where(largest > 0, largest, 1)
    smallest = jnp.min(jnp.where(counted, cost, jnp.inf), axis=(-1, -2), keepdims=True)
    span = jnp.max(jnp.where(counted, cost, -jnp.inf), axis=(-1, -2), keepdims=True) - smallest
    return (cost - smallest) / jnp.where(span > 0, span, 1)
