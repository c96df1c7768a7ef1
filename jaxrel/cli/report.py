"""`jaxrel report`: tables and pictures again, from the files of one or several folders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxrel.cli import console
from jaxrel.cli.options import add_plot, path_argument

if TYPE_CHECKING:
    from jaxrel.study import Ranking, Results, Scoreboard
    from jaxrel.study.tabular import Tabular

__all__ = ["add"]

FORMATS = ("text", "markdown", "latex", "csv", "json")
RANKING, SCORES, STUDY = "results.json", "scores.json", "study.json"


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    report = commands.add_parser(
        "report",
        help="make tables and pictures again from the files of earlier runs",
        description="Print what `jaxrel rank`, `jaxrel score` and `jaxrel study` found, from their results.json, "
        "scores.json and study.json alone: neither data nor encoders are needed. Folders of equal settings are put "
        "into one table. With --output the files and pictures of all of them are written too.",
    )
    report.add_argument("folders", nargs="+", type=path_argument, metavar="FOLDER", help="outputs of earlier runs")
    report.add_argument("--format", choices=FORMATS, default="text", help="of what is printed (default: text)")
    report.add_argument("--output", type=path_argument, metavar="DIR", help="folder for files and pictures")
    add_plot(report, name="each picture")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from jaxrel.study import Results, Scoreboard, merge
    from jaxrel.study.ranking import document

    folders = list(dict.fromkeys(options.folders))
    for folder in folders:
        if not any((folder / name).is_file() for name in (RANKING, SCORES, STUDY)):
            raise ValueError(
                f"{folder} has neither {RANKING} nor {SCORES} nor {STUDY}: pass the output of an earlier run."
            )
    with console.narrator(quiet=True):
        stored = {folder: document.read(folder / RANKING) for folder in folders if (folder / RANKING).is_file()}
        boards = {folder: Scoreboard.load(folder / SCORES) for folder in folders if (folder / SCORES).is_file()}
        studies = {folder: Results.load(folder / STUDY) for folder in folders if (folder / STUDY).is_file()}
        found = _Found(
            merge.merged_ranking(stored) if stored else None,
            merge.merged_scoreboard(boards) if boards else None,
            merge.merged_results(studies) if studies else None,
            merge.merged_paths({**stored, **studies}),
        )
        files = [] if options.output is None else _written(found, options)
    results = {"results": found.ranking, "scores": found.board, "study": found.study}
    _print({name: result for name, result in results.items() if result is not None}, options.format)
    if files and options.format == "text":
        console.print_files(console.literal_console(), files)


class _Found(NamedTuple):
    ranking: Ranking | None
    board: Scoreboard | None
    study: Results | None
    data_paths: dict[str, Path]


def _written(found: _Found, options: argparse.Namespace) -> list[Path]:
    """The files and pictures; none is written where one of them would replace those of another run."""
    from jaxrel.study import report as studies
    from jaxrel.study.ranking import report
    from jaxrel.study.scoreboard import report as scores

    places = found.data_paths
    if found.ranking is not None:
        report.check_replaced(found.ranking, options.output, data_paths=places)
    if found.board is not None:
        scores.check_replaced(found.board, options.output)
    if found.study is not None:
        studies.check_replaced(found.study, options.output, data_paths=places)
    plot = console.can_plot(options.plot)
    told: dict[str, Any] = {"formats": options.plot_format, "command": options.command}
    files = []
    if found.ranking is not None:
        files += report.write_files(found.ranking, options.output, plot=plot, data_paths=places, **told)
    if found.board is not None:
        files += scores.write_files(found.board, options.output, plot=plot, **told)
    if found.study is not None:
        figures = {"study": found.study.plot()} if plot else {}
        files += studies.write_files(found.study, figures, options.output, data_paths=places, **told)
    return files


def _print(results: Mapping[str, Tabular], form: str) -> None:
    from jaxrel.study.documents import as_data
    from jaxrel.study.tabular import print_sections

    if form == "json":
        records = {name: as_data(result.records()) for name, result in results.items()}
        print(json.dumps(records, indent=1, allow_nan=False))
        return
    for result in results.values():
        if form == "text":
            print_sections(result.sections(), console.literal_console())
        else:
            print({"markdown": result.to_markdown, "latex": result.to_latex, "csv": result.to_csv}[form]())
