"""From scores to an order: ranks, intervals and ties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxrel.study.execute import Score
from jaxrel.study.pictures import ranking_figure
from jaxrel.study.plan import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    """One encoder in a table.

    `bound_interval` is the percentile interval of the bound over resampled samples. Two
    encoders are tied when the interval of the difference of their transferabilities, on the same resamples, holds 0:
    `tied_with` names all such encoders of the table, `tied_with_above` says whether the one ranked just above is among
    them.
    """

    rank: int
    score: Score
    bound_interval: tuple[float, float]
    tied_with_above: bool
    tied_with: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The encoders in the order of their transferability on one target, largest first, failed ones last.

    `reference` is that of the terms. It is None where there are none, and in a summary, in which each encoder stands
    with the reference that gives it the smallest bound.
    """

    reference: str | None
    target: str
    rows: tuple[Row, ...]

    @property
    def references(self) -> set[str | None]:
        """Those of the rows."""
        return {row.score.reference for row in self.rows}

    @property
    def is_summary(self) -> bool:
        """Whether references differ from encoder to encoder, or may."""
        return self.reference is None and self.references != {None}

    @property
    def vacuous(self) -> tuple[float, int]:
        """Loss of the best constant guess and the class count of the target, from a score that has them."""
        scores = (row.score for row in self.rows if row.score.num_classes)
        return next(((score.vacuous_level, score.num_classes) for score in scores), (math.nan, 0))


@dataclass(frozen=True)
class Ranking:
    """A table for each pair of tasks, and a summary for each target that has more than one reference."""

    tables: tuple[Table, ...]
    summaries: tuple[Table, ...]
    settings: Settings

    @property
    def incomplete(self) -> tuple[Score, ...]:
        """The scores that lack a number, or the terms of their reference; `complaint` says why."""
        return tuple(row.score for table in self.tables for row in table.rows if row.score.complaint)

    @property
    def has_references(self) -> bool:
        """Whether there are terms of a bound."""
        return any(table.references != {None} for table in self.tables)

    def plot(self) -> Figure:
        """Bars of transferability, and of the bound where there are references; needs matplotlib.

        Returns:
            A figure, which `savefig` writes in any format.
        """
        return ranking_figure(self)


def make_ranking(scores: Sequence[Score], settings: Settings) -> Ranking:
    """Order the scores within each pair of tasks, and within each target with the best reference of each encoder."""
    by_pair: dict[tuple[str | None, str], list[Score]] = {}
    for score in scores:
        by_pair.setdefault((score.reference, score.target), []).append(score)
    by_target: dict[str, dict[str, list[Score]]] = {}
    for score in scores:
        by_target.setdefault(score.target, {}).setdefault(score.encoder, []).append(score)
    return Ranking(
        tuple(
            Table(reference, target, _rows(group, settings.confidence))
            for (reference, target), group in by_pair.items()
        ),
        tuple(
            Table(
                None,
                target,
                _rows([min(group, key=_order) for group in by_encoder.values()], settings.confidence),
            )
            for target, by_encoder in by_target.items()
            if max(map(len, by_encoder.values())) > 1
        ),
        settings,
    )


def _rows(scores: Sequence[Score], confidence: float) -> tuple[Row, ...]:
    ordered = sorted(scores, key=_order)
    tied = {frozenset((a.encoder, b.encoder)) for a, b in itertools.combinations(ordered, 2) if _tied(a, b, confidence)}
    rows = []
    for position, score in enumerate(ordered):
        tied_with = [other.encoder for other in ordered if frozenset((score.encoder, other.encoder)) in tied]
        above = ordered[position - 1].encoder if position else None
        bound_interval = _interval(np.asarray(score.resampled_bounds), confidence)
        rows.append(Row(position + 1, score, bound_interval, above in tied_with, tuple(tied_with)))
    return tuple(rows)


def _order(score: Score) -> tuple[bool, float, float, str]:
    """Equal transferabilities, as those of one encoder with several references are, are ordered by the bound."""
    bound = math.inf if math.isnan(score.bound) else score.bound
    return score.failed, 0.0 if math.isnan(score.transferability) else -score.transferability, bound, score.encoder


def _tied(a: Score, b: Score, confidence: float) -> bool:
    if a.failed or b.failed:
        return False
    difference = np.subtract(a.resampled_transferabilities, b.resampled_transferabilities)
    low, high = _interval(difference, confidence)
    return low <= 0 <= high


def _interval(resamples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Order statistics that enclose the share asked for: no interpolation, as a resample may be infinite."""
    if not resamples.size:
        return math.nan, math.nan
    ordered = np.sort(resamples)
    low = math.floor((1 - confidence) / 2 * (len(ordered) - 1))
    return float(ordered[low]), float(ordered[len(ordered) - 1 - low])
