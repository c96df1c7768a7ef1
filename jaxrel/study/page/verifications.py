"""A verification on a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jaxrel.study.page.charts import scatter_chart
from jaxrel.study.page.content import Column, Grid, Part, kept_columns, mark_best, measured
from jaxrel.study.verification.agreement import named
from jaxrel.study.verification.result import Verification

__all__ = ["part_of_verification"]


def part_of_verification(verification: Verification) -> Part:
    """One row per encoder with accuracies after training and scores, then their agreement."""
    rows: list[dict[str, Any]] = [{"encoder": encoder} for encoder in verification.encoders]
    by_encoder = {row["encoder"]: row for row in rows}
    columns = [Column("encoder", "encoder", "name")]
    for accuracies in verification.accuracies:
        places = {encoder: place for place, encoder in enumerate(accuracies.encoders)}
        for encoder, place in places.items():
            lower, upper = accuracies.intervals[place].tolist()
            by_encoder[encoder].update(measured(accuracies.kind, float(accuracies.means[place]), (lower, upper)))
        own = [by_encoder[encoder] for encoder in places]
        means, noise = accuracies.means, accuracies.noise
        mark_best(own, accuracies.kind, "higher", lambda a, b, m=means, n=noise: abs(m[a] - m[b]) <= n(a, b))  # type: ignore[misc]
        columns.append(Column(accuracies.kind, named(accuracies.kind), "share", "higher"))
    for number, score in enumerate(verification.columns):
        field = f"score_{number}"  # names of scores have characters that are not allowed in fields of charts
        for encoder, value in score.values.items():
            if encoder in by_encoder:
                interval = score.intervals.get(encoder, (math.nan, math.nan))
                by_encoder[encoder].update(measured(field, value, interval))
        columns.append(Column(field, score.name, "number", "higher" if score.higher_is_better else "lower"))
    drawn = list(_points(verification, by_encoder))
    charts = [scatter_chart("Accuracy after training against scores", drawn)] if drawn else []
    _, *agreements = verification.sections()
    return Part(
        f"Verification on {verification.target}",
        [Grid("Encoders", kept_columns(columns, rows), rows, " ".join(map(str, verification.agreements)), charts)],
        agreements,
        verification.notes,
        verification.complaints,
        verification.settings,
    )


def _points(verification: Verification, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, score in enumerate(verification.columns):
        for accuracies in verification.accuracies:
            for encoder in accuracies.encoders:
                row, kind = rows[encoder], accuracies.kind
                if math.isfinite(row.get(f"score_{number}", math.nan)):
                    yield {
                        "encoder": encoder,
                        "score": score.name,
                        "accuracy": named(kind),
                        "x": row[f"score_{number}"],
                        "y": row[kind],
                        "y_lower": row[f"{kind}_lower"],
                        "y_upper": row[f"{kind}_upper"],
                    }
