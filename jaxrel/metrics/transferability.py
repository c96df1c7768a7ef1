"""One number to rank encoders by, of the target alone: with its labels, or with two views of its samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel._core.arrays import on_device
from jaxrel._core.checks import Key, checked_key, host_generator, is_traced
from jaxrel._core.memory_budget import limit_of
from jaxrel._core.size_classes import in_size_class, size_class, with_rows
from jaxrel._core.status import HasStatus
from jaxrel.metrics.cross_view import CLUSTER_COUNTS, SAMPLES_A_CLUSTER, cluster_counts_of, cross_view_hits
from jaxrel.metrics.held_out_discriminant import (
    balanced_shares,
    block_size_within,
    held_out_hits,
    held_out_hits_of_blocks,
    whole_bytes,
)
from jaxrel.metrics.result import ScoreStatus
from jaxrel.pseudo_labels import checked_views
from jaxrel.task import Task

__all__ = [
    "LABELLED_RECIPE",
    "LABEL_FREE_RECIPE",
    "Transferability",
    "resampled_means",
    "transferability_score",
]

LABELLED_RECIPE = "balanced accuracy of a linear discriminant on samples that it was not fitted to"
LABEL_FREE_RECIPE = "cross-view probe: accuracy on clusters, for augmented views of samples that it was not fitted on"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transferability(HasStatus):
    """How well an encoder is expected to do on a target, from 0 to 1, larger being better.

    Attributes:
        value: to rank encoders on one target by. With labels, the mean over classes of the share of `hits`, so that a
            constant guess has 1 / K.
        lower, upper: ends of the interval of `value` if other target samples had been drawn, what was learned staying
            as it is.
        accuracy: the mean of `hits` over samples, to be held against `majority`.
        majority: accuracy of the best constant guess, the share of the largest class; NaN without labels.
        hits: of each target sample, from 0 to 1.
        resamples: values of the bootstrap, in no order. The same key and labels draw the same samples for every
            encoder, so that differences between two encoders are paired.
        status: bits of `jaxrel.metrics.ScoreStatus`.
        recipe: what was computed.
        confidence: of the interval.
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    accuracy: Float[Array, ""]
    majority: Float[Array, ""]
    hits: Float[Array, " n"]
    resamples: Float[Array, " r"]
    status: Int[Array, ""]
    recipe: str = field(metadata={"static": True})
    confidence: float = field(metadata={"static": True})

    statuses: ClassVar = ScoreStatus

    def __float__(self) -> float:
        return float(self.value)


