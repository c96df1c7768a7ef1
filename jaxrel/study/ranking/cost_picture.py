"""Transferability against the size of encoders, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxrel.study.drawing import in_lines, typography, width_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxrel.study.ranking.table import Table

__all__ = ["cost_figure", "pareto_front"]

# Inches.
_PANEL, _LEFT, _GAP, _RIGHT, _BELOW, _ABOVE = 3.8, 0.8, 0.4, 0.2, 0.65, 0.4
_LEAST_HEIGHT = 2.4
_LINE, _BETWEEN = 0.16, 0.08  # of names


class _Point(NamedTuple):
    name: str
    parameters: int
    transferability: float


def cost_figure(tables: Sequence[Table]) -> Figure:
    """A panel for each target: transferability against parameters, with the Pareto front as a line.

    Names are beside the panel, in the vertical order of the points, each connected to its point by a line.

    Args:
        tables: at least one with an encoder whose number of parameters is known.

    Returns:
        A figure that is as large as its names need.
    """
    from matplotlib.figure import Figure

    # Transferability does not depend on the reference, so one table per target is enough.
    panels = {table.target: points for table in tables if (points := _points(table))}
    names = [point.name for points in panels.values() for point in points]
    with typography([*panels, *names]):
        figure = Figure()
        axes = [figure.add_subplot() for _ in panels]
        for axis, target in zip(axes, panels, strict=True):
            axis.set_title(f"Transferability against size\n{in_lines(target)}", fontsize="medium")
        heights = [max(_LEAST_HEIGHT, sum(map(_room, points))) for points in panels.values()]
        above = _ABOVE + 0.2 * max(axis.get_title().count("\n") for axis in axes)
        right = _LEFT + _PANEL + _GAP + _width(figure, names) + _RIGHT
        width, total = max(right, 2 * _LEFT + width_of(axis.title for axis in axes)), sum(heights)
        total += len(axes) * (above + _BELOW)
        figure.set_size_inches(width, total)
        top = total
        for axis, points, height in zip(axes, panels.values(), heights, strict=True):
            top -= above + height
            axis.set_position((_LEFT / width, top / total, _PANEL / width, height / total))
            _draw(axis, points, height)
            top -= _BELOW
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points `(cost, quality)` on the Pareto front, ordered by cost."""
    front: list[int] = []
    for position in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[position][1] > points[front[-1]][1]:
            front.append(position)
    return front


def _points(table: Table) -> list[_Point]:
    """The encoders with known cost, the best first."""
    scores = [row.score for row in table.rows if not row.score.failed]
    return [
        _Point(score.encoder, score.num_parameters, score.transferability)
        for score in scores
        if score.num_parameters is not None
    ]


def _room(point: _Point) -> float:
    """Height of a name."""
    return _LINE * (1 + in_lines(point.name).count("\n")) + _BETWEEN


def _width(figure: Figure, names: Sequence[str]) -> float:
    """Width of the widest name."""
    texts = [figure.text(0, 0, in_lines(name), fontsize="small") for name in names]
    width = width_of(texts)
    for text in texts:
        text.remove()
    return width


def _draw(axis: Any, points: Sequence[_Point], height: float) -> None:
    sizes, values = [point.parameters for point in points], [point.transferability for point in points]
    front = pareto_front([(point.parameters, point.transferability) for point in points])
    margin = 0.1 * (max(values) - min(values)) + 0.02
    low, high = min(values) - margin, max(values) + margin
    _scale(axis, sizes)
    axis.set_ylim(low, high)
    axis.step([sizes[place] for place in front], [values[place] for place in front], where="post", color="#4477aa")
    axis.plot(sizes, values, "o", color="white", markeredgecolor="#4477aa", linestyle="none")
    axis.plot([sizes[place] for place in front], [values[place] for place in front], "o", color="#4477aa")
    wanted = [(value - low) / (high - low) * height for value in values]
    places = _spread(wanted, list(map(_room, points)), height)
    for point, place in zip(points, places, strict=True):
        axis.annotate(
            in_lines(point.name),
            (point.parameters, point.transferability),
            (1 + _GAP / _PANEL, place / height),
            textcoords="axes fraction",
            fontsize="small",
            va="center",
            zorder=0,
            arrowprops={"arrowstyle": "-", "color": "0.75", "shrinkA": 0, "shrinkB": 4, "relpos": (0, 0.5)},
        )
    axis.set_xlabel("parameters; the line: no smaller encoder is better")
    axis.set_ylabel("transferability")
    axis.spines[["top", "right"]].set_visible(False)


def _scale(axis: Any, sizes: Sequence[int]) -> None:
    """A logarithmic axis, with a position for 0 if it occurs."""
    from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

    positive = [size for size in sizes if size] or [10]
    least, most = min(positive) / 2, 2 * max(positive)
    steps = (1,) if most / least > 100 else (1, 2, 5)
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps if least <= step * 10.0**decade <= most]
    if 0 in sizes:
        axis.set_xscale("symlog", linthresh=least, linscale=0.5)
        axis.set_xlim(-least / 4, most)
        ticks = [0, *ticks]
    else:
        axis.set_xscale("log")
        axis.set_xlim(least, most)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _spread(wanted: Sequence[float], room: Sequence[float], height: float) -> list[float]:
    """Positions from high to low, as near to the wanted ones as possible while each has its room between 0 and the
    height."""
    places, edge = [], height
    for place, space in zip(wanted, room, strict=True):
        places.append(min(place, edge - space / 2))
        edge = places[-1] - space / 2
    edge = 0.0
    for position in reversed(range(len(places))):
        places[position] = max(places[position], edge + room[position] / 2)
        edge = places[position] + room[position] / 2
    return places
