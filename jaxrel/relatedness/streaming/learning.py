"""Learning from a subsample of tasks that do not fit into the memory budget."""

from __future__ import annotations

import logging

import jax
import numpy as np

from jaxrel._core.checks import Key, checked_key, host_generator
from jaxrel.heads import Head
from jaxrel.relatedness.in_memory import checked_training_tasks, fit
from jaxrel.relatedness.methods import Method
from jaxrel.relatedness.result import Transformation
from jaxrel.relatedness.streaming.devices import told
from jaxrel.relatedness.streaming.memory import learned_within
from jaxrel.relatedness.streaming.plan import Plan
from jaxrel.task import Task

__all__ = ["learned", "subsample"]

_log = logging.getLogger(__name__)


def learned(
    reference: Task,
    target: Task,
    head: Head | None,
    init: Transformation | None,
    method: Method,
    plan: Plan,
    key: Key,
) -> tuple[Transformation, Method]:
    """The transformation learned on subsamples, and the method with the options they and the budget determined."""
    rng = host_generator(key, 0)
    num_samples, method = learned_within(plan.budget, plan.work, method)
    reference, target = checked_training_tasks(*(subsample(task, num_samples, rng) for task in (reference, target)))
    method = method.resolved(reference, target, checked_key(key))
    _log.info("learning from %d reference and %d target samples", reference.num_samples, target.num_samples)
    transformation = jax.block_until_ready(fit(method, reference, target, head, checked_key(key), init))
    told(plan.progress, "learning", 1)(1)
    return transformation, method


def subsample(task: Task, size: int, rng: np.random.Generator) -> Task:
    """A task in memory of about `size` samples, drawn class by class, with at least one of each non-empty class.

    Weights are scaled so that the class prior is that of the whole task.
    """
    all_labels, num_classes = np.asarray(task.labels), task.labelled[1]
    all_weights = np.asarray(task.weights, np.float64)
    live = all_weights > 0
    counts = np.bincount(all_labels[live], minlength=num_classes)
    wanted = np.minimum(counts, np.maximum(1, counts * min(1.0, size / max(counts.sum(), 1)))).astype(np.int64)
    shuffled = rng.permutation(np.flatnonzero(live))
    by_class = shuffled[np.argsort(all_labels[shuffled], kind="stable")]
    rank = np.arange(by_class.size) - (np.cumsum(counts) - counts)[all_labels[by_class]]
    chosen = np.sort(by_class[rank < wanted[all_labels[by_class]]])
    labels, weights = all_labels[chosen], all_weights[chosen]
    drawn = np.bincount(labels, weights, num_classes)
    scale = task.class_weights(num_classes) / np.where(drawn > 0, drawn, 1)
    return Task(task.rows(chosen), labels, weights=weights * scale[labels], num_classes=num_classes)
