"""How often each target sample is predicted correctly, by a discriminant on labels or by a probe across views."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxrel._core.arrays import on_device
from jaxrel._core.checks import is_traced
from jaxrel._core.memory_budget import limit_of
from jaxrel._core.size_classes import in_size_class, size_class, with_rows
from jaxrel.metrics.cross_view import CLUSTER_COUNTS, SAMPLES_A_CLUSTER, cluster_counts_of, cross_view_hits
from jaxrel.metrics.held_out_discriminant import (
    NUM_REPEATS,
    balanced_shares,
    block_size_within,
    held_out_hits,
    held_out_hits_of_blocks,
    whole_bytes,
)
from jaxrel.metrics.stratified_resamples import resampled_means, traced_means
from jaxrel.pseudo_labels import checked_views
from jaxrel.task import Task

__all__ = ["JudgedSamples", "judged_by_labels", "judged_by_views"]

# With few labels the split into halves is a large part of the noise, and another split costs little.
_REPEATS_OF_FEW = 12


class JudgedSamples(NamedTuple):
    """The evaluation of samples, padded to a size class.

    Attributes:
        hits: how often each sample is predicted correctly, from 0 to 1.
        shares: share of each sample in the value, of sum 1; all 0 if there is nothing to predict.
        weights: 0 is an absent sample.
        strata: groups that are resampled separately.
        varies: whether the features vary.
        majority: share of the largest class; NaN without labels.
        num_judged: number of samples with a share.
        rows: the rows of the target that these samples are, in order; None for all.
    """

    hits: Float[Array, " p"]
    shares: Float[Array, " p"]
    weights: Float[Array, " p"]
    strata: Int[Array, " p"]
    varies: Bool[Array, ""]
    majority: Float[Array, ""]
    num_judged: Int[Array, ""]
    rows: Int[np.ndarray, " m"] | None = None

    @property
    def value(self) -> Float[Array, ""]:
        """The mean of the hits, weighted by their shares; NaN without shares."""
        # With rounding, the sum can exceed 1.
        return jnp.where(jnp.sum(self.shares) > 0, jnp.minimum(self.shares @ self.hits, 1), jnp.nan)

    @property
    def accuracy(self) -> Float[Array, ""]:
        """The mean of the hits of samples with a share, weighted by the sample weights."""
        judged = jnp.where(self.shares > 0, self.weights, 0)
        return jnp.minimum(judged @ self.hits / jnp.sum(judged), 1)

    def resampled(self, num_resamples: int, key: PRNGKeyArray) -> Float[Array, " r"]:
        """The value on resampled samples; NaN without shares."""
        if is_traced(self.hits):
            return traced_means(self.hits, self.shares, self.strata, key, num_resamples)
        if not np.asarray(self.shares).any():
            return jnp.full(num_resamples, jnp.nan, self.hits.dtype)
        drawn = resampled_means(self.hits, self.shares, strata=self.strata, num_resamples=num_resamples, key=key)
        return jnp.asarray(drawn, self.hits.dtype)

    def written_over(self, hits: Float[Array, " n"] | None, num_samples: int) -> Float[Array, " n"]:
        """Replace the hits of these samples in those of all samples, which are 0 if None."""
        if is_traced(self.hits):
            own = self.hits[:num_samples]
            return own if hits is None else jnp.where(self.weights[:num_samples] > 0, own, hits)
        # A JAX slice would compile for each size.
        judged = np.asarray(self.hits)
        if self.rows is None:
            return jnp.asarray(judged[:num_samples])
        found = np.zeros(num_samples, judged.dtype) if hits is None else np.array(hits)
        found[self.rows] = judged[: self.rows.size]
        return jnp.asarray(found)


def judged_by_labels(
    target: Task, key: PRNGKeyArray, memory_budget: int | None, *, lenient: bool = False
) -> JudgedSamples:
    """Evaluate samples by a discriminant fitted to the other half of the labelled samples (`held_out_hits`).

    Args:
        target: a task in which some or all samples have labels.
        key: splits the samples into halves.
        memory_budget: as in `transferability_score`.
        lenient: if labels cannot be evaluated, set all shares to 0 instead of raising an error.

    Raises:
        ValueError: for labels of one class, or of no class with two samples, unless `lenient`; for a budget that is too
            small (the message gives the smallest that suffices).
    """
    known, rows = _samples_with_labels(target)
    labels, num_classes = known.labelled
    if not lenient and not is_traced(labels, known.weights):
        _check_sizes(known)
    repeats = _REPEATS_OF_FEW if target.partly_labelled else NUM_REPEATS
    budget = _exceeded_budget(known, memory_budget, key)
    if budget is None:
        padded = in_size_class(known.loaded())
        labels, _ = padded.labelled
        weights = padded.weights
        hits, varies = held_out_hits(
            padded.features, labels, weights, key, num_classes=num_classes, num_repeats=repeats
        )
    else:
        found, varies = held_out_hits_of_blocks(known, key, rows_at_once=block_size_within(budget, known))
        size = size_class(known.num_samples)
        hits, weights, labels = (with_rows(on_device(of), size) for of in (found, known.weights, labels))
    shares = balanced_shares(labels, weights, num_classes=num_classes)
    # Traced labels have not been checked and may be invalid.
    shares = jnp.where(jnp.any((labels < 0) & (weights > 0)), 0, shares)
    totals = jax.ops.segment_sum(weights, labels, num_classes)
    # With a single class there is nothing to discriminate.
    if lenient:
        shares = jnp.where(jnp.sum(totals > 0) > 1, shares, 0)
        varies = varies | (jnp.sum(shares) == 0)
    majority = jnp.max(totals) / jnp.sum(totals)
    return JudgedSamples(hits, shares, weights, labels, varies, majority, jnp.sum(shares > 0), rows)


def judged_by_views(target: Task, views: Any, key: PRNGKeyArray, memory_budget: int | None) -> JudgedSamples:
    """Evaluate samples by a probe fitted to the other half that predicts clusters of both views (`cross_view_hits`).

    Raises:
        ValueError: for missing views, or views that do not match the target; for fewer than 40 samples; for a budget
            that does not hold the target.
    """
    if views is None:
        raise ValueError(
            "the target has no labels: pass views, features of two augmented views of its samples; or its labels."
        )
    budget = _exceeded_budget(target, memory_budget, key)
    if budget is not None:
        raise ValueError(
            f"with views the target is used whole, and its {target.num_samples:,} samples take about "
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
        raise ValueError(f"target has {target.num_samples} samples: with views at least {least} are needed.")
    weights = padded.weights
    hits = cross_view_hits(padded.features, first, second, weights, key, cluster_counts=counts)
    shares, strata = weights / jnp.sum(weights), jnp.zeros(len(weights), jnp.int32)
    unknown = jnp.asarray(jnp.nan, hits.dtype)
    return JudgedSamples(hits, shares, weights, strata, jnp.asarray(True), unknown, jnp.sum(shares > 0))


def _samples_with_labels(target: Task) -> tuple[Task, Int[np.ndarray, " m"] | None]:
    """The labelled samples, and their rows if the target is partly labelled."""
    known = target.of_labelled()
    if not target.partly_labelled or is_traced(known.labels, known.weights):
        return known, None
    rows = np.flatnonzero(np.asarray(known.weights) > 0)
    labels, weights = (np.asarray(array)[rows] for array in (known.labels, known.weights))
    return Task(known.rows(rows), labels, weights=weights, num_classes=known.num_classes), rows


def _check_sizes(known: Task) -> None:
    labels, num_classes = known.labelled
    sizes = np.bincount(np.asarray(labels)[np.asarray(known.weights) > 0], minlength=num_classes)
    if np.count_nonzero(sizes) < 2:
        raise ValueError("all target samples have the same label: no encoder is better than another on one class.")
    if sizes.max() < 2:
        raise ValueError(
            "no target class has two samples: what is learned of a class must be judged on another sample of it."
        )


def _exceeded_budget(target: Task, memory_budget: Any, key: PRNGKeyArray) -> int | None:
    """The budget if the target does not fit into it, None if the target is used whole."""
    limit = limit_of(memory_budget, in_memory=target.in_memory)
    traced = is_traced(key) or (target.in_memory and is_traced(target))
    return limit if limit is not None and not traced and whole_bytes(target) > limit else None
