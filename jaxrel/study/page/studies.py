"""The results of a study on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxrel.metrics.registry import METRICS
from jaxrel.study.intervals import percentile_interval, told_apart
from jaxrel.study.page.bounds import TERM_COLUMNS, class_grid
from jaxrel.study.page.charts import cost_chart, heat_chart, terms_chart
from jaxrel.study.page.content import COSTS, STATUS, Chart, Column, Grid, Part, kept_columns, mark_best, measured
from jaxrel.study.plan import BOUND, TRAINED, TRANSFERABILITY
from jaxrel.study.records import OK, Record
from jaxrel.study.results import AXES, Results

__all__ = ["part_of_study"]

_NAMES = tuple(Column(axis, axis.replace("_", " "), "name") for axis in AXES)
_SHARES = (TRANSFERABILITY, *TRAINED)

_Place = tuple[Any, ...]


def part_of_study(results: Results) -> Part:
    """One row per position on the axes, one column per metric; metrics without a reference repeat along that axis."""
    places = _places(results)
    rows = {place: dict(zip(AXES, place, strict=True)) | _costs(found) for place, found in places.items()}
    for metric in results.metrics:
        for group in _compared(places, metric):
            _fill(metric, [(rows[place], record) for place, record in group], results.settings.confidence)
    shown = list(rows.values())
    metrics = [
        Column(name, name.replace("_", " "), "share" if name in _SHARES else "number", _better(name))
        for name in results.metrics
    ]
    names = [column for column in _NAMES if column.field == "encoder" or _varies(shown, column.field)]
    columns = kept_columns([*names, *metrics, *TERM_COLUMNS, *COSTS, STATUS], shown)
    bounds = [record for record in results.entries if record.metric == BOUND]
    classes = class_grid((({axis: getattr(record, axis) for axis in AXES}, record.classes) for record in bounds), names)
    sections = results.sections()
    grid = Grid(
        "Encoders",
        columns,
        shown,
        f"Intervals in brackets hold {results.settings.confidence:.0%} of the resamples; numbers that tie with "
        f"the best of their target do not differ from it significantly on the same resamples.",
        _charts(shown, columns, names, metrics),
    )
    return Part(
        "Study",
        [grid, classes] if classes.rows else [grid],
        complaints=[f"{one.title}: {line}" for one in sections for line in one.complaints],
        settings=results.settings,
        best=_best(results),
    )


def _best(results: Results) -> dict[str, str]:
    """The encoder of the largest transferability on each target, over all other axes."""
    best: dict[str, Record] = {}
    for record in results.entries:
        if record.metric == TRANSFERABILITY and record.status == OK:
            best[record.target] = max(best.get(record.target, record), record, key=lambda one: one.value)
    return {target: record.encoder for target, record in best.items()}


def _places(results: Results) -> dict[_Place, dict[str, Record]]:
    """Records by metric and by their positions on the axes."""
    places: dict[_Place, dict[str, Record]] = {}
    alone: dict[_Place, dict[_Place, dict[str, Record]]] = {}
    for record in results.entries:
        place = tuple(getattr(record, axis) for axis in AXES)
        known = places if record.reference is not None else alone.setdefault(_without_reference(place), {})
        known.setdefault(place, {})[record.metric] = record
    joined = set(map(_without_reference, places))
    for place, found in places.items():
        for others in alone.get(_without_reference(place), {}).values():
            found |= others
    return places | {place: found for key, own in alone.items() if key not in joined for place, found in own.items()}


def _without_reference(place: _Place) -> _Place:
    about = dict(zip(AXES, place, strict=True))
    return tuple(about[axis] for axis in AXES if axis not in ("reference", "reference_classes"))


def _compared(places: Mapping[_Place, Mapping[str, Record]], metric: str) -> list[list[tuple[_Place, Record]]]:
    """Records of a metric that differ only in the encoder."""
    groups: dict[_Place, list[tuple[_Place, Record]]] = {}
    for place, found in places.items():
        if metric in found:
            groups.setdefault(place[1:], []).append((place, found[metric]))
    return list(groups.values())


def _fill(metric: str, group: Sequence[tuple[dict[str, Any], Record]], confidence: float) -> None:
    """Add the numbers of a metric to the rows of the compared encoders."""
    for row, record in group:
        if record.status != OK:
            row["status"] = "; ".join(filter(None, (row.get("status"), f"{metric}: {record.status}")))
            continue
        numbers = record.numbers
        interval = numbers.get("lower", math.nan), numbers.get("upper", math.nan)
        if "lower" not in numbers:
            interval = percentile_interval(record.resamples, confidence)
        row |= measured(metric, record.value, interval)
        if metric == BOUND:
            terms = ("vacuous_level", *(column.field for column in TERM_COLUMNS))
            for name in terms:
                row |= measured(name, numbers.get(name, math.nan))

    def tied(one: int, other: int) -> bool:
        return told_apart(group[one][1].resamples, group[other][1].resamples, confidence) is False

    mark_best([row for row, _ in group], metric, _better(metric), tied)


def _better(metric: str) -> Literal["higher", "lower"]:
    return "lower" if metric == BOUND or (metric in METRICS and not METRICS[metric].higher_is_better) else "higher"


def _costs(found: Mapping[str, Record]) -> dict[str, Any]:
    """Facts about the encoder, and the total seconds of its records."""
    numbers = [record.numbers for record in found.values()]
    costs: dict[str, Any] = {}
    for name in (column.field for column in COSTS):
        values = [own[name] for own in numbers if not math.isnan(own.get(name, math.nan))]
        if values:
            costs[name] = sum(values) if name.endswith("seconds") else max(values)
    return costs


def _varies(rows: Sequence[Mapping[str, Any]], field: str) -> bool:
    return field in ("reference", "target") or len({row[field] for row in rows}) > 1


def _charts(
    rows: list[dict[str, Any]], columns: Sequence[Column], names: Sequence[Column], metrics: Sequence[Column]
) -> list[Chart]:
    charts = []
    if BOUND in (column.field for column in columns):
        charts.append(terms_chart("Terms of the bound", [row for row in rows if BOUND in row], names))
    drawn = [column for column in metrics if column in columns]
    if len({row["reference"] for row in rows}) > 1 < len({row["target"] for row in rows}):
        of_references = [c for c in drawn if c.field == BOUND or "reference_features" in _needs(c.field)]
        charts += [
            heat_chart(f"{c.heading} by reference and target", rows, "reference", "target", c) for c in of_references
        ]
    costs = [column for column in columns if column in COSTS]
    return [*charts, cost_chart(rows, names, costs, drawn)] if costs and drawn else charts


def _needs(metric: str) -> Sequence[str]:
    return METRICS[metric].needs if metric in METRICS else ()
