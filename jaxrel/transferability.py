"""One number to rank encoders by, with target labels or without, by the recipes that predicted best."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel.pseudo_labels import CLUSTER_COUNTS, checked_views, cross_view_hits
from jaxrel.relatedness.blocks import kept_aside
from jaxrel.relatedness.joint import fit_joint
from jaxrel.relatedness.methods import Joint
from jaxrel.relatedness.result import MESSAGES, RelatednessError, Status
from jaxrel.relatedness.verb import checked_seed, checked_training_tasks
from jaxrel.tasks import Task

__all__ = [
    "LABELLED_RECIPE",
    "LABEL_FREE_RECIPE",
    "METHOD",
    "Transferability",
    "resampled_means",
    "transferability_score",
    "transformed_head_hits",
]

LABELLED_RECIPE = "accuracy of the transformed reference head on samples that it was not learned on"
LABEL_FREE_RECIPE = "cross-view probe: accuracy on clusters, for augmented views of samples that it was not fitted on"
METHOD = Joint(ridge=0.03, num_steps=100, points_per_class=25)

SAMPLES_A_CLUSTER = 4  # two in each half, on average


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transferability:
    """How well an encoder is expected to do on a target, from 0 to 1, larger being better.

    Attributes:
        value: the weighted mean of `hits`. To rank encoders on one target by; the accuracy of no particular classifier.
        lower, upper: ends of the interval of `value` if other target samples had been drawn, what was learned staying
            as it is.
        hits: of each target sample; two encoders on the same samples are compared by the differences.
        status: bits of `jaxrel.relatedness.Status`.
        recipe: what was computed.
        confidence: of the interval.
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    hits: Float[Array, " n"]
    status: Int[Array, ""]
    recipe: str = field(metadata={"static": True})
    confidence: float = field(metadata={"static": True})

    def __float__(self) -> float:
        return float(self.value)

    @property
    def messages(self) -> tuple[str, ...]:
        """What the status says; empty if all is well."""
        return tuple(text for code, text in MESSAGES.items() if int(self.status) & code)

    def raise_if_failed(self) -> Transferability:
        """Return self, or raise a RelatednessError that says what is wrong."""
        if self.messages:
            raise RelatednessError(" ".join(self.messages))
        return self


