"""Percentile bootstrap intervals, with the encoders as the sample.

A statistic of a score is a mean over targets, and the encoders are the random sample. A resample draws m of the m
encoders with replacement, the same for every target and every score: the scores and accuracies of one encoder on
different targets stay together, and two scores can be compared in pairs. The targets are fixed; the intervals do not
cover other targets.

An encoder drawn twice is tied with itself in score and truth. In all versions of Kendall's tau such a pair counts
neither in the numerator nor in the norms, so that a resample is the same as multiplicities of encoders with pairs of
distinct encoders only, and the duplicates do not bias the resamples towards 0. In the weighted versions each copy has
its own rank. A resample in which a statistic is undefined, for example because one encoder was drawn m times, is left
out, and the share of such resamples is returned.

The percentile bootstrap (Efron, Ann. Statist. 1979) is approximate: with fewer than about twenty encoders its intervals
have less than nominal coverage, and a statistic at the end of its range has an interval of zero width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, Real

from jaxrel._core.arrays import number_array
from jaxrel._core.checks import Key, checked_key
from jaxrel._core.programs import compiled
from jaxrel.evaluation.rank_correlation import STATISTICS, representable
from jaxrel.evaluation.validation import (
    as_mask,
    check_confidence,
    check_shapes,
    check_statistic,
    checked_count,
)

__all__ = [
    "Interval",
    "PairedDifference",
    "TargetIntervals",
    "bootstrap_difference",
    "bootstrap_intervals",
    "by_target",
    "repeat",
    "target_intervals",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Interval:
    """An estimate with a percentile interval.

    Attributes:
        estimate: the estimate on all encoders; NaN if undefined, as are then the ends.
        lower, upper: the ends of the interval.
        confidence: the share of repetitions between the ends; half of the rest lies beyond each end.
        undefined: the share of repetitions that were left out because the statistic was undefined.
    """

    estimate: Float[Array, "*b"]
    lower: Float[Array, "*b"]
    upper: Float[Array, "*b"]
    confidence: Float[Array, ""]
    undefined: Float[Array, "*b"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TargetIntervals:
    """A statistic on each target, `(*k, t)`, and its mean over targets, `(*k,)`.

    The mean is NaN where a target is.
    """

    per_target: Interval
    mean: Interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairedDifference:
    """The mean over targets of a statistic of one score minus that of another, on the same resamples.

    Attributes:
        difference: estimate and interval.
        share_below_zero: of the resamples in which both are defined. Differences of exactly 0 are not below.
    """

    difference: Interval
    share_below_zero: Float[Array, ""]


def bootstrap_intervals(
    scores: Float[ArrayLike, "*k m t"],
    truth: Float[ArrayLike, "m t"],
    *,
    statistic: str = "kendall_tau",
    where: Bool[ArrayLike, "m t"] | None = None,
    confidence: Float[ArrayLike, ""] = 0.95,
    num_resamples: int = 2000,
    key: Key = 0,
) -> TargetIntervals:
    """A statistic of scores on each target and its mean over targets, with bootstrap intervals over encoders.

    Args:
        scores: scores of m encoders on t targets; larger is better. Leading axes are different scores.
        truth: the accuracies.
        statistic: a name in `STATISTICS`.
        where: mask of the pairs of encoder and target to use; None means all.
        confidence: confidence level of the intervals.
        num_resamples: number of resamples, at least 1.
        key: a key of `jax.random` or an integer. The same key and numbers of encoders and resamples draw the same
            resamples.

    Returns:
        `TargetIntervals`. It can be transformed by `jit` and `vmap`.

    Raises:
        ValueError: for an unknown statistic, options out of range and shapes that do not fit together.
    """
    given, accuracies = number_array("scores", scores), number_array("truth", truth)
    where = as_mask(where, accuracies)
    num_resamples = _checked_options(given, accuracies, where, statistic, confidence, num_resamples)
    draws = _draws(checked_key(key), num_encoders=len(accuracies), num_resamples=num_resamples)
    values = _of_draws(*by_target(given, accuracies, where, statistic), where, draws, statistic=statistic)
    return target_intervals(values[0], values[1:], confidence)


def bootstrap_difference(
    score: Float[ArrayLike, "m t"],
    baseline: Float[ArrayLike, "m t"],
    truth: Float[ArrayLike, "m t"],
    *,
    statistic: str = "kendall_tau",
    where: Bool[ArrayLike, "m t"] | None = None,
    confidence: Float[ArrayLike, ""] = 0.95,
    num_resamples: int = 2000,
    key: Key = 0,
) -> PairedDifference:
    """The statistic of `score` minus that of `baseline`, both averaged over targets, on the same resamples.

    Args:
        score, baseline: as one of the scores in `bootstrap_intervals`.
        truth, statistic, where, confidence, num_resamples, key: as there.

    Returns:
        A `PairedDifference`. If it is positive the score is better (for the regret, worse). The function runs under
        `jit` and `vmap`.

    Raises:
        ValueError: as `bootstrap_intervals`.
    """
    given, accuracies = [number_array("score", score), number_array("baseline", baseline)], number_array("truth", truth)
    where = as_mask(where, accuracies)
    for values in given:
        num_resamples = _checked_options(values, accuracies, where, statistic, confidence, num_resamples)
    pairs = [by_target(values, accuracies, where, statistic) for values in given]
    draws = _draws(checked_key(key), num_encoders=len(accuracies), num_resamples=num_resamples)
    scores = jnp.stack([scores for scores, _ in pairs])
    values = _of_draws(scores, pairs[0][1], where, draws, statistic=statistic)
    return _paired_difference(values, confidence)


def by_target(
    scores: Float[ArrayLike, "*k m t"], truth: Float[ArrayLike, "m t"], where: Bool[ArrayLike, "m t"], statistic: str
) -> tuple[Float[Array, "*k m t"], Float[Array, "m t"]]:
    """Scores and truths as by `representable`, encoders along the last axis but one.

    A resample has no other values than these, so that it needs no more digits.
    """

    def turned(values: Any) -> Any:
        return jnp.swapaxes(values, -1, -2) if isinstance(values, jax.core.Tracer) else np.swapaxes(values, -1, -2)

    forms = representable(turned(scores), turned(truth), turned(where), statistic)
    return jnp.swapaxes(forms[0], -1, -2), jnp.swapaxes(forms[1], -1, -2)


# Each step is compiled by itself, so that the statistics share all but their own.


@compiled
def target_intervals(
    estimate: Float[Array, "*k t"], repetitions: Float[Array, "n *k t"], confidence: Float[ArrayLike, ""]
) -> TargetIntervals:
    """Percentile intervals on each target and of the mean over targets."""
    estimate, repetitions = (
        jnp.concatenate([values, jnp.mean(values, axis=-1, keepdims=True)], axis=-1)
        for values in (estimate, repetitions)
    )
    both = _percentile_interval(estimate, repetitions, confidence)
    return TargetIntervals(
        per_target=jax.tree.map(lambda leaf: leaf[..., :-1] if leaf.ndim else leaf, both),
        mean=jax.tree.map(lambda leaf: leaf[..., -1] if leaf.ndim else leaf, both),
    )


_LARGEST_BATCH = 2**22  # pairs of encoders in memory at a time


def repeat(function: Callable[[Any], Array], inputs: Array, num_pairs: int) -> Array:
    """`function` of each of the inputs, as many at a time as memory allows if one takes `num_pairs` numbers."""
    return jax.lax.map(function, inputs, batch_size=max(1, min(len(inputs), _LARGEST_BATCH // num_pairs)))


@functools.partial(compiled, static_argnames=("num_encoders", "num_resamples"))
def _draws(
    key: PRNGKeyArray, *, num_encoders: int, num_resamples: int
) -> Int[Array, "num_resamples_and_1 num_encoders"]:
    """All encoders once, then the encoders of each resample."""
    resamples = jax.random.randint(key, (num_resamples, num_encoders), 0, num_encoders, dtype=jnp.int32)
    return jnp.concatenate([jnp.arange(num_encoders, dtype=jnp.int32)[None], resamples])


@functools.partial(compiled, static_argnames="statistic")
def _of_draws(
    scores: Float[Array, "*k m t"],
    truth: Float[Array, "m t"],
    where: Bool[Array, "m t"],
    draws: Int[Array, "n m"],
    *,
    statistic: str,
) -> Float[Array, "n *k t"]:
    def of_encoders(index: Int[Array, " m"]) -> Float[Array, "*k t"]:
        chosen = (jnp.swapaxes(values[..., index, :], -2, -1) for values in (scores, truth))
        return STATISTICS[statistic](*chosen, where=where[index].T)

    return repeat(of_encoders, draws, scores.size * len(truth))


@compiled
def _paired_difference(values: Float[Array, "n 2 t"], confidence: Float[ArrayLike, ""]) -> PairedDifference:
    differences = jnp.mean(values[:, 0] - values[:, 1], axis=-1)
    estimate, resamples = differences[0], differences[1:]
    return PairedDifference(
        difference=_percentile_interval(estimate, resamples, confidence),
        share_below_zero=jnp.mean((resamples < 0).astype(resamples.dtype), where=~jnp.isnan(resamples)),
    )


def _percentile_interval(
    estimate: Float[Array, "*b"],
    repetitions: Float[Array, "n *b"],  # noqa: UP037 (a shape, not a forward reference)
    confidence: Float[ArrayLike, ""],
) -> Interval:
    """The interval between two quantiles of the repetitions that are defined."""
    confidence = jnp.asarray(confidence, repetitions.dtype)
    tail = (1 - confidence) / 2
    lower, upper = jnp.nanquantile(repetitions, jnp.stack([tail, 1 - tail]), axis=0)
    unknown = jnp.isnan(estimate)
    return Interval(
        estimate=estimate,
        lower=jnp.where(unknown, jnp.nan, lower),
        upper=jnp.where(unknown, jnp.nan, upper),
        confidence=confidence,
        undefined=jnp.mean(jnp.isnan(repetitions).astype(repetitions.dtype), axis=0),
    )


def _checked_options(
    scores: Real[Array | np.ndarray, "*_"],
    truth: Real[Array | np.ndarray, "*_"],
    where: Bool[Array, "*_"],
    statistic: str,
    confidence: Float[ArrayLike, ""],
    num_resamples: int,
) -> int:
    """The resample count, with everything checked."""
    check_statistic(statistic)
    check_confidence(confidence)
    check_shapes(truth, where, scores)
    if truth.ndim != 2:
        raise ValueError(f"truth has shape {truth.shape}: pass (m, t), the mean over seeds.")
    return checked_count("num_resamples", num_resamples, 1)
