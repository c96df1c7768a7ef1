"""The score that ranks encoders on a target without a reference, from labels of all or some samples, or two views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxrel._core.checks import Key, checked_key, is_traced
from jaxrel._core.status import HasStatus
from jaxrel.metrics.judged_samples import JudgedSamples, judged_by_labels, judged_by_views
from jaxrel.metrics.result import ScoreStatus
from jaxrel.task import Task

__all__ = [
    "COMBINED_RECIPE",
    "LABELLED_RECIPE",
    "LABEL_FREE_RECIPE",
    "PARTLY_LABELLED_RECIPE",
    "Transferability",
    "transferability_score",
]

LABELLED_RECIPE = "balanced accuracy of a linear discriminant on samples that it was not fitted to"
PARTLY_LABELLED_RECIPE = f"{LABELLED_RECIPE}, of those that have a label"
LABEL_FREE_RECIPE = "cross-view probe: accuracy on clusters, for augmented views of samples that it was not fitted on"
COMBINED_RECIPE = "linear discriminant on the samples that have a label, and cross-view probe on all"

VIEWS_IN_LABELS = 50
"""The number of labels that views of all samples are worth, as measured by `benchmarks/zoo/few_labels.py`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transferability(HasStatus):
    """The expected performance of an encoder on a target, 0 to 1; higher is better.

    Attributes:
        value: the score that ranks encoders on one target. With labels it is the balanced accuracy (the mean over
            classes of the mean `hits`), which is 1 / K for a constant guess. With labels of some samples and views of
            all, it is `label_share` times that plus `1 - label_share` times the value without labels.
        lower, upper: ends of the interval of `value` over redrawn target samples, with everything learned held fixed.
        accuracy: the mean of `hits` over samples, or over labelled samples if only some have labels. Compare it with
            `majority`.
        majority: accuracy of the best constant guess, the share of the largest class; NaN without labels.
        hits: how often each target sample is predicted correctly, from 0 to 1. For a partly labelled target, labelled
            and unlabelled samples use their own recipes; unlabelled samples have 0 without views.
        num_labelled: number of samples whose label was used.
        label_share: weight of the labels in `value`, from 0 without labels to 1 with labels only.
        resamples: values of the bootstrap, in no particular order. The same key and labels draw the same samples for
            every encoder, so differences between two encoders are paired.
        status: bits of `jaxrel.metrics.ScoreStatus`.
        recipe: how `value` was computed.
        confidence: confidence level of the interval.
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    accuracy: Float[Array, ""]
    majority: Float[Array, ""]
    hits: Float[Array, " n"]
    resamples: Float[Array, " r"]
    num_labelled: Int[Array, ""]
    label_share: Float[Array, ""]
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
    """Score an encoder on a target without a reference task, to rank encoders by; higher is better.

    With target labels it is the balanced accuracy of a shrunk linear discriminant, fitted to half of each class and
    evaluated on the other half, repeated three times (`jaxrel.metrics.held_out_discriminant`). Without labels it is the
    mean of `cross_view_hits`. With views and labels of m of n samples it is

        value = s * labelled value + (1 - s) * value without labels,    s = m / (m + 50 (1 - m / n)),

    so views count as 50 labels, and are not used if all samples have labels. m counts the labels that can be evaluated,
    those of classes with two or more samples; with fewer than two such classes it is 0. `docs/predicting_transfer.md`
    reports how well these values predict the accuracy after fine-tuning, and which alternatives were tried.

    Args:
        target: a task with labels, with labels of some samples (-1 for the others), or without labels.
        views: features of two augmented views of all target samples, for a target with unlabelled samples
            (`jaxrel.encoders.image_views` makes such images). For a partly labelled target without views, value and
            interval cover only the labelled samples.
        confidence: confidence level of the interval.
        num_resamples: number of bootstrap resamples of the target samples, drawn within each class if there are labels.
        memory_budget: bytes that the computation may use at once, as in `task_relatedness`. None is 2 GiB for a stored
            target and no limit for a target in memory.
        key: splits the samples into halves and draws initial clusters and resamples. An integer, which may be traced,
            or a key of `jax.random`.

    Raises:
        ValueError: for a target with a single class, or without two samples of any class, unless views replace missing
            labels; for a target without labels and views, or views of fewer than 40 samples; for views of another shape
            or not finite, a confidence outside (0, 1), or an integer key outside 0 .. 2^32 - 1; for a budget that is
            too small (the message gives the smallest that suffices) or, with views, does not hold the whole target.

    The only sample of a class cannot be held out and learned from. The class can still be predicted for other samples,
    wrongly, but its sample counts neither in `value` nor in `accuracy`. Time grows as `n (d^2 + d c) + d^3` for c
    classes, see `jaxrel.metrics.held_out_discriminant.held_out_hits`, or is that of one `cross_view_hits`.

    A labelled target that does not fit into the budget is read three times, block by block, in `O(b d + d^2 + c d)`
    memory for blocks of b samples, plus a few bytes for each sample. The halves are the same, so all numbers equal
    those of the whole target, except for samples between two classes that rounding decides.

    The function runs inside `jit`, `vmap` and `pmap`, over tasks, views and seeds. Traced values are not checked: a
    traced target needs `num_classes`, and invalid input gives the value NaN and sets the status. Resamples are then
    drawn by JAX instead of NumPy, so intervals have the same distribution but differ in their digits.

    Examples:
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
    by_labels, by_views = _judged(target, views, key, memory_budget)
    judged = by_views if by_labels is None else by_labels
    assert judged is not None  # noqa: S101 (for the type checker)
    parts = [(jnp.ones((), target.dtype), judged)]
    if by_labels is not None and by_views is not None:
        share = _share_of_labels(by_labels, by_views)
        parts = [(share, by_labels), (1 - share, by_views)]

    def mean(of: Callable[[JudgedSamples], Array]) -> Array:
        # What has no share in it may be undefined.
        return jnp.sum(jnp.stack([jnp.where(share > 0, share * of(part), 0) for share, part in parts]), axis=0)

    value, resamples = mean(lambda part: part.value), mean(lambda part: part.resampled(num_resamples, key))
    quantiles = jnp.quantile if is_traced(resamples) else np.quantile
    lower, upper = quantiles(resamples, np.asarray([(1 - confidence) / 2, (1 + confidence) / 2], resamples.dtype))
    hits: Float[Array, " n"] | None = None
    for part in filter(None, (by_views, by_labels)):
        hits = part.written_over(hits, target.num_samples)
    assert hits is not None  # noqa: S101 (for the type checker)
    return Transferability(
        value=value,
        lower=jnp.minimum(jnp.asarray(lower, value.dtype), value),
        upper=jnp.maximum(jnp.asarray(upper, value.dtype), value),
        accuracy=judged.accuracy,
        majority=judged.majority,
        hits=hits,
        resamples=resamples,
        num_labelled=jnp.zeros((), jnp.int32) if by_labels is None else by_labels.num_judged,
        label_share=jnp.zeros((), value.dtype) if by_labels is None else parts[0][0],
        status=(
            jnp.where(jnp.isfinite(value), 0, ScoreStatus.UNDEFINED)
            | jnp.where(judged.varies, 0, ScoreStatus.CONSTANT_FEATURES)
        ).astype(jnp.int32),
        recipe=_recipe(target, by_labels, by_views),
        confidence=confidence,
    )


