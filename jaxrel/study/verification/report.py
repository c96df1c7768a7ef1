"""Writes a verification to files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel._core.printable import printable
from jaxrel.storage.records import check_replaceable, write_atomically
from jaxrel.study.documents import settings_as_data, shown_paths
from jaxrel.study.drawing import FORMATS, write_pictures
from jaxrel.study.plan import Plan
from jaxrel.study.settings import Settings
from jaxrel.study.tabular import print_sections
from jaxrel.study.verification.result import FILE, Verification

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["check_output", "check_replaced", "print_verification", "write_files"]

_NAME = "verification"


def print_verification(verification: Verification, console: Console) -> None:
    """Accuracies and scores, then their agreement, in tables and sentences."""
    print_sections(verification.sections(), console)
    for agreement in verification.agreements:
        console.print(f"\n{printable(str(agreement))}")


def check_output(plan: Plan, folder: Path, *, data_paths: Mapping[str, Path]) -> None:
    """Raise ValueError if the files of this plan would replace files of another one."""
    _check(plan.settings, plan.targets[0], plan.encoders, folder, data_paths)


def check_replaced(verification: Verification, folder: Path, *, data_paths: Mapping[str, Path]) -> None:
    """Raise ValueError if the files of this verification would replace files of another one."""
    _check(verification.settings, verification.target, verification.encoders, folder, data_paths)


def _check(
    settings: Settings, target: str, encoders: Sequence[str], folder: Path, data_paths: Mapping[str, Path]
) -> None:
    def row(about: Sequence[Any], target: str, encoder: str) -> str:
        return json.dumps([*about, target, encoder])

    about = [settings_as_data(settings), shown_paths(data_paths)]
    check_replaceable(
        [folder / FILE, *(folder / f"{_NAME}.{kind}" for kind in ("csv", "md", *FORMATS))],
        [row(about, target, encoder) for encoder in encoders],
        lambda old: [
            row([old["settings"], old["data_paths"]], old["target"], one["encoder"]) for one in old["encoders"]
        ],
    )


def write_files(
    verification: Verification,
    folder: Path,
    *,
    plot: bool,
    formats: Sequence[str] = (),
    data_paths: Mapping[str, Path] | None = None,
    command: Sequence[str] = (),
) -> list[Path]:
    """Write `verification.json`, `.csv`, `.md` and, if requested, a picture, replacing older files.

    Args:
        verification: the verification to write.
        folder: output folder, created if needed.
        plot: whether to draw.
        formats: formats of pictures in addition to PNG, among `jaxrel.study.drawing.FORMATS`.
        data_paths: by data set name, where the user has the data.
        command: the arguments of the command line that made it, if any.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written; it is named.
    """
    document, table, page = (folder / f"{_NAME}.{kind}" for kind in ("json", "csv", "md"))
    verification.save(document, data_paths=data_paths, command=command)
    verification.to_csv(table)
    sentences = "".join(f"\n- {agreement}" for agreement in verification.agreements)
    write_atomically(page, f"{verification.to_markdown()}{sentences}\n".encode(errors="backslashreplace"))
    figures = {_NAME: verification.plot()} if plot and verification.columns else {}
    return [document, table, page, *write_pictures(figures, folder, formats)]
