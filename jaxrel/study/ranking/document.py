"""The file `results.json`: a ranking, its settings as data, and what made it."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jaxrel.storage.records import from_json_number, json_number, read_records, write_atomically
from jaxrel.study.ranking.cells import record_of
from jaxrel.study.ranking.score import RESAMPLES, Score
from jaxrel.study.settings import Settings
from jaxrel.version import __version__

if TYPE_CHECKING:
    from jaxrel.relatedness import Joint
    from jaxrel.study.ranking.table import Ranking, Table

__all__ = [
    "SCHEMA",
    "Stored",
    "StoredRow",
    "as_data",
    "as_text",
    "document_of",
    "origin_of",
    "parsed",
    "read",
    "settings_of",
    "shown_paths",
    "write",
    "write_json",
]

SCHEMA = 1
"""Raised when readers of an earlier version would misread the file."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "int | None": (int, NoneType),
}
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)


@dataclasses.dataclass(frozen=True)
class StoredRow:
    """A score, and what a ranking found by its resamples, which the file does not have."""

    score: Score
    bound_interval: tuple[float, float]
    tied_with: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Stored:
    """What the file has of a ranking: settings, where data were, and all rows of all pairs."""

    settings: Settings
    data_paths: Mapping[str, str]
    rows: tuple[StoredRow, ...]


def write(
    ranking: Ranking, path: Path, *, data_paths: Mapping[str, Path] | None = None, command: Sequence[str] = ()
) -> None:
    """Write the file; it replaces an older one."""
    write_json(path, document_of(ranking, data_paths=data_paths or {}, command=command))


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON that any reader takes: no NaN, infinite numbers as text."""
    write_atomically(path, (json.dumps(as_data(document), indent=1, allow_nan=False) + "\n").encode())


def document_of(ranking: Ranking, *, data_paths: Mapping[str, Path], command: Sequence[str]) -> dict[str, Any]:
    """What the file holds; numbers are those of Python still."""
    terms = ranking.has_references

    def table_record(table: Table) -> dict[str, Any]:
        level, classes = table.vacuous
        # Pseudo-labels differ from encoder to encoder, and with them the level, which is in the rows.
        levels = {"vacuous_level": level, "log_num_classes": math.log(classes) if classes else None}
        return {
            "reference": table.reference,
            "target": table.target,
            "recipe": "; ".join(table.recipes),
            "majority": table.majority,
            **(levels if terms and not ranking.settings.label_free else {}),
            "rows": [record_of(row, terms=terms) for row in table.rows],
        }

    return {
        "schema": SCHEMA,
        **origin_of(command),
        "ordered_by": "transferability, larger first",
        **({"unit": "nats, of losses and bounds"} if terms else {}),
        "settings": settings_of(ranking.settings),
        "data_paths": shown_paths(data_paths),
        "pairs": [table_record(table) for table in ranking.tables],
        "summaries": [table_record(table) for table in ranking.summaries],
    }


def origin_of(command: Sequence[str]) -> dict[str, Any]:
    """What made a file: when, by which command line, if by any, and by which versions."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "numpy")}
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command) or None,
        "versions": {"jaxrel": __version__, **versions, "python": platform.python_version()},
    }


def settings_of(settings: Settings) -> dict[str, Any]:
    """Everything that decides numbers, as data; the method by its name and fields, defaults filled in."""
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    del fields["strict"]  # which changes no number
    data: dict[str, Any] = as_data(fields | {"method": settings.joint()})
    return data


def shown_paths(data_paths: Mapping[str, Path]) -> dict[str, str]:
    """Paths as they are wherever the file is read."""
    return {name: str(path.resolve()) for name, path in sorted(data_paths.items())}


def as_data(value: Any) -> Any:
    """`value` in the types of JSON: None for a missing number, text for an infinite one, named fields for an object."""
    if isinstance(value, float | np.floating):
        return json_number(float(value))
    if dataclasses.is_dataclass(value):
        fields = {field.name: as_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {name: as_data(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_data(part) for part in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return as_data(np.asarray(value).tolist())


def read(path: Path) -> Stored:
    """What a file holds, with the resamples of its scores where their log lies beside it.

    Args:
        path: the file, or its folder.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or of another version; it is named.
    """
    path = path / "results.json" if path.is_dir() else path
    return parsed(path, lambda document: _stored(document, _resamples(path.parent)), "jaxrel rank")


T = TypeVar("T")


def parsed(path: Path, build: Callable[[Mapping[str, Any]], T], command: str) -> T:
    """What is built of a document that a command wrote.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or of another version; it is named.
    """
    content = path.read_bytes()
    try:
        document = json.loads(content)
        schema = document["schema"]
        if schema == SCHEMA:
            return build(document)
    except _DAMAGED as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged, or was not written by `{command}`: {what[:200]}.") from error
    raise ValueError(f"{path} has version {schema!r:.20} of its format, this jaxrel reads version {SCHEMA}.")


def as_text(value: Any) -> str:
    """`value`, where it is text.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _stored(document: Mapping[str, Any], resamples: Mapping[str, Mapping[str, Any]]) -> Stored:
    paths = {as_text(name): as_text(path) for name, path in document["data_paths"].items()}
    rows = [_row(record, pair, resamples) for pair in document["pairs"] for record in pair["rows"]]
    if not rows:
        raise ValueError("it has no row")
    return Stored(_settings(document["settings"]), paths, tuple(rows))


def _row(record: Mapping[str, Any], pair: Mapping[str, Any], resamples: Mapping[str, Mapping[str, Any]]) -> StoredRow:
    given = {"reference": pair["reference"], "target": pair["target"], **record}
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Score):
        if field.name in RESAMPLES:
            numbers = resamples.get(given["key"], {}).get(field.name, ())
            fields[field.name] = tuple(map(from_json_number, numbers))
        elif field.name in given or field.default is dataclasses.MISSING:
            fields[field.name] = _checked(str(field.type), field.name, given[field.name])
    interval = tuple(from_json_number(record.get(end)) for end in ("bound_low", "bound_high"))
    return StoredRow(Score(**fields), (interval[0], interval[1]), tuple(map(as_text, record["tied_with"])))


def _checked(kind: str, name: str, value: Any) -> Any:
    if kind == "float":
        return from_json_number(value)
    if not isinstance(value, _TYPES[kind]) or isinstance(value, bool) or (isinstance(value, int) and value >= 2**63):
        raise TypeError(f"{name} is {value!r:.40}")
    return value


def _resamples(folder: Path) -> dict[str, dict[str, Any]]:
    """Finished scores by key, of every log in the folder."""
    logs = [read_records(path) for path in sorted(folder.glob("results*.jsonl")) if path.is_file()]
    return {key: record for log in logs for key, record in log.items()}


def _settings(data: Mapping[str, Any]) -> Settings:
    """The settings of which `settings_of` gave the data."""
    return Settings(**(dict(data) | {"method": _method(data["method"])}))


def _method(data: Mapping[str, Any]) -> Joint | None:
    """None for the default."""
    from jaxrel.relatedness import Joint

    fields = {name: value for name, value in data.items() if name != "name"}
    if data["name"] != "Joint" or isinstance(fields["cost"], Mapping):
        raise ValueError(f"its method, {data['name']!s:.40}, cannot be made again from the file")
    if isinstance(fields["class_map"], list):
        fields["class_map"] = tuple(tuple(part) if isinstance(part, list) else part for part in fields["class_map"])
    method = Joint(**fields)
    return None if method == Joint() else method
