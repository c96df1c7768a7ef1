"""A scoreboard on a page."""

from __future__ import annotations

import json

import numpy as np

from jaxrel.metrics.registry import METRICS
from jaxrel.study.page.charts import heat_chart
from jaxrel.study.page.content import Column, Grid, Part, kept_columns, mark_best, measured
from jaxrel.study.scoreboard.board import Scoreboard
from jaxrel.study.scoreboard.report import NOTE

__all__ = ["part_of_scoreboard"]


def part_of_scoreboard(board: Scoreboard) -> Part:
    """One row per encoder, one column per metric, and the ranks as a heat map."""
    rows = [
        {"encoder": encoder, "origin": origin}
        | {
            field: value
            for column, metric in enumerate(board.metrics)
            for field, value in measured(metric, float(board.values[row, column])).items()
        }
        for row, (encoder, origin) in enumerate(zip(board.encoders, board.origins, strict=True))
    ]
    metrics = [
        Column(name, name.replace("_", " "), better="higher" if METRICS[name].higher_is_better else "lower")
        for name in board.metrics
    ]
    for column in metrics:
        mark_best(rows, column.field, column.better or "higher", lambda one, other: False)  # noqa: ARG005
    ranks = board.ranks()
    drawn = [
        {"encoder": board.encoders[row], "metric": board.metrics[column], "rank": int(ranks[row, column])}
        for row, column in np.ndindex(*ranks.shape)
        if not np.isnan(board.values[row, column])
    ]
    rank = Column("rank", "rank", "count", "lower")
    chart = heat_chart("Rank of each encoder by each metric", rows, "encoder", "metric", rank, data=drawn)
    origins = set(board.origins)
    # An origin that all share is in the title.
    origin = [Column("origin", "origin", "text")] if len(origins) > 1 else []
    columns = kept_columns([Column("encoder", "encoder", "name"), *metrics, *origin], rows)
    (section,) = board.sections()
    return Part(
        _title(board.origins[0] if len(origins) == 1 else ""),
        [Grid("Encoders", columns, rows, charts=[chart])],
        notes=[NOTE],
        complaints=section.complaints,
    )


def _title(origin: str) -> str:
    """The title, with the data sets if these are the origin of all scores."""
    options = json.loads(origin) if origin.startswith("{") else {}
    words = {"target": "on", "reference": "with reference"}
    return " ".join(["Scores", *(f"{word} {options[role]}" for role, word in words.items() if options.get(role))])
