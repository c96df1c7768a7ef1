"""`jaxrel report`: recreates tables and pictures from the files of one or several folders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxrel.cli import console
from jaxrel.study import Ranking, Results, Scoreboard, Verification, merge
from jaxrel.study import report as studies
from jaxrel.study.documents import SCHEMA, as_data, origin_in
from jaxrel.study.page import write as page
from jaxrel.study.ranking import document, report
from jaxrel.study.scoreboard import report as scores
from jaxrel.study.tabular import Tabular, print_sections
from jaxrel.study.verification import report as verifications
from jaxrel.study.verification.report import print_verification

__all__ = ["run"]

RANKING, SCORES, STUDY, VERIFICATION = FILES = "results.json", "scores.json", "study.json", "verification.json"


def run(options: argparse.Namespace) -> None:
    """Print the tables, and write them if a folder is passed."""
    folders = list(dict.fromkeys(options.folders))
    for folder in folders:
        if not any((folder / name).is_file() for name in FILES):
            raise ValueError(f"{folder} has neither {' nor '.join(FILES)}: pass the output of an earlier run.")
    with console.narrator(quiet=True):
        stored = {folder: document.read(folder / RANKING) for folder in folders if (folder / RANKING).is_file()}
        boards = {folder: Scoreboard.load(folder / SCORES) for folder in folders if (folder / SCORES).is_file()}
        studies = {folder: Results.load(folder / STUDY) for folder in folders if (folder / STUDY).is_file()}
        verified = {
            folder: Verification.load(folder / VERIFICATION) for folder in folders if (folder / VERIFICATION).is_file()
        }
        found = _Found(
            merge.merged_ranking(stored) if stored else None,
            merge.merged_scoreboard(boards) if boards else None,
            merge.merged_results(studies) if studies else None,
            merge.the_verification(verified) if verified else None,
            {
                folder / name: origin_in(folder / name)
                for folder in folders
                for name in FILES
                if (folder / name).is_file()
            },
            merge.merged_paths([*stored.items(), *studies.items(), *verified.items()]),
        )
        files = [] if options.output is None else _written(found, options)
    _print(found.results, options.format)
    console.print_files(files)


class _Found(NamedTuple):
    ranking: Ranking | None
    board: Scoreboard | None
    study: Results | None
    verification: Verification | None
    origins: dict[Path, dict[str, Any]]
    data_paths: dict[str, Path]

    @property
    def results(self) -> dict[str, Ranking | Scoreboard | Results | Verification]:
        """The results that exist."""
        found = {
            "results": self.ranking,
            "scores": self.board,
            "study": self.study,
            "verification": self.verification,
        }
        return {name: result for name, result in found.items() if result is not None}


def _written(found: _Found, options: argparse.Namespace) -> list[Path]:
    """Write the files and pictures, or none of them if one would replace files of another run."""
    places = found.data_paths
    if found.ranking is not None:
        report.check_replaced(found.ranking, options.output, data_paths=places)
    if found.board is not None:
        scores.check_replaced(found.board, options.output)
    if found.study is not None:
        studies.check_replaced(found.study, options.output, data_paths=places)
    if found.verification is not None:
        verifications.check_replaced(found.verification, options.output, data_paths=places)
    page.check_output(options.output)
    plot = console.can_plot(options.plot)
    common: dict[str, Any] = {"formats": options.plot_format, "command": options.command}
    files = []
    if found.ranking is not None:
        files += report.write_files(found.ranking, options.output, plot=plot, data_paths=places, **common)
    if found.board is not None:
        files += scores.write_files(found.board, options.output, plot=plot, **common)
    if found.study is not None:
        figures = {"study": found.study.plot()} if plot else {}
        files += studies.write_files(found.study, figures, options.output, data_paths=places, **common)
    if found.verification is not None:
        files += verifications.write_files(found.verification, options.output, plot=plot, data_paths=places, **common)
    origins = list(found.origins.values())
    shown = found.results.values()
    return [
        *files,
        page.write_page(options.output, *shown, charts=options.plot, command=options.command, origins=origins),
    ]


def _print(results: Mapping[str, Tabular], form: str) -> None:
    if form == "json":
        records = {name: as_data(result.records()) for name, result in results.items()}
        print(json.dumps({"schema": SCHEMA, **records}, indent=1, allow_nan=False))
        return
    for result in results.values():
        if form == "text" and isinstance(result, Verification):
            print_verification(result, console.literal_console())
        elif form == "text":
            print_sections(result.sections(), console.literal_console())
        else:
            print({"markdown": result.to_markdown, "latex": result.to_latex, "csv": result.to_csv}[form]())
