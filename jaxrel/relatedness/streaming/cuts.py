r"""Two weighted clouds cut into blocks of equal mass, so that plans within blocks form a plan between the clouds.

Lay the points of a cloud of mass 1 side by side on [0, 1], each as long as its weight, and cut the lines of both clouds
at the same places e_0 = 0 < e_1 < ... < e_B = 1. Block b lies between e_b and e_{b+1} on both lines. It has exactly the
mass e_{b+1} - e_b on each side, for any weights and any numbers of points. A point at a cut is in two blocks, with its
weight split between them. Any plans within blocks therefore sum to a plan between the clouds, and

    W(a, b) <= sum_b (e_{b+1} - e_b) W(a_b, b_b)        (optimal transport is jointly convex in its marginals)

with a_b, b_b the blocks scaled to mass 1. With one block it is an equality. The loss is small if blocks are alike:
shuffle the points and spread them evenly over strata.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Block", "cut_together", "stratified_order"]


@dataclass(frozen=True)
class Block:
    """Indices of the points of both clouds, their weights within the block (each sums to 1), and the mass."""

    x: Int[np.ndarray, " n"]
    a: Float[np.ndarray, " n"]
    y: Int[np.ndarray, " m"]
    b: Float[np.ndarray, " m"]
    mass: float


def stratified_order(
    labels: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " k"]:
    """Shuffle the samples of positive weight with classes spread evenly: any slice has its share of each class."""
    order = rng.permutation(np.flatnonzero(weights > 0))
    order = order[np.argsort(labels[order], kind="stable")]
    along = weights[order].astype(np.float64)
    up_to = np.cumsum(along)
    totals = np.bincount(labels[order], along)
    before_class = np.cumsum(totals) - totals
    of_class = labels[order]
    position = (up_to - along / 2 - before_class[of_class]) / totals[of_class]
    return order[np.argsort(position, kind="stable")]


def cut_together(
    x: Int[np.ndarray, " n"],
    a: Float[np.ndarray, " n"],
    y: Int[np.ndarray, " m"],
    b: Float[np.ndarray, " m"],
    *,
    rows: int,
    columns: int,
) -> Iterator[Block]:
    """Blocks of at most `rows` points of x and `columns` points of y; a single block if all points fit.

    Args:
        x, y: indices of the points, in the order in which they are cut.
        a, b: their positive weights, of any sum; only their shares matter.
        rows, columns: the largest numbers of points, at least 3.

    Blocks have equal masses unless uneven weights give some of them too many points; these are cut further.
    """
    up_to_a, up_to_b = (_shares_up_to(weights) for weights in (a, b))
    num_equal = 1
    if x.size > rows or y.size > columns:  # A block of mass 1 / B has parts of at most n / B + 2 equal points.
        num_equal = max(-(-x.size // (rows - 2)), -(-y.size // (columns - 2)))
    low, step = 0.0, 0
    while low < 1:
        first_x, first_y = (int(np.searchsorted(up_to, low, side="right")) for up_to in (up_to_a, up_to_b))
        while step / num_equal <= low:
            step += 1
        high = min(
            step / num_equal,
            up_to_a[min(first_x + rows, x.size) - 1],
            up_to_b[min(first_y + columns, y.size) - 1],
        )
        part_x, part_a = _between(up_to_a, first_x, low, high)
        part_y, part_b = _between(up_to_b, first_y, low, high)
        mass = high - low
        yield Block(x[part_x], part_a / mass, y[part_y], part_b / mass, float(mass))
        low = high


def _shares_up_to(weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Cumulative shares, the last exactly 1. They are correctly rounded if the weights are whole numbers."""
    up_to = np.cumsum(weights, dtype=np.float64)
    return up_to / up_to[-1]


def _between(
    up_to: Float[np.ndarray, " n"], first: int, low: float, high: float
) -> tuple[slice, Float[np.ndarray, " k"]]:
    """The points from `first` on that lie between two places of the line, and the part of each in between."""
    end = int(np.searchsorted(up_to, high, side="left")) + 1
    edges = np.concatenate([[low], np.minimum(up_to[first:end], high)])
    return slice(first, end), np.diff(edges)