def transferability_score(
    target: Task,
    *,
    views: tuple[Float[ArrayLike, "n d"], Float[ArrayLike, "n d"]] | None = None,
    confidence: float = 0.9,
    num_resamples: int = 1000,
    memory_budget: int | None = None,
    key: Key = 0,
) -> Transferability:
    """One number to rank encoders by, of the target alone: how often samples are told right.

    With target labels: the balanced accuracy of a shrunk linear discriminant, fitted to half of each class and judged
    on the other half, three times over (`jaxrel.metrics.held_out_discriminant`). Without: `cross_view_hits`.
    `docs/predicting_transfer.md` has how well both predict the accuracy after fine-tuning, and what else was tried.

    Args:
        target: features and labels; or features alone, for the recipe without labels.
        views: features of two augmented views of the target samples, for a target without labels
            (`jaxrel.encoders.image_views` makes such images).
        confidence: of the interval.
        num_resamples: bootstrap resamples of the target samples for it, of each class by itself where there are labels.
        memory_budget: bytes that all of this may take at once, as in `task_relatedness`: None is 2 GiB for a target
            that is stored, and no limit for one in memory.
        key: deals samples to halves, and draws starts of clusters and resamples: an integer, which may be traced, or
            a key of `jax.random`.

    Raises:
        ValueError: for a target of one class, or without two samples of any class; with labels and views; without
            labels and without views, or with fewer than 40 samples; for views of another shape or not finite, a
            confidence out of (0, 1), an integer key out of 0 .. 2^32 - 1; for a budget that is too small, with the
            least that would do, or, without labels, that does not hold the target whole.

    A class of one sample cannot be learned without seeing it: it is a wrong answer for others, but counts neither in
    `value` nor in `accuracy`. Cost: time grows as `n (d^2 + d c) + d^3` for c classes, see
    `jaxrel.metrics.held_out_discriminant.held_out_hits`; or one `cross_view_hits`.

    A labelled target that the budget does not hold is read block by block, three times, in `O(b d + d^2 + c d)` memory
    for blocks of b samples, and some bytes for each sample. Its samples are dealt to the same halves, so that all
    numbers are those of the whole target, but for samples between two classes that rounding decides.

    It runs inside `jit`, `vmap` and `pmap` as it does outside, over tasks, views and seeds. Values that are traced are
    not checked: such a target needs a `num_classes`, and what would be refused has the value NaN and a status. There
    JAX draws the resamples, and NumPy outside: intervals are of the same law, not the same to the last digit.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> features = 3 * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(60, 4))
        >>> score = transferability_score(Task(features, labels))
        >>> print(f"{score.value:.2f}, between {score.lower:.2f} and {score.upper:.2f}; a guess {score.majority:.2f}")
        1.00, between 0.97 and 1.00; a guess 0.33
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: pass a number between 0 and 1, such as 0.9.")
    if num_resamples < 2:
        raise ValueError(f"num_resamples is {num_resamples}: pass an integer of at least 2.")
    if not isinstance(target, Task):
        raise ValueError(f"target must be a Task, got {type(target).__name__}: pass Task(features, ...).")
    key = checked_key(key)
    budget = _exceeded_budget(target, memory_budget, key)
    if target.labels is None:
        hits, weights = _label_free_hits(target, views, key, budget)
        shares, strata = weights / jnp.sum(weights), jnp.zeros(len(weights), jnp.int32)
        varies, majority, recipe = jnp.asarray(True), jnp.asarray(jnp.nan, hits.dtype), LABEL_FREE_RECIPE
    else:
        hits, weights, strata, varies = _labelled_hits(target, views, key, budget)
        shares = balanced_shares(strata, weights, num_classes=target.labelled[1])
        totals = jax.ops.segment_sum(weights, strata, target.labelled[1])
        majority, recipe = jnp.max(totals) / jnp.sum(totals), LABELLED_RECIPE
    judged = jnp.where(shares > 0, weights, 0)
    # The rounding of the sum can exceed 1; without shares there is nothing to tell.
    value = jnp.where(jnp.sum(shares) > 0, jnp.minimum(shares @ hits, 1), jnp.nan)
    traced = is_traced(hits)
    ends = (1 - confidence) / 2, (1 + confidence) / 2
    if traced:
        resamples = _traced_means(hits, shares, strata, key, num_resamples)
        lower, upper = jnp.quantile(resamples, jnp.asarray(ends))
    else:
        drawn = resampled_means(hits, shares, strata=strata, num_resamples=num_resamples, key=key)
        resamples, (lower, upper) = jnp.asarray(drawn, hits.dtype), jnp.asarray(np.quantile(drawn, ends), hits.dtype)
    return Transferability(
        value=value,
        lower=jnp.minimum(lower, value),
        upper=jnp.maximum(upper, value),
        accuracy=jnp.minimum(judged @ hits / jnp.sum(judged), 1),
        majority=majority,
        # A slice by JAX would be a program for each size.
        hits=hits[: target.num_samples] if traced else jnp.asarray(np.asarray(hits)[: target.num_samples]),
        resamples=resamples,
        status=(
            jnp.where(jnp.isfinite(value), 0, ScoreStatus.UNDEFINED)
            | jnp.where(varies, 0, ScoreStatus.CONSTANT_FEATURES)
        ).astype(jnp.int32),
        recipe=recipe,
        confidence=confidence,
    )


def resampled_means(
    hits: Float[ArrayLike, " n"],
    shares: Float[ArrayLike, " n"],
    *,
    strata: Int[ArrayLike, " n"] | None = None,
    num_resamples: int = 1000,
    key: Key = 0,
) -> Float[np.ndarray, " r"]:
    """Means of `hits`, weighed by `shares`, of resamples of each stratum by itself.

    Of the m samples of a stratum m - 1 are drawn with replacement (Rao and Wu, 1988), so that the variance is unbiased
    for few samples too, and the stratum keeps its part of the shares. To these comes one observation that was not made,
    a hit and a miss of half its weight each: where all samples are hits, resamples are not certain of it either
    (Jeffreys' interval). The same key, shares and strata draw the same samples.
    """
    values, mass = np.asarray(hits, np.float64), np.asarray(shares, np.float64)
    groups = np.zeros(values.size, np.int32) if strata is None else np.asarray(strata)
    live = np.flatnonzero(mass > 0)
    live = live[np.argsort(groups[live], kind="stable")]
    values, mass = values[live], mass[live] / mass[live].sum()
    _, starts, sizes = np.unique(groups[live], return_index=True, return_counts=True)
    first, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    counted = (np.arange(live.size) > first) | (size == 1)  # m - 1 draws
    parts = np.add.reduceat(mass, starts)
    generator = host_generator(key)
    unseen = generator.beta(0.5, 1 / np.sum(mass**2), (2, num_resamples))
    means = np.empty(num_resamples)
    for position in range(num_resamples):
        drawn = first + (generator.random(live.size) * size).astype(np.int64)
        weights = counted * mass[drawn]
        hit = np.add.reduceat(weights * values[drawn], starts)
        means[position] = parts @ (hit / np.add.reduceat(weights, starts))
    return (1 - unseen.sum(axis=0)) * means + unseen[0]


def _traced_means(
    hits: Float[Array, " n"],
    shares: Float[Array, " n"],
    strata: Int[Array, " n"],
    key: PRNGKeyArray,
    num_resamples: int,
) -> Float[Array, " r"]:
    """As `resampled_means`, drawn by JAX; NaN without shares."""
    live = shares > 0
    order = jnp.lexsort((strata, ~live))
    values, mass, groups = hits[order], (shares / jnp.sum(shares))[order], jnp.where(live, strata, -1)[order]
    index, begins = jnp.arange(mass.size), jnp.insert(groups[1:] != groups[:-1], 0, True)
    first, group = jax.lax.cummax(jnp.where(begins, index, 0)), jnp.cumsum(begins) - 1

    def sums(of: Array) -> Array:
        return jax.ops.segment_sum(of, group, mass.size)

    size = sums(jnp.ones_like(index))[group]
    counted = (index > first) | (size == 1)
    drawing, missing = jax.random.split(key)

    def mean(key: PRNGKeyArray) -> Float[Array, ""]:
        drawn = first + jax.random.randint(key, mass.shape, 0, size)
        weights = counted * mass[drawn]
        totals = sums(weights)
        return sums(mass) @ jnp.where(totals > 0, sums(weights * values[drawn]) / jnp.where(totals > 0, totals, 1), 0)

    means = jax.lax.map(mean, jax.random.split(drawing, num_resamples))
    unseen = jax.random.beta(missing, 0.5, 1 / jnp.sum(mass**2), (2, num_resamples))
    return (1 - jnp.sum(unseen, axis=0)) * means + unseen[0]


def _exceeded_budget(target: Task, memory_budget: Any, key: PRNGKeyArray) -> int | None:
    """The budget where it does not hold the target, None where the target is taken whole."""
    limit = limit_of(memory_budget, in_memory=target.in_memory)
    traced = is_traced(key) or (target.in_memory and is_traced(target))
    return limit if limit is not None and not traced and whole_bytes(target) > limit else None


def _labelled_hits(
    target: Task, views: Any, key: PRNGKeyArray, budget: int | None
) -> tuple[Float[Array, " p"], Float[Array, " p"], Int[Array, " p"], Bool[Array, ""]]:
    """Hits, weights and labels of the samples, padded to a size class, and whether features vary."""
    if views is not None:
        raise ValueError("views are for a target without labels: leave out views, or the labels.")
    _check_labels(target)
    if budget is None:
        padded = in_size_class(target.loaded())
        labels, num_classes = padded.labelled
        hits, varies = held_out_hits(padded.features, labels, padded.weights, key, num_classes=num_classes)
        return hits, padded.weights, labels, varies
    found, varies = held_out_hits_of_blocks(target, key, rows_at_once=block_size_within(budget, target))
    size = size_class(target.num_samples)
    hits, weights, labels = (with_rows(on_device(of), size) for of in (found, target.weights, target.labelled[0]))
    return hits, weights, labels, varies


def _check_labels(target: Task) -> None:
    labels, num_classes = target.labelled
    if is_traced(labels, target.weights):
        return
    live = np.asarray(target.weights) > 0
    sizes = np.bincount(np.asarray(labels)[live], minlength=num_classes)
    if np.count_nonzero(sizes) < 2:
        raise ValueError("all target samples have the same label: no encoder is better than another on one class.")
    if sizes.max() < 2:
        raise ValueError(
            "no target class has two samples: what is learned of a class must be judged on another sample of it."
        )


def _label_free_hits(
    target: Task, views: Any, key: PRNGKeyArray, budget: int | None
) -> tuple[Float[Array, " p"], Float[Array, " p"]]:
    """Hits and weights of the samples, padded to a size class."""
    if views is None:
        raise ValueError(
            "the target has no labels: pass views, features of two augmented views of its samples; or its labels."
        )
    if budget is not None:
        raise ValueError(
            f"without labels the target is taken whole, and its {target.num_samples:,} samples take about "
            f"{whole_bytes(target):,} bytes: pass a random subset of the samples and of both views, "
            f"Task(features[rows]), or a larger memory_budget than {budget:,}."
        )
    target = target.loaded()
    padded = in_size_class(target)
    first, second = (with_rows(view, padded.num_samples) for view in checked_views(views, target))
    traced = is_traced(target.weights)
    counts = cluster_counts_of(target.num_samples if traced else int(np.count_nonzero(np.asarray(target.weights))))
    if not counts:
        least = SAMPLES_A_CLUSTER * min(CLUSTER_COUNTS)
        raise ValueError(f"target has {target.num_samples} samples: without labels at least {least} are needed.")
    return cross_view_hits(padded.features, first, second, padded.weights, key, cluster_counts=counts), padded.weights
