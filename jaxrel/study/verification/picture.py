"""Scores against accuracies after training, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxrel.study.drawing import in_lines, typography, width_of
from jaxrel.study.verification.agreement import Accuracies, named
from jaxrel.study.verification.columns import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["verification_figure"]

_MARKERS = "os^Dv<>pPX*h"
_PANEL = 3.2  # inches


def verification_figure(
    target: str, encoders: Sequence[str], columns: Sequence[Column], accuracies: Sequence[Accuracies]
) -> Figure:
    """One row of panels per score, with one panel per kind of accuracy; better is to the right and up."""
    from matplotlib.figure import Figure

    with typography([target, *encoders, *(column.name for column in columns)]):
        figure = Figure(layout="constrained")
        axes = figure.subplots(len(columns), len(accuracies), squeeze=False)
        for line, column in zip(axes, columns, strict=True):
            for axis, kind in zip(line, accuracies, strict=True):
                _draw(axis, encoders, column, kind)
        handles = {
            label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize="small")
        figure.suptitle(in_lines(target), fontsize="medium")
        names = width_of(text for legend in figure.legends for text in legend.get_texts())
        figure.set_size_inches(_PANEL * len(accuracies) + names + 0.8, 0.9 * _PANEL * len(columns) + 0.3)
    return figure


def _draw(axis: Any, encoders: Sequence[str], column: Column, accuracies: Accuracies) -> None:
    for place, encoder in enumerate(encoders):
        score = column.values.get(encoder, math.nan)
        if encoder not in accuracies.encoders or not math.isfinite(score):
            continue
        row = accuracies.encoders.index(encoder)
        lower, upper = column.intervals.get(encoder, (score, score))
        mean, (low, high) = accuracies.means[row], accuracies.intervals[row]
        axis.errorbar(
            score,
            mean,
            xerr=[[score - lower], [upper - score]],
            yerr=[[mean - low], [high - mean]],
            fmt=_MARKERS[place % len(_MARKERS)],
            color=f"C{place % 10}",
            elinewidth=1,
            label=in_lines(encoder),
        )
    if not column.higher_is_better:
        axis.invert_xaxis()
    axis.set_xlabel(in_lines(column.name) + ("" if column.higher_is_better else ", smaller is better"))
    axis.set_ylabel(named(accuracies.kind))
    axis.spines[["top", "right"]].set_visible(False)
