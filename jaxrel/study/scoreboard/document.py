"""The file `scores.json`: a scoreboard, and what made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrel.metrics.registry import METRICS, Metric
from jaxrel.storage.records import from_json_number
from jaxrel.study.documents import SCHEMA, as_text, origin_of, parsed
from jaxrel.study.scoreboard.board import Scoreboard

__all__ = ["document_of", "metric_record", "origin_as_text", "read"]


def document_of(board: Scoreboard, command: Sequence[str]) -> dict[str, Any]:
    """What the file holds; numbers are those of Python still."""
    return {
        "schema": SCHEMA,
        **origin_of(command),
        "target_samples": board.target,
        "metrics": [metric_record(METRICS[name]) for name in board.metrics],
        "scores": [record | {"origin": _origin_as_data(record["origin"])} for record in board.records()],
    }


def metric_record(metric: Metric) -> dict[str, Any]:
    """What there is to say of a metric."""
    return {
        "name": metric.name,
        "needs": list(metric.needs),
        "higher_is_better": metric.higher_is_better,
        "label_free": metric.label_free,
        "differentiable": metric.differentiable,
        "depends_on_other_encoders": metric.combine is not None,
        "source": metric.source,
    }


def read(path: Path) -> Scoreboard:
    """The scoreboard that a file has.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or of another version; it is named.
    """
    return parsed(path, _board, "jaxrel score")


def origin_as_text(origin: Any) -> str:
    """The origin of an encoder, as `EncoderArrays` has it, of which a file has the data."""
    return json.dumps(origin) if isinstance(origin, Mapping) else as_text(origin)


def _origin_as_data(origin: str) -> Any:
    """Options as what they are, not as the text of them; a path is text."""
    return json.loads(origin) if origin.startswith("{") else origin


def _board(document: Mapping[str, Any]) -> Scoreboard:
    metrics = [METRICS[metric["name"]].name for metric in document["metrics"]]
    records = {(as_text(record["encoder"]), record["metric"]): record for record in document["scores"]}
    encoders = list(dict.fromkeys(encoder for encoder, _ in records))
    if not (metrics and encoders):
        raise ValueError("it has no score")

    def numbers(name: str) -> np.ndarray:
        return np.array([[from_json_number(records[row, column][name]) for column in metrics] for row in encoders])

    return Scoreboard(
        tuple(encoders),
        tuple(metrics),
        numbers("value"),
        {place: (as_text(record["messages"]),) for place, record in records.items() if record["messages"]},
        numbers("seconds"),
        tuple(origin_as_text(records[encoder, metrics[0]]["origin"]) for encoder in encoders),
        as_text(document["target_samples"]),
    )
