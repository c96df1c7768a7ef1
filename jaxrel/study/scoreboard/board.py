"""The scoreboard: encoders scored by many metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from jaxrel.metrics.registry import METRICS, Metric
from jaxrel.storage.records import from_json_number
from jaxrel.study.documents import SCHEMA, Saved, as_text, file_at, origin_of, write_json
from jaxrel.study.records import OK, Record
from jaxrel.study.results import Results
from jaxrel.study.scoreboard.picture import board_figure
from jaxrel.study.tabular import Section, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FILE", "Scoreboard", "metric_record", "origin_as_text", "scoreboard_of"]

FILE = "scores.json"


@dataclass(frozen=True, repr=False)
class Scoreboard(Tabular, Saved, file=FILE, command="jaxrel score"):
    """Scores of encoders by metrics.

    Attributes:
        encoders: names, in the order passed.
        metrics: names in `jaxrel.metrics.METRICS`.
        values: `(encoders, metrics)`, NaN or infinite with a reason in `messages`.
        messages: the problem with a value, by `(encoder, metric)`.
        seconds: `(encoders, metrics)`, without compilation; scores computed together share the time equally.
        origins: by encoder, the file or the data sets that it was scored on.
        target: a hash of the labels and other arrays that all encoders share, as far as they were passed as arrays.
    """

    encoders: tuple[str, ...]
    metrics: tuple[str, ...]
    values: np.ndarray
    messages: dict[tuple[str, str], tuple[str, ...]]
    seconds: np.ndarray
    origins: tuple[str, ...]
    target: str = ""

    def __repr__(self) -> str:
        return f"Scoreboard({len(self.encoders)} encoders, {len(self.metrics)} metrics)"

    @property
    def failed(self) -> tuple[tuple[str, str], ...]:
        """The pairs `(encoder, metric)` without a value."""
        places = np.argwhere(np.isnan(self.values)).tolist()
        return tuple((self.encoders[row], self.metrics[column]) for row, column in places)

    def ranks(self) -> np.ndarray:
        """`(encoders, metrics)`: 1 is the best, equal values share their best rank, NaN is last."""
        columns = []
        for name, column in zip(self.metrics, self.values.T, strict=True):
            gain = column if METRICS[name].higher_is_better else -column
            gain = np.where(np.isnan(gain), -math.inf, gain)
            columns.append(1 + np.sum(gain[None] > gain[:, None], axis=1))
        return np.stack(columns, axis=1)

    def ordered(self) -> Self:
        """The scoreboard with the encoders ordered by the first metric, the best first."""
        order = np.argsort(self.ranks()[:, 0], kind="stable")
        encoders, origins = (tuple(names[row] for row in order) for names in (self.encoders, self.origins))
        return replace(self, encoders=encoders, origins=origins, values=self.values[order], seconds=self.seconds[order])

    def records(self) -> list[dict[str, Any]]:
        """A record for each encoder and metric."""
        ranks = self.ranks()
        return [
            {
                "encoder": encoder,
                "origin": self.origins[row],
                "metric": metric,
                "value": None if np.isnan(self.values[row, column]) else float(self.values[row, column]),
                "rank": None if np.isnan(self.values[row, column]) else int(ranks[row, column]),
                "higher_is_better": METRICS[metric].higher_is_better,
                "messages": " ".join(self.messages.get((encoder, metric), ())),
                "seconds": float(self.seconds[row, column]),
            }
            for row, encoder in enumerate(self.encoders)
            for column, metric in enumerate(self.metrics)
        ]

    def sections(self) -> list[Section]:
        """Values with ranks in brackets: one row per encoder, one column per metric."""
        ranks = self.ranks()

        def cell(row: int, column: int) -> str:
            value = self.values[row, column]
            return "failed" if np.isnan(value) else f"{value:.4g} ({ranks[row, column]})"

        rows = [
            {"encoder": encoder, **{metric: cell(row, column) for column, metric in enumerate(self.metrics)}}
            for row, encoder in enumerate(self.encoders)
        ]
        complaints = [f"{encoder}, {metric}: {' '.join(said)}" for (encoder, metric), said in self.messages.items()]
        failed = frozenset(self.encoders.index(encoder) for encoder, _ in self.failed)
        return [Section("Scores, and ranks in brackets", rows, complaints=complaints, failed=failed)]

    def plot(self) -> Figure:
        """Ranks as colours, except where an encoder failed; needs matplotlib.

        Returns:
            A figure, which `savefig` writes in any format.
        """
        return board_figure(self.encoders, self.metrics, np.where(np.isnan(self.values), np.nan, self.ranks()))

    def save(self, path: Path | str, *, command: Sequence[str] = ()) -> None:
        """Write everything to a file.

        Args:
            path: the file, which is replaced, or a folder for `scores.json`.
            command: the arguments of the command line that made it, if any.

        Raises:
            OSError: it cannot be written.
        """
        scores = [record | {"origin": _origin_as_data(record["origin"])} for record in self.records()]
        document = {"schema": SCHEMA, **origin_of(command), "target_samples": self.target}
        described = [metric_record(METRICS[name]) for name in self.metrics]
        write_json(file_at(path, FILE), document | {"metrics": described, "scores": scores})

    @classmethod
    def _of_document(cls, document: Mapping[str, Any]) -> Self:
        metrics = [METRICS[metric["name"]].name for metric in document["metrics"]]
        records = {(as_text(record["encoder"]), record["metric"]): record for record in document["scores"]}
        encoders = list(dict.fromkeys(encoder for encoder, _ in records))
        if not (metrics and encoders):
            raise ValueError("it has no score")

        def numbers(name: str) -> np.ndarray:
            return np.array([[from_json_number(records[row, column][name]) for column in metrics] for row in encoders])

        return cls(
            tuple(encoders),
            tuple(metrics),
            numbers("value"),
            {place: (as_text(record["messages"]),) for place, record in records.items() if record["messages"]},
            numbers("seconds"),
            tuple(origin_as_text(records[encoder, metrics[0]]["origin"]) for encoder in encoders),
            as_text(document["target_samples"]),
        )


def scoreboard_of(results: Results, origins: Mapping[str, str] | None = None) -> Scoreboard:
    """The scores of the encoders of a study on its only target, with its only reference, if any.

    Args:
        results: results of the study.
        origins: by encoder, the file or the data sets that it was scored on.

    Raises:
        ValueError: there are several targets or references, or samples, seeds or reference classes are varied.
    """
    if max(map(len, (results.targets, results.references))) > 1:
        raise ValueError("a scoreboard has one target and at most one reference: use the table of the results.")
    shape = len(results.encoders), len(results.metrics)
    records = {(record.encoder, record.metric): record for record in results.entries}

    def numbers(of: Callable[[Record], float]) -> np.ndarray:
        columns = [[of(records[encoder, metric]) for metric in results.metrics] for encoder in results.encoders]
        return np.array(columns, float).reshape(shape)

    if len(records) < len(results.entries):
        raise ValueError("samples, seeds or reference classes are varied: use the table of the results.")
    told = (record.texts.get("target_samples", "") for record in results.entries if not math.isnan(record.value))
    return Scoreboard(
        results.encoders,
        results.metrics,
        numbers(lambda record: record.value),
        {place: (record.status,) for place, record in records.items() if record.status != OK},
        numbers(lambda record: record.numbers.get("scoring_seconds", 0.0)),
        tuple((origins or {}).get(encoder, "") for encoder in results.encoders),
        next(filter(None, told), ""),
    )


def metric_record(metric: Metric) -> dict[str, Any]:
    """The messages about a metric."""
    return {
        "name": metric.name,
        "needs": list(metric.needs),
        "higher_is_better": metric.higher_is_better,
        "label_free": metric.label_free,
        "differentiable": metric.differentiable,
        "depends_on_other_encoders": metric.combine is not None,
        "source": metric.source,
    }


def origin_as_text(origin: Any) -> str:
    """The origin of an encoder, as in `EncoderArrays`, from its data in a file."""
    return json.dumps(origin) if isinstance(origin, Mapping) else as_text(origin)


def _origin_as_data(origin: str) -> Any:
    """Options as data instead of text; a path is text."""
    return json.loads(origin) if origin.startswith("{") else origin
