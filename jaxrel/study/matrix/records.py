"""Finished scores on disk: a line of JSON each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jaxrel.storage.records import RecordLog, from_json_number, json_number

__all__ = ["Entry", "EntryLog"]


@dataclass(frozen=True)
class Entry:
    """What one metric says about one encoder, target and, where it needs one, reference.

    Attributes:
        key: hash of everything the numbers depend on.
        reference: empty where the metric needs none.
        status: `ScoreStatus` bits.
        fields: of a `Score`, or of components that are combined over encoders.
        failure: why there are no numbers, where memory did not suffice.
    """

    key: str
    metric: str
    encoder: str
    reference: str
    target: str
    status: int
    fields: dict[str, float]
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        fields = {name: json_number(value) for name, value in self.fields.items()}
        return dataclasses.asdict(self) | {"fields": fields}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Entry:
        """From JSON."""
        return cls(**(record | {"fields": {name: from_json_number(value) for name, value in record["fields"].items()}}))


class EntryLog(RecordLog[Entry]):
    """Finished scores by their keys."""

    def encoded(self, item: Entry) -> dict[str, Any]:
        """As JSON has it."""
        return item.to_json()

    def decoded(self, record: dict[str, Any]) -> Entry:
        """From JSON."""
        return Entry.from_json(record)
