"""The content of a page, independent of the kind of result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxrel.study.settings import Settings
from jaxrel.study.tabular import Section

__all__ = ["COSTS", "STATUS", "Chart", "Column", "Grid", "Part", "kept_columns", "mark_best", "measured"]

Rows = Sequence[Mapping[str, Any]]


class Column(NamedTuple):
    """A column of a table that is sorted and filtered.

    Attributes:
        field: field of the rows. A row may also have `FIELD_lower` and `FIELD_upper`, an interval, and `FIELD_mark`:
            "best", or "tied" if it does not differ significantly from the best.
        heading: readable heading.
        kind: "name" is text that can be selected from a list; all kinds except names and texts are numbers.
        better: the better end of the numbers; None if neither is better.
    """

    field: str
    heading: str
    kind: Literal["name", "text", "share", "number", "count", "seconds"] = "number"
    better: Literal["higher", "lower"] | None = None


COSTS = (
    Column("num_parameters", "parameters", "count", "lower"),
    Column("feature_width", "width", "count", "lower"),
    Column("extraction_seconds", "extraction, s", "seconds", "lower"),
    Column("compilation_seconds", "compilation, s", "seconds", "lower"),
    Column("scoring_seconds", "scoring, s", "seconds", "lower"),
)
STATUS = Column("status", "what went wrong", "text")


class Chart(NamedTuple):
    """A chart of the rows of a table.

    Attributes:
        title: what the chart shows.
        description: alternative text of the chart.
        spec: Vega-Lite specification; its data are the rows of the table, or its own.
    """

    title: str
    description: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A sortable and filterable table, and charts of its rows."""

    title: str
    columns: Sequence[Column]
    rows: Rows
    caption: str = ""
    charts: Sequence[Chart] = ()


@dataclass(frozen=True)
class Part:
    """One result on the page.

    Attributes:
        title: what it is.
        grids: sortable and filterable tables; none is empty.
        sections: static tables, as printed in the terminal.
        notes: notes to read first.
        complaints: errors and failures.
        settings: the settings of the result, if known.
        best: the best encoder by transferability, by target.
    """

    title: str
    grids: Sequence[Grid]
    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()
    complaints: Sequence[str] = ()
    settings: Settings | None = None
    best: Mapping[str, str] = field(default_factory=dict)


def measured(field: str, value: float, interval: tuple[float, float] = (math.nan, math.nan)) -> dict[str, Any]:
    """The fields of a number and of its interval, without missing ones."""
    fields = {field: value, f"{field}_lower": interval[0], f"{field}_upper": interval[1]}
    return {name: number for name, number in fields.items() if not math.isnan(number)}


def mark_best(
    rows: Sequence[dict[str, Any]],
    field: str,
    better: Literal["higher", "lower"],
    tied: Callable[[int, int], bool],
) -> None:
    """Mark the best of the compared rows, and all rows that do not differ significantly from it.

    Args:
        rows: the rows that get `FIELD_mark`.
        field: the field by which they are compared.
        better: the better end of the field.
        tied: whether the rows at two positions, the second being the best, do not differ significantly.
    """
    sign = 1 if better == "higher" else -1
    places = [place for place, row in enumerate(rows) if field in row]
    if len(places) < 2:
        return
    best = max(places, key=lambda place: sign * rows[place][field])
    for place in places:
        if place == best:
            rows[place][f"{field}_mark"] = "best"
        elif rows[place][field] == rows[best][field] or tied(place, best):
            rows[place][f"{field}_mark"] = "tied"


def kept_columns(columns: Sequence[Column], rows: Rows) -> list[Column]:
    """The columns that are not empty in every row."""
    return [column for column in columns if any(row.get(column.field) not in (None, "") for row in rows)]
