"""A ranking for people and programs: terminal table, JSON, CSV, bar plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel.storage.records import check_replaceable
from jaxrel.study.documents import settings_as_data, shown_paths
from jaxrel.study.drawing import FORMATS, write_pictures
from jaxrel.study.plan import Plan
from jaxrel.study.ranking import document
from jaxrel.study.ranking.table import Ranking
from jaxrel.study.settings import Settings
from jaxrel.study.tabular import print_sections

if TYPE_CHECKING:
    from rich.console import Console

FILES = ("results.json", "results.csv")
PICTURES = tuple(f"{name}.{kind}" for name in ("ranking", "cost") for kind in FORMATS)

_WITH_LABELS = (
    "What the numbers mean. Encoders are ordered by transferability, which is computed from the target samples "
    "alone, by the recipe in the line above the table. Use it to compare encoders on one target."
)
_WITHOUT_LABELS = (
    "What the numbers mean. No target label was used. Encoders are ordered by transferability, by the recipe that "
    "predicted best without labels: samples are clustered along what two augmented views of a sample share, and a "
    "linear probe fitted on half of them names the clusters of the views of the other half. It is not the "
    "accuracy of a classifier on your labels. The augmentations (of pictures small rotations, shifts, changes of "
    "size and light; of texts, words left out) must not change your classes."
)
_BY_CLASS_NAMES = (
    "Here the labels are not those of the target, which were not used: {teacher} gave each sample the class whose "
    "name is nearest. The numbers say how well encoders predict the teacher's labels, right or wrong. The "
    "teacher itself and its layers are scored on labels of their own."
)
_TERMS = (
    "What a reference adds. bound = reference loss + label mismatch + distribution mismatch is an upper limit of the "
    "loss of the reference's head carried over to the target (target loss beside it), lower being better; the unit is "
    "nats. It changes no order. A bound above the loss of a constant guess promises nothing by itself; the terms say "
    "where it comes from. "
)
_TERMS_WITH_LABELS = (
    "bound >= target loss is certain, for these held-out samples and the transformed head; it says nothing "
    "about the population or about fine-tuning."
)
_TERMS_WITHOUT_LABELS = (
    "Here all of it is about pseudo-labels, clusters that differ from encoder to encoder: no loss on the true labels "
    "is bounded."
)
_TRUST = (
    "What to trust. Compare numbers within a table only: another target is another scale. '=' marks a tie with the "
    "first: on the same resampled samples their difference may be 0. An encoder with random weights is the floor: one "
    "that is no better brings nothing to this task. Seconds are of the run that made the score; those of compilation "
    "fall to the encoder that is the first of its shape."
)


def notes(ranking: Ranking) -> list[str]:
    """The notes for readers of the tables, in paragraphs."""
    label_free = ranking.settings.label_free
    paragraphs = [_WITHOUT_LABELS if label_free else _WITH_LABELS]
    if ranking.settings.class_names:
        paragraphs.append(_BY_CLASS_NAMES.format(teacher=ranking.settings.teacher))
    if ranking.has_references:
        paragraphs.append(_TERMS + (_TERMS_WITHOUT_LABELS if label_free else _TERMS_WITH_LABELS))
    return [*paragraphs, _TRUST]


def print_ranking(ranking: Ranking, console: Console) -> None:
    """Print a table for each pair of tasks, then the summaries."""
    print_sections(ranking.sections(), console)


def check_output(plan: Plan, folder: Path, *, data_paths: Mapping[str, Path]) -> None:
    """Raise ValueError if the files of this plan would replace files of another one."""
    rows = [[reference, target, encoder] for reference, target in plan.pairs for encoder in plan.encoders]
    _check(rows, plan.settings, folder, data_paths)


def check_replaced(ranking: Ranking, folder: Path, *, data_paths: Mapping[str, Path]) -> None:
    """Raise ValueError if the files of this ranking would replace files of another one."""
    rows = [[table.reference, table.target, row.score.encoder] for table in ranking.tables for row in table.rows]
    _check(rows, ranking.settings, folder, data_paths)


def _check(
    rows: Sequence[Sequence[str | None]], settings: Settings, folder: Path, data_paths: Mapping[str, Path]
) -> None:
    about = [settings_as_data(settings), shown_paths(data_paths)]

    def rows_of(old: Any) -> list[str]:
        return [
            json.dumps([[old["settings"], old["data_paths"]], [pair["reference"], pair["target"], row["encoder"]]])
            for pair in old["pairs"]
            for row in pair["rows"]
        ]

    check_replaceable(
        [folder / name for name in (*FILES, *PICTURES)], [json.dumps([about, row]) for row in rows], rows_of
    )


def write_files(
    ranking: Ranking,
    folder: Path,
    *,
    plot: bool,
    formats: Sequence[str] = (),
    data_paths: Mapping[str, Path] | None = None,
    command: Sequence[str] = (),
) -> list[Path]:
    """Write `results.json`, `results.csv` and, if requested, pictures, replacing older files.

    Args:
        ranking: the ranking to write.
        folder: output folder, created if needed.
        plot: whether to draw.
        formats: formats of pictures in addition to PNG, among `jaxrel.study.drawing.FORMATS`.
        data_paths: by data set name, where the user has the data.
        command: the arguments of the command line that made it, if any.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written; it is named.
    """
    results, table = (folder / name for name in FILES)
    document.write(ranking, results, data_paths=data_paths, command=command)
    ranking.to_csv(table)
    figures = {"ranking": ranking.plot()} if plot else {}
    if plot and ranking.has_costs:
        figures["cost"] = ranking.plot_costs()
    return [results, table, *write_pictures(figures, folder, formats)]
