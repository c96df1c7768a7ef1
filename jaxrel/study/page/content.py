"""What a page shows, whatever kind of result it is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jaxrel.study.settings import Settings
from jaxrel.study.tabular import Section

__all__ = ["COSTS", "STATUS", "Chart", "Column", "Grid", "Part", "kept_columns", "mark_best", "measured"]

Rows = Sequence[Mapping[str, Any]]


class Column(NamedTuple):
    """A column of a table that is sorted and filtered.

    Attributes:
        field: of the rows. Beside it a row may have `FIELD_lower` and `FIELD_upper`, an interval, and `FIELD_mark`:
            "best", or "tied" where it cannot be told apart from the best.
        heading: as people read it.
        kind: "name" is text that can be chosen from a list; all but names and texts are numbers.
        better: which end of the numbers is the better one; None where neither is.
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
        title: what it shows.
        description: the same for those who do not see it.
        spec: of Vega-Lite; its data are the rows of the table, or its own.
    """

    title: str
    description: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A table that is sorted and filtered, and charts of its rows."""

    title: str
    columns: Sequence[Column]
    rows: Rows
    caption: str = ""
    charts: Sequence[Chart] = ()


@dataclass(frozen=True)
class Part:
    """One result.

    Attributes:
        title: what it is.
        grids: tables that are sorted and filtered; none is empty.
        sections: tables that are not, as the terminal has them.
        notes: notes to read first.
        complaints: what went wrong.
        settings: how it was computed, if the result says.
        expensive: by target, names of its most expensive classes, of which samples are worth a look.
    """

    title: str
    grids: Sequence[Grid]
    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()
    complaints: Sequence[str] = ()
    settings: Settings | None = None
    expensive: Mapping[str, Sequence[str]] | None = None


def measured(field: str, value: float, interval: tuple[float, float] = (math.nan, math.nan)) -> dict[str, Any]:
    """The fields of a number and of its interval, without what is missing."""
    fields = {field: value, f"{field}_lower": interval[0], f"{field}_upper": interval[1]}
    return {name: number for name, number in fields.items() if not math.isnan(number)}


def mark_best(
    rows: Sequence[dict[str, Any]],
    field: str,
    better: Literal["higher", "lower"],
    tied: Callable[[int, int], bool],
) -> None:
    """Mark the best of rows that are compared, and all that cannot be told apart from it.

    Args:
        rows: which get `FIELD_mark`.
        field: what they are compared by.
        better: which end of it is the better one.
        tied: whether rows at two positions, the second the best, cannot be told apart.
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
    """Those that some row has something in."""
    return [column for column in columns if any(row.get(column.field) not in (None, "") for row in rows)]
