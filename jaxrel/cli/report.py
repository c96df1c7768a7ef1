"""`jaxrel report`: tables and pictures again, from the files of one or several folders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel.cli import console
from jaxrel.cli.options import add_plot, path_argument

if TYPE_CHECKING:
    from jaxrel.study import Ranking
    from jaxrel.study.scoreboard import Scoreboard
    from jaxrel.study.tabular import Tabular

__all__ = ["add"]

FORMATS = ("text", "markdown", "latex", "csv", "json")
RANKING, SCORES = "results.json", "scores.json"


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    report = commands.add_parser(
        "report",
        help="make tables and pictures again from the files of earlier runs",
        description="Print what `jaxrel rank` and `jaxrel score` found, from their results.json and scores.json alone: "
        "neither data nor encoders are needed. Encoders of several folders are put into one table where their settings "
        "are equal. With --output the files and pictures of all of them are written too.",
    )
    report.add_argument("folders", nargs="+", type=path_argument, metavar="FOLDER", help="outputs of earlier runs")
    report.add_argument("--format", choices=FORMATS, default="text", help="of what is printed (default: text)")
    report.add_argument("--output", type=path_argument, metavar="DIR", help="folder for files and pictures")
    add_plot(report, name="each picture")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from jaxrel.study import merge
    from jaxrel.study.ranking import document
    from jaxrel.study.scoreboard import document as scores_document

    folders = list(dict.fromkeys(options.folders))
    for folder in folders:
        if not any((folder / name).is_file() for name in (RANKING, SCORES)):
            raise ValueError(f"{folder} has neither {RANKING} nor {SCORES}: pass the output of an earlier run.")
    with console.narrator(quiet=True):
        stored = {folder: document.read(folder / RANKING) for folder in folders if (folder / RANKING).is_file()}
        boards = {folder: scores_document.read(folder / SCORES) for folder in folders if (folder / SCORES).is_file()}
        ranking = merge.merged_ranking(stored) if stored else None
        board = merge.merged_scoreboard(boards) if boards else None
        files = [] if options.output is None else _written(ranking, board, merge.merged_paths(stored), options)
    results = {"results": ranking, "scores": board}
    _print({name: result for name, result in results.items() if result is not None}, options.format)
    if files and options.format == "text":
        console.print_files(console.literal_console(), files)


def _written(
    ranking: Ranking | None, board: Scoreboard | None, data_paths: dict[str, Path], options: argparse.Namespace
) -> list[Path]:
    """The files and pictures; none is written where one of them would replace those of another run."""
    from jaxrel.study.ranking import report
    from jaxrel.study.scoreboard import report as scores

    if ranking is not None:
        report.check_replaced(ranking, options.output, data_paths=data_paths)
    if board is not None:
        scores.check_replaced(board, options.output)
    drawn: dict[str, Any] = {
        "plot": console.can_plot(options.plot),
        "formats": options.plot_format,
        "command": options.command,
    }
    files = []
    if ranking is not None:
        files += report.write_files(ranking, options.output, data_paths=data_paths, **drawn)
    if board is not None:
        files += scores.write_files(board, options.output, **drawn)
    return files


def _print(results: Mapping[str, Tabular], form: str) -> None:
    from jaxrel.study.ranking.document import as_data
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
