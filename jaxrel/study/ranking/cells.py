"""The cells of a ranking's tables, and its rows as records."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from jaxrel.study.ranking.score import LOGGED, NUMBERS
from jaxrel.study.tabular import Section

if TYPE_CHECKING:
    from jaxrel.study.ranking.table import Row, Table

__all__ = ["count", "record_of", "section_of"]

_OF_TERMS = (*NUMBERS, "bound_key", "reference", "terms_status", "target_labels", "num_classes", "vacuous_level")


def section_of(table: Table) -> Section:
    """A table with the level of a constant guess, recipes above it and errors below."""
    complaining: dict[str, list[str]] = {}  # encoders, which often fail for one reason, such as a damaged file
    for score in (row.score for row in table.rows):
        if score.complaint:
            name = score.encoder if score.failed else f"{score.encoder} (terms)"
            complaining.setdefault(score.complaint, []).append(name)
    return Section(
        f"{table.heading}   ({_levels(table)})",
        [_cells(row, table) for row in table.rows],
        notes=[*(f"transferability: {recipe}" for recipe in table.recipes), *_class_counts(table)],
        complaints=[f"{', '.join(names)}: {complaint}" for complaint, names in complaining.items()],
        failed=frozenset(position for position, row in enumerate(table.rows) if row.score.complaint),
    )


def record_of(row: Row, *, terms: bool) -> dict[str, Any]:
    """One row as flat fields, with None for missing numbers; resamples and classes stay in the log, and what the rows
    of a table share is left out."""
    left_out = {*LOGGED, "class_counts", *(() if terms else _OF_TERMS)}
    fields = {
        field.name: getattr(row.score, field.name)
        for field in dataclasses.fields(row.score)
        if field.name not in left_out
    }
    if terms:
        fields |= zip(("bound_low", "bound_high"), row.bound_interval, strict=True)
    ties = {"tied_with_best": row.tied_with_best, "tied_with": list(row.tied_with)}
    return {name: None if value != value else value for name, value in ({"rank": row.rank} | fields | ties).items()}


def count(number: int | None) -> str:
    """A number of parameters in three digits, such as 3.5M; empty if unknown."""
    if number is None:
        return ""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= 0.9995 * size:
            return f"{float(f'{number / size:.3g}'):g}{unit}"
    return str(number)


def _class_counts(table: Table) -> list[str]:
    """How many samples each class name got, and which got none."""
    counts = table.class_counts
    if not counts:
        return []
    parts = [f"{name} {number:,}" for name, number in counts.items() if number]
    none = [name for name, number in counts.items() if not number]
    return [f"samples by class name: {', '.join(parts)}" + (f"; none for {', '.join(none)}" if none else "")]


def _levels(table: Table) -> str:
    """The level of a constant guess, if labels are used."""
    if table.settings.label_free:
        return "no target labels"
    level, classes = table.vacuous
    guess = "unknown" if math.isnan(table.majority) else f"{table.majority:.1%}"
    parts = [f"accuracy of a constant guess: {guess}"]
    if not math.isnan(level):
        parts.append(f"losses in nats; that of a constant guess over {classes} classes: {level:.3f}")
    return "; ".join(parts)


def _cells(row: Row, table: Table) -> dict[str, str]:
    """The entries of a row by heading; the least important are last, and wrap first."""
    score, scores = row.score, [other.score for other in table.rows]
    rank = "" if row.rank is None else f"{'=' if row.tied_with_best else ''}{row.rank}"
    cells = {"rank": rank, "encoder": score.encoder}
    if table.is_summary:
        cells["reference"] = score.reference or ""
    cells["transfer-\nability"] = "failed" if score.failed else f"{score.transferability:.1%}"
    interval = "" if math.isnan(score.lower) else f"{score.lower:.1%}-{score.upper:.1%}"
    cells[f"{table.settings.confidence:.0%}\ninterval"] = interval
    if any(not math.isnan(other.accuracy) for other in scores):
        cells["accuracy"] = "" if math.isnan(score.accuracy) else f"{score.accuracy:.1%}"
    if any(other.num_parameters is not None for other in scores):
        cells["para-\nmeters"] = count(score.num_parameters)
    if any(other.feature_width is not None for other in scores):
        cells["width"] = "" if score.feature_width is None else str(score.feature_width)
    if table.references != {None}:
        headings = ("bound", "reference\nloss", "label\nmismatch", "distribution\nmismatch", "target\nloss")
        values = (score.bound, *score.terms, score.target_loss)
        for heading, value in zip(headings, values, strict=True):
            cells[heading] = f"{value:z.3f}" if score.has_terms and not math.isnan(value) else ""
    return cells | {
        "extract\ns": f"{score.extraction_seconds:.1f}",
        "compile\ns": f"{score.compilation_seconds:.1f}",
        "score\ns": f"{score.scoring_seconds:.1f}",
    }
