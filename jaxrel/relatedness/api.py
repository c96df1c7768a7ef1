"""`task_relatedness` and `evaluate_bound`: input checks, then kernels on whole tasks or on blocks of streamed tasks."""

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
    r"""Bound the target loss by three terms, and return the bound with the transformation that attains it.

        bound = re-weighted reference loss + label mismatch + distribution mismatch   (nats)
        loss of the transformed head on the target samples <= tight_bound <= bound

    The bound is small if, in the features of this encoder, the target task resembles a re-weighted, relabelled and
    shifted copy of a reference task on which the encoder is known to work. Lower is better. A bound above the entropy
    of the target labels (log K for K balanced classes), the loss of a constant guess, is vacuous.

    Args:
        reference: training samples of the reference task, with labels; every class needs a sample.
        target: training samples of the target task, with features of the same encoder. A target without labels,
            `Task(features)` or `Task(features, num_classes=k)`, needs `pseudo_labels`, and the bound is on the loss
            with respect to these. If some samples have no label, the result covers only the labelled ones, and
            `computed_with.target_labels` says so.
        evaluate_on: held-out samples `(reference, target)`. Every term is evaluated on them with the label map frozen;
            report this bound. None evaluates on the training samples, which flatters wide encoders.
        method: how the transformation is learned: `Joint(...)`, `Paper(...)` or a `Method` of your own.
        head: the reference head on raw features. It is the starting point if the head is learned, and is used as given
            otherwise. None fits one on the reference (`Joint`: softmax regression with `method.head_ridge`; `Paper`:
            with the gradient penalty of the published code).
        init: an earlier result on the same tasks in the same space, from which `Joint` starts. With early stopping the
            new transformation is at least as good by the validation bound, so the bounds of the settings `"fixed"`,
            `"learned_features"`, `"learned"`, each started from the one before, never rise.
        pseudo_labels: how an unlabelled target gets its classes: a strategy of `jaxrel.pseudo_labels` such as
            `ViewClusters()`, a function, or labels of your own; see `pseudo_label`.
        views: features of two augmented views of the target samples (`jaxrel.encoders.image_views` makes such images).
            Learning uses the first view of half of the samples, and evaluation the second view of the other half,
            because samples always confirm the clusters they formed. Needs `pseudo_labels`, and replaces `evaluate_on`.
        class_prior: share of each pseudo-class in the weights: `"clusters"`, `"uniform"` or numbers.
        key: draws the minibatches and the initial clusters; the same key gives the same numbers. An integer, which may
            be traced, or a key of `jax.random`.
        block_sizes: see `evaluate_bound`. None uses what the tasks need, which inside `jit` is all samples; static
            sizes are faster there.
        memory_budget: bytes that the computation may use at once, on all devices together. None is 2 GiB for stored
            tasks and no limit for tasks in memory. It does not count what the process uses anyway (JAX and its compiled
            programs, about 500 MB), nor pages of mapped files, which the system can reclaim.
        mesh: devices that share the blocks and rows of streamed tasks, whatever the axes of the mesh. None uses one.
        progress: called with `(what, done, total)` after learning and, for streamed tasks, after each device call.

    Tasks that fit into the budget are used whole. Larger tasks are streamed: the transformation is learned on a
    subsample of at most 32,768 samples of each task, drawn class by class, in which every class keeps its weight. A
    small budget lowers that number and the size of the minibatches. Every term is then evaluated on all samples in
    blocks, see `evaluate_bound`; `distribution_mismatch` is the cost of plans within blocks, an upper bound on the
    exact cost. Only the subsample was learned on, so even without `evaluate_on` the numbers are nearly held-out. A key
    gives the same numbers on any number of devices, up to rounding, if the budget allows the same blocks on all of
    them. Pseudo-labels are computed in memory, and `published` is None.

    Returns:
        A `Relatedness`. Call `.raise_if_failed()` on it or read `.messages`.

    Raises:
        ValueError: for tasks without labels, different feature widths, an empty class in training, labels of the
            held-out reference that the training reference does not have, a head of the wrong shape, an `init` for a
            method that does not use one or from another space, or a class map that does not match the classes; for
            pseudo-labels or views of a labelled target, and whatever `pseudo_label` raises; for a budget that is too
            small (the message gives the smallest that suffices).

    The function runs inside `jit`, `vmap`, `pmap` and `shard_map`, over tasks, seeds, heads and the numbers of a
    method. Traced values are not checked: traced tasks need `num_classes`, with a sample in each class, and are padded
    by samples of weight 0. Failures are reported in the status, and `computed_with` omits a traced key or method.

    Source: Mehra, Zhang, Hamm, "Understanding the Transferability of Representations via Task-Relatedness", NeurIPS
    2024, Theorem 3. Deviations: the coupling J = P_T Q is learned instead of (B, D) with a penalty; transport is solved
    for each target class; the ground cost is on logits by default (tighter, no inverse of A) and in feature space uses
    the exact tau(W A^-1); the transport term is certified rather than estimated.

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
    """Which target samples the bound covers."""
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
    """Evaluate every term of the bound on these samples, with the label map B of the transformation frozen.

    Args:
        transformation: any transformation; the inequalities hold for every Q, B, M, m and head, learned or not.
        reference, target: labelled tasks with the class counts of the transformation; padded samples have weight 0.
            Reference classes without samples leave Q, whose rows are renormalised; target classes without samples are
            ignored.
        method: provides the cost, `certificate_gap` and `certificate_iterations`.
        block_sizes: static sizes (reference points, target points) of the largest class block, for speed: the number
            of reference samples that carry weight for one target class, and the number of samples in one target class.
            None uses all samples. Sizes that leave out weight give an infinite bound and set the status.
        memory_budget, mesh, progress: as in `task_relatedness`. For streamed tasks the budget decides how many samples
            a block has (at most 1,024 of each task on average; fewer loosen the distribution mismatch), how many blocks
            a call has, and how many rows are read at a time. Apart from a few bytes for each sample, none of this
            depends on the number of samples: more samples mean more calls of the same compiled program.
        key: orders the samples of streamed tasks.

    If the cost array of a target class would exceed 2^22 entries, its plans couple blocks of about 1,800 shuffled
    samples. The bound still holds and is slightly larger, and time and memory are linear in the number of samples. The
    lower end of the distribution mismatch of this class is then 0.

    For streamed tasks, means are over all samples, up to rounding. `distribution_mismatch` is the cost of a plan
    between the whole tasks, composed of plans within blocks of equal mass. It allows for all rounding, so it is at
    least the exact optimum; if no class is cut, it equals that of whole tasks. `distribution_mismatch_lower` is, class
    by class, the larger of 0 and the target loss minus the transformed reference loss (for a class that is not cut, the
    lower end of the solver). Devices exchange only the final sums.

    Tasks that are used whole may be traced: the function runs under `jit` and `vmap`, with one compilation for each
    shape.
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
