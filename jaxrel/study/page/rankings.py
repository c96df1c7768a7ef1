"""A ranking on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrel.study.page.bounds import TERM_COLUMNS, class_grid
from jaxrel.study.page.charts import cost_chart, heat_chart, terms_chart
from jaxrel.study.page.content import COSTS, STATUS, Chart, Column, Grid, Part, kept_columns, measured
from jaxrel.study.ranking.report import notes
from jaxrel.study.ranking.table import Ranking, Row, Table

__all__ = ["part_of_ranking"]

_NAMES = (
    Column("encoder", "encoder", "name"),
    Column("reference", "reference", "name"),
    Column("target", "target", "name"),
)
_RANK = Column("rank", "rank", "count", "lower")
_QUALITIES = (
    Column("transferability", "transferability", "share", "higher"),
    Column("accuracy", "accuracy", "share", "higher"),
)
_BOUND = Column("bound", "bound", better="lower")


def part_of_ranking(ranking: Ranking) -> Part:
    """Every encoder on every pair of tasks."""
    rows = [_row(row, table) for table in ranking.tables for row in table.rows]
    _, reference, target = _NAMES
    shared = [name.field for name in (target, reference) if len({row[name.field] for row in rows}) == 1]
    varied = [name for name in _NAMES if name.field not in shared]
    columns = kept_columns([*varied, _RANK, *_QUALITIES, _BOUND, *TERM_COLUMNS, *COSTS, STATUS], rows)
    names = [column for column in columns if column in _NAMES]
    sections = ranking.sections()
    classes = class_grid(
        (
            ({name.field: getattr(row.score, name.field) for name in _NAMES}, row.score.classes)
            for table in ranking.tables
            for row in table.rows
        ),
        names,
    )
    grid = Grid(
        "Encoders",
        columns,
        rows,
        f"Intervals in brackets hold {ranking.settings.confidence:.0%} of the resamples; encoders that tie with "
        f"the best of their target do not differ from it significantly on the same resamples.",
        _charts(rows, columns, names),
    )
    return Part(
        _title({field: rows[0][field] for field in shared}),
        [grid, classes] if classes.rows else [grid],
        notes=[*notes(ranking), *dict.fromkeys(line for one in sections for line in (one.title, *one.notes))],
        complaints=list(dict.fromkeys(line for one in sections for line in one.complaints)),
        settings=ranking.settings,
        best={table.target: table.rows[0].score.encoder for table in ranking.tables if not table.rows[0].score.failed},
    )


def _title(shared: Mapping[str, str | None]) -> str:
    """The title, with the names that all rows share."""
    words = {"target": "on", "reference": "with reference"}
    return " ".join(
        ["Ranking by transferability", *(f"{words[field]} {name}" for field, name in shared.items() if name)]
    )


def _row(row: Row, table: Table) -> dict[str, Any]:
    score = row.score
    fields: dict[str, Any] = {"encoder": score.encoder, "reference": score.reference, "target": score.target}
    if score.failed:
        return fields | {"status": score.complaint}
    fields |= {"rank": row.rank} | measured("transferability", score.transferability, (score.lower, score.upper))
    if len(table.rows) > 1 and (row.rank == 1 or row.tied_with_best):
        fields["transferability_mark"] = "best" if row.rank == 1 else "tied"
    numbers = ["accuracy"]
    if score.has_terms:
        fields |= measured("bound", score.bound, row.bound_interval)
        numbers += ["vacuous_level", *(column.field for column in TERM_COLUMNS)]
    for name in (*numbers, *(column.field for column in COSTS)):
        value = getattr(score, name)
        fields |= {} if value is None else measured(name, value)
    return fields | ({"status": score.complaint} if score.complaint else {})


def _charts(rows: list[dict[str, Any]], columns: list[Column], names: list[Column]) -> list[Chart]:
    charts = []
    if _BOUND in columns:
        charts.append(terms_chart("Terms of the bound", [row for row in rows if "bound" in row], names))
        if len({row["reference"] for row in rows}) > 1 < len({row["target"] for row in rows}):
            charts.append(heat_chart("Bound by reference and target", rows, "reference", "target", _BOUND))
    costs = [column for column in columns if column in COSTS]
    qualities = [column for column in columns if column in (*_QUALITIES, _BOUND)]
    return [*charts, cost_chart(rows, names, costs, qualities)] if costs and qualities else charts
