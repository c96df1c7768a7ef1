r"""Two weighted clouds cut into blocks that agree in mass, so that plans within blocks make a plan of the whole.

Lay the points of a cloud of mass 1 side by side on [0, 1], each as long as its weight, and cut the line of either cloud
at the same places e_0 = 0 < e_1 < ... < e_B = 1. Block b is what lies between e_b and e_{b+1} on both lines: of mass
e_{b+1} - e_b on either side, exactly, whatever the weights and whether or not the numbers of points are divisible. A
point that a cut goes through is in two blocks, with the two parts of its weight. Any plans within blocks therefore sum
to a plan between the clouds, and

    W(a, b) <= sum_b (e_{b+1} - e_b) W(a_b, b_b)        (optimal transport is jointly convex in its marginals)

with a_b, b_b the blocks scaled to mass 1. One block makes it an equality. How much is lost depends on how alike blocks
are: points in an order that means nothing, but spread evenly over strata, lose least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Block", "cut_together", "stratified_order"]


@dataclass(frozen=True)
class Block:
    """Points of both clouds by their indices, their weights within the block (of sum 1 each), and its mass."""

    x: Int[np.ndarray, " n"]
    a: Float[np.ndarray, " n"]
    y: Int[np.ndarray, " m"]
    b: Float[np.ndarray, " m"]
    mass: float


def stratified_order(
    labels: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " k"]:
    """Samples with weight, shuffled, every class spread evenly: any stretch has about its share of each class."""
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
    """Blocks of at most `rows` points of x and `columns` of y; one block where that is room for all.

    Args:
        x, y: indices of the points, in the order in which they are cut.
        a, b: their positive weights, of any sums; what counts is their share in it.
        rows, columns: at least 3.

    Blocks have equal masses unless weights are so uneven that some would have too many points; these are cut further.
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
    """Cumulative shares, the last exactly 1; correctly rounded where weights are whole numbers."""
    up_to = np.cumsum(weights, dtype=np.float64)
    return up_to / up_to[-1]


def _between(
    up_to: Float[np.ndarray, " n"], first: int, low: float, high: float
) -> tuple[slice, Float[np.ndarray, " k"]]:
    """The points from `first` on that lie between two places of the line, and how much of them does."""
    end = int(np.searchsorted(up_to, high, side="left")) + 1
    edges = np.concatenate([[low], np.minimum(up_to[first:end], high)])
    return slice(first, end), np.diff(edges)
