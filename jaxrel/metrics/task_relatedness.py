"""Task-relatedness and the label-free score with the interface of the other metrics: arrays in, a `Score` out.

These are only the values to rank by. For the terms of the bound, held-out tasks and intervals, call
`jaxrel.task_relatedness` and `jaxrel.transferability_score`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel._core.checks import Key, checked_key
from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.class_blocks import checked_largest_class
from jaxrel.metrics.cross_view import cluster_counts_of, cross_view_hits
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, safe_divide
from jaxrel.metrics.labelled_pairs import LabelledPair, checked_pair
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, Sample, checked_sample
from jaxrel.relatedness import task_relatedness
from jaxrel.relatedness.blocks import kept_aside
from jaxrel.relatedness.methods import Joint
from jaxrel.task import Task

__all__ = ["METHOD", "cross_view_score", "relatedness_score"]

METHOD = Joint(ridge=0.03, num_steps=100, points_per_class=25)


@no_derivative
@pads_samples
def relatedness_score(
    reference_features: Float[ArrayLike, "m d"],
    reference_labels: Int[ArrayLike, " m"],
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    method: Joint = METHOD,
    key: Key = 0,
    reference_weights: Float[ArrayLike, " m"] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    reference_num_classes: int | None = None,
    num_classes: int | None = None,
    largest_class: int | None = None,
) -> Score:
    """Negative bound of task-relatedness on the target loss, in nats; higher is better.

    It is learned on every other sample of each class, in both tasks, and evaluated on the rest.

    Args:
        reference_features, reference_labels: `(m, d)` and `(m,)` integers, of the reference task.
        features, labels: `(n, d)` and `(n,)` integers, of the target task.
        method: how task-relatedness is learned.
        key: of `jax.random`, or an integer; draws minibatches.
        reference_weights, weights: 0 is an absent sample; only their ratios matter. A sample of weight 2 falls into one
            half, two equal samples into both.
        reference_num_classes, num_classes: class counts; needed inside `jit` and `vmap`.
        largest_class: upper bound on the size of the largest target class. None computes it for concrete labels, and
            uses n for traced labels, which is slow.

    Returns:
        A `Score`, at most 0; undefined if a class has no sample. The only sample of a class is used for learning and
        for evaluation.

    Raises:
        ValueError: for an integer key out of 0 .. 2^32 - 1, else see `checked_pair`.

    Source: Mehra, Zhang, Hamm, "Understanding the transferability of representations via task-relatedness", NeurIPS
    2024; deviations: see `jaxrel.task_relatedness`.
    """
    pair = checked_pair(
        reference_features,
        reference_labels,
        features,
        labels,
        reference_weights=reference_weights,
        weights=weights,
        reference_num_classes=reference_num_classes,
        num_classes=num_classes,
    )
    block_size = checked_largest_class(labels, largest_class, pair.target.weights)
    return _relatedness(pair, checked_key(key), method, block_size=block_size)


def _relatedness_kernel(pair: LabelledPair, key: PRNGKeyArray, method: Joint, *, block_size: int) -> Score:
    reference, target = _tasks(pair)
    (learned_r, judged_r), (learned_t, judged_t) = (kept_aside(task, every=2) for task in (reference, target))
    blocks = (reference.num_samples, block_size)
    judged = judged_r, judged_t
    result = task_relatedness(learned_r, learned_t, evaluate_on=judged, method=method, key=key, block_sizes=blocks)
    undefined = ~_all_classes_occur(pair) | ~jnp.isfinite(result.bound)
    return make_score(-result.bound, pair.status, undefined=undefined)


_relatedness = kernel(_relatedness_kernel, static=("block_size",))


@no_derivative
@pads_samples
def cross_view_score(
    features: Float[ArrayLike, "n d"],
    first_view: Float[ArrayLike, "n d"],
    second_view: Float[ArrayLike, "n d"],
    *,
    key: Key = 0,
    weights: Float[ArrayLike, " n"] | None = None,
) -> Score:
    """Label-free accuracy of a probe that predicts clusters of held-out samples' views, 0 to 1; higher is better.

    It is the value of `jaxrel.transferability_score` without target labels, with the cluster counts of
    `cross_view_hits`.

    Args:
        features: `(n, d)`.
        first_view, second_view: `(n, d)`, of two augmentations of the same samples, row by row.
        key: of `jax.random`, or an integer; draws the starts of the clusters.
        weights: 0 is an absent sample; only their ratios matter.

    Returns:
        A `Score`; undefined for a sample of fewer than 40 rows, in which clusters have no samples.

    Raises:
        ValueError: for views of another shape, an integer key out of 0 .. 2^32 - 1, else see `checked_sample`.
    """
    samples = [checked_sample(rows, weights) for rows in (features, first_view, second_view)]
    shapes = [sample.features.shape for sample in samples]
    if len(set(shapes)) > 1:
        raise ValueError(f"features and views have shapes {shapes}: pass views of the same samples, row by row.")
    mass = samples[0].weights
    traced = isinstance(mass, jax.core.Tracer)
    counts = cluster_counts_of(shapes[0][0] if traced else int(np.count_nonzero(np.asarray(mass))))
    return _cross_view(samples, checked_key(key), cluster_counts=counts)


def _cross_view_kernel(samples: list[Sample], key: PRNGKeyArray, *, cluster_counts: tuple[int, ...]) -> Score:
    plain = samples[0]
    status = samples[0].status | samples[1].status | samples[2].status
    if not cluster_counts:
        return make_score(jnp.zeros((), plain.features.dtype), status, undefined=True)
    views: Any = (sample.features for sample in samples)
    hits = cross_view_hits(*views, plain.weights, key, cluster_counts=cluster_counts)
    return make_score(safe_divide(plain.weights @ hits, plain.total), status)


_cross_view = kernel(_cross_view_kernel, static=("cluster_counts",))


def _tasks(pair: LabelledPair) -> tuple[Task, Task]:
    reference, target = (_task(side) for side in (pair.reference, pair.target))
    return reference, target


def _task(side: LabelledSample) -> Task:
    labels = jnp.argmax(side.memberships, axis=1)
    return Task(side.features, labels, weights=side.weights, num_classes=side.memberships.shape[1])


def _all_classes_occur(pair: LabelledPair) -> Bool[Array, ""]:
    return jnp.all(pair.reference.class_sizes > 0) & jnp.all(pair.target.class_sizes > 0)
