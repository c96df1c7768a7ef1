"""Baselines for the statistics of a score: chance, a perfect score, and a ranking that ignores the target."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, Real

from jaxrel._core.arrays import jax_array, number_array
from jaxrel._core.checks import Key, checked_key
from jaxrel._core.programs import compiled
from jaxrel.evaluation.bootstrap import TargetIntervals, by_target, repeat, target_intervals
from jaxrel.evaluation.rank_correlation import STATISTICS, pair_signs
from jaxrel.evaluation.validation import (
    as_mask,
    check_confidence,
    check_shapes,
    check_statistic,
    checked_count,
)

__all__ = ["NullDistribution", "ceiling", "leave_one_target_out_rank", "null_distribution"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NullDistribution:
    """The mean over targets of a statistic, over random scores.

    Attributes:
        mean: about 0 for correlations.
        standard_deviation: about a single random score, not of the mean.
        probabilities, quantiles: `quantiles[i]` is exceeded with probability `1 - probabilities[i]`.
    """

    mean: Float[Array, ""]
    standard_deviation: Float[Array, ""]
    probabilities: Float[Array, " q"]
    quantiles: Float[Array, " q"]


def null_distribution(
    truth: Float[ArrayLike, "m t"],
    *,
    statistic: str = "kendall_tau",
    same_for_all_targets: bool = True,
    where: Bool[ArrayLike, "m t"] | None = None,
    probabilities: Sequence[float] = (0.025, 0.05, 0.5, 0.95, 0.975),
    num_draws: int = 2000,
    key: Key = 0,
) -> NullDistribution:
    """The null distribution of a statistic, averaged over targets, for a random score.

    Each draw is a uniformly random order of the encoders, 1 .. m. By default all targets share one order: under the
    null hypothesis the names of the encoders are exchangeable, but the scores of one encoder on different targets stay
    together, because scores and accuracies depend on the encoder (its width, its pre-training) more than on the target.
    A separate order for each target is the null hypothesis of a score whose errors are independent between targets. Its
    standard deviation is smaller by up to `sqrt(t)`, so a constant property of the encoders would often appear
    significant.

    Args:
        truth: the accuracies; ties are allowed.
        statistic: a name in `STATISTICS`.
        same_for_all_targets: whether all targets share one order.
        where: mask of the pairs of encoder and target to use.
        probabilities: probabilities of the quantiles.
        num_draws: number of random scores, at least 1.
        key: a key of `jax.random` or an integer, for the draws.

    Returns:
        A `NullDistribution`; NaN if the statistic is undefined on a target because all its accuracies are tied.

    Raises:
        ValueError: for an unknown statistic, options out of range and shapes that do not fit together.
    """
    given = number_array("truth", truth)
    where = as_mask(where, given)
    check_statistic(statistic)
    key = checked_key(key)
    check_shapes(given, where)
    num_draws = checked_count("num_draws", num_draws, 1)
    _, truth = by_target(given, given, where, statistic)
    probabilities_array = jnp.asarray(probabilities, jnp.promote_types(truth.dtype, jnp.float32))
    num_encoders, num_targets = truth.shape
    num_orders = 1 if same_for_all_targets else num_targets
    orders = _random_orders(key, num_draws=num_draws, num_orders=num_orders, num_encoders=num_encoders)
    return _distribution(_of_orders(orders, truth, where, statistic=statistic), probabilities_array)


def ceiling(
    truth: Float[ArrayLike, "s m t"],
    *,
    statistic: str = "kendall_tau",
    num_test: Float[ArrayLike, "*#t"] | None = None,
    where: Bool[ArrayLike, "m t"] | None = None,
    confidence: Float[ArrayLike, ""] = 0.95,
    num_draws: int = 2000,
    key: Key = 0,
) -> TargetIntervals:
    r"""The value of a statistic for a perfect score, given the noise of the ground truth.

    A perfect score is the true accuracy mu of each encoder; the ground truth is the mean of s noisy observations,

    y = mu + e, e ~ N(0, sigma^2 / s + y (1 - y) / n)

    with sigma^2 the variance between seeds, pooled over the encoders of a target, and n the size of its test set.
    The observed accuracies spread more than the true ones by the variance of the noise. So the true ones are taken
    to be the observed ones drawn towards their mean until their variance is the difference,

    mu = mean(y) + sqrt(1 - var(e) / var(y)) (y - mean(y))

    the constrained empirical Bayes estimate (Louis, JASA 1984), whose spread is unbiased where that of the James-Stein
    estimate, with the factor under the root, is too small. Then e is redrawn and the statistic computed for mu against
    mu + e. If the noise explains all of the variance, the order of the observations is kept with a millionth of the
    variance, and no score can beat chance.

    Deviations: the seeds share a test set, so its noise is not divided by s. The encoders share it too, so their errors
    are correlated and the order is less noisy than assumed here: the ceiling is a low estimate with `num_test`, and a
    high one without. The intervals are those of the draws and do not include the uncertainty of the variances.

    Args:
        truth: the accuracies of s seeds.
        statistic: a name in `STATISTICS`.
        num_test: number of test samples, for all targets or for each; None ignores their noise. It needs accuracies
            between 0 and 1, and is required if s is 1, because the noise of a single seed is unknown and ignored.
        where: mask of the pairs of encoder and target to use.
        confidence: confidence level of the intervals.
        num_draws: number of draws of the noise, at least 1.
        key: a key of `jax.random` or an integer, for the draws.

    Returns:
        `TargetIntervals` whose estimate is the mean over the draws; NaN if all accuracies of a target are equal.

    Raises:
        ValueError: as `null_distribution`, for one seed without `num_test`, and for a `num_test` below 1 or with
            accuracies outside [0, 1].
    """
    truth = jax_array("truth", truth)
    if truth.ndim != 3 or truth.shape[0] < 1:
        raise ValueError(f"truth has shape {truth.shape}: pass (s, m, t), the accuracies of each of s seeds.")
    where = as_mask(where, truth)
    check_statistic(statistic)
    check_confidence(confidence)
    key = checked_key(key)
    check_shapes(truth, where)
    num_draws = checked_count("num_draws", num_draws, 1)
    if num_test is None and truth.shape[0] == 1:
        raise ValueError("truth has one seed, which says nothing about its noise: pass more seeds, or num_test.")
    if num_test is not None:
        _check_binomial(truth, where, num_test)
    sizes = jnp.broadcast_to(jax_array("num_test", jnp.inf if num_test is None else num_test), truth.shape[-1:])
    accuracy, observed = _simulated(truth, where, sizes, key, num_draws=num_draws)
    draws = _of_perfect_score(accuracy, observed, where, statistic=statistic)
    return target_intervals(jnp.mean(draws, axis=0), draws, confidence)


def leave_one_target_out_rank(
    truth: Float[ArrayLike, "m t"], *, where: Bool[ArrayLike, "m t"] | None = None
) -> Float[Array, "m t"]:
    """The static baseline: the score of an encoder on a target is its mean rank by accuracy on the other targets.

    It uses accuracies, but none of the target. A score that does not beat it shows which encoders are good in general,
    not which are good for a target.

    Args:
        truth: the accuracies on two or more targets.
        where: mask of the pairs of encoder and target to use.

    Returns:
        The mean over the other targets of the share of other encoders that are worse, from 0 (worst) to 1 (best); ties
        count half. An encoder without another target has 1/2.

    Raises:
        ValueError: for fewer than two targets, and shapes that do not fit together.
    """
    given = number_array("truth", truth)
    where = as_mask(where, given)
    check_shapes(given, where)
    if given.shape[-1] < 2:
        raise ValueError("truth has one target: pass two or more, one is left out.")
    _, truth = by_target(given, given, where, "kendall_tau")
    present = where.T
    better = jnp.sum(pair_signs(jnp.where(present, truth.T, 0), present), axis=-1)
    # From -1, all others are better, to 1; 0 for a single encoder and for one that is not there.
    standing = (better / jnp.maximum(jnp.sum(present, axis=-1, keepdims=True) - 1, 1)).T
    others = jnp.sum(where, axis=-1, keepdims=True) - where
    return (1 + (jnp.sum(standing, axis=-1, keepdims=True) - standing) / jnp.maximum(others, 1)) / 2


@functools.partial(compiled, static_argnames=("num_draws", "num_orders", "num_encoders"))
def _random_orders(
    key: PRNGKeyArray, *, num_draws: int, num_orders: int, num_encoders: int
) -> Int[Array, "num_draws num_orders num_encoders"]:
    """Independent orders, 1 .. m each."""
    bits = jax.random.bits(key, (num_draws, num_orders, num_encoders), jnp.uint32)
    return 1 + jnp.argsort(bits, axis=-1)


@functools.partial(compiled, static_argnames="statistic")
def _of_orders(
    orders: Int[Array, "n orders m"], truth: Float[Array, "m t"], where: Bool[Array, "m t"], *, statistic: str
) -> Float[Array, " n"]:
    def of_order(score: Int[Array, "orders m"]) -> Float[Array, ""]:
        return jnp.mean(STATISTICS[statistic](score, truth.T, where=where.T))

    return repeat(of_order, orders, truth.size * len(truth))


@compiled
def _distribution(draws: Float[Array, " n"], probabilities: Float[Array, " q"]) -> NullDistribution:
    return NullDistribution(jnp.mean(draws), jnp.std(draws), probabilities, jnp.quantile(draws, probabilities))


@functools.partial(compiled, static_argnames="num_draws")
def _simulated(
    truth: Float[Array, "s m t"],
    where: Bool[Array, "m t"],
    num_test: Real[Array, " t"],
    key: PRNGKeyArray,
    *,
    num_draws: int,
) -> tuple[Float[Array, "m t"], Float[Array, "num_draws m t"]]:
    """True accuracies, up to their mean, and noisy observations of them."""
    accuracy, deviation = _deconvolved(jnp.where(where, truth, 0), where, num_test)
    noise = jax.random.normal(key, (num_draws, *accuracy.shape), accuracy.dtype)
    return accuracy, accuracy + deviation * noise


@functools.partial(compiled, static_argnames="statistic")
def _of_perfect_score(
    accuracy: Float[Array, "m t"], observed: Float[Array, "n m t"], where: Bool[Array, "m t"], *, statistic: str
) -> Float[Array, "n t"]:
    def of_observation(observation: Float[Array, "m t"]) -> Float[Array, " t"]:
        return STATISTICS[statistic](accuracy.T, observation.T, where=where.T)

    return repeat(of_observation, observed, accuracy.size * len(accuracy))


_SMALLEST_SHARE = 1e-6  # of the observed variance; the order of the encoders survives it in float32


def _deconvolved(
    truth: Float[Array, "s m t"], where: Bool[Array, "m t"], num_test: Real[Array, " t"]
) -> tuple[Float[Array, "m t"], Float[Array, "m t"]]:
    """True accuracies, up to their mean, and the deviation of the noise of each."""
    num_seeds = truth.shape[0]
    spread = truth - truth[0]  # exactly 0 for seeds that agree
    observed = truth[0] + jnp.mean(spread, axis=0)
    between_seeds = jnp.sum((spread - jnp.mean(spread, axis=0)) ** 2, axis=0) / max(num_seeds - 1, 1)
    noise = jnp.mean(between_seeds, axis=0, where=where) / num_seeds + observed * (1 - observed) / num_test
    centre = jnp.mean(observed, axis=0, where=where)
    variance = jnp.var(observed, axis=0, where=where, ddof=1)
    share = 1 - jnp.mean(noise, axis=0, where=where) / jnp.where(variance > 0, variance, 1)
    shrinkage = jnp.sqrt(jnp.maximum(share, _SMALLEST_SHARE))
    return shrinkage * (observed - centre), jnp.sqrt(noise)


def _check_binomial(truth: Float[Array, "s m t"], where: Bool[Array, "m t"], num_test: Float[ArrayLike, "*#t"]) -> None:
    sizes = jax_array("num_test", num_test)
    if sizes.shape not in ((), truth.shape[-1:]):
        raise ValueError(
            f"num_test has shape {sizes.shape}: pass one number, or one for each of {truth.shape[-1]} targets."
        )
    if isinstance(truth, jax.core.Tracer) or isinstance(where, jax.core.Tracer) or isinstance(sizes, jax.core.Tracer):
        return
    if not bool(jnp.all(sizes >= 1)):
        raise ValueError(f"num_test is {num_test}: pass the number of test samples, at least 1.")
    if not bool(jnp.all(((truth >= 0) & (truth <= 1)) | ~where)):
        raise ValueError("truth has values outside [0, 1]: pass accuracies as shares for num_test, or leave it out.")