def transferability_score(
    target: Task,
    *,
    reference: Task | None = None,
    views: tuple[Float[ArrayLike, "n d"], Float[ArrayLike, "n d"]] | None = None,
    method: Joint = METHOD,
    confidence: float = 0.9,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Transferability:
    """One number to rank encoders by: share of target samples that are told right.

    With target labels: task-relatedness is learned on every other sample of each class, of reference and target, and
    the transformed reference head `t -> B softmax(M t + m)` names the class of each target sample of the other half;
    then the halves change places. Without: `cross_view_hits`. `docs/predicting_transfer.md` has how well both predict
    the accuracy after fine-tuning, and what else was tried.

    Args:
        target: features and labels; or features alone, for the recipe without labels.
        reference: features and labels of a reference task under the same encoder. Needed with target labels; without
            them it is not looked at.
        views: features of two augmented views of the target samples, for a target without labels
            (`jaxrel.encoders.image_views` makes such images).
        method: how task-relatedness is learned.
        confidence: of the interval.
        num_resamples: bootstrap resamples of the target samples for it.
        seed: draws minibatches, starts of clusters and resamples.

    Raises:
        ValueError: for a target with labels and no reference or with views, one without labels and without views or
            with fewer than 40 samples, a class without samples, features of different widths, views of another shape
            or not finite, a confidence out of (0, 1), a seed out of 0 .. 2^32 - 1.

    A target class of a single sample is learned and judged on that sample. Cost: two runs of `fit_joint`, or one of
    `cross_view_hits`. Inside `jit`, call `transformed_head_hits` or `jaxrel.pseudo_labels.cross_view_hits`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: pass a number between 0 and 1, such as 0.9.")
    if num_resamples < 2:
        raise ValueError(f"num_resamples is {num_resamples}: pass an integer of at least 2.")
    if not isinstance(target, Task):
        raise ValueError(f"target must be a Task, got {type(target).__name__}: pass Task(features, ...).")
    key = jax.random.key(checked_seed(seed))
    if target.labels is None:
        hits, finite = _label_free_hits(target, views, key), jnp.asarray(True)
        recipe = LABEL_FREE_RECIPE
    else:
        hits, finite = _labelled_hits(target, reference, views, method, key)
        recipe = LABELLED_RECIPE
    means = resampled_means(hits, target.weights, num_resamples=num_resamples, seed=seed)
    lower, upper = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Transferability(
        value=jnp.sum(target.weights * hits) / jnp.sum(target.weights),
        lower=jnp.asarray(lower, hits.dtype),
        upper=jnp.asarray(upper, hits.dtype),
        hits=hits,
        status=jnp.where(finite, Status.OK, Status.NOT_FINITE).astype(jnp.int32),
        recipe=recipe,
        confidence=confidence,
    )


def transformed_head_hits(
    reference: Task, target: Task, key: PRNGKeyArray, *, method: Joint
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """Whether the transformed head names the class of each target sample, learned without it; and if all was finite.

    Two folds, see `transferability_score`. Samples of weight 0 are no hits. Pure; under `vmap` over encoders.
    """
    reference_halves, target_halves = (kept_aside(task, every=2) for task in (reference, target))
    labels, _ = target.labelled

    def judged(fold: tuple[Array, Array, Array]) -> tuple[Bool[Array, " n"], Bool[Array, ""]]:
        reference_weights, target_weights, fold_key = fold
        transformation = fit_joint(
            reference.replaced(weights=reference_weights),
            target.replaced(weights=target_weights),
            None,
            fold_key,
            method=method,
        )
        logits = transformation.target_logits(target.features)
        return transformation.target_classes(logits) == labels, jnp.all(jnp.isfinite(logits))

    folds = (
        jnp.stack([task.weights for task in reference_halves]),
        jnp.stack([task.weights for task in target_halves]),
        jax.random.split(key),
    )
    hits, finite = jax.vmap(judged)(folds)
    in_second_half = target_halves[1].weights > 0
    told = jnp.where(in_second_half, hits[0], hits[1]) & (target.weights > 0)
    return told.astype(target.features.dtype), jnp.all(finite)


def resampled_means(
    hits: Float[ArrayLike, " n"], weights: Float[ArrayLike, " n"], *, num_resamples: int = 1000, seed: int = 0
) -> Float[np.ndarray, " r"]:
    """Weighted means of resamples with replacement; the same seed and weights draw the same samples.

    Equal draws make differences between encoders on the same samples paired.
    """
    values, mass = np.asarray(hits, np.float64), np.asarray(weights, np.float64)
    live = np.flatnonzero(mass > 0)
    counts = np.random.default_rng(seed).multinomial(live.size, np.full(live.size, 1 / live.size), num_resamples)
    drawn = counts * mass[live]
    means: np.ndarray = drawn @ values[live] / drawn.sum(axis=1)
    return means


_transformed_head_hits = jax.jit(transformed_head_hits)


def _labelled_hits(
    target: Task, reference: Task | None, views: Any, method: Joint, key: PRNGKeyArray
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    if views is not None:
        raise ValueError("views are for a target without labels: leave out views, or the labels.")
    if reference is None:
        raise ValueError("reference is needed where the target has labels: pass a Task(features, labels).")
    if not isinstance(method, Joint):
        raise ValueError(f"method must be a Joint(...), got {method!r}.")
    reference, target = checked_training_tasks(reference, target)
    hits: Float[Array, " n"]
    hits, finite = _transformed_head_hits(reference, target, key, method=method)
    return hits, finite


def _label_free_hits(target: Task, views: Any, key: PRNGKeyArray) -> Float[Array, " n"]:
    if views is None:
        raise ValueError(
            "the target has no labels: pass views, features of two augmented views of its samples; or its labels."
        )
    first, second = checked_views(views, target)
    most = int(np.count_nonzero(np.asarray(target.weights))) // SAMPLES_A_CLUSTER
    counts = tuple(count for count in CLUSTER_COUNTS if count <= most)
    if not counts:
        least = SAMPLES_A_CLUSTER * min(CLUSTER_COUNTS)
        raise ValueError(f"target has {target.num_samples} samples: without labels at least {least} are needed.")
    return cross_view_hits(target.features, first, second, target.weights, key, cluster_counts=counts)
