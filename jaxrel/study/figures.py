"""Pictures of a study: curves along an axis, values as colours, terms of a bound as bars."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrel.study.drawing import contrasting, in_lines, row_edges, typography, width_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TERMS", "TERM_COLOURS", "Line", "curve_figure", "heat_figure", "terms_figure"]

TERMS = ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch")
TERM_COLOURS = ("#4477aa", "#ccbb44", "#ee6677")
_COLUMNS = 3
_MOST_MARKERS = "os^Dv<>pPX*h"


class Line(NamedTuple):
    """A curve: means of the values at each position, shaded from the smallest to the largest value."""

    name: str
    x: Sequence[float]
    values: Sequence[Sequence[float]]


def curve_figure(
    panels: Mapping[str, Sequence[Line]], x_label: str, y_label: str, names_of: Mapping[int, str]
) -> Figure:
    """One panel per entry, with a shared legend.

    Args:
        panels: curves, by the title of their panel.
        x_label, y_label: labels of the axes.
        names_of: names of positions on the x axis, if they are not numbers.

    Returns:
        A figure.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(line.name for lines in panels.values() for line in lines))
    columns = max(1, min(_COLUMNS, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    with typography([*panels, *names, *names_of.values()]):
        figure = Figure(layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        colours = _colours(len(names))
        for axis, (title, lines) in zip(axes, panels.items(), strict=False):
            for line in lines:
                place = names.index(line.name)
                marker = _MOST_MARKERS[place % len(_MOST_MARKERS)]
                means = [float(np.mean(values)) for values in line.values]
                axis.plot(line.x, means, marker=marker, color=colours[place], label=in_lines(line.name), markersize=5)
                ends = [(min(values), max(values)) for values in line.values]
                axis.fill_between(line.x, *zip(*ends, strict=True), color=colours[place], alpha=0.15, linewidth=0)
            axis.set_title(in_lines(title), fontsize="medium")
            axis.set_xlabel(x_label)
            axis.set_ylabel(y_label)
            axis.spines[["top", "right"]].set_visible(False)
            places = sorted({place for line in lines for place in line.x})
            if not names_of and len(places) > 1 and places[0] > 0 and places[-1] / places[0] >= 8:
                axis.set_xscale("log")
            axis.set_xticks(places, [in_lines(names_of.get(int(place), f"{place:g}"), 24) for place in places])
            axis.minorticks_off()
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize="small")
        figure.set_size_inches(
            4.2 * columns + width_of(text for one in figure.legends for text in one.get_texts()) + 0.6, 3.4 * rows + 0.3
        )
    return figure


def heat_figure(
    rows: Sequence[str], columns: Sequence[str], panels: Mapping[str, np.ndarray], axes_of: tuple[str, str]
) -> Figure:
    """Heat maps in panels below each other, with the numbers where they fit.

    Args:
        rows: names of the rows.
        columns: names of the columns.
        panels: `(rows, columns)` values, by title; values that are not finite are white.
        axes_of: labels of the rows and the columns.

    Returns:
        A figure that is as large as its names and their numbers need.
    """
    from matplotlib.figure import Figure

    names = [in_lines(name) for name in rows]
    with typography([*rows, *columns, *panels]):
        figure = Figure(layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for axis, (title, values) in zip(axes, panels.items(), strict=True):
            _draw_colours(axis, np.ma.masked_invalid(values), names)
            axis.set_xticks(
                range(len(columns)), [in_lines(name, 24) for name in columns], rotation=90, fontsize="small"
            )
            axis.set_title(in_lines(title), fontsize="medium")
            axis.set_ylabel(axes_of[0].replace("_", " "))
            axis.set_xlabel(axes_of[1].replace("_", " "))
        below = max(label.get_window_extent().height for label in axes[0].get_xticklabels()) / figure.dpi
        width = max(0.6 * len(columns), width_of(axis.title for axis in axes))
        figure.set_size_inches(
            2.0 + width + width_of(axes[0].get_yticklabels()), len(axes) * (1.2 + below + row_edges(names)[-1])
        )
    return figure


def terms_figure(names: Sequence[str], numbers: Sequence[Mapping[str, float]]) -> Figure:
    """A stacked bar of the terms of the bound for each entry, with the target loss.

    Args:
        names: names of the entries.
        numbers: the terms of each entry, its "target_loss" and its "vacuous_level".

    Returns:
        A figure that is as large as its names need.
    """
    from matplotlib.figure import Figure

    labels = [in_lines(name) for name in names]
    edges = row_edges(labels)
    middles = [sum(pair) / 2 for pair in itertools.pairwise(edges)]
    with typography(names):
        figure = Figure(layout="constrained")
        axis = figure.subplots()
        start = np.zeros(len(names))
        for term, colour in zip(TERMS, TERM_COLOURS, strict=True):
            width = np.array([own.get(term, 0.0) for own in numbers])
            axis.barh(middles, width, left=start, color=colour, label=term.replace("_", " "), height=0.24)
            start += width
        losses = [own.get("target_loss", math.nan) for own in numbers]
        options: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 5, "linestyle": "none"}
        axis.plot(losses, middles, "D", label="target loss of the transformed head", **options)
        levels = [own.get("vacuous_level", math.nan) for own in numbers]
        axis.plot(levels, middles, "|", color="black", markersize=12, linestyle="none", label="constant guess")
        axis.set_yticks(middles, labels, fontsize="small")
        axis.set_ylim(edges[-1], 0)
        axis.set_xlim(left=0)
        axis.set_xlabel("bound on held-out samples, nats")
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
        figure.set_size_inches(6.5 + width_of(axis.get_yticklabels()), 1.5 + edges[-1])
    return figure


def _draw_colours(axis: Any, values: np.ma.MaskedArray, names: Sequence[str]) -> None:
    edges = row_edges(names)
    middles = [sum(pair) / 2 for pair in itertools.pairwise(edges)]
    image = axis.pcolormesh(np.arange(values.shape[1] + 1) - 0.5, edges, values, cmap="viridis")
    axis.set_yticks(middles, names, fontsize="small")
    axis.invert_yaxis()
    if values.count():
        axis.figure.colorbar(image, ax=axis)
        for (row, column), value in np.ndenumerate(values):
            if not np.ma.is_masked(value):
                colour = contrasting(image.cmap(image.norm(value)))
                axis.text(column, middles[row], f"{value:.3g}", ha="center", va="center", fontsize=7, color=colour)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](place) for place in range(count)]
    return [colormaps["turbo"](place / (count - 1)) for place in range(count)]
