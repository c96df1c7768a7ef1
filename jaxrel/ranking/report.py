"""A ranking for people and programs: terminal table, JSON, CSV, stacked-bar PNG."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.ranking.execute import TERMS, Score, finite_or_string, to_json
from jaxrel.ranking.table import Ranking, Row, Table
from jaxrel.store import write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

NOTES = (
    "What the numbers mean. bound = reference loss + label mismatch + distribution mismatch is an upper "
    "limit of the loss, on the target, of the reference's head carried over to it (target loss and "
    "accuracy beside it). Lower is better; the unit is nats. A bound above the loss of a constant guess "
    "promises nothing by itself: what is left is its place in the order.",
    "What to trust. bound >= target loss is certain, for these held-out samples and the transformed head; "
    "it is no statement about the population or about fine-tuning. Compare numbers within a table only: "
    "another pair of tasks is another scale. '=' marks a tie with the row above: on the same resampled "
    "samples their difference may be 0. An encoder with random weights is the floor: one that is no "
    "better brings nothing to this task. A handful of encoders proves little about the method.",
)
"""What a reader of the tables has to know, in paragraphs."""

_COLOURS = ("#4477aa", "#ccbb44", "#ee6677")
_LABELS = ("re-weighted reference loss", "label mismatch", "distribution mismatch")


def print_ranking(ranking: Ranking, console: Console) -> None:
    """Print a table for each pair of tasks, then the summaries."""
    for table in (*ranking.tables, *ranking.summaries):
        level, classes = _vacuous(table)
        console.print(
            f"\n{table.reference or 'best of the references'} → {table.target}   (nats, lower is better; "
            f"a constant guess over {classes} classes: {level:.3f})",
            style="bold",
            markup=False,
            soft_wrap=True,
        )
        shown = _terminal_table(table, ranking.settings.confidence)
        terminal = console.width
        console.width = 1000  # so that no number is cut off: a narrow terminal wraps the lines
        console.print(shown)
        console.width = terminal
        for row in table.rows:
            if row.score.failed:
                console.print(f"{row.score.encoder}: {row.score.status}", style="red", markup=False)


def write_files(ranking: Ranking, folder: Path, *, plot: bool) -> list[Path]:
    """Write `results.json`, `results.csv` and `ranking.png` if asked for; each replaces its older one."""
    contents = {"results.json": _json(ranking), "results.csv": _csv(ranking)}
    if plot:
        contents["ranking.png"] = _png(ranking)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def _vacuous(table: Table) -> tuple[float, int]:
    """Loss of the best constant guess and the class count of the target, from a score that has them."""
    known = next((row.score for row in table.rows if row.score.num_classes), table.rows[0].score)
    return known.vacuous_level, known.num_classes


def _terminal_table(table: Table, confidence: float) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    for heading in ("rank", "encoder", *(() if table.reference else ("reference",))):
        shown.add_column(heading, justify="right" if heading == "rank" else "left", no_wrap=True)
    for heading in (
        "bound",
        f"{confidence:.0%}\ninterval",
        "reference\nloss",
        "label\nmismatch",
        "distribution\nmismatch",
        "target\nloss",
        "target\naccuracy",
        "extract\ns",
        "score\ns",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*_cells(row, summary=table.reference is None), style="red" if row.score.failed else None)
    return shown


def _cells(row: Row, *, summary: bool) -> list[str]:
    score = row.score
    low, high = row.interval
    return [
        f"{'=' if row.tied_with_above else ''}{row.rank}",
        score.encoder,
        *([score.reference] if summary else []),
        "failed" if score.failed else f"{score.bound:z.3f}",
        "" if math.isnan(low) else f"{low:.3f}-{high:.3f}",
        *("" if math.isnan(value) else f"{value:z.3f}" for value in _terms(score)),
        "" if math.isnan(score.target_loss) else f"{score.target_loss:.3f}",
        "" if math.isnan(score.target_accuracy) else f"{score.target_accuracy:.1%}",
        f"{score.extraction_seconds:.1f}",
        f"{score.scoring_seconds:.1f}",
    ]


def _terms(score: Score) -> tuple[float, float, float]:
    reference_loss, label_mismatch, distribution_mismatch = (getattr(score, term) for term in TERMS)
    return reference_loss, label_mismatch, distribution_mismatch


def _record(row: Row) -> dict[str, Any]:
    """One row as flat fields; the resampled bounds stay in the log of finished scores."""
    fields = to_json(row.score)
    del fields["resampled_bounds"], fields["num_classes"], fields["vacuous_level"]
    low, high = map(finite_or_string, row.interval)
    return {
        "rank": row.rank,
        **fields,
        "interval_low": low,
        "interval_high": high,
        "tied_with_above": row.tied_with_above,
        "tied_with": list(row.tied_with),
    }


def _json(ranking: Ranking) -> bytes:
    from jaxrel import __version__

    def table_record(table: Table) -> dict[str, Any]:
        level, classes = _vacuous(table)
        return {
            "reference": table.reference,
            "target": table.target,
            "vacuous_level": finite_or_string(level),
            "log_num_classes": math.log(classes) if classes else "nan",
            "rows": [_record(row) for row in table.rows],
        }

    settings = dataclasses.asdict(ranking.settings) | {"method": repr(ranking.settings.joint())}
    document = {
        "jaxrel": __version__,
        "unit": "nats",
        "lower_is_better": True,
        "settings": settings,
        "pairs": [table_record(table) for table in ranking.tables],
        "summaries": [table_record(table) for table in ranking.summaries],
    }
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _csv(ranking: Ranking) -> bytes:
    records = [_record(row) for table in ranking.tables for row in table.rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow(record | {"tied_with": " ".join(record["tied_with"])})
    return stream.getvalue().encode()


def _png(ranking: Ranking) -> bytes:
    from matplotlib.figure import Figure

    tables = ranking.tables
    columns = math.ceil(math.sqrt(len(tables)))
    lines = math.ceil(len(tables) / columns)
    encoders = max(len(table.rows) for table in tables)
    figure = Figure(figsize=(1 + 4.6 * columns, 1.1 + lines * (1.1 + 0.36 * encoders)), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, table in zip(axes, tables, strict=False):
        _draw(axis, table)
    for axis in axes[len(tables) :]:
        axis.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"Bound on held-out samples (lower is better), with {ranking.settings.confidence:.0%} intervals")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _draw(axis: Any, table: Table) -> None:
    """One panel: a stacked bar for each encoder, the best on top."""
    places = range(len(table.rows))
    names = [f"{row.score.encoder}{' (failed)' if row.score.failed else ''}" for row in table.rows]
    terms = [[_drawn(value) for value in _terms(row.score)] for row in table.rows]
    start = [0.0] * len(table.rows)
    for position, (label, colour) in enumerate(zip(_LABELS, _COLOURS, strict=True)):
        width = [term[position] for term in terms]
        axis.barh(places, width, left=start, color=colour, label=label, height=0.7)
        start = [sum(pair) for pair in zip(start, width, strict=True)]
    backing = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    drawn = [(place, row) for place, row in zip(places, table.rows, strict=True) if not row.score.failed]
    for place, row in drawn:
        low, high = row.interval
        axis.hlines(place, low, high, color="black", linewidth=1.2)
        axis.text(
            np.nanmax([row.score.bound, high]),
            place,
            f"  {row.score.bound:.2f}",
            va="center",
            fontsize="small",
            bbox=backing,
        )
    axis.plot(
        [row.score.target_loss for _, row in drawn],
        [place for place, _ in drawn],
        "D",
        color="white",
        markeredgecolor="black",
        markersize=5,
        linestyle="none",
        label="target loss of the transformed head",
    )
    axis.axvline(_vacuous(table)[0], color="black", linestyle="--", linewidth=1, label="constant guess")
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.margins(x=0.12)
    axis.set_xlabel("nats")
    axis.set_title(f"{table.reference} → {table.target}", fontsize="medium")
    axis.spines[["top", "right"]].set_visible(False)


def _drawn(value: float) -> float:
    return value if math.isfinite(value) else 0.0
