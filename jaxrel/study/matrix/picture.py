"""A matrix of scores as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.study.drawing import in_lines, row_edges, typography, width_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["matrix_figure"]


def matrix_figure(encoders: Sequence[str], targets: Sequence[str], panels: Mapping[str, np.ndarray]) -> Figure:
    """Values as colours, in panels below each other.

    Args:
        encoders: names of the lines.
        targets: names of the columns.
        panels: by title, `(encoders, targets)` values; those that are not finite are left white.

    Returns:
        A figure that is as large as its names and their numbers need.
    """
    from matplotlib.figure import Figure

    names = [in_lines(name) for name in encoders]
    with typography([*encoders, *targets, *panels]):
        figure = Figure(layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for axis, (title, values) in zip(axes, panels.items(), strict=True):
            _draw(axis, np.ma.masked_invalid(values), names)
            axis.set_xticks(
                range(len(targets)), [in_lines(name, 24) for name in targets], rotation=90, fontsize="small"
            )
            axis.set_title(in_lines(title), fontsize="medium")
        below = max(label.get_window_extent().height for label in axes[0].get_xticklabels()) / figure.dpi
        width = max(0.6 * len(targets), width_of(axis.title for axis in axes))
        figure.set_size_inches(
            1.8 + width + width_of(axes[0].get_yticklabels()), len(axes) * (1.0 + below + row_edges(names)[-1])
        )
    return figure


def _draw(axis: Any, values: np.ma.MaskedArray, names: Sequence[str]) -> None:
    edges = row_edges(names)
    image = axis.pcolormesh(np.arange(values.shape[1] + 1) - 0.5, edges, values, cmap="viridis")
    axis.set_yticks([sum(pair) / 2 for pair in itertools.pairwise(edges)], names, fontsize="small")
    axis.invert_yaxis()
    if values.count():
        axis.figure.colorbar(image, ax=axis)
