"""Evaluate transferability scores against accuracies after transfer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import ArrayLike, Bool, Float

from jaxrel._core.arrays import real_array, truth_array
from jaxrel._core.checks import Key
from jaxrel.evaluation.baselines import ceiling, leave_one_target_out_rank, null_distribution
from jaxrel.evaluation.bootstrap import (
    Interval,
    PairedDifference,
    TargetIntervals,
    bootstrap_difference,
    bootstrap_intervals,
)
from jaxrel.evaluation.rank_correlation import STATISTICS
from jaxrel.evaluation.validation import check_confidence

__all__ = ["EvaluationTable", "ScoreEvaluation", "compare_scores", "evaluate_score", "evaluate_scores"]

_Scores: TypeAlias = Float[np.ndarray, "m t"]
_Mask: TypeAlias = Bool[np.ndarray, "m t"]

STATIC, RANDOM, PERFECT = "leave-one-target-out rank", "random order", "perfect score"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScoreEvaluation:
    """Every statistic of one score, on each target and averaged over targets, with intervals over encoders.

    The names are those of `STATISTICS`; the regret is in the unit of the truth and better when smaller.
    """

    kendall_tau: TargetIntervals
    weighted_kendall_tau_symmetric: TargetIntervals
    weighted_kendall_tau_by_truth: TargetIntervals
    spearman: TargetIntervals
    pearson: TargetIntervals
    top_1_regret: TargetIntervals


@dataclass(frozen=True)
class EvaluationTable:
    """Scores with the baselines to compare them with.

    Attributes:
        rows: one for each score, then the baselines. Each is a dictionary that JSON can hold (None where a number is
            undefined): `name`, `kind` ("score", "baseline", "null", "ceiling"), for each of `STATISTICS` an
            `estimate`, `lower` and `upper` of the mean over targets and, but for the null, `per_target` estimates,
            and for scores under `difference` the paired difference to the static baseline, where there is one, with
            its `statistic` and `share_below_zero`.
        confidence: confidence level of all intervals. Intervals of scores and of the static baseline are by the
            bootstrap over encoders, those of the null and the ceiling are quantiles of draws.
    """

    rows: tuple[dict[str, Any], ...]
    confidence: float

    def to_text(self) -> str:
        """The table in plain text: a line for each row, a column for each statistic."""
        lines = [["", *(name.replace("_kendall_tau", "_tau") for name in STATISTICS)]]
        lines += [[row["name"], *(_cell(row[name]) for name in STATISTICS)] for row in self.rows]
        differences = [row.get("difference") for row in self.rows]
        if differences[0] is not None:
            lines[0].append(f"{differences[0]['statistic']} minus {STATIC}")
            for line, difference in zip(lines[1:], differences, strict=True):
                line.append(_cell(difference))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        caption = f"Mean over targets [{self.confidence:.3g} interval]"
        return "\n".join(line.rstrip() for line in (*text, caption))


def evaluate_score(
    scores: Float[ArrayLike, "m t"],
    truth: Float[ArrayLike, "m t"],
    *,
    where: Bool[ArrayLike, "m t"] | None = None,
    missing: str = "error",
    confidence: float = 0.95,
    num_resamples: int = 2000,
    key: Key = 0,
) -> ScoreEvaluation:
    """Measure how well a score predicts accuracies, by every statistic.

    Args:
        scores: scores of m encoders on t targets; larger is better.
        truth: their accuracies.
        where: mask of the pairs of encoder and target to use; None means all. Values elsewhere are ignored.
        missing: treatment of scores that are not finite. `"error"` raises; `"worst"` ranks them below all others of the
            target, tied with each other (Pearson's correlation is then NaN, as the distance is unknown). This includes
            `+inf`, which some methods return on failure.
        confidence, num_resamples, key: as in `bootstrap_intervals`.

    Returns:
        A `ScoreEvaluation`.

    Raises:
        ValueError: for shapes that do not fit together, fewer than two encoders on a target, truths that are not
            finite, scores that are not finite (which encoder and target) and options out of range.
    """
    truth, where = _checked_truth(truth, where)
    scores = _checked_scores("scores", scores, where, missing)
    return ScoreEvaluation(
        **{
            statistic: bootstrap_intervals(
                scores,
                truth,
                statistic=statistic,
                where=where,
                confidence=confidence,
                num_resamples=num_resamples,
                key=key,
            )
            for statistic in STATISTICS
        }
    )


def compare_scores(
    scores: Float[ArrayLike, "m t"],
    baseline: Float[ArrayLike, "m t"],
    truth: Float[ArrayLike, "m t"],
    *,
    statistic: str = "kendall_tau",
    where: Bool[ArrayLike, "m t"] | None = None,
    missing: str = "error",
    confidence: float = 0.95,
    num_resamples: int = 2000,
    key: Key = 0,
) -> PairedDifference:
    """Measure by how much one score predicts accuracies better than another.

    Args:
        scores, baseline: two scores as in `evaluate_score`.
        truth, where, missing: as there.
        statistic: a name in `STATISTICS`. Choose it in advance: one of the six is likely to favour either score.
        confidence, num_resamples, key: as in `bootstrap_intervals`.

    Returns:
        A `PairedDifference`, scores minus baseline.

    Raises:
        ValueError: as `evaluate_score`.
    """
    truth, where = _checked_truth(truth, where)
    return bootstrap_difference(
        _checked_scores("scores", scores, where, missing),
        _checked_scores("baseline", baseline, where, missing),
        truth,
        statistic=statistic,
        where=where,
        confidence=confidence,
        num_resamples=num_resamples,
        key=key,
    )


def evaluate_scores(
    scores: Mapping[str, Float[ArrayLike, "m t"]],
    truth: Float[ArrayLike, "m t"] | Float[ArrayLike, "s m t"],
    *,
    num_test: Float[ArrayLike, "*#t"] | None = None,
    statistic: str = "kendall_tau",
    where: Bool[ArrayLike, "m t"] | None = None,
    missing: str = "error",
    confidence: float = 0.95,
    num_resamples: int = 2000,
    key: Key = 0,
) -> EvaluationTable:
    """A table of scores, beside a random order, the static baseline and what a perfect score could reach.

    Args:
        scores: by name, as in `evaluate_score`; all on the same encoders and targets.
        truth: their accuracies, or those of each of s seeds: then their mean is the truth, and the table has a
            ceiling.
        num_test: as in `ceiling`; given for `(m, t)` accuracies it makes a ceiling of them as of one seed.
        statistic: of the paired differences to the static baseline, chosen before looking.
        where, missing: as in `evaluate_score`.
        confidence, key: of the intervals.
        num_resamples: resamples, random orders and draws of the ceiling.

    Returns:
        An `EvaluationTable`. The static baseline needs two targets, the ceiling seeds or `num_test`.

    Raises:
        ValueError: as `evaluate_score` and `ceiling`, and for a name that the baselines have.
    """
    check_confidence(confidence)
    if not scores or set(scores) & {STATIC, RANDOM, PERFECT}:
        raise ValueError(f"scores has the names {list(scores)}: pass at least one, other than those of the baselines.")
    seeds = np.asarray(real_array("truth", truth), np.float64)
    seeds = seeds[None] if seeds.ndim == 2 else seeds
    mean, where = _checked_truth(seeds.mean(axis=0) if seeds.ndim == 3 else seeds, where)
    table = {name: _checked_scores(f"scores[{name!r}]", values, where, missing) for name, values in scores.items()}
    options: dict[str, Any] = {"where": where, "key": key}
    resampling: dict[str, Any] = {**options, "confidence": confidence, "num_resamples": num_resamples}
    drawing: dict[str, Any] = {**options, "num_draws": num_resamples}
    compared = mean.shape[1] > 1
    if compared:
        table[STATIC] = np.asarray(leave_one_target_out_rank(mean, where=where))
    rows = _score_rows(table, mean, resampling)
    for row in rows[: len(scores)] if compared else ():
        paired = bootstrap_difference(table[row["name"]], table[STATIC], mean, statistic=statistic, **resampling)
        share = _number(paired.share_below_zero)
        row["difference"] = {"statistic": statistic, **_ends(paired.difference), "share_below_zero": share}
    rows.append(_null_row(mean, confidence, drawing))
    if len(seeds) > 1 or num_test is not None:
        perfect = {
            name: ceiling(seeds, statistic=name, num_test=num_test, confidence=confidence, **drawing)
            for name in STATISTICS
        }
        rows.append({"name": PERFECT, "kind": "ceiling"} | {name: _summary(value) for name, value in perfect.items()})
    return EvaluationTable(tuple(rows), confidence)


def _score_rows(scores: Mapping[str, _Scores], truth: _Scores, options: dict[str, Any]) -> list[dict[str, Any]]:
    stacked = np.stack(list(scores.values()))
    rows: list[dict[str, Any]] = [{"name": name, "kind": "baseline" if name == STATIC else "score"} for name in scores]
    for statistic in STATISTICS:
        intervals = jax.device_get(bootstrap_intervals(stacked, truth, statistic=statistic, **options))
        for position, row in enumerate(rows):
            row[statistic] = _summary(jax.tree.map(lambda leaf, i=position: leaf[i] if leaf.ndim else leaf, intervals))
    return rows


def _null_row(truth: _Scores, confidence: float, options: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": RANDOM, "kind": "null"}
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    for statistic in STATISTICS:
        null = null_distribution(truth, statistic=statistic, probabilities=tails, **options)
        values = (null.mean, *np.asarray(null.quantiles))
        row[statistic] = dict(zip(("estimate", "lower", "upper"), map(_number, values), strict=True))
    return row


def _checked_truth(truth: Float[ArrayLike, "m t"], where: Bool[ArrayLike, "m t"] | None) -> tuple[_Scores, _Mask]:
    values = np.asarray(real_array("truth", truth), np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"truth has shape {values.shape}: pass (m, t), a row for each of m encoders and a column for each of t "
            "targets (truth[:, None] for one target)."
        )
    mask = np.ones(values.shape, bool) if where is None else np.asarray(truth_array("where", where))
    if mask.shape != values.shape:
        raise ValueError(f"where has shape {mask.shape}: pass {values.shape}, as truth has.")
    count = mask.sum(axis=0)
    if count.min() < 2:
        target = int(count.argmin())
        raise ValueError(f"target {target} has {count[target]} encoders that count: pass two or more, or drop it.")
    _check_finite("truth", values, mask, "leave the pair out with where")
    return np.where(mask, values, 0), mask


def _checked_scores(name: str, scores: Float[ArrayLike, "m t"], where: _Mask, missing: str) -> _Scores:
    """The scores in float64, so that their mean can be taken off before JAX may round them to float32."""
    if missing not in ("error", "worst"):
        raise ValueError(f'missing is {missing!r}: pass "error" or "worst".')
    values = np.asarray(real_array(name, scores), np.float64)
    if values.shape != where.shape:
        raise ValueError(f"{name} has shape {values.shape}: pass {where.shape}, one score for each truth.")
    if missing == "error":
        _check_finite(name, values, where, 'leave the pair out with where, or pass missing="worst" to rank it last')
    finite = np.isfinite(values) & where
    mean = np.where(finite, values, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    return np.where(finite, np.where(finite, values, 0) - mean, np.where(where, -np.inf, 0))


def _check_finite(name: str, values: _Scores, where: _Mask, remedy: str) -> None:
    bad = np.argwhere(~np.isfinite(values) & where)
    if len(bad):
        encoder, target = bad[0]
        raise ValueError(
            f"{name}[{encoder}, {target}] is {values[encoder, target]}, for encoder {encoder} on target {target} "
            f"({len(bad)} such values): {remedy}."
        )


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _ends(interval: Interval) -> dict[str, Any]:
    return {name: _number(getattr(interval, name)) for name in ("estimate", "lower", "upper")}


def _summary(intervals: TargetIntervals) -> dict[str, Any]:
    per_target = [_number(value) for value in np.asarray(intervals.per_target.estimate)]
    return {**_ends(intervals.mean), "per_target": per_target}


def _cell(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return ""
    if summary["estimate"] is None:
        return "undefined"
    return f"{summary['estimate']:.3f} [{summary['lower']:.3f}, {summary['upper']:.3f}]"
