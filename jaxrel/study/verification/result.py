"""A verification: accuracies after training, scores, and their agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from jaxrel.storage.records import from_json_number
from jaxrel.study.documents import (
    SCHEMA,
    Saved,
    as_text,
    file_at,
    origin_of,
    settings_as_data,
    settings_from_data,
    shown_paths,
    write_json,
)
from jaxrel.study.settings import Settings
from jaxrel.study.tabular import Section, Tabular
from jaxrel.study.verification.agreement import Accuracies, Agreement, named
from jaxrel.study.verification.columns import Column
from jaxrel.study.verification.picture import verification_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FILE", "Verification"]

FILE = "verification.json"
_TAU = "weighted_kendall_tau_symmetric"


@dataclass(frozen=True, repr=False)
class Verification(Tabular, Saved, file=FILE, command="jaxrel verify"):
    """Scores of encoders on a target, and their accuracies after training.

    Attributes:
        target: the data set.
        encoders: the best first, by the last kind of accuracy that they have.
        accuracies: accuracies of linear probes, and of fine-tuned networks if there are any to tune.
        columns: the scores.
        agreements: agreement of every score with every kind of accuracy that at least two encoders have.
        settings: settings of the computation.
        notes: notes to read first.
        complaints: errors and failures.
        data_paths: paths of data sets that were read from files, by data set.
    """

    target: str
    encoders: tuple[str, ...]
    accuracies: tuple[Accuracies, ...]
    columns: tuple[Column, ...]
    agreements: tuple[Agreement, ...]
    settings: Settings
    notes: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()
    data_paths: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        return f"Verification({self.target!r}, {len(self.encoders)} encoders, {len(self.columns)} scores)"

    def __str__(self) -> str:
        """The findings in sentences."""
        return "\n".join([*map(str, self.agreements), *self.notes, *self.complaints])

    def records(self) -> list[dict[str, Any]]:
        """A flat record for each encoder."""
        return [self._record(encoder) for encoder in self.encoders]

    def sections(self) -> list[Section]:
        """Accuracies and scores, then their agreement."""
        accuracies = Section(
            f"{self.target}: accuracy after training",
            [self._cells(encoder) for encoder in self.encoders],
            notes=self.notes,
            complaints=self.complaints,
        )
        if not self.agreements:
            return [accuracies]
        texts = ("score", "accuracy")
        agreements = Section(
            f"{self.target}: agreement of scores with accuracies",
            [_cells_of(agreement) for agreement in self.agreements],
            key="score",
            names=("score",),
            texts=texts,
        )
        return [accuracies, agreements]

    def plot(self) -> Figure:
        """Scores against accuracies; needs matplotlib.

        Returns:
            A figure, which `savefig` writes in any format.
        """
        return verification_figure(self.target, self.encoders, self.columns, self.accuracies)

    def save(
        self, path: Path | str, *, data_paths: Mapping[str, Path] | None = None, command: Sequence[str] = ()
    ) -> None:
        """Write everything to a JSON file.

        Args:
            path: the file, which is replaced, or a folder for `verification.json`.
            data_paths: by data set name, where the user has the data.
            command: the arguments of the command line that made it, if any.

        Raises:
            OSError: it cannot be written.
        """
        by_seed = [
            {
                "encoder": encoder,
                "accuracy": accuracies.kind,
                "by_seed": accuracies.by_seed[:, place],
                "covariance": accuracies.covariance[place],
            }
            for accuracies in self.accuracies
            for place, encoder in enumerate(accuracies.encoders)
        ]
        document = {
            "schema": SCHEMA,
            **origin_of(command),
            "settings": settings_as_data(self.settings),
            "data_paths": shown_paths(data_paths or {}),
            "target": self.target,
            "encoders": self.records(),
            "accuracies": by_seed,
            "num_test": [accuracies.num_test for accuracies in self.accuracies],
            "scores": self.columns,
            "agreements": self.agreements,
            "sentences": list(map(str, self.agreements)),
            "notes": self.notes,
            "complaints": self.complaints,
        }
        write_json(file_at(path, FILE), document)

    @classmethod
    def _of_document(cls, document: Mapping[str, Any]) -> Self:
        settings = settings_from_data(document["settings"])
        kinds: dict[str, list[Mapping[str, Any]]] = {}
        for entry in document["accuracies"]:
            kinds.setdefault(as_text(entry["accuracy"]), []).append(entry)
        accuracies = tuple(
            Accuracies(
                kind,
                tuple(as_text(entry["encoder"]) for entry in entries),
                np.array([entry["by_seed"] for entry in entries], float).T,
                np.array([entry["covariance"] for entry in entries], float),
                num_test,
                settings.confidence,
            )
            for (kind, entries), num_test in zip(kinds.items(), document["num_test"], strict=True)
        )
        return cls(
            as_text(document["target"]),
            tuple(as_text(record["encoder"]) for record in document["encoders"]),
            accuracies,
            tuple(map(_column, document["scores"])),
            tuple(Agreement(**_without_type(agreement)) for agreement in document["agreements"]),
            settings,
            tuple(map(as_text, document["notes"])),
            tuple(map(as_text, document["complaints"])),
            {as_text(name): as_text(place) for name, place in document["data_paths"].items()},
        )

    def _record(self, encoder: str) -> dict[str, Any]:
        record: dict[str, Any] = {"encoder": encoder, "target": self.target}
        for accuracies in self.accuracies:
            ends = zip(("", "_lower", "_upper"), _of(accuracies, encoder), strict=True)
            record |= {f"{accuracies.kind}{end}": value for end, value in ends}
        record |= {column.name: column.values.get(encoder, math.nan) for column in self.columns}
        return {name: None if value != value else value for name, value in record.items()}

    def _cells(self, encoder: str) -> dict[str, str]:
        cells = {"encoder": encoder}
        for accuracies in reversed(self.accuracies):
            mean, lower, upper = _of(accuracies, encoder)
            heading = named(accuracies.kind).replace(" ", "\n")
            cells[heading] = "" if math.isnan(mean) else f"{mean:.1%} ({lower:.1%} to {upper:.1%})"
        for column in self.columns:
            value = column.values.get(encoder, math.nan)
            cells[column.name.replace(" (", "\n(")] = "failed" if math.isnan(value) else f"{value:.4g}"
        return cells


def _column(data: Mapping[str, Any]) -> Column:
    values = {as_text(encoder): from_json_number(value) for encoder, value in data["values"].items()}
    intervals = {
        encoder: (from_json_number(low), from_json_number(high)) for encoder, (low, high) in data["intervals"].items()
    }
    return Column(as_text(data["name"]), values, data["higher_is_better"], intervals)


def _without_type(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object from the data of `as_data`."""
    return {name: value for name, value in data.items() if name != "name"}


