"""`task_relatedness` and `evaluate_bound`: checks, then kernels on whole tasks, or on blocks of those streamed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import ArrayLike, Float

from jaxrel._core.checks import Key, checked_key, is_traced
from jaxrel.heads import Head
from jaxrel.pseudo_labels import ClassPrior, Strategy
from jaxrel.relatedness.bound import evaluate_bound_with_contributions
from jaxrel.relatedness.checks import check_label_free, check_method, checked_head, checked_tasks
from jaxrel.relatedness.in_memory import evaluated, fit, loaded_alike, shareable
from jaxrel.relatedness.label_free import pseudo_labelled_tasks
from jaxrel.relatedness.methods import Joint, Method
from jaxrel.relatedness.result import ComputedWith, Relatedness, Transformation
from jaxrel.relatedness.streaming import Progress, check_evaluation, learned, plan_of, told
from jaxrel.relatedness.streaming import evaluated as streamed
from jaxrel.task import Task
from jaxrel.version import __version__

__all__ = ["evaluate_bound", "task_relatedness"]

_NAMES = ("reference", "target", "evaluate_on[0]", "evaluate_on[1]")


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
    key: Key = 0,
    block_sizes: tuple[int, int] | None = None,
    memory_budget: int | None = None,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
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
            `Task(features, num_classes=k)`, it needs `pseudo_labels`, and the result is about these. Where some samples
            have no label, the result is about those that have one, and `computed_with.target_labels` says so.
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
        key: draws the minibatches and the starts of clusters; the same key gives the same numbers. An integer, which
            may be traced, or a key of `jax.random`.
        block_sizes: see `evaluate_bound`. None takes what the tasks need, which inside `jit` is all samples: static
            sizes make it faster there.
        memory_budget: bytes that all of this may take at once, on all devices together; None is 2 GiB for tasks that
            are stored, and no limit for those in memory. What a process has anyway (JAX and its compiled programs,
            about 500 MB) and pages of mapped files, which the system takes back when it needs them, are not in it.
        mesh: devices that share blocks and rows of tasks that are streamed, whatever the mesh's axes. None takes one.
        progress: told `(what, done, total)` after learning, and after each call of the devices where it streams.

    Tasks that the budget holds are taken whole. Others are streamed: the transformation is learned on a subsample of at
    most 32,768 samples of each task, drawn class by class, in which every class has the weight that it has in the
    whole; a budget that asks for it lowers that number and the minibatches. Then every term is evaluated on all samples
    in blocks, see `evaluate_bound`: `distribution_mismatch` is the cost of plans within them, an upper end for all.
    Of the samples evaluated only that part was learned on, so even without `evaluate_on` the numbers are nearly
    held-out. A key gives the same numbers on any number of devices, up to rounding, where the budget allows the same
    blocks on all of them. Pseudo-labels are made in memory, and `published` is None.

    Returns:
        A `Relatedness`; call `.raise_if_failed()` on it or look at `.messages`.

    Raises:
        ValueError: for tasks without labels, different feature widths, an empty class in training, labels of the
            held-out reference that the training reference does not have, a head that does not fit, an `init` for
            a method that has no use for it or from another space, a class map that does not fit the classes; for
            pseudo-labels or views of a target that has labels, and what `pseudo_label` raises; for a budget that is too
            small, with the least that would do.

    It runs inside `jit`, `vmap`, `pmap` and `shard_map` as it does outside, over tasks, seeds, heads and the numbers of
    a method. Values that are traced are not checked: such tasks need a `num_classes`, each of whose classes has a
    sample, padding is by samples of weight 0, trouble is in the status, and `computed_with` lacks a key or method that
    is traced.

    Source: Mehra, Zhang, Hamm, "Understanding the Transferability of Representations via Task-Relatedness", NeurIPS
    2024, Theorem 3. Deviations: the coupling J = P_T Q is learned instead of (B, D) with a penalty; transport is
    blocked by target class; the ground cost lives on logits by default (tighter, no inverse of A) and in feature
    space uses the exact tau(W A^-1); the transport term is certified rather than estimated.

    Examples:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> features = 3 * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(60, 4))
        >>> reference, target = Task(features[:30], labels[:30]), Task(2 - features[30:], labels[30:])
        >>> result = task_relatedness(reference, target)
        >>> bool(result.target_loss <= result.tight_bound <= result.bound)
        True
    """
    found = None
    if pseudo_labels is not None or views is not None:
        check_label_free(reference, target, evaluate_on, pseudo_labels)
        (reference, target), evaluate_on, found = pseudo_labelled_tasks(
            reference.loaded(),
            target.loaded(),
            evaluate_on,
            labels=pseudo_labels,
            views=views,
            class_prior=class_prior,
            key=key,
        )
    checked = checked_tasks(reference, target, evaluate_on)
    evaluated_target = target if evaluate_on is None else evaluate_on[1]
    reference, target, held_out = checked
    check_method(method)
    if init is not None and not isinstance(init, Relatedness):
        raise ValueError(f"init must be a Relatedness, got {type(init).__name__}.")
    start = None if init is None else init.transformation
    randomness = checked_key(key)
    method.check(reference, target, head, start)
    names = reference.class_names, target.class_names
    tasks = dict(zip(_NAMES, (reference, target, *(held_out or ())), strict=False))
    plan = plan_of(tasks, memory_budget, mesh, progress, method)
    if plan is None:
        reference, target, *others = loaded_alike(*tasks.values())
        head = checked_head(head, reference)
        reference, target, *others = map(shareable, (reference, target, *others))
        method = method.resolved(reference, target, randomness)
        transformation = fit(method, reference, target, head, randomness, start)
        told(progress, "learning", 1)(1)
        result, _ = evaluated(method, transformation, *(others or (reference, target)), sizes=block_sizes)
    else:
        on_all = held_out or (reference, target)
        check_evaluation(*on_all, num_reference=reference.labelled[1], num_target=target.labelled[1])
        head = checked_head(head, reference)
        transformation, method = learned(reference, target, head, start, method, plan, key)
        result = streamed(transformation, *on_all, method, plan, key)
    num_reference, num_target = (task.num_samples for task in held_out or list(tasks.values())[:2])
    computed_with = ComputedWith(
        method=None if is_traced(method) else method,
        key=None if isinstance(key, jax.Array) else int(key),
        evaluated_on="training samples" if held_out is None else "held-out samples",
        num_reference=num_reference,
        num_target=num_target,
        target_labels=_labels_told(evaluated_target) if found is None else f"pseudo-labels: {found.source}",
        reference_classes=names[0],
        target_classes=names[1],
        dtype=str(result.bound.dtype),
        version=__version__,
    )
    return dataclasses.replace(result, pseudo_labels=found, computed_with=computed_with)


