"""Bounds on a page: columns of their terms, and a table of the target classes that contribute to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from jaxrel.study.figures import TERMS
from jaxrel.study.page.charts import terms_chart
from jaxrel.study.page.content import Column, Grid, kept_columns

__all__ = ["TERM_COLUMNS", "class_grid"]

TERM_COLUMNS = (
    *(Column(term, term.replace("_", " "), better="lower") for term in TERMS),
    Column("target_loss", "target loss", better="lower"),
)
_MOST_ROWS = 4000
_COLUMNS = (
    Column("class", "class", "name"),
    Column("prior", "share of the target", "share"),
    Column("class_bound", "bound on its mean loss"),
    Column("bound", "share of the bound"),
    *TERM_COLUMNS,
    Column("leans_on", "leans on", "text"),
)


def class_grid(
    bounds: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]], names: Sequence[Column]
) -> Grid:
    """The target classes that contribute to bounds.

    Args:
        bounds: for each bound, the fields of `names` that identify it, and the records of its classes.
        names: columns that identify a bound.

    Returns:
        A table, which may be empty.
    """
    found = (dict(about) | _row(one) for about, classes in bounds for one in classes)
    rows = list(islice(found, _MOST_ROWS))
    caption = (
        "Terms are shares of those of the bound, in nats: the classes of a target sum to its bound, but that no more "
        "than the 25 most expensive ones are kept. Weights say which reference classes a class leans on."
    )
    if next(found, None) is not None:
        caption += f" The first {_MOST_ROWS:,} rows are here; records.jsonl has all."
    columns = kept_columns([*names, *_COLUMNS], rows)
    shown = [column for column in columns if column.kind == "name"]
    first = [*(column for column in shown if column.field == "class"), *(c for c in shown if c.field != "class")]
    charts = [terms_chart("Terms of the bound by target class", rows, first, largest_first=True)] if rows else []
    return Grid("Target classes", columns, rows, caption, charts)


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    leaning = ", ".join(f"{name} ({weight:.2f})" for name, weight in record["leans_on"])
    return dict(record) | {"leans_on": leaning}
