"""A scoreboard as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxrel.study.drawing import contrasting, in_lines, row_edges, typography, width_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["board_figure"]


def board_figure(encoders: Sequence[str], metrics: Sequence[str], ranks: np.ndarray) -> Figure:
    """A heat map of ranks: one row per encoder, one column per metric.

    Args:
        encoders: names of the rows.
        metrics: names of the columns.
        ranks: `(encoders, metrics)`, NaN where there is none.

    Returns:
        A figure that is as large as its names and their numbers need.
    """
    from matplotlib.figure import Figure

    lines, columns = ranks.shape
    names = [in_lines(name) for name in encoders]
    with typography(encoders):
        figure = Figure(layout="constrained")
        axis = figure.subplots()
        edges = row_edges(names)
        middles = [sum(pair) / 2 for pair in itertools.pairwise(edges)]
        image = axis.pcolormesh(
            np.arange(columns + 1) - 0.5, edges, ranks, cmap="viridis_r", vmin=1, vmax=max(lines, 2)
        )
        for line, column in np.ndindex(*ranks.shape):
            rank = ranks[line, column]
            colour = "black" if np.isnan(rank) else contrasting(image.cmap(image.norm(rank)))
            text = "failed" if np.isnan(rank) else f"{rank:.0f}"
            axis.text(column, middles[line], text, ha="center", va="center", fontsize=8, color=colour)
        axis.set_xticks(range(columns), metrics, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(middles, names, fontsize="small")
        axis.invert_yaxis()
        axis.set_title("Rank of each encoder by each metric\n1 promises most", fontsize="medium")
        figure.colorbar(image, label="rank", ticks=[1, max(lines, 2)])
        room = max(0.45 * columns, width_of([axis.title]))
        figure.set_size_inches(1.2 + room + width_of(axis.get_yticklabels()), 2.2 + edges[-1])
    return figure
