"""A ranking for people and programs: terminal table, JSON, CSV, bar plots."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel.storage.records import check_replaceable, json_number, write_atomically
from jaxrel.study.execute import NUMBERS, RESAMPLES, TERMS, Score, to_json
from jaxrel.study.plan import Plan, Settings
from jaxrel.study.table import Ranking, Row, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

FILES = ("results.json", "results.csv", "ranking.png")

_WITH_LABELS = (
    "What the numbers mean. Encoders are ordered by transferability, which is computed from the target samples alone, "
    "as the line above the table says. It is there to compare encoders on one target."
)
_WITHOUT_LABELS = (
    "What the numbers mean. No target label was looked at. Encoders are ordered by transferability, by the recipe that "
    "predicted best without labels: samples are clustered along what two augmented views of a sample share, and a "
    "linear probe fitted on half of them names the clusters of the views of the other half. It is the accuracy of no "
    "classifier of yours. The augmentations (small rotations, shifts, changes of size and light) must leave your "
    "classes alone."
)
_TERMS = (
    "What a reference adds. bound = reference loss + label mismatch + distribution mismatch is an upper limit of the "
    "loss of the reference's head carried over to the target (target loss beside it), lower being better; the unit is "
    "nats. It changes no order. A bound above the loss of a constant guess promises nothing by itself; the terms say "
    "where it comes from. "
)
_TERMS_WITH_LABELS = (
    "bound >= target loss is certain, for these held-out samples and the transformed head; it is no statement about "
    "the population or about fine-tuning."
)
_TERMS_WITHOUT_LABELS = (
    "Here all of it is about pseudo-labels, clusters that differ from encoder to encoder: no loss on the true labels "
    "is bounded."
)
_TRUST = (
    "What to trust. Compare numbers within a table only: another target is another scale. '=' marks a tie with the row "
    "above: on the same resampled samples their difference may be 0. An encoder with random weights is the floor: one "
    "that is no better brings nothing to this task. Seconds are of the run that made the score; those of compilation "
    "fall to the encoder that is the first of its shape."
)

_COLOURS = ("#4477aa", "#ccbb44", "#ee6677")
_LABELS = ("re-weighted reference loss", "label mismatch", "distribution mismatch")
_OF_TERMS = (*NUMBERS, "reference", "terms_status", "target_labels", "num_classes", "vacuous_level")


def notes(ranking: Ranking) -> list[str]:
    """What a reader of the tables has to know, in paragraphs."""
    label_free = ranking.settings.label_free
    paragraphs = [_WITHOUT_LABELS if label_free else _WITH_LABELS]
    if _has_references(ranking):
        paragraphs.append(_TERMS + (_TERMS_WITHOUT_LABELS if label_free else _TERMS_WITH_LABELS))
    return [*paragraphs, _TRUST]


def print_ranking(ranking: Ranking, console: Console) -> None:
    """Print a table for each pair of tasks, then the summaries."""
    from rich.text import Text

    for table in (*ranking.tables, *ranking.summaries):
        console.print(Text(f"\n{_heading(table)}   ({_levels(table, ranking.settings)})", style="bold"), soft_wrap=True)
        for recipe in _recipes(table):
            console.print(Text(f"transferability: {recipe}"), soft_wrap=True)
        shown = _terminal_table(table, ranking.settings.confidence)
        terminal = console.width
        console.width = 1000  # so that no number is cut off: a narrow terminal wraps the lines
        console.print(shown)
        console.width = terminal
        for score in (row.score for row in table.rows if row.score.complaint):
            what = "" if score.failed else " (terms)"
            console.print(Text(f"{score.encoder}{what}: {score.complaint}", style="red"), soft_wrap=True)


def check_output(plan: Plan, folder: Path, *, data_paths: Mapping[str, Path]) -> None:
    """Raise ValueError where the files of this plan would replace those of another, and lose what they hold."""
    about = [_settings(plan.settings), _shown_paths(data_paths)]

    def rows_of(document: Any) -> list[str]:
        return [
            json.dumps(
                [[document["settings"], document["data_paths"]], [pair["reference"], pair["target"], row["encoder"]]]
            )
            for pair in document["pairs"]
            for row in pair["rows"]
        ]

    check_replaceable([folder / name for name in FILES], [json.dumps([about, row]) for row in plan.rows], rows_of)


def write_files(
    ranking: Ranking, folder: Path, *, plot: bool, data_paths: Mapping[str, Path] | None = None
) -> list[Path]:
    """Write `results.json`, `results.csv` and `ranking.png` if asked for; each replaces its older one."""
    contents = [_json(ranking, data_paths or {}), _csv(ranking), *([_png(ranking)] if plot else [])]
    paths = [folder / name for name, _ in zip(FILES, contents, strict=False)]
    for path, content in zip(paths, contents, strict=True):
        write_atomically(path, content)
    return paths


def _has_references(ranking: Ranking) -> bool:
    return any(table.references != {None} for table in ranking.tables)


def _heading(table: Table) -> str:
    if table.references == {None}:
        return table.target
    return f"{table.reference or 'best of the references'} → {table.target}"


def _levels(table: Table, settings: Settings) -> str:
    """What a constant guess reaches, where labels are looked at."""
    if settings.label_free:
        return "no target labels"
    majority, level, classes = _majority(table), *_vacuous(table)
    guess = "unknown" if math.isnan(majority) else f"{majority:.1%}"
    parts = [f"accuracy of a constant guess: {guess}"]
    if not math.isnan(level):
        parts.append(f"losses in nats; that of a constant guess over {classes} classes: {level:.3f}")
    return "; ".join(parts)


def _recipes(table: Table) -> list[str]:
    """How the numbers of the rows were computed; more than one only where encoders had to be treated differently."""
    return sorted({row.score.recipe for row in table.rows if row.score.recipe})


def _majority(table: Table) -> float:
    """Accuracy of the best constant guess, from a score that has it."""
    return next((row.score.majority for row in table.rows if not math.isnan(row.score.majority)), math.nan)


def _vacuous(table: Table) -> tuple[float, int]:
    """Loss of the best constant guess and the class count of the target, from a score that has them."""
    return next(
        ((row.score.vacuous_level, row.score.num_classes) for row in table.rows if row.score.num_classes), (math.nan, 0)
    )


def _terminal_table(table: Table, confidence: float) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    rows = [_cells(row, table, confidence) for row in table.rows]
    for heading in rows[0]:
        shown.add_column(heading, justify="left" if heading in ("encoder", "reference") else "right", no_wrap=True)
    for row, cells in zip(table.rows, rows, strict=True):
        shown.add_row(*map(Text, cells.values()), style="red" if row.score.complaint else None)
    return shown


def _cells(row: Row, table: Table, confidence: float) -> dict[str, str]:
    """The entries of a row by their headings."""
    score = row.score
    cells = {"rank": f"{'=' if row.tied_with_above else ''}{row.rank}", "encoder": score.encoder}
    if table.is_summary:
        cells["reference"] = score.reference or ""
    cells["transfer-\nability"] = "failed" if score.failed else f"{score.transferability:.1%}"
    cells[f"{confidence:.0%}\ninterval"] = "" if math.isnan(score.lower) else f"{score.lower:.1%}-{score.upper:.1%}"
    if any(not math.isnan(other.score.accuracy) for other in table.rows):
        cells["accuracy"] = "" if math.isnan(score.accuracy) else f"{score.accuracy:.1%}"
    if table.references != {None}:
        headings = ("bound", "reference\nloss", "label\nmismatch", "distribution\nmismatch", "target\nloss")
        values = (score.bound, *_terms(score), score.target_loss)
        for heading, value in zip(headings, values, strict=True):
            cells[heading] = f"{value:z.3f}" if score.has_terms and not math.isnan(value) else ""
    return cells | {
        "extract\ns": f"{score.extraction_seconds:.1f}",
        "compile\ns": f"{score.compilation_seconds:.1f}",
        "score\ns": f"{score.scoring_seconds:.1f}",
    }


def _terms(score: Score) -> tuple[float, float, float]:
    reference_loss, label_mismatch, distribution_mismatch = (getattr(score, term) for term in TERMS)
    return reference_loss, label_mismatch, distribution_mismatch


def _record(row: Row, *, terms: bool) -> dict[str, Any]:
    """One row as flat fields; the resamples stay in the log of finished scores."""
    fields = to_json(row.score)
    for name in (*RESAMPLES, *(() if terms else _OF_TERMS)):
        del fields[name]
    if terms:
        fields |= zip(("bound_low", "bound_high"), map(json_number, row.bound_interval), strict=True)
    ties = {"tied_with_above": row.tied_with_above, "tied_with": list(row.tied_with)}
    return {"rank": row.rank, **fields, **ties}


def _settings(settings: Settings) -> dict[str, Any]:
    fields = dataclasses.asdict(settings) | {"method": repr(settings.joint())}
    del fields["strict"]  # which changes no number
    return fields


def _shown_paths(data_paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path.resolve()) for name, path in sorted(data_paths.items())}


def _json(ranking: Ranking, data_paths: Mapping[str, Path]) -> bytes:
    from jaxrel import __version__

    terms = _has_references(ranking)

    def table_record(table: Table) -> dict[str, Any]:
        level, classes = _vacuous(table)
        # Pseudo-labels differ from encoder to encoder, and with them the level, which is in the rows.
        levels = {"vacuous_level": json_number(level), "log_num_classes": math.log(classes) if classes else None}
        return {
            "reference": table.reference,
            "target": table.target,
            "recipe": "; ".join(_recipes(table)),
            "majority": json_number(_majority(table)),
            **(levels if terms and not ranking.settings.label_free else {}),
            "rows": [_record(row, terms=terms) for row in table.rows],
        }

    document = {
        "jaxrel": __version__,
        "ordered_by": "transferability, larger first",
        **({"unit": "nats, of losses and bounds"} if terms else {}),
        "settings": _settings(ranking.settings),
        "data_paths": _shown_paths(data_paths),
        "pairs": [table_record(table) for table in ranking.tables],
        "summaries": [table_record(table) for table in ranking.summaries],
    }
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _csv(ranking: Ranking) -> bytes:
    terms = _has_references(ranking)
    records = [_record(row, terms=terms) for table in ranking.tables for row in table.rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow(record | {"tied_with": " ".join(record["tied_with"])})
    return stream.getvalue().encode()


def _png(ranking: Ranking) -> bytes:
    """A panel for each table: transferability with its interval; with references, one of the terms beside it."""
    from matplotlib.figure import Figure

    tables, panels = ranking.tables, 2 if _has_references(ranking) else 1
    blocks = max(1, round(math.sqrt(len(tables) / panels)))
    lines, columns = math.ceil(len(tables) / blocks), blocks * panels
    encoders = max(len(table.rows) for table in tables)
    figure = Figure(figsize=(1 + 4.6 * columns, 1.1 + lines * (1.1 + 0.36 * encoders)), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for position, table in enumerate(tables):
        number, *terms = axes[panels * position : panels * (position + 1)]
        _draw_number(number, table)
        for axis in terms:
            _draw_terms(axis, table, constant_guess=not ranking.settings.label_free)
    for axis in axes[panels * len(tables) :]:
        axis.set_axis_off()
    figure.suptitle(f"Transferability, with {ranking.settings.confidence:.0%} intervals")
    if panels > 1:
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _draw_number(axis: Any, table: Table) -> None:
    """A bar for each encoder, the best on top, as long as the number that is ranked by."""
    scores = [row.score for row in table.rows]
    axis.barh(range(len(scores)), [_drawn(score.transferability) for score in scores], color="#88aacc", height=0.7)
    for place, score in enumerate(scores):
        axis.hlines(place, score.lower, score.upper, color="black", linewidth=1.2)
        axis.text(
            0.01, place, "failed" if score.failed else f"{score.transferability:.1%}", va="center", fontsize="small"
        )
    axis.set_xlim(0, 1)
    axis.set_xlabel("transferability")
    _finish(axis, table, [score.encoder for score in scores])


def _draw_terms(axis: Any, table: Table, *, constant_guess: bool) -> None:
    """A stacked bar for each encoder, in the same order."""
    places = range(len(table.rows))
    terms = [_terms(row.score) if row.score.has_terms else (0.0, 0.0, 0.0) for row in table.rows]
    start = [0.0] * len(table.rows)
    for position, (label, colour) in enumerate(zip(_LABELS, _COLOURS, strict=True)):
        width = [_drawn(term[position]) for term in terms]
        axis.barh(places, width, left=start, color=colour, label=label, height=0.7)
        start = [sum(pair) for pair in zip(start, width, strict=True)]
    drawn = [(place, row) for place, row in zip(places, table.rows, strict=True) if row.score.has_terms]
    for place, row in drawn:
        axis.hlines(place, *row.bound_interval, color="black", linewidth=1.2)
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
    axis.set_xlim(left=0)
    axis.set_xlabel("bound on held-out samples, nats" if constant_guess else "bound on pseudo-labels, nats")
    _finish(axis, table, ["" if row.score.has_terms else "failed" for row in table.rows])


def _finish(axis: Any, table: Table, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), names, parse_math=False)  # a name may hold dollar signs
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_title(_heading(table), fontsize="medium", parse_math=False)
    axis.spines[["top", "right"]].set_visible(False)


def _drawn(value: float) -> float:
    return value if math.isfinite(value) else 0.0
