"""A scoreboard in the terminal and in files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel.metrics.registry import METRICS, NEEDS, Metric
from jaxrel.storage.records import check_replaceable, json_number, write_atomically
from jaxrel.study.scoreboard.execute import Scoreboard
from jaxrel.study.scoreboard.inputs import EncoderArrays
from jaxrel.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["check_output", "metric_records", "print_metrics", "print_scoreboard", "write_files"]

FILES = ("scores.json", "scores.csv", "scores.png")
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
    check_replaceable([folder / name for name in FILES], rows, rows_of)


def write_files(board: Scoreboard, folder: Path, *, plot: bool) -> list[Path]:
    """Write `scores.json`, `scores.csv` and `scores.png` if asked for; each replaces its older one."""
    contents = [_json(board), _csv(board), *([_png(board)] if plot else [])]
    paths = [folder / name for name, _ in zip(FILES, contents, strict=False)]
    for path, content in zip(paths, contents, strict=True):
        write_atomically(path, content)
    return paths


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


def _png(board: Scoreboard) -> bytes:
    from matplotlib.figure import Figure

    ranks = board.ranks().T
    lines, columns = ranks.shape
    figure = Figure(figsize=(3.2 + 0.7 * columns, 1.6 + 0.3 * lines), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(ranks, cmap="viridis_r", aspect="auto", vmin=1, vmax=max(columns, 2))
    for line in range(lines):
        for column in range(columns):
            axis.text(column, line, str(ranks[line, column]), ha="center", va="center", fontsize=8, color="white")
    axis.set_xticks(range(columns), board.encoders, rotation=45, ha="right", parse_math=False)
    axis.set_yticks(range(lines), board.metrics)
    axis.set_title("Rank of each encoder by each metric; 1 promises most")
    figure.colorbar(image, label="rank", ticks=[1, max(columns, 2)])
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()
