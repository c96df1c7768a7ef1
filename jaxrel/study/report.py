"""A ranking for people and programs: terminal table, JSON, CSV, bar plots."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel.storage.records import check_replaceable, json_number, write_atomically
from jaxrel.study.drawing import FORMATS, file_of
from jaxrel.study.execute import NUMBERS, RESAMPLES, to_json
from jaxrel.study.plan import Plan, Settings
from jaxrel.study.table import Ranking, Row, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

FILES = ("results.json", "results.csv")
PICTURES = tuple(f"ranking.{kind}" for kind in FORMATS)

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

_OF_TERMS = (*NUMBERS, "reference", "terms_status", "target_labels", "num_classes", "vacuous_level")


def notes(ranking: Ranking) -> list[str]:
    """What a reader of the tables has to know, in paragraphs."""
    label_free = ranking.settings.label_free
    paragraphs = [_WITHOUT_LABELS if label_free else _WITH_LABELS]
    if ranking.has_references:
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

    check_replaceable(
        [folder / name for name in (*FILES, *PICTURES)], [json.dumps([about, row]) for row in plan.rows], rows_of
    )


def write_files(
    ranking: Ranking,
    folder: Path,
    *,
    plot: bool,
    formats: Sequence[str] = ("png",),
    data_paths: Mapping[str, Path] | None = None,
) -> list[Path]:
    """Write `results.json`, `results.csv` and, if asked for, pictures; each replaces its older one.

    Args:
        ranking: what to write.
        folder: where to; made if need be.
        plot: whether to draw.
        formats: of the pictures, among `jaxrel.study.drawing.FORMATS`.
        data_paths: by data set name, where the user has the data.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written; it is named.
    """
    contents = dict(zip(FILES, (_json(ranking, data_paths or {}), _csv(ranking)), strict=True))
    if plot:
        figure = ranking.plot()
        contents |= {f"ranking.{kind}": file_of(figure, kind) for kind in formats}
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def _heading(table: Table) -> str:
    if table.references == {None}:
        return table.target
    return f"{table.reference or 'best of the references'} → {table.target}"


def _levels(table: Table, settings: Settings) -> str:
    """What a constant guess reaches, where labels are looked at."""
    if settings.label_free:
        return "no target labels"
    majority, level, classes = _majority(table), *table.vacuous
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
        values = (score.bound, *score.terms, score.target_loss)
        for heading, value in zip(headings, values, strict=True):
            cells[heading] = f"{value:z.3f}" if score.has_terms and not math.isnan(value) else ""
    return cells | {
        "extract\ns": f"{score.extraction_seconds:.1f}",
        "compile\ns": f"{score.compilation_seconds:.1f}",
        "score\ns": f"{score.scoring_seconds:.1f}",
    }


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

    terms = ranking.has_references

    def table_record(table: Table) -> dict[str, Any]:
        level, classes = table.vacuous
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
    terms = ranking.has_references
    records = [_record(row, terms=terms) for table in ranking.tables for row in table.rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow(record | {"tied_with": " ".join(record["tied_with"])})
    return stream.getvalue().encode()
