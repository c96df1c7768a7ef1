"""Rankings of scores: ranks, intervals and ties, with saving and loading."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel.study.documents import file_at
from jaxrel.study.intervals import percentile_interval, told_apart
from jaxrel.study.plan import BOUND, TRANSFERABILITY
from jaxrel.study.ranking import document
from jaxrel.study.ranking.cells import record_of, section_of
from jaxrel.study.ranking.cost_picture import cost_figure
from jaxrel.study.ranking.document import StoredRow
from jaxrel.study.ranking.pictures import ranking_figure
from jaxrel.study.ranking.score import Score, joined
from jaxrel.study.results import Results
from jaxrel.study.settings import Settings
from jaxrel.study.tabular import Section, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    """One encoder in a table.

    `rank` is None if it failed. `bound_interval` is the percentile interval of the bound over resampled samples. Two
    encoders are tied if the interval of the difference of their transferabilities, on the same resamples, contains 0:
    `tied_with` names all such encoders of the table, `tied_with_best` says whether the first is among them. (Ties do
    not chain: the third may be tied with the second, which is tied with the first, and be worse than the first.)
    """

    rank: int | None
    score: Score
    bound_interval: tuple[float, float]
    tied_with_best: bool
    tied_with: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Table(Tabular):
    """The encoders in the order of their transferability on one target, largest first, failed ones last.

    `reference` is the reference of the terms. It is None if there are no terms, and in a summary, where each encoder
    has the reference with its smallest bound.
    """

    reference: str | None
    target: str
    rows: tuple[Row, ...]
    settings: Settings = dataclasses.field(default_factory=Settings)

    def __repr__(self) -> str:
        best = next((f", best {row.score.encoder!r}" for row in self.rows if not row.score.failed), "")
        return f"Table({self.heading!r}, {len(self.rows)} encoders{best})"

    @property
    def references(self) -> set[str | None]:
        """Those of the rows."""
        return {row.score.reference for row in self.rows}

    @property
    def is_summary(self) -> bool:
        """Whether references may differ between encoders."""
        return self.reference is None and self.references != {None}

    @property
    def heading(self) -> str:
        """The heading of the table."""
        if self.references <= {None}:
            return self.target
        return f"{self.reference or 'best of the references'} → {self.target}"

    @property
    def recipes(self) -> list[str]:
        """How the numbers were computed; more than one recipe only if encoders had to be treated differently."""
        return sorted({row.score.recipe for row in self.rows if row.score.recipe})

    @property
    def class_counts(self) -> Mapping[str, int]:
        """Number of samples that the teacher gave each class name, from a score that has it."""
        return next((row.score.class_counts for row in self.rows if row.score.class_counts), {})

    @property
    def majority(self) -> float:
        """Accuracy of the best constant guess, from a score that has it."""
        return next((row.score.majority for row in self.rows if not math.isnan(row.score.majority)), math.nan)

    @property
    def vacuous(self) -> tuple[float, int]:
        """Loss of the best constant guess and the class count of the target, from a score that has them."""
        scores = (row.score for row in self.rows if row.score.num_classes)
        return next(((score.vacuous_level, score.num_classes) for score in scores), (math.nan, 0))

    def records(self) -> list[dict[str, Any]]:
        """A record for each encoder, in order."""
        return [record_of(row, terms=self.references != {None}) for row in self.rows]

    def sections(self) -> list[Section]:
        """The table."""
        return [section_of(self)]

    def plot(self) -> Figure:
        """As :meth:`Ranking.plot`, for this table only."""
        return ranking_figure([self])


@dataclass(frozen=True, repr=False)
class Ranking(Tabular):
    """One table per pair of tasks, and a summary for each target with several references."""

    tables: tuple[Table, ...]
    summaries: tuple[Table, ...]
    settings: Settings

    def __repr__(self) -> str:
        encoders = {row.score.encoder for table in self.tables for row in table.rows}
        return f"Ranking({len(self.tables)} tables of {len(encoders)} encoders)"

    @property
    def incomplete(self) -> tuple[Score, ...]:
        """The scores that lack a number, or the terms of their reference; `complaint` says why."""
        return tuple(row.score for table in self.tables for row in table.rows if row.score.complaint)

    @property
    def has_references(self) -> bool:
        """Whether there are terms of a bound."""
        return any(table.references != {None} for table in self.tables)

    def records(self) -> list[dict[str, Any]]:
        """A record for each encoder and pair; summaries are left out, because they repeat records."""
        return [record_of(row, terms=self.has_references) for table in self.tables for row in table.rows]

    def sections(self) -> list[Section]:
        """All tables, then the summaries."""
        return [section_of(table) for table in (*self.tables, *self.summaries)]

    def plot(self) -> Figure:
        """Bars of transferability and, with references, of the bound; needs matplotlib.

        Returns:
            A figure, which `savefig` writes in any format.
        """
        return ranking_figure(self.tables)

    @property
    def has_costs(self) -> bool:
        """Whether the number of parameters is known for any scored encoder."""
        return any(
            row.score.num_parameters is not None and not row.score.failed for table in self.tables for row in table.rows
        )

    def plot_costs(self) -> Figure:
        """Transferability against parameters, with the Pareto front; needs matplotlib.

        Returns:
            A figure, which `savefig` writes in any format.

        Raises:
            ValueError: the number of parameters of no encoder is known.
        """
        if not self.has_costs:
            raise ValueError("the number of parameters of no encoder is known: rank encoders by name.")
        return cost_figure(self.tables)

    def save(self, path: Path | str) -> None:
        """Write the ranking to `results.json`, in the format of `jaxrel rank`.

        Args:
            path: the file, which is replaced, or a folder for `results.json`.

        Raises:
            OSError: it cannot be written.
        """
        document.write(self, file_at(path, "results.json"))

    @classmethod
    def load(cls, path: Path | str) -> Ranking:
        """Load a ranking from a file; neither data nor a network are needed.

        Args:
            path: a file that `save` or `jaxrel rank` wrote, or its folder (`study.rank` writes none). Resamples are
                read from the log of finished scores if it is beside the file.

        Returns:
            The ranking, equal to the saved one except for `strict` and `skip_broken`.

        Raises:
            OSError: there is no such file.
            ValueError: it is damaged or has another version; the message names it.
        """
        stored = document.read(Path(path))
        return make_ranking([row.score for row in stored.rows], stored.settings, stored=stored.rows)


def ranking_of(results: Results) -> Ranking:
    """Rank the encoders of a study on every target, with the terms of every reference if there are bounds.

    Raises:
        ValueError: the study has no transferability, or varies samples, seeds or reference classes.
    """
    if TRANSFERABILITY not in results.metrics:
        raise ValueError("a ranking is by transferability, which is not among the metrics of the study: add it.")
    if max(map(len, (results.samples, results.seeds, results.reference_classes))) > 1:
        raise ValueError("samples, seeds or reference classes are varied: rank the results of one of them.")
    numbers = {(r.encoder, r.target): r for r in results.entries if r.metric == TRANSFERABILITY}
    bounds = {(r.encoder, r.reference, r.target): r for r in results.entries if r.metric == BOUND}
    references = results.references if BOUND in results.metrics else ()
    pairs: list[tuple[str | None, str]] = [(r, t) for r in references for t in results.targets if r != t]
    return make_ranking(
        [
            joined(numbers[encoder, target], bounds.get((encoder, reference, target)))
            for reference, target in pairs or [(None, target) for target in results.targets]
            for encoder in results.encoders
        ],
        results.settings,
    )


def make_ranking(scores: Sequence[Score], settings: Settings, *, stored: Sequence[StoredRow] = ()) -> Ranking:
    """Order the scores within each pair of tasks, and within each target with the best reference of each encoder.

    Args:
        scores: at least one.
        settings: settings of the scores.
        stored: earlier findings from resamples that some scores no longer have.
    """
    known = {_place(row.score): row for row in stored}
    by_pair: dict[tuple[str | None, str], list[Score]] = {}
    for score in scores:
        by_pair.setdefault((score.reference, score.target), []).append(score)
    by_target: dict[str, dict[str, list[Score]]] = {}
    for score in scores:
        by_target.setdefault(score.target, {}).setdefault(score.encoder, []).append(score)
    return Ranking(
        tuple(
            Table(reference, target, _rows(group, settings.confidence, known), settings)
            for (reference, target), group in by_pair.items()
        ),
        tuple(
            Table(
                None,
                target,
                _rows([min(group, key=_order) for group in by_encoder.values()], settings.confidence, known),
                settings,
            )
            for target, by_encoder in by_target.items()
            if max(map(len, by_encoder.values())) > 1
        ),
        settings,
    )


_Known = Mapping[tuple[str | None, str, str], StoredRow]


def _place(score: Score) -> tuple[str | None, str, str]:
    return score.reference, score.target, score.encoder


def _rows(scores: Sequence[Score], confidence: float, known: _Known) -> tuple[Row, ...]:
    ordered = sorted(scores, key=_order)
    tied = {
        frozenset((a.encoder, b.encoder))
        for a, b in itertools.combinations(ordered, 2)
        if _tied(a, b, confidence, known)
    }
    rows = []
    for position, score in enumerate(ordered):
        tied_with = [other.encoder for other in ordered if frozenset((score.encoder, other.encoder)) in tied]
        rank = None if score.failed else position + 1
        bound_interval = _bound_interval(score, confidence, known)
        rows.append(Row(rank, score, bound_interval, ordered[0].encoder in tied_with, tuple(tied_with)))
    return tuple(rows)


def _order(score: Score) -> tuple[bool, float, float, str]:
    """The sort key of a score; equal transferabilities, as of one encoder with several references, are ordered by the
    bound."""
    bound = math.inf if math.isnan(score.bound) else score.bound
    return score.failed, 0.0 if math.isnan(score.transferability) else -score.transferability, bound, score.encoder


def _tied(a: Score, b: Score, confidence: float, known: _Known) -> bool:
    if a.failed or b.failed:
        return False
    if a.transferability == b.transferability:
        return True
    apart = told_apart(a.resampled_transferabilities, b.resampled_transferabilities, confidence)
    if apart is None:
        return any(
            _place(one) in known and other.encoder in known[_place(one)].tied_with for one, other in ((a, b), (b, a))
        )
    return not apart


def _bound_interval(score: Score, confidence: float, known: _Known) -> tuple[float, float]:
    if not score.resampled_bounds and _place(score) in known:
        return known[_place(score)].bound_interval
    return percentile_interval(score.resampled_bounds, confidence)
