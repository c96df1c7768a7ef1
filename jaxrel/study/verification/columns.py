"""The scores of a study as columns of numbers, one for each encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jaxrel.metrics.registry import METRICS
from jaxrel.study.plan import BOUND, TRAINED, TRANSFERABILITY
from jaxrel.study.ranking.table import Ranking
from jaxrel.study.records import OK, Record
from jaxrel.study.results import Results

__all__ = ["Column", "columns_of", "target_of"]


@dataclass(frozen=True)
class Column:
    """One score of all encoders on a target.

    Attributes:
        name: name of the metric, with the positions on the axes that the study varies.
        values: values by encoder; NaN if it failed.
        higher_is_better: whether a larger value promises better transfer.
        intervals: intervals by encoder, if any.
    """

    name: str
    values: Mapping[str, float]
    higher_is_better: bool = True
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def target_of(found: Results | Ranking, target: str | None) -> str:
    """The target to verify.

    Raises:
        ValueError: there is no such target, or there are several and none was passed.
    """
    known = [table.target for table in found.tables] if isinstance(found, Ranking) else list(found.targets)
    known = list(dict.fromkeys(known))
    if target is None and len(known) == 1:
        return known[0]
    if target not in known:
        what = "there are several targets" if target is None else f"there are no scores on {target!r}"
        raise ValueError(f"{what}: pass one of {', '.join(known)}.")
    return target


def columns_of(found: Results | Ranking, target: str) -> list[Column]:
    """Every score on a target, averaged over seeds."""
    return _of_ranking(found, target) if isinstance(found, Ranking) else _of_results(found, target)


def _of_ranking(ranking: Ranking, target: str) -> list[Column]:
    columns: dict[str, Column] = {}
    for table in (table for table in ranking.tables if table.target == target):
        scores = [row.score for row in table.rows]
        columns[TRANSFERABILITY] = Column(
            TRANSFERABILITY,
            {score.encoder: score.transferability for score in scores},
            intervals={score.encoder: (score.lower, score.upper) for score in scores if not math.isnan(score.lower)},
        )
        if table.reference is not None:
            name = f"{BOUND} ({table.reference})"
            values = {score.encoder: score.bound if score.has_terms else math.nan for score in scores}
            columns[name] = Column(name, values, higher_is_better=False)
    return list(columns.values())


def _of_results(results: Results, target: str) -> list[Column]:
    found: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in results.entries:
        if record.target == target and record.metric not in TRAINED:
            name = _name(record, results)
            found.setdefault((record.metric, name), {}).setdefault(record.encoder, []).append(record)
    return [
        Column(
            name,
            {
                encoder: float(np.mean([_value(record) for record in records]))
                for encoder, records in by_encoder.items()
            },
            metric != BOUND and METRICS[metric].higher_is_better,
            {
                encoder: (records[0].numbers["lower"], records[0].numbers["upper"])
                for encoder, records in by_encoder.items()
                if len(records) == 1 and "lower" in records[0].numbers
            },
        )
        for (metric, name), by_encoder in found.items()
    ]


def _value(record: Record) -> float:
    return record.value if record.status == OK else math.nan


def _name(record: Record, results: Results) -> str:
    places = [
        record.reference,
        f"{record.samples} samples" if len(results.samples) > 1 else None,
        f"classes {record.reference_classes}" if len(results.reference_classes) > 1 and record.reference else None,
    ]
    told = ", ".join(filter(None, places))
    return f"{record.metric} ({told})" if told else record.metric