def _judged(
    target: Task, views: Any, key: PRNGKeyArray, memory_budget: int | None
) -> tuple[JudgedSamples | None, JudgedSamples | None]:
    """The evaluations by labels and by views; the target has one or both."""
    if target.labels is None:
        return None, judged_by_views(target, views, key, memory_budget)
    if views is None or not target.partly_labelled:
        return judged_by_labels(target, key, memory_budget), None
    # First, as its refusals are about the target and its views.
    by_views = judged_by_views(target, views, key, memory_budget)
    return judged_by_labels(target, key, memory_budget, lenient=True), by_views


def _share_of_labels(by_labels: JudgedSamples, by_views: JudgedSamples) -> Float[Array, ""]:
    """`m / (m + v (1 - m / n))` for m labels of n samples, and views that are worth v labels."""
    labels, samples = (part.num_judged.astype(part.hits.dtype) for part in (by_labels, by_views))
    return labels / (labels + VIEWS_IN_LABELS * (1 - labels / samples))


def _recipe(target: Task, by_labels: JudgedSamples | None, by_views: JudgedSamples | None) -> str:
    if by_labels is None or (not is_traced(by_labels.num_judged) and by_labels.num_judged == 0):
        return LABEL_FREE_RECIPE
    if not target.partly_labelled:
        return LABELLED_RECIPE
    return PARTLY_LABELLED_RECIPE if by_views is None else COMBINED_RECIPE
