"""A scoreboard in the terminal and in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel.metrics.registry import METRICS, NEEDS
from jaxrel.storage.records import check_replaceable
from jaxrel.study.drawing import FORMATS, write_pictures
from jaxrel.study.scoreboard.board import FILE, Scoreboard, metric_record, origin_as_text
from jaxrel.study.tabular import Section, print_sections

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["check_output", "check_replaced", "metric_records", "print_metrics", "print_scoreboard", "write_files"]

FILES = (FILE, "scores.csv")
PICTURES = tuple(f"scores.{kind}" for kind in FORMATS)
NOTE = "Ranks in brackets, 1 for the encoder that promises most. Values of different metrics are not comparable."


def print_scoreboard(board: Scoreboard, console: Console) -> None:
    """One row per encoder, one column per metric; problems with values are listed below."""
    print_sections(board.sections(), console)


def print_metrics(console: Console) -> None:
    """Every metric of the registry, and the meaning of its needs."""
    rows = [
        {
            "metric": metric.name,
            "needs": ", ".join(metric.needs),
            "better": "higher" if metric.higher_is_better else "lower",
            "labels": "none" if metric.label_free else "needed",
            "derivative": "yes" if metric.differentiable else "",
            "source": metric.source,
        }
        for metric in METRICS.values()
    ]
    print_sections([Section("Metrics", rows, key="metric", names=(), texts=tuple(rows[0]))], console)
    console.print("")
    for need, meaning in NEEDS.items():
        console.print(f"  {need}: {meaning.replace('`', '')}", markup=False, soft_wrap=True)


def metric_records() -> list[dict[str, Any]]:
    """The registry as JSON."""
    return [metric_record(metric) for metric in METRICS.values()]


def check_output(origins: Mapping[str, str], metrics: Sequence[str], folder: Path) -> None:
    """Raise ValueError if the files of these scores would replace files of others."""
    _check([_row(encoder, origin, metric) for encoder, origin in origins.items() for metric in metrics], folder)


def check_replaced(board: Scoreboard, folder: Path) -> None:
    """Raise ValueError if the files of this scoreboard would replace files of others."""
    _check([_row(record["encoder"], record["origin"], record["metric"]) for record in board.records()], folder)


def _check(rows: Sequence[tuple[str, str, str]], folder: Path) -> None:
    def rows_of(old: Any) -> list[tuple[str, str, str]]:
        return [_row(score["encoder"], origin_as_text(score["origin"]), score["metric"]) for score in old["scores"]]

    check_replaceable([folder / name for name in (*FILES, *PICTURES)], rows, rows_of)


def _row(encoder: str, origin: str, metric: str) -> tuple[str, str, str]:
    """The identity of a score: a file, whose name depends on the others, or an encoder on data sets."""
    return encoder if origin.startswith("{") or not origin else "", origin, metric


def write_files(
    board: Scoreboard,
    folder: Path,
    *,
    plot: bool,
    formats: Sequence[str] = (),
    command: Sequence[str] = (),
) -> list[Path]:
    """Write `scores.json`, `scores.csv` and, if requested, `scores.png`, replacing older files.

    Args:
        board: the scoreboard to write.
        folder: output folder, created if needed.
        plot: whether to draw.
        formats: formats of pictures in addition to PNG, among `jaxrel.study.drawing.FORMATS`.
        command: the arguments of the command line that made it, if any.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written; it is named.
    """
    scores, table = (folder / name for name in FILES)
    folder.mkdir(parents=True, exist_ok=True)
    board.save(scores, command=command)
    board.to_csv(table)
    return [scores, table, *write_pictures({"scores": board.plot()} if plot else {}, folder, formats)]