def _labels_told(target: Task) -> str:
    """Which samples of the target the bound is about."""
    if not target.partly_labelled:
        return "given"
    if is_traced(target.labels, target.weights):
        return "given, of some samples"
    live = np.asarray(target.weights) > 0
    known = np.count_nonzero(live & (np.asarray(target.labels) >= 0))
    return f"given, of {known:,} of {np.count_nonzero(live):,} samples"


def evaluate_bound(
    transformation: Transformation,
    reference: Task,
    target: Task,
    *,
    method: Method,
    block_sizes: tuple[int, int] | None = None,
    memory_budget: int | None = None,
    mesh: Mesh | None = None,
    key: Key = 0,
    progress: Progress | None = None,
) -> Relatedness:
    """Every term of the bound on these samples, B frozen at the transformation's.

    Args:
        transformation: any; the inequalities hold for every Q, B, M, m and head, learned or not.
        reference, target: labelled, with the class counts of the transformation; a padded sample has weight 0.
            Reference classes absent here leave Q and its rows are renormalised; target classes absent here drop out.
        method: its cost, `certificate_gap` and `certificate_iterations` are used.
        block_sizes: static sizes (reference points, target points) of the largest class block, for speed: the number
            of reference samples that carry weight for one target class, and of samples in one target class. None
            takes all samples. Sizes that leave out weight give an infinite bound and a status that says so.
        memory_budget, mesh, progress: as in `task_relatedness`. Of tasks that are streamed the budget decides how many
            samples a block has (at most 1,024 of each task on average, fewer loosen the distribution mismatch), how
            many blocks a call has, and how many rows are read at a time. None of this depends on the number of samples,
            up to the few bytes that each takes: more samples are more calls of what is compiled already.
        key: orders the samples of tasks that are streamed.

    A target class whose cost array would exceed 2^22 entries gets plans between blocks of about 1,800 shuffled samples:
    the bound holds as before, is a little larger, and its time and memory are linear in the number of samples. The
    lower end of its distribution mismatch is then 0.

    Of tasks that are streamed, means are over all samples, up to rounding; `distribution_mismatch` is the cost of a
    plan between the whole tasks, made of plans within blocks of equal mass, with all roundings allowed for, hence at
    least the exact optimum; where no class is cut it is that of whole tasks. `distribution_mismatch_lower` is the
    larger of 0 and the target loss less the transformed reference loss, class by class (that of the solver for a class
    that is not cut). Devices exchange nothing but the sums at the very end.

    Tasks that are taken whole may be traced: it runs under `jit` and `vmap`, one compilation for each shape.
    """
    plan = plan_of({"reference": reference, "target": target}, memory_budget, mesh, progress)
    if plan is None:
        tasks = reference.loaded(), target.loaded()
        return evaluate_bound_with_contributions(transformation, *tasks, method=method, block_sizes=block_sizes)[0]
    check_method(method)
    num_target, num_reference = transformation.conditional.shape
    width = transformation.head.weights.shape[1]
    check_evaluation(reference, target, num_reference=num_reference, num_target=num_target, width=width)
    return streamed(transformation, reference, target, method, plan, key)
