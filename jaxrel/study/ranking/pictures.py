"""A ranking as pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxrel.study.drawing import in_lines, row_edges, typography, width_of
from jaxrel.study.figures import TERM_COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxrel.study.ranking.table import Table

__all__ = ["ranking_figure"]

_LABELS = ("re-weighted reference loss", "label mismatch", "distribution mismatch")
_PANEL = 3.4  # inches, like all sizes here
_BAR = 0.24


def ranking_figure(tables: Sequence[Table]) -> Figure:
    """A panel of transferability for each table, and, with a reference, one of the bound beside it.

    Args:
        tables: at least one.

    Returns:
        A figure that is as large as its names and its number of encoders need.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = 2 if any(table.references != {None} for table in tables) else 1
    blocks = max(1, round(math.sqrt(len(tables) / panels)))
    lines, columns = math.ceil(len(tables) / blocks), blocks * panels
    with typography(_names(tables)):
        figure = Figure(layout=ConstrainedLayoutEngine(w_pad=0.12))
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        for position, table in enumerate(tables):
            number, *terms = axes[panels * position : panels * (position + 1)]
            _draw_number(number, table)
            for axis in terms:
                _draw_terms(axis, table)
        for axis in axes[panels * len(tables) :]:
            axis.set_axis_off()
        if panels > 1:
            handles, labels = axes[1].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
        drawn = axes[: panels * len(tables)]
        figure.set_size_inches(columns * _width(drawn), lines * _height(drawn) + 0.5 * (panels - 1))
    return figure


def _names(tables: Sequence[Table]) -> list[str]:
    scores = [row.score for table in tables for row in table.rows]
    return [name for score in scores for name in (score.encoder, score.target, score.reference or "")]


def _width(axes: Sequence[Any]) -> float:
    """Room for a panel, its title and the names beside it."""
    titles = width_of(axis.title for axis in axes)
    return 0.9 + max(_PANEL, titles) + width_of(label for axis in axes for label in axis.get_yticklabels())


def _height(axes: Sequence[Any]) -> float:
    """Room for the rows, a title and an axis."""
    titles = max(1 + axis.get_title().count("\n") for axis in axes)
    return 0.9 + 0.2 * titles + max(axis.get_ylim()[0] for axis in axes)


def _places(table: Table) -> list[float]:
    """The centres of the rows, in inches."""
    edges = row_edges(in_lines(row.score.encoder) for row in table.rows)
    return [sum(pair) / 2 for pair in itertools.pairwise(edges)]


def _draw_number(axis: Any, table: Table) -> None:
    """A bar of transferability for each encoder, the best on top."""
    scores, places = [row.score for row in table.rows], _places(table)
    axis.barh(places, [_drawn(score.transferability) for score in scores], color="#88aacc", height=_BAR)
    for place, score in zip(places, scores, strict=True):
        axis.hlines(place, score.lower, score.upper, color="black", linewidth=1.2)
        end = max(_drawn(score.transferability), _drawn(score.upper))
        said = "failed" if score.failed else f"{score.transferability:.1%}"
        axis.text(end + 0.015, place, said, va="center", fontsize="small")
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"transferability, with {table.settings.confidence:.0%} interval")
    axis.set_title(f"Transferability\n{in_lines(table.target)}", fontsize="medium")
    _finish(axis, table, [in_lines(score.encoder) for score in scores])


def _draw_terms(axis: Any, table: Table) -> None:
    """A stacked bar for each encoder, in the same order."""
    places = _places(table)
    terms = [row.score.terms if row.score.has_terms else (0.0, 0.0, 0.0) for row in table.rows]
    start = [0.0] * len(table.rows)
    for position, (label, colour) in enumerate(zip(_LABELS, TERM_COLOURS, strict=True)):
        width = [_drawn(term[position]) for term in terms]
        axis.barh(places, width, left=start, color=colour, label=label, height=_BAR)
        start = [sum(pair) for pair in zip(start, width, strict=True)]
    drawn = [(place, row) for place, row in zip(places, table.rows, strict=True) if row.score.has_terms]
    for place, row in drawn:
        axis.hlines(place, *row.bound_interval, color="black", linewidth=1.2)
    axis.plot(
        [row.score.target_loss for _, row in drawn],
        [place for place, _ in drawn],
        "D",
        color="white",
        markeredgecolor="black",
        markersize=5,
        linestyle="none",
        label="target loss of the transformed head",
    )
    label_free = table.settings.label_free
    if not label_free:
        axis.axvline(table.vacuous[0], color="black", linestyle="--", linewidth=1, label="constant guess")
    axis.set_xlim(left=0)
    axis.set_xlabel("bound on pseudo-labels, nats" if label_free else "bound on held-out samples, nats")
    tasks = in_lines(table.heading)
    axis.set_title(f"Bound and its terms\n{tasks}", fontsize="medium")
    _finish(axis, table, ["" if row.score.has_terms else "failed" for row in table.rows])


def _finish(axis: Any, table: Table, names: Sequence[str]) -> None:
    axis.set_yticks(_places(table), names, fontsize="small")
    axis.set_ylim(row_edges(in_lines(row.score.encoder) for row in table.rows)[-1], 0)
    axis.spines[["top", "right"]].set_visible(False)


def _drawn(value: float) -> float:
    return value if math.isfinite(value) else 0.0
