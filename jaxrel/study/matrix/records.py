"""Finished scores on disk: a line of JSON each, in a file for each process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrel.storage.records import RecordLog, from_json_number, json_number, read_records

__all__ = ["Entry", "EntryLog", "finished_elsewhere"]


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


def finished_elsewhere(folder: Path, own: Path) -> dict[str, Entry]:
    """What the files of other processes in the folder hold, by key; they may be writing at this moment."""
    found = {}
    for path in sorted(folder.glob("scores*.jsonl")):
        if path != own:
            for key, record in read_records(path).items():
                # A scoreboard keeps records of its own in a file of this name.
                if {field.name for field in dataclasses.fields(Entry)} == set(record):
                    found[key] = Entry.from_json(record)
    return found
