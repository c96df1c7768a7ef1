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

from jaxrel.ranking.execute import RESAMPLES, TERMS, Score, to_json
from jaxrel.ranking.table import Ranking, Row, Table
from jaxrel.store import finite_or_string, write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

NOTES = (
    "What the numbers mean. Encoders are ordered by transferability, the share of held-out target samples whose class "
    "is named by the reference's head carried over to the target: of what task-relatedness gives, this predicted best "
    "how well encoders do after fine-tuning. bound = reference loss + label mismatch + distribution mismatch is an "
    "upper limit of that head's loss (target loss beside it), lower being better; the unit is nats. A bound above the "
    "loss of a constant guess promises nothing by itself; the terms say where it comes from.",
    "What to trust. bound >= target loss is certain, for these held-out samples and the transformed head; "
    "it is no statement about the population or about fine-tuning. Compare numbers within a table only: "
    "another pair of tasks is another scale. '=' marks a tie with the row above: on the same resampled "
    "samples their difference may be 0. An encoder with random weights is the floor: one that is no "
    "better brings nothing to this task.",
)
"""What a reader of the tables has to know, in paragraphs."""

LABEL_FREE_NOTES = (
    "What the numbers mean. No target label was looked at. Encoders are ordered by transferability, by the recipe that "
    "predicted best without labels: samples are clustered along what two augmented views of a sample share, and a "
    "linear probe fitted on half of them names the clusters of the views of the other half. The share it names right "
    "is the number; it is the accuracy of no classifier of yours. The bound and its terms are about pseudo-labels, "
    "clusters that differ from encoder to encoder: they bound no loss on the true labels.",
    "What to trust. Compare numbers within a table only. '=' marks a tie with the row above: on the same resampled "
    "samples their difference may be 0. The augmentations (small rotations, shifts, changes of size and light) must "
    "leave your classes alone.",
)
"""The same where targets have no labels."""

_COLOURS = ("#4477aa", "#ccbb44", "#ee6677")
_LABELS = ("re-weighted reference loss", "label mismatch", "distribution mismatch")


def print_ranking(ranking: Ranking, console: Console) -> None:
    """Print a table for each pair of tasks, then the summaries."""
    for table in (*ranking.tables, *ranking.summaries):
        level, classes = _vacuous(table)
        label_free = ranking.settings.label_free
        classes_shown = "no target labels" if label_free else f"a constant guess over {classes} classes: {level:.3f}"
        console.print(
            f"\n{table.reference or 'best of the references'} → {table.target}   (losses in nats; {classes_shown})",
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
        "transfer-\nability",
        f"{confidence:.0%}\ninterval",
        "bound",
        "reference\nloss",
        "label\nmismatch",
        "distribution\nmismatch",
        "target\nloss",
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
        "failed" if score.failed else f"{score.transferability:.1%}",
        "" if math.isnan(low) else f"{low:.1%}-{high:.1%}",
        "" if score.failed else f"{score.bound:z.3f}",
        *("" if math.isnan(value) else f"{value:z.3f}" for value in _terms(score)),
        "" if math.isnan(score.target_loss) else f"{score.target_loss:.3f}",
        f"{score.extraction_seconds:.1f}",
        f"{score.scoring_seconds:.1f}",
    ]


def _terms(score: Score) -> tuple[float, float, float]:
    reference_loss, label_mismatch, distribution_mismatch = (getattr(score, term) for term in TERMS)
    return reference_loss, label_mismatch, distribution_mismatch


def _record(row: Row) -> dict[str, Any]:
    """One row as flat fields; the resamples stay in the log of finished scores."""
    fields = to_json(row.score)
    for name in RESAMPLES:
        del fields[name]
    ends = map(finite_or_string, (*row.interval, *row.bound_interval))
    return {
        "rank": row.rank,
        **fields,
        **dict(zip(("interval_low", "interval_high", "bound_low", "bound_high"), ends, strict=True)),
        "tied_with_above": row.tied_with_above,
        "tied_with": list(row.tied_with),
    }


def _json(ranking: Ranking) -> bytes:
    from jaxrel import __version__

    def table_record(table: Table) -> dict[str, Any]:
        level, classes = _vacuous(table)
        levels = {
            "vacuous_level": finite_or_string(level),
            "log_num_classes": math.log(classes) if classes else "nan",
        }
        return {
            "reference": table.reference,
            "target": table.target,
            # Pseudo-labels differ from encoder to encoder, and with them the level, which is in the rows.
            **({} if ranking.settings.label_free else levels),
            "rows": [_record(row) for row in table.rows],
        }

    settings = dataclasses.asdict(ranking.settings) | {"method": repr(ranking.settings.joint())}
    document = {
        "jaxrel": __version__,
        "ordered_by": "transferability, larger first",
        "unit": "nats, of losses and bounds",
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
        _draw(axis, table, constant_guess=not ranking.settings.label_free)
    for axis in axes[len(tables) :]:
        axis.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    samples = "pseudo-labels" if ranking.settings.label_free else "held-out samples"
    figure.suptitle(
        f"Bound on {samples}, with {ranking.settings.confidence:.0%} intervals; encoders in the order of "
        "transferability (percentages)"
    )
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _draw(axis: Any, table: Table, *, constant_guess: bool) -> None:
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
        low, high = row.bound_interval
        axis.hlines(place, low, high, color="black", linewidth=1.2)
        axis.text(
            np.nanmax([row.score.bound, high]),
            place,
            f"  {row.score.transferability:.0%}",
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
    if constant_guess:
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
