"""`task_relatedness`: checks, learning, evaluation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import ArrayLike, Float

from jaxrel._core.checks import Seed, is_traced, random_key
from jaxrel.heads import Head
from jaxrel.pseudo_labels import ClassPrior, Strategy
from jaxrel.relatedness.checks import check_label_free, check_method, checked_head, checked_tasks
from jaxrel.relatedness.in_memory import evaluated, fit, shareable
from jaxrel.relatedness.label_free import pseudo_labelled_tasks
from jaxrel.relatedness.methods import Joint, Method
from jaxrel.relatedness.result import ComputedWith, Relatedness
from jaxrel.task import Task
from jaxrel.version import __version__

__all__ = ["task_relatedness"]


def task_relatedness(
    reference: Task,
    target: Task,
    *,
    evaluate_on: tuple[Task, Task] | None = None,
    method: Method = Joint(),  # noqa: B008 (immutable)
    head: Head | None = None,
    init: Relatedness | None = None,
    pseudo_labels: Strategy | Any | None = None,
    views: tuple[Float[ArrayLike, "n d"], Float[ArrayLike, "n d"]] | None = None,
    class_prior: ClassPrior = "clusters",
    seed: Seed = 0,
    block_sizes: tuple[int, int] | None = None,
) -> Relatedness:
    r"""An upper bound on the target loss in three terms, with the transformation that attains it.

        bound = re-weighted reference loss + label mismatch + distribution mismatch   (nats)
        loss of the transformed head on the target samples <= tight_bound <= bound

    The bound is small when the target task looks, to this encoder, like a re-weighted, relabelled and moved copy of
    a reference task that the encoder is known to do well. Lower is better; the entropy of the target labels (log K
    for K balanced classes) is the loss of a constant guess, above which a bound says nothing.

    Args:
        reference: features and labels of the reference task, training samples; every class needs a sample.
        target: the same of the target task, features of the same encoder. Without labels, `Task(features)` or
            `Task(features, num_classes=k)`, it needs `pseudo_labels`, and the result is about these.
        evaluate_on: held-out samples `(reference, target)`; every term is then evaluated on them with the label map
            frozen, which is the honest number. None evaluates on the training samples, where a wide encoder looks
            better than it is.
        method: how the transformation is learned: `Joint(...)`, `Paper(...)` or a `Method` of your own.
        head: the reference head on raw features. The starting point where the head is learned, used as given
            otherwise; fitted on the reference when None (`Joint`: softmax regression, `method.head_ridge`; `Paper`:
            with the gradient penalty of the published code).
        init: an earlier result on the same tasks in the same space, from which `Joint` starts. With early stopping the
            new transformation is at least as good by the validation bound, so that a chain of settings, `"fixed"`,
            `"learned_features"`, `"learned"`, each from the one before, falls.
        pseudo_labels: how the samples of a target without labels get classes: a strategy of `jaxrel.pseudo_labels`
            such as `ViewClusters()`, a function, or labels of your own; see `pseudo_label`.
        views: features of two augmented views of the target samples (`jaxrel.encoders.image_views` makes such images).
            Learning then sees the first view of half of the samples, evaluation the second view of the other half:
            samples confirm the clusters that they made, other views of other samples need not. Goes with
            `pseudo_labels`, instead of `evaluate_on`.
        class_prior: share of each pseudo-class in the weights: `"clusters"`, `"uniform"` or numbers.
        seed: draws the minibatches and the starts of clusters; the same seed gives the same numbers. An integer, which
            may be traced, or a key of `jax.random`.
        block_sizes: see `evaluate_bound`. None takes what the tasks need, which inside `jit` is all samples: static
            sizes make it faster there.

    Returns:
        A `Relatedness`; call `.raise_if_failed()` on it or look at `.messages`.

    Raises:
        ValueError: for tasks without labels, different feature widths, an empty class in training, labels of the
            held-out reference that the training reference does not have, a head that does not fit, an `init` for
            a method that has no use for it or from another space, a class map that does not fit the classes; for
            pseudo-labels or views of a target that has labels, and what `pseudo_label` raises.

    It runs inside `jit`, `vmap`, `pmap` and `shard_map` as it does outside, over tasks, seeds, heads and the numbers of
    a method. Values that are traced are not checked: such tasks need a `num_classes`, each of whose classes has a
    sample, padding is by samples of weight 0, trouble is in the status, and `computed_with` lacks a seed or method that
    is traced.

    Source: Mehra, Zhang, Hamm, "Understanding the Transferability of Representations via Task-Relatedness", NeurIPS
    2024, Theorem 3. Deviations: the coupling J = P_T Q is learned instead of (B, D) with a penalty; transport is
    blocked by target class; the ground cost lives on logits by default (tighter, no inverse of A) and in feature
    space uses the exact tau(W A^-1); the transport term is certified rather than estimated.
    """
    found = None
    if pseudo_labels is not None or views is not None:
        check_label_free(reference, target, evaluate_on, pseudo_labels)
        (reference, target), evaluate_on, found = pseudo_labelled_tasks(
            reference, target, evaluate_on, labels=pseudo_labels, views=views, class_prior=class_prior, seed=seed
        )
    reference, target, held_out = checked_tasks(reference, target, evaluate_on)
    check_method(method)
    if init is not None and not isinstance(init, Relatedness):
        raise ValueError(f"init must be a Relatedness, got {type(init).__name__}.")
    start = None if init is None else init.transformation
    head = checked_head(head, reference)
    key = random_key(seed)
    method.check(reference, target, head, start)
    names = reference.class_names, target.class_names
    num_reference, num_target = (task.num_samples for task in held_out or (reference, target))
    reference, target = map(shareable, (reference, target))
    evaluation = tuple(map(shareable, held_out)) if held_out else (reference, target)
    method = method.resolved(reference, target, key)
    transformation = fit(method, reference, target, head, key, start)
    result, _ = evaluated(method, transformation, *evaluation, sizes=block_sizes)
    computed_with = ComputedWith(
        method=None if is_traced(method) else method,
        seed=None if isinstance(seed, jax.Array) else int(seed),
        evaluated_on="training samples" if held_out is None else "held-out samples",
        num_reference=num_reference,
        num_target=num_target,
        target_labels="given" if found is None else f"pseudo-labels: {found.source}",
        reference_classes=names[0],
        target_classes=names[1],
        dtype=str(reference.features.dtype),
        version=__version__,
    )
    return dataclasses.replace(result, pseudo_labels=found, computed_with=computed_with)
