"""How well the order of a score agrees with that of accuracies, given the noise of these."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrel.evaluation.evaluate import PERFECT, evaluate_scores
from jaxrel.study.verification.columns import Column

__all__ = ["Accuracies", "Agreement", "agreements", "counted", "named"]

FEW = 5  # encoders, below which a correlation says little


def named(kind: str) -> str:
    """A kind of accuracy as people read it."""
    return kind.replace("fine_tuned", "fine-tuned").replace("_", " ")


@dataclass(frozen=True)
class Accuracies:
    """Accuracies after training in one way.

    Attributes:
        kind: "probe_accuracy" or "fine_tuned_accuracy".
        encoders: those that have one for every seed.
        by_seed: on the test samples.
        covariance: of the means over seeds, on resampled test samples that are the same ones for every encoder.
        num_test: test samples.
        confidence: of intervals.
    """

    kind: str
    encoders: tuple[str, ...]
    by_seed: Float[np.ndarray, "s m"]
    covariance: Float[np.ndarray, "m m"]
    num_test: int
    confidence: float

    @property
    def means(self) -> Float[np.ndarray, " m"]:
        """Over seeds."""
        return self.by_seed.mean(axis=0)

    @property
    def half_widths(self) -> Float[np.ndarray, " m"]:
        """Of the intervals around the means."""
        return self._quantile * np.sqrt(np.diag(self.covariance) + self._seed_variance)

    def noise(self, one: int, other: int) -> float:
        r"""The difference of two accuracies that noise alone does not exceed, with the confidence of the intervals.

            z sqrt(Var_r(a_r - b_r) + 2 sigma^2 / s)

        over resampled test samples r, the same for both, and with the variance sigma^2 between s seeds pooled over the
        encoders, as three seeds of one encoder say little about it. That of one seed is unknown, and left out. It is a
        little too large, as seeds that differ in which samples they get right are in both terms.
        """
        own, shared = np.diag(self.covariance)[[one, other]].sum(), self.covariance[one, other]
        test = max(0.0, float(own - 2 * shared))  # which rounding can put below 0
        return self._quantile * math.sqrt(test + 2 * self._seed_variance)

    @property
    def _seed_variance(self) -> float:
        """Of the mean over seeds."""
        num_seeds = len(self.by_seed)
        return float(self.by_seed.var(axis=0, ddof=1).mean() / num_seeds) if num_seeds > 1 else 0.0

    @property
    def _quantile(self) -> float:
        return NormalDist().inv_cdf((1 + self.confidence) / 2)


@dataclass(frozen=True)
class Agreement:
    """One score beside accuracies of one kind.

    Attributes:
        score: its name.
        accuracy: "probe_accuracy" or "fine_tuned_accuracy".
        num_encoders, num_seeds, num_test: what it rests on.
        pairs: of encoders; equal scores order none.
        held: of these, ordered by the score as by the accuracies.
        clear_pairs: whose accuracies differ by more than their noise.
        clear_held: of these, ordered alike.
        noise: root mean square over the pairs of the difference that noise alone does not exceed.
        first: the encoder that the score has first, of equals the one that is named first.
        regret: by how much its accuracy is below the best.
        statistics: `estimate`, `lower` and `upper` by the names of `jaxrel.evaluation.STATISTICS`; None if undefined.
        perfect: the same of a perfect score, given the noise.
    """

    score: str
    accuracy: str
    num_encoders: int
    num_seeds: int
    num_test: int
    pairs: int
    held: int
    clear_pairs: int
    clear_held: int
    noise: float
    first: str
    regret: float
    statistics: Mapping[str, Mapping[str, float | None]]
    perfect: Mapping[str, Mapping[str, float | None]]

    def __str__(self) -> str:
        """In sentences."""
        clear = f"for {self.clear_held} of the {self.clear_pairs} that" if self.clear_pairs else "but none"
        truth = f"{counted(self.num_seeds, 'seed')} and {counted(self.num_test, 'test sample')}"
        chosen = "is the best" if self.regret <= 0 else f"is {self.regret:.3f} below the best"
        sentences = [
            f"The order by {self.score} held for {self.held} of {counted(self.pairs, 'pair')} by "
            f"{named(self.accuracy)}, {clear} differ by more than noise.",
            f"Differences below about {self.noise:.3f} are within the noise of {truth}.",
            f"Its first choice, {self.first}, {chosen}.",
        ]
        if self.num_encoders < FEW:
            sentences.append(f"With {self.num_encoders} encoders a correlation means little.")
        return " ".join(sentences)


def agreements(columns: Sequence[Column], accuracies: Accuracies, *, seed: int, num_resamples: int) -> list[Agreement]:
    """Every score beside the accuracies.

    Encoders without a score are behind all others.

    Args:
        columns: at least one score.
        accuracies: of at least two encoders.
        seed: of resamples and draws.
        num_resamples: of encoders, and draws of the ceiling.
    """
    scores = {column.name: _oriented(column, accuracies.encoders) for column in columns}
    table = evaluate_scores(
        {name: values[:, None] for name, values in scores.items()},
        accuracies.by_seed[:, :, None],
        num_test=accuracies.num_test,
        missing="worst",
        confidence=accuracies.confidence,
        num_resamples=num_resamples,
        key=seed,
    )
    rows = {row["name"]: _intervals(row) for row in table.rows}
    return [_agreement(name, values, accuracies, rows) for name, values in scores.items()]


def _oriented(column: Column, encoders: Sequence[str]) -> Float[np.ndarray, " m"]:
    """Larger is better."""
    values = np.array([column.values.get(encoder, math.nan) for encoder in encoders])
    return values if column.higher_is_better else -values


def _intervals(row: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    return {
        name: {end: numbers[end] for end in ("estimate", "lower", "upper")}
        for name, numbers in row.items()
        if isinstance(numbers, Mapping) and name != "difference"
    }


def _agreement(
    name: str,
    values: Float[np.ndarray, " m"],
    accuracies: Accuracies,
    rows: Mapping[str, Mapping[str, Mapping[str, float | None]]],
) -> Agreement:
    means, ranked = accuracies.means, np.where(np.isfinite(values), values, -np.inf)
    pairs = list(itertools.combinations(range(len(means)), 2))
    noises = [accuracies.noise(*pair) for pair in pairs]
    clear = [pair for pair, noise in zip(pairs, noises, strict=True) if abs(means[pair[0]] - means[pair[1]]) > noise]

    def held(pair: tuple[int, int]) -> bool:
        by_score, by_accuracy = (
            int(values[pair[0]] > values[pair[1]]) - int(values[pair[0]] < values[pair[1]])
            for values in (ranked, means)
        )
        return by_score * by_accuracy > 0

    first = int(np.argmax(ranked))
    return Agreement(
        score=name,
        accuracy=accuracies.kind,
        num_encoders=len(means),
        num_seeds=len(accuracies.by_seed),
        num_test=accuracies.num_test,
        pairs=len(pairs),
        held=sum(map(held, pairs)),
        clear_pairs=len(clear),
        clear_held=sum(map(held, clear)),
        noise=float(np.sqrt(np.mean(np.square(noises)))),
        first=accuracies.encoders[first],
        regret=float(means.max() - means[first]),
        statistics=rows[name],
        perfect=rows[PERFECT],
    )


def counted(number: int, what: str) -> str:
    """A number of things, one or several."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
