"""The file `results.json`: a ranking, its settings as data, and its origin."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from jaxrel.storage.records import from_json_number, read_records
from jaxrel.study.documents import (
    SCHEMA,
    as_text,
    file_at,
    origin_of,
    parsed,
    settings_as_data,
    settings_from_data,
    shown_paths,
    write_json,
)
from jaxrel.study.ranking.cells import record_of
from jaxrel.study.ranking.score import RESAMPLED, Score
from jaxrel.study.records import logs_of
from jaxrel.study.settings import Settings

if TYPE_CHECKING:
    from jaxrel.study.ranking.table import Ranking, Table

__all__ = ["Stored", "StoredRow", "document_of", "read", "write"]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "int | None": (int, NoneType),
}


@dataclasses.dataclass(frozen=True)
class StoredRow:
    """A score, and the ranking's findings from its resamples, which the file does not store."""

    score: Score
    bound_interval: tuple[float, float]
    tied_with: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Stored:
    """The content of the file: settings, paths of data, and all rows of all pairs."""

    settings: Settings
    data_paths: Mapping[str, str]
    rows: tuple[StoredRow, ...]


def write(
    ranking: Ranking, path: Path, *, data_paths: Mapping[str, Path] | None = None, command: Sequence[str] = ()
) -> None:
    """Write the file; it replaces an older one."""
    write_json(path, document_of(ranking, data_paths=data_paths or {}, command=command))


def document_of(ranking: Ranking, *, data_paths: Mapping[str, Path], command: Sequence[str]) -> dict[str, Any]:
    """The document, with Python numbers."""
    terms = ranking.has_references

    def table_record(table: Table) -> dict[str, Any]:
        level, classes = table.vacuous
        # Pseudo-labels differ between encoders, and so does the level of a constant guess, which is in the rows.
        levels = {"vacuous_level": level, "log_num_classes": math.log(classes) if classes else None}
        return {
            "reference": table.reference,
            "target": table.target,
            "recipe": "; ".join(table.recipes),
            "majority": table.majority,
            **({"class_counts": table.class_counts} if table.class_counts else {}),
            **(levels if terms and not ranking.settings.label_free else {}),
            "rows": [record_of(row, terms=terms) for row in table.rows],
        }

    return {
        "schema": SCHEMA,
        **origin_of(command),
        "ordered_by": "transferability, larger first",
        **({"unit": "nats, of losses and bounds"} if terms else {}),
        "settings": settings_as_data(ranking.settings),
        "data_paths": shown_paths(data_paths),
        "pairs": [table_record(table) for table in ranking.tables],
        "summaries": [table_record(table) for table in ranking.summaries],
    }


def read(path: Path) -> Stored:
    """The ranking in a file, with the resamples and classes of its scores if the log of finished records is beside it.

    Args:
        path: the file, or its folder.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or of another version; it is named.
    """
    path = file_at(path, "results.json")
    return parsed(path, lambda document: _stored(document, _logged(path.parent)), "jaxrel rank")


def _stored(document: Mapping[str, Any], logged: Mapping[str, Mapping[str, Any]]) -> Stored:
    paths = {as_text(name): as_text(path) for name, path in document["data_paths"].items()}
    rows = [_row(record, pair, logged) for pair in document["pairs"] for record in pair["rows"]]
    if not rows:
        raise ValueError("it has no row")
    return Stored(settings_from_data(document["settings"]), paths, tuple(rows))


def _row(record: Mapping[str, Any], pair: Mapping[str, Any], logged: Mapping[str, Mapping[str, Any]]) -> StoredRow:
    given = {"reference": pair["reference"], "target": pair["target"], **record}
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Score):
        if field.name in RESAMPLED:
            numbers = logged.get(given.get(RESAMPLED[field.name], ""), {}).get("resamples", ())
            fields[field.name] = tuple(map(from_json_number, numbers))
        elif field.name == "classes":
            fields[field.name] = tuple(logged.get(given.get("bound_key", ""), {}).get("classes", ()))
        elif field.name == "class_counts":
            counts = pair.get("class_counts", {}).items()
            fields[field.name] = {name: _checked("int", field.name, number) for name, number in counts}
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


def _logged(folder: Path) -> dict[str, dict[str, Any]]:
    """Finished records by key, from every log in the folder."""
    return {key: record for path in logs_of(folder) for key, record in read_records(path).items()}
