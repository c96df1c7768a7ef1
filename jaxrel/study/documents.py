"""Common parts of the files of a study: strict JSON, its origin, and settings as data."""

from __future__ import annotations

import abc
import dataclasses
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from jaxrel.storage.records import json_number, write_atomically
from jaxrel.study.settings import Settings
from jaxrel.version import __version__

if TYPE_CHECKING:
    from jaxrel.relatedness import Joint
    from jaxrel.training import FineTuning

__all__ = [
    "SCHEMA",
    "Saved",
    "as_data",
    "as_text",
    "file_at",
    "origin_in",
    "origin_of",
    "parsed",
    "settings_as_data",
    "settings_from_data",
    "shown_paths",
    "write_json",
]

SCHEMA = 1
"""Increased when readers of an earlier version would misread the files."""

_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write strict JSON: no NaN, and infinite numbers as text."""
    write_atomically(path, (json.dumps(as_data(document), indent=1, allow_nan=False) + "\n").encode())


def origin_of(command: Sequence[str]) -> dict[str, Any]:
    """The origin of a file: time, command line (if any) and versions."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "numpy")}
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command) or None,
        "versions": {"jaxrel": __version__, **versions, "python": platform.python_version()},
    }


def origin_in(path: Path) -> dict[str, Any]:
    """The origin of a file that was written by a command and read before."""
    document = json.loads(path.read_bytes())
    return {name: document.get(name) for name in ("written", "command", "versions")}


def file_at(path: Path | str, name: str) -> Path:
    """The file at a path, which may be its folder."""
    path = Path(path)
    return path / name if path.is_dir() else path


def shown_paths(data_paths: Mapping[str, Path]) -> dict[str, str]:
    """Absolute paths, valid wherever the file is read."""
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


def as_text(value: Any) -> str:
    """`value`, if it is text.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value


T = TypeVar("T")


def parsed(path: Path, build: Callable[[Mapping[str, Any]], T], command: str) -> T:
    """The object built from a document that a command wrote.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged or has another version; the message names it.
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


class Saved(abc.ABC):
    """A result in a file that a command writes: `class Result(Saved, file=NAME, command=COMMAND)`."""

    _file: ClassVar[str]
    _command: ClassVar[str]

    def __init_subclass__(cls, *, file: str, command: str) -> None:
        super().__init_subclass__()
        cls._file, cls._command = file, command

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Load the result from a file; neither data nor a network are needed.

        Args:
            path: a file that `save` or the command wrote, or its folder.

        Raises:
            OSError: there is no such file.
            ValueError: it is damaged or has another version; the message names it.
        """
        return parsed(file_at(path, cls._file), cls._of_document, cls._command)

    @classmethod
    @abc.abstractmethod
    def _of_document(cls, document: Mapping[str, Any]) -> Self: ...


def settings_as_data(settings: Settings) -> dict[str, Any]:
    """Every setting that determines numbers, as data; the method is stored by its name and fields, with defaults
    filled in."""
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for name in ("strict", "skip_broken"):  # these change no number
        del fields[name]
    for name in ("fine_tuning", "prompt", "width", "regression"):
        if not fields[name] and fields[name] != "":
            del fields[name]  # absent from files of studies without it
    data: dict[str, Any] = as_data(fields | {"method": settings.joint()})
    return data


def settings_from_data(data: Mapping[str, Any]) -> Settings:
    """The settings from the data of `settings_as_data`."""
    fields = dict(data) | {"method": _method(data["method"])}
    if (tuning := data.get("fine_tuning")) is not None:
        fields["fine_tuning"] = _fine_tuning(tuning)
    return Settings(**fields)


def _fine_tuning(data: Mapping[str, Any]) -> FineTuning:
    from jaxrel.training import FineTuning

    fields = {name: value for name, value in data.items() if name != "name"}
    return FineTuning(**(fields | {"learning_rates": tuple(fields["learning_rates"])}))


def _method(data: Mapping[str, Any]) -> Joint | None:
    """None for the default."""
    from jaxrel.relatedness import Joint

    fields = {name: value for name, value in data.items() if name != "name"}
    if data["name"] != "Joint" or isinstance(fields["cost"], Mapping):
        raise ValueError(f"its method, {data['name']!s:.40}, cannot be restored from the file")
    if isinstance(fields["class_map"], list):
        fields["class_map"] = tuple(tuple(part) if isinstance(part, list) else part for part in fields["class_map"])
    method = Joint(**fields)
    return None if method == Joint() else method
