"""Unlabelled targets: pseudo-labels, learned from one view of half of the samples and evaluated on another view."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxrel._core.checks import Key, is_traced
from jaxrel.pseudo_labels import ClassPrior, PseudoLabels, Strategy, checked_views, pseudo_label
from jaxrel.relatedness.blocks import kept_aside
from jaxrel.task import Task

__all__ = ["cross_view_tasks", "pseudo_labelled_tasks"]

TaskPair = tuple[Task, Task]


def cross_view_tasks(
    reference: Task, target: Task, views: tuple[Float[Array, "n d"], Float[Array, "n d"]]
) -> tuple[TaskPair, TaskPair]:
    """`(reference, target)` for learning and for evaluation: halves that share neither samples nor augmentation. Pure.

    `target` has pseudo-labels. Its first half is used in the first view, its second half in the second. Samples, or
    views of them, that formed the clusters are easy to assign to them again. Only agreement on another view of other
    samples measures the encoder.
    """
    (reference_half, reference_rest), (target_half, target_rest) = (
        kept_aside(task, every=2) for task in (reference, target)
    )
    return (
        (reference_half, target_half.replaced(features=views[0])),
        (reference_rest, target_rest.replaced(features=views[1])),
    )


def pseudo_labelled_tasks(
    reference: Task,
    target: Task,
    evaluate_on: TaskPair | None,
    *,
    labels: Strategy | Any,
    views: tuple[Float[ArrayLike, "n d"], Float[ArrayLike, "n d"]] | None,
    class_prior: ClassPrior,
    key: Key,
) -> tuple[TaskPair, TaskPair | None, PseudoLabels]:
    """The tasks for learning and for evaluation, and the pseudo-labels, for a target without labels.

    With views the tasks come from `cross_view_tasks`. With `evaluate_on`, training and held-out samples are
    pseudo-labelled together, so that a class means the same in both.
    """
    if evaluate_on is None:
        found = pseudo_label(target, labels, views=views, reference=reference, class_prior=class_prior, key=key)
        pseudo_target = found.task(target.features)
        if views is None:
            return (reference, pseudo_target), None, found
        first, second = checked_views(views, target)
        learned_on, evaluated_on = cross_view_tasks(reference, pseudo_target, (first, second))
        return _without_absent(learned_on), _without_absent(evaluated_on), found
    if views is not None:
        raise ValueError(
            "views make a held-out sample of their own, the second view of half of the samples: leave out evaluate_on, "
            "or views."
        )
    held_out_reference, held_out_target = evaluate_on
    if held_out_target.num_features != target.num_features:
        raise ValueError(
            f"evaluate_on[1] has {held_out_target.num_features} features and target has {target.num_features}: "
            "extract both with the same encoder."
        )
    cut = target.num_samples
    both = Task(
        jnp.concatenate([target.features, held_out_target.features]),
        weights=jnp.concatenate([target.weights, held_out_target.weights]),
        num_classes=target.num_classes,
    )
    found = pseudo_label(both, labels, reference=reference, class_prior=class_prior, key=key)
    parts = (
        Task(features, found.labels[part], weights=found.weights[part], num_classes=found.num_classes)
        for features, part in ((target.features, slice(cut)), (held_out_target.features, slice(cut, None)))
    )
    training, held_out = parts
    return (reference, training), (held_out_reference, held_out), found


def _without_absent(tasks: TaskPair) -> TaskPair:
    """The same tasks without the samples of weight 0, which are needed only where shapes must be static."""
    if is_traced(tasks):
        return tasks

    def compact(task: Task) -> Task:
        live = np.flatnonzero(np.asarray(task.weights) > 0)
        labels, num_classes = task.labelled
        return Task(
            task.features[live],
            labels[live],
            weights=task.weights[live],
            num_classes=num_classes,
            class_names=task.class_names,
        )

    reference, target = tasks
    return compact(reference), compact(target)
