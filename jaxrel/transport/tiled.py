"""Sinkhorn passes and certificates that form the cost one tile at a time, in memory n + m + tile^2."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrel.transport.certificates import (
    UPPER_FACTOR,
    Certificate,
    dual_value,
    exact_scale,
    finite_or_zero,
    highest_at_zero,
    missing_share,
    rounding_allowance,
    shallow_sum,
    shallow_times,
    shallow_transposed_times,
    shrink,
    sum_depth,
)
from jaxrel.transport.log_domain import log_weights
from jaxrel.transport.operators import ScaledProblem, forbidden_cost
from jaxrel.transport.point_clouds import CostFunction

__all__ = ["Arrays", "TiledOperator", "filled_up", "reduce_tiles", "scaled_cloud"]

Arrays = tuple[Float[Array, "*_"], ...]
TilePlan = tuple[Float[Array, "*b n"], Float[Array, "*b m"], Float[Array, "*b 1"]]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("x", "y", "a", "b", "scale"),
    meta_fields=("cost_function", "cost_error", "forbidden_cost", "tile"),
)
@dataclass(frozen=True)
class TiledOperator:
    """A batch of transport problems between point clouds; the methods are those of `operators.Operator`.

    Attributes:
        x: (*b, n, d); y: (*b, m, d), with n and m multiples of the tile. Points of weight 0 need finite costs.
        a, b: weights of sum 1 (or 0: no mass), 0 at masked points.
        scale: (*b), costs are divided by it.
        cost_function: points (*b, k, d), (*b, l, d) to costs (*b, k, l).
        cost_error: the same points to bounds on the error of the costs; None if costs are treated as exact.
        forbidden_cost: replaces an infinite cost after the division.
        tile: side of a tile.
    """

    x: Float[Array, "*b n d"]
    y: Float[Array, "*b m d"]
    a: Float[Array, "*b n"]
    b: Float[Array, "*b m"]
    scale: Float[Array, "*b"]
    cost_function: CostFunction
    cost_error: CostFunction | None
    forbidden_cost: float
    tile: int

    def costs(self, x: Float[Array, "*b k d"], y: Float[Array, "*b l d"]) -> Float[Array, "*b k l"]:
        """Costs between any points, in the units of the operator."""
        cost = self.cost_function(x, y) / self.scale[..., None, None]
        cost = jnp.where(jnp.isposinf(cost), self.forbidden_cost, cost)
        # A certificate needs the same plan in each pass, but costs fused into different consumers may differ.
        return jax.lax.optimization_barrier(cost)

    def costs_and_errors(
        self, x: Float[Array, "*b k d"], y: Float[Array, "*b l d"]
    ) -> tuple[Float[Array, "*b k l"], Float[Array, "*b k l"]]:
        """Costs, and bounds on their error."""
        cost = self.costs(x, y)
        if self.cost_error is None:
            return cost, jnp.zeros_like(cost)
        return cost, self.cost_error(x, y) / self.scale[..., None, None]

    def soft_min_rows(self, g: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b n"]:
        """`f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps)`."""
        return jnp.where(self.a > 0, self._soft_min(g, self.b, epsilon, axis=-1), -jnp.inf)

    def soft_min_columns(self, f: Float[Array, "*b n"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b m"]:
        """`g_j = -eps log sum_i a_i exp((f_i - C_ij) / eps)`."""
        return jnp.where(self.b > 0, self._soft_min(f, self.a, epsilon, axis=-2), -jnp.inf)

    def plan(self, f: Float[Array, "*b n"], g: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> TilePlan:
        """`(row, column, eps)` with `log P_ij = row_i + column_j - C_ij / eps`."""
        eps = epsilon[..., None]
        return f / eps + log_weights(self.a), g / eps + log_weights(self.b), eps

    def certificate(self, plan: TilePlan, g: Float[Array, "*b m"]) -> Certificate:
        """The certified interval of a plan and of the potential g, in three passes: see `certificates.certify`.

        Sums run over the tile first and then over tiles, which keeps them shallow and the rounding allowance small.
        """
        row, column, eps = plan
        sizes = (self.a.shape[-1], self.b.shape[-1])
        depth = sum(max(sum_depth(k), sum_depth(min(k, self.tile)) - (-k // self.tile)) for k in sizes)
        allowance = rounding_allowance(depth, self.a.dtype)

        def mass(cost: Array, row: Array, column: Array) -> Array:
            return jnp.exp(row + column - cost / eps[..., None])

        # Rows: c-transform of g, row sums of the plan.
        f, row_sums = self._reduce(
            lambda costs, out, along: (
                jnp.min(costs[0] - costs[1] - along[1], -1),
                shallow_times(mass(costs[0], out[0], along[0]), jnp.ones_like(along[0][..., 0, :])),
            ),
            (jnp.minimum, jnp.add),
            (row,),
            (column, highest_at_zero(g)),
            axis=-1,
            costs=self.costs_and_errors,
        )
        f = jnp.where(self.a > 0, finite_or_zero(f), -jnp.inf)
        row_factor = shrink(self.a, row_sums)

        # Columns: c-transform of f, column sums of the plan whose rows were scaled down.
        g, column_sums = self._reduce(
            lambda costs, out, along: (
                jnp.min(costs[0] - costs[1] - along[1], -2),
                shallow_transposed_times(mass(costs[0], along[0], out[0]), along[2][..., 0]),
            ),
            (jnp.minimum, jnp.add),
            (column,),
            (row, f, row_factor),
            axis=-2,
            costs=self.costs_and_errors,
        )
        g = jnp.where(self.b > 0, finite_or_zero(g), -jnp.inf)
        column_factor = shrink(self.b, column_sums)
        missing_b = jnp.maximum(self.b - column_sums * column_factor, 0)

        # Rows: their remaining mass, its cost, and the costs at which missing mass arrives.
        def price(costs: Arrays, out: Arrays, along: Arrays) -> Arrays:
            cost, error = costs
            plan, factor, missing = mass(cost, out[0], along[0]), along[1][..., 0, :], along[2][..., 0, :]
            forbidden = (cost > 1).astype(cost.dtype)
            return (
                shallow_times(plan, factor),
                shallow_times(plan * cost, factor),
                shallow_times(cost, missing),
                shallow_times(plan * error, factor),
                shallow_times(error, missing),
                jnp.max(jnp.where(along[3] > 0, jnp.abs(cost) + error, 0), -1),
                shallow_times(plan * forbidden, factor),
                shallow_times(forbidden, missing),
            )

        kept, kept_cost, missing_cost, kept_error, missing_error, largest, forbidden, missing_forbidden = self._reduce(
            price,
            (*(jnp.add,) * 5, jnp.maximum, jnp.add, jnp.add),
            (row,),
            (column, column_factor, missing_b, self.b),
            axis=-1,
            costs=self.costs_and_errors,
        )
        share, _ = missing_share(jnp.maximum(self.a - row_factor * kept, 0), missing_b, allowance)
        lower, size = dual_value(self.a, self.b, f, g)
        largest = jnp.max(jnp.where(self.a > 0, largest, 0), axis=-1)
        spent, cost_error, forbidden_mass = (
            shallow_sum(row_factor * kept + share * missing)
            for kept, missing in (
                (kept_cost, missing_cost),
                (kept_error, missing_error),
                (forbidden, missing_forbidden),
            )
        )
        return Certificate(
            lower=lower - allowance * (largest + size),
            upper=spent + cost_error + allowance * UPPER_FACTOR * largest,
            forbidden_mass=forbidden_mass,
            cost_error=cost_error,
        )

    def _soft_min(
        self, potential: Float[Array, "*b k"], weights: Float[Array, "*b k"], epsilon: Float[Array, "*b"], axis: int
    ) -> Float[Array, "*b l"]:
        eps = epsilon[..., None]

        def log_sum(cost: Array, _: Arrays, along: Arrays) -> Arrays:
            exponent = along[0] - cost / eps[..., None]
            largest = finite_or_zero(jnp.max(exponent, axis))
            return (largest + jnp.log(jnp.sum(jnp.exp(exponent - jnp.expand_dims(largest, axis)), axis)),)

        (logs,) = self._reduce(log_sum, (jnp.logaddexp,), (), (potential / eps + log_weights(weights),), axis=axis)
        return -eps * finite_or_zero(logs)

    def _reduce(
        self,
        body: Callable[[Any, Arrays, Arrays], Arrays],
        combine: tuple[Callable[[Array, Array], Array], ...],
        out: Arrays,
        along: Arrays,
        *,
        axis: int,
        costs: Callable[[Array, Array], Any] | None = None,
    ) -> Arrays:
        return reduce_tiles(costs or self.costs, self.x, self.y, body, combine, out, along, axis=axis, tile=self.tile)


def scaled_cloud(
    cost_function: CostFunction,
    cost_error: CostFunction | None,
    x: Float[Array, "*b n d"],
    y: Float[Array, "*b m d"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    *,
    tile: int,
) -> ScaledProblem:
    """Point clouds in the units of their operator, padded by points of weight 0 to multiples of the tile."""
    size = min(x.shape[-2], y.shape[-2])
    x, a = filled_up(x, a, tile)
    y, b = filled_up(y, b, tile)

    def sizes(cost: Array, _: Arrays, along: Arrays) -> Arrays:
        (b,) = along
        finite = jnp.isfinite(cost) & (b > 0)
        size = jnp.where(finite, jnp.abs(cost), 0)
        # Named costs of finite points are infinite only if they overflow.
        bad = (b > 0) & (jnp.isnan(cost) | (jnp.isneginf(cost) if cost_error is None else ~jnp.isfinite(cost)))
        flags = (values.astype(size.dtype) for values in (bad, finite))
        return jnp.max(size, -1), jnp.sum(size * b, -1), *(jnp.max(values, -1) for values in flags)

    joins = (jnp.maximum, jnp.add, jnp.maximum, jnp.maximum)
    largest, mean, bad, allowed = reduce_tiles(cost_function, x, y, sizes, joins, (), (b,), axis=-1, tile=tile)
    scale = exact_scale(jnp.max(jnp.where(a > 0, largest, 0), axis=-1))
    mean_size = jnp.sum(a * (mean / scale[..., None]), axis=-1)
    return ScaledProblem(
        operator=TiledOperator(x, y, a, b, scale, cost_function, cost_error, forbidden_cost(size, size), tile),
        scale=scale,
        mean_size=mean_size,
        start_epsilon=mean_size,
        invalid=jnp.any((a > 0) & (bad > 0), axis=-1),
        blocked=jnp.any(a > 0, axis=-1) & jnp.any(b > 0, axis=-1) & jnp.any((a > 0) & ~(allowed > 0), axis=-1),
    )


def filled_up(
    points: Float[Array, "*b n d"], weights: Float[Array, "*b n"], tile: int
) -> tuple[Float[Array, "*b k d"], Float[Array, "*b k"]]:
    """Points padded to a multiple of the tile. Points of weight 0 are copies of the heaviest, so costs are finite."""
    short = -points.shape[-2] % tile
    batch = [(0, 0)] * (weights.ndim - 1)
    points = jnp.pad(points, [*batch, (0, short), (0, 0)])
    weights = jnp.pad(weights, [*batch, (0, short)])
    heaviest = jnp.argmax(weights, axis=-1)[..., None, None]
    return jnp.where(weights[..., None] > 0, points, jnp.take_along_axis(points, heaviest, axis=-2)), weights


def reduce_tiles(
    cost_function: Callable[[Array, Array], Any],
    x: Float[Array, "*b n d"],
    y: Float[Array, "*b m d"],
    body: Callable[[Any, Arrays, Arrays], Arrays],
    combine: tuple[Callable[[Array, Array], Array], ...],
    out: Arrays,
    along: Arrays,
    *,
    axis: int,
    tile: int,
) -> Arrays:
    """Reduce functions of the cost along its rows (axis -1) or columns (axis -2), one tile at a time.

    Args:
        cost_function: points (*b, k, d), (*b, l, d) to costs (*b, k, l), or to several such arrays.
        body: maps a cost tile, `out` and `along` at its points, both broadcastable against it, to arrays reduced
            along `axis`; `combine` joins those of two tiles.
        out: values at the points that remain; along: values at the points that are reduced over.
        tile: divides n and m.
    """
    kept, reduced = (x, y) if axis == -1 else (y, x)
    kept_axis = -2 if axis == -1 else -1

    def costs(kept: Array, reduced: Array) -> Any:
        return cost_function(kept, reduced) if axis == -1 else cost_function(reduced, kept)

    kept_tiles = (_tiles(kept, tile, axis=-2), tuple(_tiles(v, tile, axis=-1) for v in out))
    reduced_tiles = (_tiles(reduced, tile, axis=-2), tuple(_tiles(v, tile, axis=-1) for v in along))

    # The checkpoints matter only for derivatives, which then store nothing of the size of all tiles together.
    @jax.checkpoint
    def one(kept_tile: tuple[Array, Arrays]) -> Arrays:
        points, values = kept_tile
        values = tuple(jnp.expand_dims(v, axis) for v in values)

        @jax.checkpoint
        def reduced_over(reduced_tile: tuple[Array, Arrays]) -> Arrays:
            others, along_values = reduced_tile
            along_values = tuple(jnp.expand_dims(v, kept_axis) for v in along_values)
            return body(costs(points, others), values, along_values)

        def step(carry: Arrays, reduced_tile: tuple[Array, Arrays]) -> tuple[Arrays, None]:
            parts = reduced_over(reduced_tile)
            return tuple(join(c, p) for join, c, p in zip(combine, carry, parts, strict=True)), None

        first = jax.tree.map(lambda leaf: leaf[0], reduced_tiles)
        rest = jax.tree.map(lambda leaf: leaf[1:], reduced_tiles)
        return jax.lax.scan(step, reduced_over(first), rest)[0]

    return tuple(_joined(result) for result in jax.lax.map(one, kept_tiles))


def _tiles(values: Array, tile: int, *, axis: int) -> Array:
    """The axis of length n split into n / tile tiles, their index first."""
    axis = axis % values.ndim
    shape = (*values.shape[:axis], -1, tile, *values.shape[axis + 1 :])
    return jnp.moveaxis(values.reshape(shape), axis, 0)


def _joined(tiles: Float[Array, "k *b tile"]) -> Float[Array, "*b n"]:
    values = jnp.moveaxis(tiles, 0, -2)
    return values.reshape(*values.shape[:-2], -1)
