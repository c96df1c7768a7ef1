"""Agreement between the order of scores and of noisy accuracies."""

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

_ROUNDING = 1e-9  # of means over seeds, whose differences are multiples of 1 / (seeds x test samples)
FEW = 5  # with fewer encoders a correlation means little


def named(kind: str) -> str:
    """The readable name of a kind of accuracy."""
    return kind.replace("fine_tuned", "fine-tuned").replace("_", " ")


@dataclass(frozen=True)
class Accuracies:
    """Accuracies after training in one way.

    Attributes:
        kind: "probe_accuracy" or "fine_tuned_accuracy".
        encoders: encoders with an accuracy for every seed.
        by_seed: accuracies on the test samples, by seed.
        covariance: covariance of the means over seeds, on resampled test samples that are the same for every encoder.
        num_test: number of test samples.
        confidence: confidence of intervals.
    """

    kind: str
    encoders: tuple[str, ...]
    by_seed: Float[np.ndarray, "s m"]
    covariance: Float[np.ndarray, "m m"]
    num_test: int
    confidence: float

    @property
    def means(self) -> Float[np.ndarray, " m"]:
        """The means over seeds."""
        return self.by_seed.mean(axis=0)

    @property
    def intervals(self) -> Float[np.ndarray, "m 2"]:
        r"""The interval of each mean, within 0 and 1.

            m' +- z sqrt(C'_ii + sigma^2 / s),    m' = (n m + z^2 / 2) / (n + z^2),

        for n test samples and s seeds; `noise` has C' and sigma. With one seed it is the interval of Agresti and Coull
        (The American Statistician, 1998). It is not empty if all answers are right, as resampled answers would have it.
        """
        prior = self._quantile**2
        centres = (self.num_test * self.means + prior / 2) / (self.num_test + prior)
        half_widths = self._quantile * np.sqrt(np.diag(self._test_covariance) + self._seed_variance)
        return np.clip(np.stack([centres - half_widths, centres + half_widths], axis=1), 0, 1)

    def noise(self, one: int, other: int) -> float:
        r"""The difference of two accuracies that noise alone does not exceed, at the confidence of the intervals.

            z sqrt(C'_ii + C'_jj - 2 C'_ij + 2 sigma^2 / s)

        C' is the covariance of the means over test samples, the same for both, and sigma^2 the variance between s
        seeds, pooled over the encoders, because three seeds of one encoder say little about it. With one seed it is
        unknown and left out. The result is slightly too large, because differences between seeds in the correctly
        predicted samples enter both terms.

        For C' there are z^2 further test samples, for which each encoder is right with probability 1/2, independently
        of the others: with the covariance C of the means m on n resampled test samples,

            C' = (n^2 C + z^2 I / 4 + n z^2 / (n + z^2) (m - 1/2) (m - 1/2)^T) / (n + z^2)^2.

        So the noise of encoders that are all right, or right on the same samples, is not 0. (Agresti and Min,
        Statistics in Medicine, 2005, add two such samples instead of z^2 for a difference of paired proportions.)
        """
        contrast = np.zeros(len(self.encoders))
        contrast[[one, other]] = 1, -1
        test = float(contrast @ self._test_covariance @ contrast)
        return self._quantile * math.sqrt(test + 2 * self._seed_variance)

    @property
    def _test_covariance(self) -> Float[np.ndarray, "m m"]:
        """C' of `noise`."""
        prior, num_test, away = self._quantile**2, self.num_test, self.means - 0.5
        scatter = num_test**2 * self.covariance + prior / 4 * np.eye(away.size)
        scatter += num_test * prior / (num_test + prior) * np.outer(away, away)
        return scatter / (num_test + prior) ** 2

    @property
    def _seed_variance(self) -> float:
        """The variance of the mean over seeds."""
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
        num_encoders, num_seeds, num_test: numbers of encoders, seeds and test samples.
        pairs: pairs of encoders whose accuracies differ; equal scores do not order a pair.
        held: pairs that the score orders like the accuracies.
        clear_pairs: pairs whose accuracies differ by more than their noise.
        clear_held: those of them that the score orders like the accuracies.
        noise: root mean square over all pairs of the difference that noise alone does not exceed.
        first: the encoder with the best score; the first one listed among equals.
        regret: the best accuracy minus the accuracy of `first`.
        statistics: `estimate`, `lower` and `upper` by the names of `jaxrel.evaluation.STATISTICS`; None if undefined.
        perfect: the same for a perfect score, given the noise.
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
        """The agreement in sentences."""
        accuracy = named(self.accuracy)
        truth = f"{counted(self.num_seeds, 'seed')} and {counted(self.num_test, 'test sample')}"
        noise = f"Differences below about {self.noise:.3f} are within the noise of {truth}."
        if not self.pairs:
            return f"The order by {self.score} is not tested: the encoders have the same {accuracy}. {noise}"
        held = f"The order by {self.score} held for {self.held} of {counted(self.pairs, 'pair')} by {accuracy}"
        if self.clear_pairs:
            held += f", for {self.clear_held} of the {self.clear_pairs} that differ by more than noise."
        else:
            held += "; as none differs by more than noise, this neither confirms nor refutes it."
        chosen = "is the best" if self.regret <= 0 else f"is {self.regret:.3f} below the best"
        sentences = [held, noise, f"Its first choice, {self.first}, {chosen}."]
        if equal := math.comb(self.num_encoders, 2) - self.pairs:
            sentences.insert(1, f"The accuracies of {counted(equal, 'other pair')} are equal.")
        if self.num_encoders < FEW:
            sentences.append(f"With {self.num_encoders} encoders a correlation means little.")
        return " ".join(sentences)


def agreements(columns: Sequence[Column], accuracies: Accuracies, *, seed: int, num_resamples: int) -> list[Agreement]:
    """The agreement of every score with the accuracies.

    Encoders without a score rank last.

    Args:
        columns: at least one score.
        accuracies: accuracies of at least two encoders.
        seed: seed of resamples and draws.
        num_resamples: number of resamples of encoders, and of draws for the ceiling.
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
    apart = [abs(means[one] - means[other]) for one, other in pairs]
    differing = [pair for pair, difference in zip(pairs, apart, strict=True) if difference > _ROUNDING]
    clear = [pair for pair, difference, noise in zip(pairs, apart, noises, strict=True) if difference > noise]

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
        pairs=len(differing),
        held=sum(map(held, differing)),
        clear_pairs=len(clear),
        clear_held=sum(map(held, clear)),
        noise=float(np.sqrt(np.mean(np.square(noises)))),
        first=accuracies.encoders[first],
        regret=float(means.max() - means[first]),
        statistics=rows[name],
        perfect=rows[PERFECT],
    )


def counted(number: int, what: str) -> str:
    """A number with its noun, singular or plural."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
