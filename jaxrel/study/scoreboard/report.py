"""A scoreboard in the terminal and in files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.metrics.registry import METRICS, NEEDS, Metric
from jaxrel.storage.records import check_replaceable, json_number, write_atomically
from jaxrel.study.drawing import FORMATS, contrasting, file_of, in_lines, row_edges, typography, width_of
from jaxrel.study.scoreboard.execute import Scoreboard
from jaxrel.study.scoreboard.inputs import EncoderArrays
from jaxrel.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

__all__ = ["check_output", "metric_records", "print_metrics", "print_scoreboard", "write_files"]

FILES = ("scores.json", "scores.csv")
PICTURES = tuple(f"scores.{kind}" for kind in FORMATS)
NOTE = "Ranks in brackets, 1 for the encoder that promises most. Values of different metrics are not comparable."


def print_scoreboard(board: Scoreboard, console: Console) -> None:
    """A line for each metric, a column for each encoder; what is wrong with a value is said below."""
    from rich.text import Text

    ranks = board.ranks()
    rows = [
        [
            name,
            *(
                "failed" if math.isnan(value) else f"{value:.4g} ({rank})"
                for value, rank in zip(board.values[:, column], ranks[:, column], strict=True)
            ),
        ]
        for column, name in enumerate(board.metrics)
    ]
    _print_table(console, ["metric", *board.encoders], rows)
    for (encoder, metric), messages in board.messages.items():
        console.print(Text(f"{encoder}, {metric}: {' '.join(messages)}", style="red"), soft_wrap=True)


def print_metrics(console: Console) -> None:
    """Every metric of the registry, and what needs mean."""
    header = ["metric", "needs", "better", "labels", "derivative", "source"]
    rows = [
        [
            metric.name,
            ", ".join(metric.needs),
            "higher" if metric.higher_is_better else "lower",
            "none" if metric.label_free else "needed",
            "yes" if metric.differentiable else "",
            metric.source,
        ]
        for metric in METRICS.values()
    ]
    _print_table(console, header, rows)
    console.print("")
    for need, meaning in NEEDS.items():
        console.print(f"  {need}: {meaning.replace('`', '')}", markup=False, soft_wrap=True)


def metric_records() -> list[dict[str, Any]]:
    """The registry as JSON has it."""
    return [_metric_record(metric) for metric in METRICS.values()]


def check_output(encoders: Sequence[EncoderArrays], metrics: Sequence[str], folder: Path) -> None:
    """Raise ValueError where the files of these scores would replace those of others, and lose what they hold."""

    def rows_of(document: Any) -> list[tuple[str, str, str]]:
        return [(score["encoder"], score["origin"], score["metric"]) for score in document["scores"]]

    rows = [(encoder.name, encoder.origin, metric) for encoder in encoders for metric in metrics]
    check_replaceable([folder / name for name in (*FILES, *PICTURES)], rows, rows_of)


def write_files(board: Scoreboard, folder: Path, *, plot: bool, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write `scores.json`, `scores.csv` and, if asked for, `scores.png`; each replaces its older one.

    Args:
        board: what to write.
        folder: where to; made if need be.
        plot: whether to draw.
        formats: of the picture, among `jaxrel.study.drawing.FORMATS`.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written; it is named.
    """
    contents = dict(zip(FILES, (_json(board), _csv(board)), strict=True))
    if plot:
        figure = board_figure(board)
        contents |= {f"scores.{kind}": file_of(figure, kind) for kind in formats}
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def _print_table(console: Console, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    for heading in header:
        shown.add_column(Text(heading), no_wrap=True)
    for row in rows:
        shown.add_row(*map(Text, row))
    terminal = console.width
    console.width = 1000  # so that no number is cut off: a narrow terminal wraps the lines
    console.print(shown)
    console.width = terminal


def _metric_record(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "needs": list(metric.needs),
        "higher_is_better": metric.higher_is_better,
        "label_free": metric.label_free,
        "differentiable": metric.differentiable,
        "depends_on_other_encoders": metric.combine is not None,
        "source": metric.source,
    }


def _records(board: Scoreboard) -> list[dict[str, Any]]:
    ranks = board.ranks()
    return [
        {
            "encoder": encoder,
            "origin": board.origins[row],
            "metric": metric,
            "value": json_number(float(board.values[row, column])),
            "rank": int(ranks[row, column]),
            "higher_is_better": METRICS[metric].higher_is_better,
            "messages": " ".join(board.messages.get((encoder, metric), ())),
            "seconds": float(board.seconds[row, column]),
        }
        for row, encoder in enumerate(board.encoders)
        for column, metric in enumerate(board.metrics)
    ]


def _json(board: Scoreboard) -> bytes:
    document = {
        "version": __version__,
        "metrics": [_metric_record(METRICS[name]) for name in board.metrics],
        "scores": _records(board),
    }
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _csv(board: Scoreboard) -> bytes:
    records = _records(board)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue().encode()


def board_figure(board: Scoreboard) -> Figure:
    """Ranks as colours: a line for each encoder, a column for each metric.

    Args:
        board: what to draw.

    Returns:
        A figure that is as large as its names and their numbers need.
    """
    from matplotlib.figure import Figure

    ranks = board.ranks()
    lines, columns = ranks.shape
    names = [in_lines(name) for name in board.encoders]
    with typography(board.encoders):
        figure = Figure(layout="constrained")
        axis = figure.subplots()
        edges = row_edges(names)
        middles = [sum(pair) / 2 for pair in itertools.pairwise(edges)]
        image = axis.pcolormesh(
            np.arange(columns + 1) - 0.5, edges, ranks, cmap="viridis_r", vmin=1, vmax=max(lines, 2)
        )
        for line, column in np.ndindex(*ranks.shape):
            rank = ranks[line, column]
            colour = contrasting(image.cmap(image.norm(rank)))
            axis.text(column, middles[line], str(rank), ha="center", va="center", fontsize=8, color=colour)
        axis.set_xticks(range(columns), board.metrics, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(middles, names, fontsize="small")
        axis.invert_yaxis()
        axis.set_title("Rank of each encoder by each metric\n1 promises most", fontsize="medium")
        figure.colorbar(image, label="rank", ticks=[1, max(lines, 2)])
        room = max(0.45 * columns, width_of([axis.title]))
        figure.set_size_inches(1.2 + room + width_of(axis.get_yticklabels()), 2.2 + edges[-1])
    return figure
