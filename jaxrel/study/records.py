"""The records of a study, one for each number, and the log in which they survive a kill."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxrel.storage.records import RecordLog, from_json_number, json_number
from jaxrel.study.documents import SCHEMA, origin_of

__all__ = ["LOG", "OK", "Record", "StudyLog", "logs_of"]

LOG = "records.jsonl"
OK = "ok"


@dataclass(frozen=True)
class Record:
    """The result of one metric for one encoder, target and, if needed, reference.

    Attributes:
        key: hash of everything the numbers depend on; empty if unknown, or if another run may give another result.
        reference: None if the metric needs none.
        samples: number of training samples drawn from the target; None for all that the settings select.
        seed: seed of the draws, the scoring and its resamples.
        reference_classes: classes of the reference that were kept, see :class:`jaxrel.study.Study`.
        status: "ok", or the problem with the value.
        bits: bits of `jaxrel.metrics.ScoreStatus`, for metrics in `jaxrel.metrics.METRICS`.
        numbers: numbers by name; "value" is the value of the metric. Metrics that depend on the other encoders have
            components in the log, and their value in results.
        texts: text fields, by name.
        resamples: values on resampled samples, the same samples for every encoder.
        classes: the most expensive target classes of a bound (:meth:`jaxrel.relatedness.Explanation.class_records`).
        origin: fingerprints and options whose hash is the key.
    """

    key: str
    metric: str
    encoder: str
    reference: str | None
    target: str
    samples: int | None = None
    seed: int = 0
    reference_classes: str = "all"
    status: str = OK
    bits: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    resamples: tuple[float, ...] = ()
    classes: tuple[Mapping[str, Any], ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def value(self) -> float:
        """The value of the metric, NaN if there is none."""
        return self.numbers.get("value", math.nan)

    @property
    def tasks(self) -> str:
        """The target, preceded by the reference, if any."""
        return self.target if self.reference is None else f"{self.reference} → {self.target}"

    def failed_with(self, error: Exception) -> Record:
        """The record without a number, with the reason."""
        return dataclasses.replace(self, status=told(error), numbers={"value": math.nan})


def told(error: Exception) -> str:
    """An error in one line; its type is left out if the message was written for the user."""
    said = " ".join(str(error).split())
    for_users = isinstance(error, ValueError) or type(error).__module__.startswith("jaxrel.")
    return f"failed: {said}" if for_users and said else f"failed: {type(error).__name__}: {said}"


class StudyLog(RecordLog[Record]):
    """Finished records by key, with their origin."""

    def __init__(self, path: Path, command: Sequence[str] = ()) -> None:
        """Open the log, created if needed.

        Args:
            path: the file.
            command: the arguments of the command line that is running, if any.

        Raises:
            ValueError: it has records of another version of the format.
            OSError: see `RecordLog`.
        """
        self._origin = origin_of(command)
        super().__init__(path)
        schemas = {record.get("schema") for record in self._records.values()}
        if others := schemas - {SCHEMA}:
            self.close()
            raise ValueError(
                f"{path} has version {others.pop()!r:.20} of its format, this jaxrel reads version {SCHEMA}: "
                "pass another --output."
            )

    def encoded(self, item: Record) -> dict[str, Any]:
        """The JSON form of a record."""
        record = {one.name: getattr(item, one.name) for one in dataclasses.fields(item)}
        record["numbers"] = {name: json_number(value) for name, value in item.numbers.items()}
        record["resamples"] = [json_number(value) for value in item.resamples]
        return {"schema": SCHEMA, **record, **self._origin}

    def decoded(self, record: dict[str, Any]) -> Record:
        """From JSON."""
        fields = {one.name: record[one.name] for one in dataclasses.fields(Record) if one.name != "classes"}
        fields["numbers"] = {name: from_json_number(value) for name, value in record["numbers"].items()}
        fields["resamples"] = tuple(map(from_json_number, record["resamples"]))
        fields["classes"] = tuple(record.get("classes", ()))  # absent from earlier records
        return Record(**fields)


def logs_of(folder: Path) -> list[Path]:
    """The logs of a folder, including those of other runs."""
    return [path for path in sorted(folder.glob("records*.jsonl")) if path.is_file()]
