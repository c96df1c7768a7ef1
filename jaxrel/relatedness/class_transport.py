r"""The transport step: a certified plan between each target class and its reference cloud.

Classes whose cost array fits are solved together to a certified relative gap. For larger classes the plan couples
blocks of samples, so that the cost of the upper end is linear in the number of samples.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrel.relatedness.blocks import class_order, heaviest, members
from jaxrel.relatedness.ground_costs import GroundCost
from jaxrel.task import Task
from jaxrel.transport import SinkhornResult, TransportStatus, blockwise_interval, sinkhorn
from jaxrel.transport.certificates import normalised

if TYPE_CHECKING:
    from jaxrel.relatedness.methods import Method

__all__ = ["LARGEST_PLAN", "ClassTransport", "certified_transport", "class_transport"]

LARGEST_PLAN = 2**22  # Entries of the cost array of one target class (16 MiB in float32), and of several at once.
_BLOCK = 1792  # With the room for uneven weights, the cost array of one block is about LARGEST_PLAN.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassTransport:
    """For each target class an interval that contains the exact optimum, and the potentials of all samples.

    `left_out`: the block sizes leave out samples of positive weight. `overflow`: blockwise plans did not fit.
    Potentials are 0 outside a class, and everywhere for blockwise plans.
    """

    lower: Float[Array, " t"]
    upper: Float[Array, " t"]
    left_out: Bool[Array, " t"]
    overflow: Bool[Array, " t"]
    f: Float[Array, "t n"]
    g: Float[Array, " m"]


def certified_transport(
    cost: GroundCost,
    x: Float[Array, "*b n c"],
    y: Float[Array, "*b m c"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    log_map_row: Float[Array, "*b r"],
    scale: Float[Array, ""] | float,
    method: Method,
) -> SinkhornResult:
    """Solve transport at the scaled cost to the certified gap of the method, allowing for rounding of the cost."""
    result = sinkhorn(
        cost.cloud(x, y, log_map_row),
        a,
        b,
        relative_gap=method.certificate_gap,
        max_iterations=method.certificate_iterations,
    )
    value, f, g = (scale * leaf for leaf in (result.value, result.f, result.g))
    rounding = _rounding(cost, x)
    lower, upper = scale * result.lower * (1 - rounding), scale * result.upper * (1 + rounding)
    return dataclasses.replace(result, value=value, lower=lower, upper=upper, f=f, g=g)


def _rounding(cost: GroundCost, x: Float[Array, "*b n c"]) -> float:
    return cost.roundings * (x.shape[-1] + 8) * float(jnp.finfo(x.dtype).eps)


def class_transport(
    cost: GroundCost,
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    cloud: Float[Array, "t n"],
    log_map: Float[Array, "t r"],
    target: Task,
    *,
    scale: Float[Array, ""] | float,
    method: Method,
    block_sizes: tuple[int, int] | None,
) -> ClassTransport:
    """Solve and certify the transport problem of every target class.

    Args:
        cost: the ground cost.
        x, y: the reference points and the target points.
        cloud: a^k_i, the weights of the reference samples for each target class.
        log_map: log B.
        target: labels and weights of the target points.
        scale: the factor of all costs.
        method: provides `certificate_gap` and `certificate_iterations`.
        block_sizes: static sizes of the largest class, see `evaluate_bound`.
    """
    rows, columns = block_sizes or (x.shape[0], y.shape[0])
    rows, columns = min(rows, x.shape[0]), min(columns, y.shape[0])
    index_x, a = heaviest(cloud, rows)
    classes = class_order(target.labelled[0], cloud.shape[0], target.weights)
    index_y, b = members(classes, target.weights, columns)
    left_out = (jnp.sum(cloud > 0, axis=1) > rows) | (classes.start[1:] - classes.start[:-1] > columns)

    a, b = normalised(a), normalised(b)
    # There is nothing to solve for a class without samples or without reference classes.
    solvable = (jnp.sum(a, axis=1) > 0) & (jnp.sum(b, axis=1) > 0) & jnp.any(log_map > -jnp.inf, axis=1)
    a, b = jnp.where(solvable[:, None], a, 0), jnp.where(solvable[:, None], b, 0)
    points = (x[index_x], y[index_y], a, b, jnp.where(solvable[:, None], log_map, 0))
    no_potential = jnp.zeros_like(cloud), jnp.zeros(y.shape[0], y.dtype)
    if rows * columns > LARGEST_PLAN:
        lower, upper, overflow = _blockwise(cost, points, scale, method)
        return ClassTransport(lower, upper, left_out, overflow, *no_potential)
    lower, upper, f, g = _dense(cost, points, scale, method)
    scattered_f = no_potential[0].at[jnp.arange(cloud.shape[0])[:, None], index_x].add(f)
    return ClassTransport(
        lower, upper, left_out, jnp.zeros_like(left_out), scattered_f, no_potential[1].at[index_y].add(g)
    )


_Points = tuple[Array, Array, Array, Array, Array]


def _dense(
    cost: GroundCost, points: _Points, scale: Float[Array, ""] | float, method: Method
) -> tuple[Array, Array, Array, Array]:
    """Certified intervals and potentials, as many classes at once as keep the cost array small."""

    def solve(part: _Points) -> tuple[Array, Array, Array, Array]:
        x, y, a, b, log_map_row = part
        result = certified_transport(cost, x, y, a, b, log_map_row, scale, method)
        # The ends of the interval have no derivative; by the envelope rule, that of the value is that of the transport.
        upper = result.upper + result.value - jax.lax.stop_gradient(result.value)
        return jnp.maximum(result.lower, 0), upper, jnp.where(a > 0, result.f, 0), jnp.where(b > 0, result.g, 0)

    num_classes, rows, columns = points[2].shape[0], points[2].shape[1], points[3].shape[1]
    at_once = max(1, min(num_classes, LARGEST_PLAN // (rows * columns)))
    rest = -num_classes % at_once

    def grouped(leaf: Array) -> Array:
        # Classes without mass fill up the last group; they cost nothing.
        padded = jnp.pad(leaf, ((0, rest), *[(0, 0)] * (leaf.ndim - 1)))
        return padded.reshape(-1, at_once, *leaf.shape[1:])

    solved = jax.lax.map(solve, jax.tree.map(grouped, points))
    lower, upper, f, g = (leaf.reshape(-1, *leaf.shape[2:])[:num_classes] for leaf in solved)
    return lower, upper, f, g


def _blockwise(
    cost: GroundCost, points: _Points, scale: Float[Array, ""] | float, method: Method
) -> tuple[Array, Array, Array]:
    """Upper ends from plans within blocks of shuffled samples. The lower ends are 0, as no cost is negative."""
    x, y, a, b, log_map = points
    interval = blockwise_interval(
        cost.cloud(x, y, log_map),
        a,
        b,
        block_size=_BLOCK,
        relative_gap=method.certificate_gap,
        lower=False,
        max_iterations=method.certificate_iterations,
        key=jax.random.key(0),  # The order of the samples must carry no information.
    )
    overflow = (interval.status & int(TransportStatus.BLOCK_OVERFLOW)) > 0
    upper = scale * interval.upper * (1 + _rounding(cost, x))
    return jnp.zeros_like(upper), upper, overflow
