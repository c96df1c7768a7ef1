"""An interval that contains the exact optimum, for clouds that are too large for quadratic work."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.programs import compiled
from jaxrel._core.status import HasStatus
from jaxrel.transport.certificates import (
    dual_value,
    finite_or_zero,
    map_problems,
    rounding_allowance,
    shallow_sum,
    sum_depth,
)
from jaxrel.transport.point_clouds import CostFunction, PointCloud
from jaxrel.transport.result import TransportStatus
from jaxrel.transport.sinkhorn import sinkhorn
from jaxrel.transport.tiled import filled_up, reduce_tiles
from jaxrel.transport.validation import checked_number, checked_problem

__all__ = ["BlockwiseInterval", "blockwise_interval"]

_ENTRIES_AT_ONCE = 2**22
_SUBSET = 2048
_TILE = 1024


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BlockwiseInterval(HasStatus):
    """`lower <= exact optimum <= upper`.

    Attributes:
        lower, upper: the ends, in units of the cost times the mass; they have no derivative.
        status: bits of `TransportStatus`. GAP_NOT_CERTIFIED: some block is further from its own
            optimum than `relative_gap`; `upper` is still valid.
    """

    lower: Float[Array, "*b"]
    upper: Float[Array, "*b"]
    status: Int[Array, "*b"]

    statuses: ClassVar = TransportStatus


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Blocks:
    """One cloud cut into k blocks of at most s points.

    index: indices into the cloud, of points with positive weight if the block has any. weights: the part of each point
    that is in the block, 0 in unused slots. fits: whether every block has room for its points.
    """

    index: Int[Array, "k s"]
    weights: Float[Array, "k s"]
    fits: Bool[Array, ""]


def blockwise_interval(
    cloud: PointCloud,
    a: Float[ArrayLike, "*b n"] | None = None,
    b: Float[ArrayLike, "*b m"] | None = None,
    *,
    block_size: int = 1024,
    relative_gap: Float[ArrayLike, ""] = 0.05,
    lower: bool = True,
    max_iterations: Int[ArrayLike, ""] = 5000,
    key: Array | None = None,
) -> BlockwiseInterval:
    r"""Bound the unregularised optimum: from above in linear time, from below in one pass over all pairs.

    upper: both clouds are cut, in the order of their points, into the same number of blocks of equal mass; a point on a
    boundary is split. Block k of x is transported to block k of y by `sinkhorn`, a few blocks at a time. Plans within
    blocks form a feasible plan between the clouds. The excess over the optimum depends on the order of the points:
    shuffled clouds give about the cost between samples of `block_size` points of each, clouds sorted along the same
    curve may be much better, and other orders much worse.

    lower: potentials of every k-th point, at most 2,048 of each cloud, are extended to all y by a c-transform against
    these, `g_j = min_i C_ij - f_i`, and to all x by one against all y, which makes `<a, f> + <b, g>` a lower bound.

    Args:
        cloud: the points. Costs must be finite: an infinite cost makes `upper` infinite (`lower` stays valid). Leading
            axes are a batch, solved one problem at a time.
        a, b: non-negative weights of equal sum; a weight of 0 masks its point. None gives all points equal weight.
        block_size: mean number s of points in a block of the larger cloud. If weights are given, a block has room for
            s + 6 sqrt(s) + 8 points, enough for shuffled blocks of moderately uneven weights. If weights are None, it
            has room for all its points. A block with more points makes `upper` infinite and sets the status.
        relative_gap: relative accuracy of the blocks and of the potentials of the lower bound.
        lower: False skips the lower bound, which is then -inf, so that the time is linear.
        max_iterations: as in `sinkhorn`, for each block.
        key: shuffles both clouds first; advisable if their order is not random.

    Returns:
        A `BlockwiseInterval`. With one block (`block_size >= max(n, m)`) it is the interval of `sinkhorn`.

    Raises:
        ValueError: as `sinkhorn`, and for a block_size below 1.

    Both ends are moved outwards by a bound on the rounding error, including that of the cost as in `PointCloud`.
    """
    if not isinstance(cloud, PointCloud):
        raise ValueError(f"cloud must be a PointCloud, got {type(cloud).__name__}: use sinkhorn for a cost array.")
    if not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be a positive integer, got {block_size!r}.")
    checked, weights_a, weights_b = checked_problem(cloud, a, b, None, None)
    gap = checked_number("relative_gap", relative_gap, batch=(), dtype=weights_a.dtype)
    if gap is None:
        raise ValueError("relative_gap must be a number.")
    return _intervals(
        checked, weights_a, weights_b, gap, max_iterations, key, block_size, lower, (a is None, b is None)
    )


@functools.partial(compiled, static_argnums=(6, 7, 8))
def _intervals(
    cloud: PointCloud,
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    relative_gap: Float[Array, ""],
    max_iterations: Int[ArrayLike, ""],
    key: Array | None,
    block_size: int,
    lower: bool,
    equal_weights: tuple[bool, bool],
) -> BlockwiseInterval:
    num_blocks = -(-max(a.shape[-1], b.shape[-1]) // block_size)

    def one(x: Array, y: Array, a: Array, b: Array) -> BlockwiseInterval:
        problem = PointCloud(x, y, cloud.cost, cloud.tile)
        mass_a, mass_b = shallow_sum(a), shallow_sum(b)
        eps = float(jnp.finfo(a.dtype).eps)
        invalid = ~jnp.isfinite(mass_a + mass_b) | jnp.any(a < 0) | jnp.any(b < 0)
        empty = ~invalid & ~((mass_a > 0) & (mass_b > 0))
        unequal = jnp.abs(mass_a - mass_b) > 4 * (a.shape[0] + b.shape[0]) * eps * jnp.maximum(mass_a, mass_b)
        a, b = a / jnp.where(mass_a > 0, mass_a, 1), b / jnp.where(mass_b > 0, mass_b, 1)
        keys = (None, None) if key is None else jax.random.split(key)
        blocks_x, blocks_y = (
            _cut_equally(weights, num_blocks, key) if equal else _cut(weights, num_blocks, key)
            for weights, equal, key in zip((a, b), equal_weights, keys, strict=True)
        )
        interval = _upper(problem, blocks_x, blocks_y, relative_gap, max_iterations)
        low = interval.lower
        if not lower:
            low = jnp.full_like(low, -jnp.inf)
        elif num_blocks > 1:
            low = _lower(problem, a, b, relative_gap, max_iterations)
        invalid = invalid | ~empty & (jnp.isnan(low) | jnp.isnan(interval.upper))
        unequal = unequal & ~invalid & ~empty

        def defined(bound: Float[Array, ""], of_nothing: Float[ArrayLike, ""]) -> Float[Array, ""]:
            return jnp.where(invalid | unequal, jnp.nan, jnp.where(empty, of_nothing, bound * mass_a))

        status = jnp.where(empty, 0, interval.status)
        status = jnp.where(unequal, int(TransportStatus.UNEQUAL_MASS), status)
        status = jnp.where(invalid, int(TransportStatus.NOT_FINITE), status)
        return BlockwiseInterval(defined(low, 0 if lower else -jnp.inf), defined(interval.upper, 0), status)

    problems = jax.lax.stop_gradient((cloud.x, cloud.y, a, b))
    intervals: BlockwiseInterval = map_problems(one, *problems, batch=a.shape[:-1])
    return intervals


def _cut_equally(weights: Float[Array, " n"], num_blocks: int, key: Array | None) -> _Blocks:
    """Blocks of n points of equal weight, in integers: block k is `[k n, (k + 1) n]` of 0..nK; a point has length K."""
    n = weights.shape[0]
    edges = np.arange(num_blocks + 1, dtype=np.int64) * n
    first, end = edges[:-1] // num_blocks, -(-edges[1:] // num_blocks)
    slots = first[:, None] + np.arange(np.max(end - first))
    parts = np.minimum((slots + 1) * num_blocks, edges[1:, None]) - np.maximum(slots * num_blocks, edges[:-1, None])
    index = jnp.asarray(np.where(parts > 0, slots, first[:, None]).astype(np.int32))
    if key is not None:
        index = jax.random.permutation(key, n)[index]
    shares = np.maximum(parts, 0) / (n * num_blocks)
    return _Blocks(index, jnp.asarray(shares.astype(weights.dtype)), jnp.ones((), bool))


def _cut(weights: Float[Array, " n"], num_blocks: int, key: Array | None) -> _Blocks:
    """Blocks of equal mass, cut at quantiles of the cumulative weights. Points of weight 0 take no slots.

    Rounding may move the edges, but it does not lose mass: the part of a point to the left of an edge is
    `clip(edge - before, 0, w)`, exactly w or 0 if the edge is past or before the point, so the parts of each point sum
    to w up to one rounding each. Only the masses of the blocks differ from 1 / K, and their sums show by how much.
    """
    n = weights.shape[0]
    size = -(-n // num_blocks)
    room = n if num_blocks == 1 else min(n, size + 6 * math.isqrt(size) + 8)
    order = jnp.arange(n) if key is None else jax.random.permutation(key, n)
    order = order[jnp.argsort(weights[order] <= 0, stable=True)]
    along = weights[order]
    # Parallel sums need not be monotone after rounding.
    up_to = jax.lax.cummax(jnp.cumsum(along))
    before = jnp.concatenate([jnp.zeros_like(up_to[:1]), up_to[:-1]])
    edges = up_to[-1] * (jnp.arange(num_blocks + 1) / num_blocks).astype(weights.dtype)
    edges = edges.at[-1].set(jnp.inf)
    first = jnp.searchsorted(up_to, edges[:-1], side="right")
    end = jnp.minimum(jnp.searchsorted(before, edges[1:], side="right"), jnp.sum(along > 0))
    slots = first[:, None] + jnp.arange(room)
    inside = slots < n
    first, slots = jnp.minimum(first, n - 1)[:, None], jnp.minimum(slots, n - 1)

    def left_of(edge: Float[Array, "k 1"]) -> Float[Array, "k s"]:
        part = jnp.clip(edge - before[slots], 0, along[slots])
        return jnp.where(up_to[slots] <= edge, along[slots], part)

    parts = left_of(edges[1:, None]) - left_of(edges[:-1, None])
    parts = jnp.where(inside, jnp.maximum(parts, 0), 0)
    return _Blocks(order[jnp.where(parts > 0, slots, first)], parts, jnp.all(end - first[:, 0] <= room))


def _upper(
    cloud: PointCloud,
    blocks_x: _Blocks,
    blocks_y: _Blocks,
    relative_gap: Float[Array, ""],
    max_iterations: Int[ArrayLike, ""],
) -> BlockwiseInterval:
    r"""The upper end from plans within blocks, and for a single block also the lower end.

    Block k has mass A_k of x and B_k of y, which differ slightly. Its plan has mass s_k = min(A_k, B_k), so a share of
    `1 - sum s_k` is unmatched, spread over the blocks. Let r_k be the heaviest point of x in block k and q_k that of y.
    Swap the unmatched mass of block k with mass of r_k: it takes over the partners of r_k, all in block k, and the mass
    of r_k goes to some q_l, which was swapped with y in block l in the same way. No other pairs are needed. With L the
    largest size of a cost within a block or between any r_k and q_l, the cost changes by at most 5 L per unit of mass
    (two swaps of 2 L, and L). This needs r_k and q_k to have that much mass, which is checked.
    """
    num_blocks = blocks_x.weights.shape[0]
    mass_x, mass_y = shallow_sum(blocks_x.weights), shallow_sum(blocks_y.weights)
    shared = jnp.minimum(mass_x, mass_y)
    heaviest_x, heaviest_y = (jnp.argmax(blocks.weights, axis=-1) for blocks in (blocks_x, blocks_y))
    weight = jnp.minimum(_at(blocks_x.weights, heaviest_x), _at(blocks_y.weights, heaviest_y))
    fits = blocks_x.fits & blocks_y.fits & jnp.all(jnp.abs(mass_x - mass_y) <= weight / 2)

    def solved(part: Any) -> tuple[Array, ...]:
        index_x, index_y, weights_x, weights_y = part
        block = PointCloud(cloud.x[index_x], cloud.y[index_y], cloud.cost)
        result = sinkhorn(block, weights_x, weights_y, relative_gap=relative_gap, max_iterations=max_iterations)
        live = (weights_x > 0)[..., :, None] & (weights_y > 0)[..., None, :]
        size = jnp.max(jnp.where(live, jnp.abs(highest(block.x, block.y)), 0), axis=(-1, -2))
        return result.lower, result.upper, size, result.status

    highest = _moved_cost(cloud, 1)

    parts = (
        blocks_x.index,
        blocks_y.index,
        blocks_x.weights / jnp.where(mass_x > 0, mass_x, 1)[:, None],
        blocks_y.weights / jnp.where(mass_y > 0, mass_y, 1)[:, None],
    )
    entries = blocks_x.index.shape[1] * blocks_y.index.shape[1]
    at_once = min(max(_ENTRIES_AT_ONCE // entries, 1), num_blocks)
    rest = -num_blocks % at_once
    # Blocks without mass fill up the last step.
    steps = tuple(jnp.pad(leaf, ((0, rest), (0, 0))).reshape(-1, at_once, leaf.shape[1]) for leaf in parts)
    lower, upper, sizes, status = (leaf.reshape(-1)[:num_blocks] for leaf in jax.lax.map(solved, steps))

    x = cloud.x[_at(blocks_x.index, heaviest_x)]
    y = cloud.y[_at(blocks_y.index, heaviest_y)]
    largest = jnp.maximum(jnp.max(sizes), _largest(highest, x, y))
    # Error in mass, of which a misplaced unit costs at most 5 L: the sums of the masses and of `shared` each err in
    # proportion to their depths, as do splitting and normalising (here, in the solver, and of the whole).
    depth = sum_depth(num_blocks) + 2 * sum(sum_depth(blocks.index.shape[1]) for blocks in (blocks_x, blocks_y))
    depth += sum_depth(cloud.x.shape[0]) + sum_depth(cloud.y.shape[0])
    unmatched = jnp.maximum(1 - shallow_sum(shared), 0) + rounding_allowance(depth, upper.dtype)
    # The solver already allows for rounding within a single block.
    high = upper[0] if num_blocks == 1 else shallow_sum(shared * upper) + 5 * largest * unmatched
    bits = jnp.sum(jnp.stack([jnp.max(status & int(flag)) for flag in TransportStatus]))
    unusable = jnp.isposinf(largest)
    bits = jnp.where(unusable, int(TransportStatus.FORBIDDEN_MASS), bits)
    bits = bits | jnp.where(fits, 0, int(TransportStatus.BLOCK_OVERFLOW))
    return BlockwiseInterval(lower[0], jnp.where(unusable | ~fits, jnp.inf, high), bits.astype(jnp.int32))


def _lower(
    cloud: PointCloud,
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    relative_gap: Float[Array, ""],
    max_iterations: Int[ArrayLike, ""],
) -> Float[Array, ""]:
    """`<a, f> + <b, g>` with g from a subset and `f_i = min_j C_ij - g_j` over all j."""
    tile = min(cloud.tile or _TILE, max(a.shape[0], b.shape[0]))
    x, a = filled_up(cloud.x, a, tile)
    y, b = filled_up(cloud.y, b, tile)

    def tightest(cost: Array, _: tuple[Array, ...], along: tuple[Array, ...], axis: int) -> tuple[Array, ...]:
        (potential,) = along
        live = jnp.isfinite(cost) & (potential > -jnp.inf)
        return jnp.min(cost - potential, axis), jnp.max(jnp.where(live, jnp.abs(cost), 0), axis)

    sample_x, sample_a = _sample(cloud.x, a[: cloud.x.shape[0]])
    sample_y, sample_b = _sample(cloud.y, b[: cloud.y.shape[0]])
    coarse = sinkhorn(
        cloud.cost_function(filled_up(sample_x, sample_a, 1)[0], filled_up(sample_y, sample_b, 1)[0]),
        sample_a,
        sample_b,
        relative_gap=relative_gap,
        max_iterations=max_iterations,
    )
    # Any f and g give a valid bound; a subset without mass or without a plan only makes it loose.
    f = jnp.where(sample_a > 0, finite_or_zero(coarse.f), -jnp.inf)
    sample_x, sample_a = filled_up(sample_x, sample_a, tile)
    f = jnp.pad(f, (0, sample_x.shape[0] - f.shape[0]), constant_values=-jnp.inf)
    reduce = functools.partial(reduce_tiles, _moved_cost(cloud, -1), tile=tile)
    joins = (jnp.minimum, jnp.maximum)
    g, _ = reduce(sample_x, y, functools.partial(tightest, axis=-2), joins, (b,), (f,), axis=-2)
    g = jnp.where(b > 0, finite_or_zero(g), -jnp.inf)
    f, largest = reduce(x, y, functools.partial(tightest, axis=-1), joins, (a,), (g,), axis=-1)
    undefined = jnp.any((a > 0) & ~(f > -jnp.inf))
    f = jnp.where(a > 0, finite_or_zero(f), -jnp.inf)
    value, size = dual_value(a, b, f, g)
    largest = jnp.max(jnp.where(a > 0, largest, 0))
    allowance = rounding_allowance(sum_depth(a.shape[0]) + sum_depth(b.shape[0]), a.dtype)
    return jnp.where(undefined, jnp.nan, value - allowance * (largest + size))


def _sample(points: Float[Array, "n d"], weights: Float[Array, " n"]) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """Every k-th point, at most 2,048 of them, and weights of sum 1."""
    stride = -(-weights.shape[0] // _SUBSET)
    points, weights = points[::stride], weights[::stride]
    mass = shallow_sum(weights)
    return points, weights / jnp.where(mass > 0, mass, 1)


def _moved_cost(cloud: PointCloud, by: int) -> CostFunction:
    """The cost function plus a multiple of its error bound."""
    cost, error = cloud.cost_function, cloud.cost_error
    return cost if error is None else lambda x, y: cost(x, y) + by * error(x, y)


def _largest(cost: CostFunction, x: Float[Array, "k d"], y: Float[Array, "k d"]) -> Float[Array, ""]:
    """The largest absolute cost between any of these points, computed in tiles."""
    tile = min(_TILE, x.shape[0])
    ones = jnp.ones(x.shape[0], x.dtype)
    (x, _), (y, _) = filled_up(x, ones, tile), filled_up(y, ones, tile)
    (largest,) = reduce_tiles(
        cost,
        x,
        y,
        lambda cost, *_: (jnp.max(jnp.abs(cost), -1),),
        (jnp.maximum,),
        (),
        (),
        axis=-1,
        tile=tile,
    )
    return jnp.max(largest)


def _at(values: Array, index: Int[Array, " k"]) -> Array:
    """Select one value from each row."""
    return jnp.take_along_axis(values, index[:, None], axis=-1)[:, 0]
