"""The results of a study in the terminal and in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel.storage.records import check_replaceable
from jaxrel.study.documents import settings_from_data, shown_paths
from jaxrel.study.drawing import FORMATS, write_pictures
from jaxrel.study.plan import Plan, Unit
from jaxrel.study.records import Record
from jaxrel.study.results import AXES, FILE, Results, comparable
from jaxrel.study.settings import Settings
from jaxrel.study.tabular import print_sections

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

__all__ = ["check_output", "check_replaced", "figure", "print_results", "write_files"]

_TABLE = "study.csv"
_PICTURES = tuple(f"study.{kind}" for kind in FORMATS)


def print_results(results: Results, console: Console) -> None:
    """One table per metric."""
    print_sections(results.sections(), console)


def figure(
    results: Results, *, x: str | None = None, y: str | None = None, heat_map: Sequence[str] | None = None
) -> Figure:
    """The requested picture, or the default for the axes."""
    return results.plot(x=x, y=y) if heat_map is None else results.plot_heat_map(heat_map[0], heat_map[1], y)


def check_output(plan: Plan, folder: Path, *, data_paths: Mapping[str, Path]) -> None:
    """Raise ValueError if the files of this plan would replace files of another one."""
    _check(plan.units, plan.settings, folder, data_paths)


def check_replaced(results: Results, folder: Path, *, data_paths: Mapping[str, Path]) -> None:
    """Raise ValueError if the files of these results would replace files of others."""
    _check(results.entries, results.settings, folder, data_paths)


def _check(
    units: Sequence[Unit] | Sequence[Record], settings: Settings, folder: Path, data_paths: Mapping[str, Path]
) -> None:
    about = [comparable(settings), shown_paths(data_paths)]

    def rows_of(old: Any) -> list[str]:
        own = [comparable(settings_from_data(old["settings"])), old["data_paths"]]
        return [json.dumps([own, [entry[axis] for axis in ("metric", *AXES)]]) for entry in old["entries"]]

    rows = [json.dumps([about, [getattr(unit, axis) for axis in ("metric", *AXES)]]) for unit in units]
    check_replaceable([folder / name for name in (FILE, _TABLE, *_PICTURES)], rows, rows_of)


def write_files(
    results: Results,
    figures: Mapping[str, Figure],
    folder: Path,
    *,
    formats: Sequence[str] = (),
    data_paths: Mapping[str, Path] | None = None,
    command: Sequence[str] = (),
) -> list[Path]:
    """Write `study.json`, `study.csv` and pictures, replacing older files.

    Args:
        results: the results to write.
        figures: pictures by name.
        folder: output folder, created if needed.
        formats: formats of pictures in addition to PNG, among `jaxrel.study.drawing.FORMATS`.
        data_paths: by data set name, where the user has the data.
        command: the arguments of the command line that made it, if any.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written; it is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results.save(folder / FILE, data_paths=data_paths, command=command)
    results.to_csv(folder / _TABLE)
    return [folder / FILE, folder / _TABLE, *write_pictures(figures, folder, formats)]