def _of(accuracies: Accuracies, encoder: str) -> tuple[float, float, float]:
    """The mean and the ends of its interval; NaN if there is none."""
    if encoder not in accuracies.encoders:
        return math.nan, math.nan, math.nan
    place = accuracies.encoders.index(encoder)
    lower, upper = accuracies.intervals[place].tolist()
    return float(accuracies.means[place]), lower, upper


def _cells_of(agreement: Agreement) -> dict[str, str]:
    return {
        "score": agreement.score,
        "accuracy": named(agreement.accuracy).removesuffix(" accuracy"),
        "encoders": str(agreement.num_encoders),
        "pairs\nheld": f"{agreement.held}/{agreement.pairs}",
        "beyond\nnoise": f"{agreement.clear_held}/{agreement.clear_pairs}",
        "weighted\ntau": _interval(agreement.statistics[_TAU]),
        "of a perfect\nscore": _interval(agreement.perfect[_TAU]),
        "Kendall's\ntau": _interval(agreement.statistics["kendall_tau"]),
        "Spearman": _interval(agreement.statistics["spearman"]),
        "Pearson": _interval(agreement.statistics["pearson"]),
        "regret of\nthe first": f"{agreement.regret:.3f}",
    }


def _interval(numbers: Mapping[str, float | None]) -> str:
    if numbers["estimate"] is None:
        return "undefined"
    estimate, lower, upper = (numbers[name] for name in ("estimate", "lower", "upper"))
    return f"{estimate:z.2f} ({lower:z.2f} to {upper:z.2f})"
