r"""The transport step: a certified plan between each target class and its reference cloud.

Classes whose cost array fits are solved together to a certified relative gap. Where it does not fit, the plan couples
blocks of samples, which makes the upper end linear in the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrel.relatedness.blocks import class_order, heaviest, members
from jaxrel.relatedness.methods import Joint, Paper
from jaxrel.tasks import Task
from jaxrel.transport import (
    PointCloud,
    TransportStatus,
    blockwise_interval,
    euclidean_cost,
    feature_distance,
    margin_cost,
    range_cost,
    sinkhorn,
)
from jaxrel.transport.certificates import normalised
from jaxrel.transport.costs import margin_between

__all__ = ["LARGEST_PLAN", "ClassTransport", "class_transport", "ground_cost"]

LARGEST_PLAN = 2**22  # Entries of the cost array of one target class (16 MiB in float32), and of several at once.
_BLOCK = 1792  # With the room for uneven weights, the cost array of one block is about LARGEST_PLAN.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassTransport:
    """For each target class an interval around the exact optimum, and potentials of all samples.

    `left_out`: the block sizes leave out samples with weight. `overflow`: blockwise plans did not fit. Potentials are 0
    outside a class, and everywhere for blockwise plans.
    """

    lower: Float[Array, " t"]
    upper: Float[Array, " t"]
    left_out: Bool[Array, " t"]
    overflow: Bool[Array, " t"]
    f: Float[Array, "t n"]
    g: Float[Array, " m"]


def ground_cost(
    cost: str,
    x: Float[Array, "*b n c"],
    y: Float[Array, "*b m c"],
    log_map_row: Float[Array, "*b r"],
    lipschitz: Float[Array, ""],
) -> Float[Array, "*b n m"]:
    """The named cost between reference points x and target points y of one target class.

    `"feature"` is `tau * ||x - y||` on (mapped) features, the others are on logits.
    """
    match cost:
        case "margin":
            return margin_cost(x, y, log_map_row)
        case "range":
            return range_cost(x, y)
        case "euclidean":
            return euclidean_cost(x, y)
        case "feature":
            return lipschitz * feature_distance(x, y)
        case _:
            raise ValueError(f"unknown ground cost {cost!r}.")


def class_transport(
    cost: str,
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    cloud: Float[Array, "t n"],
    log_map: Float[Array, "t r"],
    target: Task,
    *,
    lipschitz: Float[Array, ""],
    method: Joint | Paper,
    block_sizes: tuple[int, int] | None,
) -> ClassTransport:
    """Solve and certify the transport problem of every target class.

    Args:
        cost: name of the ground cost of `ground_cost`.
        x, y: its points, reference and target.
        cloud: a^k_i, the weights of the reference samples for each target class.
        log_map: log B.
        target: labels and weights of the y.
        lipschitz: tau, of the cost `"feature"`.
        method: its `certificate_gap` and `certificate_sweeps`.
        block_sizes: static sizes of the largest class, see `evaluate_bound`.
    """
    rows, columns = block_sizes or (x.shape[0], y.shape[0])
    rows, columns = min(rows, x.shape[0]), min(columns, y.shape[0])
    index_x, a = heaviest(cloud, rows)
    classes = class_order(target.labelled[0], cloud.shape[0], target.weights)
    index_y, b = members(classes, target.weights, columns)
    # Masses are compared with what they should be before they are normalised.
    rounding = 4 * (x.shape[0] + 16) * jnp.finfo(a.dtype).eps
    counts = classes.start[1:] - classes.start[:-1]
    left_out = (jnp.sum(a, axis=1) < jnp.sum(cloud, axis=1) * (1 - rounding)) | (counts > columns)

    a, b = normalised(a), normalised(b)
    # A class without samples, or without reference classes, has no problem to solve.
    solvable = (jnp.sum(a, axis=1) > 0) & (jnp.sum(b, axis=1) > 0) & jnp.any(log_map > -jnp.inf, axis=1)
    a, b = jnp.where(solvable[:, None], a, 0), jnp.where(solvable[:, None], b, 0)
    points = (x[index_x], y[index_y], a, b, jnp.where(solvable[:, None], log_map, 0))
    no_potential = jnp.zeros_like(cloud), jnp.zeros(y.shape[0], y.dtype)
    if rows * columns > LARGEST_PLAN:
        lower, upper, overflow = _blockwise(cost, points, lipschitz, method)
        return ClassTransport(lower, upper, left_out, overflow, *no_potential)
    lower, upper, f, g = _dense(cost, points, lipschitz, method)
    scattered_f = no_potential[0].at[jnp.arange(cloud.shape[0])[:, None], index_x].add(f)
    return ClassTransport(
        lower, upper, left_out, jnp.zeros_like(left_out), scattered_f, no_potential[1].at[index_y].add(g)
    )


_Points = tuple[Array, Array, Array, Array, Array]


def _dense(
    cost_name: str, points: _Points, lipschitz: Float[Array, ""], method: Joint | Paper
) -> tuple[Array, Array, Array, Array]:
    """Certified intervals and potentials, as many classes at once as keep the cost array small."""

    def solve(part: _Points) -> tuple[Array, Array, Array, Array]:
        x, y, a, b, log_map_row = part
        live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
        cost = jnp.where(live, ground_cost(cost_name, x, y, log_map_row, lipschitz), 0)
        result = sinkhorn(cost, a, b, relative_gap=method.certificate_gap, max_sweeps=method.certificate_sweeps)
        # The ends of the interval carry no derivative; the value's, by the envelope rule, is that of the transport.
        upper = result.upper + result.value - jax.lax.stop_gradient(result.value)
        return jnp.maximum(result.lower, 0), upper, jnp.where(a > 0, result.f, 0), jnp.where(b > 0, result.g, 0)

    num_classes, rows, columns = points[2].shape[0], points[2].shape[1], points[3].shape[1]
    at_once = max(1, min(num_classes, LARGEST_PLAN // (rows * columns)))
    rest = -num_classes % at_once

    def grouped(leaf: Array) -> Array:
        # Classes without mass, which cost nothing, fill up the last group.
        padded = jnp.pad(leaf, ((0, rest), *[(0, 0)] * (leaf.ndim - 1)))
        return padded.reshape(-1, at_once, *leaf.shape[1:])

    solved = jax.lax.map(solve, jax.tree.map(grouped, points))
    lower, upper, f, g = (leaf.reshape(-1, *leaf.shape[2:])[:num_classes] for leaf in solved)
    return lower, upper, f, g


def _blockwise(
    cost_name: str, points: _Points, lipschitz: Float[Array, ""], method: Joint | Paper
) -> tuple[Array, Array, Array]:
    """Upper ends from plans within blocks of shuffled samples; 0 is the lower end, every cost being non-negative."""
    x, y, a, b, log_map = points
    cost: Callable[[Array, Array], Array] = margin_between
    if cost_name == "margin":
        x = jnp.concatenate([x, jax.nn.softmax(x + log_map[:, None], axis=-1)], axis=-1)
        y = jnp.concatenate([y, y], axis=-1)
    else:
        cost = {"range": range_cost, "euclidean": euclidean_cost, "feature": feature_distance}[cost_name]
    interval = blockwise_interval(
        PointCloud(x, y, cost),
        a,
        b,
        block_size=_BLOCK,
        relative_gap=method.certificate_gap,
        lower=False,
        max_sweeps=method.certificate_sweeps,
        key=jax.random.key(0),  # The order of samples must not mean anything.
    )
    overflow = (interval.status & int(TransportStatus.BLOCK_OVERFLOW)) > 0
    scale = lipschitz if cost_name == "feature" else 1
    return jnp.zeros_like(interval.upper), scale * interval.upper, overflow
