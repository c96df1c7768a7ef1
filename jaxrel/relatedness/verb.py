"""The verb: validation of concrete values, then the kernels, compiled once for each shape."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxrel.heads import Head
from jaxrel.pseudo_labels import ClassPrior, Strategy
from jaxrel.relatedness.bound import evaluate_bound
from jaxrel.relatedness.budgets import validated_budget
from jaxrel.relatedness.joint import fit_joint
from jaxrel.relatedness.label_free import pseudo_labelled_tasks
from jaxrel.relatedness.methods import Joint, Paper
from jaxrel.relatedness.paper import evaluate_paper, fit_paper
from jaxrel.relatedness.result import ComputedWith, Relatedness, Transformation
from jaxrel.tasks import Task
from jaxrel.version import __version__

__all__ = ["block_sizes", "task_relatedness"]

# Compiled on first use, then for each new shape; numbers of the method are traced.
_fit_joint = jax.jit(fit_joint)
_fit_paper = jax.jit(fit_paper)
_validated_budget = jax.jit(validated_budget)
_evaluate_bound = jax.jit(evaluate_bound, static_argnames="block_sizes")
_evaluate_paper = jax.jit(evaluate_paper, static_argnames="block_sizes")


def task_relatedness(
    reference: Task,
    target: Task,
    *,
    evaluate_on: tuple[Task, Task] | None = None,
    method: Joint | Paper = Joint(),  # noqa: B008 (immutable)
    head: Head | None = None,
    init: Relatedness | None = None,
    pseudo_labels: Strategy | Any | None = None,
    views: tuple[Float[ArrayLike, "n d"], Float[ArrayLike, "n d"]] | None = None,
    class_prior: ClassPrior = "clusters",
    seed: int = 0,
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
        method: how the transformation is learned: `Joint(...)` or `Paper(...)`.
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
        seed: draws the minibatches and the starts of clusters; the same seed gives the same numbers.

    Returns:
        A `Relatedness`; call `.raise_if_failed()` on it or look at `.messages`.

    Raises:
        ValueError: for tasks without labels, different feature widths, an empty class in training, labels of the
            held-out reference that the training reference does not have, a head that does not fit, an `init` for
            `Paper` or from another space, a class map that does not fit the classes; for pseudo-labels or views of a
            target that has labels, and what `pseudo_label` raises.

    Source: Mehra, Zhang, Hamm, "Understanding the Transferability of Representations via Task-Relatedness", NeurIPS
    2024, Theorem 3. Deviations: the coupling J = P_T Q is learned instead of (B, D) with a penalty; transport is
    blocked by target class; the ground cost lives on logits by default (tighter, no inverse of A) and in feature
    space uses the exact tau(W A^-1); the transport term is certified rather than estimated.
    """
    found = None
    if pseudo_labels is not None or views is not None:
        _check_label_free(reference, target, evaluate_on, pseudo_labels)
        (reference, target), evaluate_on, found = pseudo_labelled_tasks(
            reference, target, evaluate_on, labels=pseudo_labels, views=views, class_prior=class_prior, seed=seed
        )
    reference, target, held_out = _checked_tasks(reference, target, evaluate_on)
    if not isinstance(method, Joint | Paper):
        raise ValueError(f"method must be a Joint(...) or a Paper(...), got {method!r}.")
    if init is not None and not (isinstance(method, Joint) and isinstance(init, Relatedness)):
        raise ValueError(f"init must be a Relatedness, and method a Joint(...), got {type(init).__name__}.")
    head = _checked_head(head, reference)
    seed = checked_seed(seed)

    evaluated_reference, evaluated_target = held_out or (reference, target)
    if isinstance(method, Joint):
        _check_starts(method, reference, target, head, init)
    key = jax.random.key(seed)
    if isinstance(method, Joint) and method.lipschitz_budget == "validated":
        budget = _validated_budget(reference, target, key, method=dataclasses.replace(method, lipschitz_budget=None))
        method = dataclasses.replace(method, lipschitz_budget=float(budget))
    if isinstance(method, Joint):
        start = None if init is None else init.transformation
        transformation = _fit_joint(reference, target, head, key, method=method, init=start)
        evaluate = _evaluate_bound
    else:
        transformation = _fit_paper(reference, target, head, key, method=method)
        evaluate = _evaluate_paper
    sizes = block_sizes(transformation, evaluated_reference, evaluated_target)
    result = evaluate(
        transformation, evaluated_reference, evaluated_target, method=_for_evaluation(method), block_sizes=sizes
    )
    computed_with = ComputedWith(
        method=method,
        seed=seed,
        evaluated_on="training samples" if held_out is None else "held-out samples",
        num_reference=evaluated_reference.num_samples,
        num_target=evaluated_target.num_samples,
        target_labels="given" if found is None else f"pseudo-labels: {found.source}",
        dtype=str(reference.features.dtype),
        version=__version__,
    )
    return dataclasses.replace(result, pseudo_labels=found, computed_with=computed_with)


def _check_label_free(reference: Task, target: Task, evaluate_on: tuple[Task, Task] | None, pseudo_labels: Any) -> None:
    for name, task in {"reference": reference, "target": target}.items():
        if not isinstance(task, Task):
            raise ValueError(f"{name} must be a Task, got {type(task).__name__}: pass Task(features, ...).")
    held_out = None if evaluate_on is None else evaluate_on[1]
    if target.labels is not None or (held_out is not None and held_out.labels is not None):
        raise ValueError(
            "the target has labels: leave out pseudo_labels and views, or leave out the labels, "
            "Task(features, num_classes=k)."
        )
    if pseudo_labels is None:
        raise ValueError("views are for a target without labels: pass pseudo_labels too, such as ViewClusters().")
    if reference.labels is None:
        raise ValueError("reference has no labels: pass Task(features, labels); only the target may lack them.")
    if reference.num_features != target.num_features:
        raise ValueError(
            f"target has {target.num_features} features and reference has {reference.num_features}: "
            "extract all of them with the same encoder."
        )
    _check_classes("reference", reference)


def checked_seed(seed: Any) -> int:
    """The seed; a ValueError says what is wrong."""
    try:
        seed = operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed must be an integer, got {seed!r}.") from error
    if not 0 <= seed < 2**32:  # JAX without 64-bit types would silently keep the low 32 bits only.
        raise ValueError(f"seed must be between 0 and 2**32 - 1, got {seed}.")
    return int(seed)


def checked_training_tasks(reference: Task, target: Task) -> tuple[Task, Task]:
    """Two labelled tasks of one width and dtype, each class with a sample; a ValueError says what is wrong."""
    checked_reference, checked_target, _ = _checked_tasks(reference, target, None)
    return checked_reference, checked_target


def _check_starts(method: Joint, reference: Task, target: Task, head: Head | None, init: Relatedness | None) -> None:
    if method.class_map == "identity" and (target.num_classes or 0) > (reference.num_classes or 0):
        raise ValueError(
            f"class_map='identity' needs a reference class for each of {target.num_classes} target classes, the "
            f"reference has {reference.num_classes}: pass 'assigned', 'soft' or your own map."
        )
    if head is not None and method.lipschitz_budget is not None:
        raise ValueError("lipschitz_budget is for a head that is fitted: leave out head, or the budget.")
    if init is None:
        return
    if head is not None:
        raise ValueError("init brings its own head: leave out head, or init.")
    expected = (target.num_classes, reference.num_classes, reference.num_features)
    shape = (*init.transformation.conditional.shape, init.transformation.head.weights.shape[-1])
    if shape != expected:
        raise ValueError(
            f"init has (target classes, reference classes, features) {shape}, the tasks have {expected}: pass a result "
            "on the same tasks, unbatched."
        )


def _for_evaluation(method: Joint | Paper) -> Joint | Paper:
    """The method without what only learning depends on, so that methods share the compiled evaluation."""
    plain = Paper() if isinstance(method, Paper) else Joint(space=method.space, cost=method.cost)
    gap, sweeps = method.certificate_gap, method.certificate_sweeps
    return dataclasses.replace(plain, certificate_gap=gap, certificate_sweeps=sweeps)


def block_sizes(transformation: Transformation, reference: Task, target: Task) -> tuple[int, int]:
    """The smallest `block_sizes` of `evaluate_bound` that leave nothing out, rounded up to share compilations.

    Needs concrete arrays.
    """
    num_target = max(transformation.conditional.shape[0], target.num_classes or 0)
    counts_r = _class_counts(reference, transformation.conditional.shape[1])
    counts_t = _class_counts(target, num_target)
    used = np.asarray(transformation.conditional) > 0
    rows, columns = max(1, int((used @ counts_r).max())), max(1, int(counts_t.max()))
    return (min(_rounded_up(rows), reference.num_samples), min(_rounded_up(columns), target.num_samples))


def _rounded_up(size: int) -> int:
    """The next of 2 or 3 times a power of two: at most half too large."""
    step = max(1, 2 ** (max(size, 1).bit_length() - 2))
    return -(-size // step) * step


def _class_counts(task: Task, num_classes: int) -> np.ndarray:
    live = np.asarray(task.weights) > 0
    return np.bincount(np.asarray(task.labels)[live], minlength=num_classes)


def _checked_tasks(
    reference: Task, target: Task, evaluate_on: tuple[Task, Task] | None
) -> tuple[Task, Task, tuple[Task, Task] | None]:
    named = {"reference": reference, "target": target}
    if evaluate_on is not None:
        if not isinstance(evaluate_on, tuple | list) or len(evaluate_on) != 2:
            raise ValueError("evaluate_on must be a pair (held-out reference Task, held-out target Task).")
        named |= {"evaluate_on[0]": evaluate_on[0], "evaluate_on[1]": evaluate_on[1]}
    for name, task in named.items():
        if not isinstance(task, Task):
            raise ValueError(f"{name} must be a Task, got {type(task).__name__}: pass Task(features, labels).")
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(task)):
            raise ValueError(
                f"{name} holds traced arrays: inside jit or vmap call jaxrel.relatedness.joint_relatedness."
            )
        if task.labels is None:
            raise ValueError(
                f"{name} has no labels: pass Task(features, labels)"
                + (", or pseudo_labels=, such as ViewClusters() with views=." if "target" in name else ".")
            )
        if task.num_features != reference.num_features:
            raise ValueError(
                f"{name} has {task.num_features} features and reference has {reference.num_features}: "
                "extract all of them with the same encoder."
            )
    for name in ("reference", "target"):
        _check_classes(name, named[name])
    if evaluate_on is not None:
        _check_held_out_reference(evaluate_on[0], reference)
    dtype = functools.reduce(jnp.promote_types, (task.features.dtype for task in named.values()))
    tasks = [_with_dtype(task, dtype) for task in named.values()]
    return tasks[0], tasks[1], (tasks[2], tasks[3]) if evaluate_on is not None else None


def _check_classes(name: str, task: Task) -> None:
    counts = _class_counts(task, task.num_classes or 0)
    if (counts == 0).any():
        empty = int(np.argmin(counts))
        label = f" ({task.class_names[empty]})" if task.class_names else ""
        raise ValueError(
            f"{name} has no sample of class {empty}{label} of its {task.num_classes} classes: "
            "add samples of it, or renumber the labels without it."
        )


def _check_held_out_reference(held_out: Task, reference: Task) -> None:
    unknown = np.nonzero(
        (np.asarray(held_out.labels) >= (reference.num_classes or 0)) & (np.asarray(held_out.weights) > 0)
    )[0]
    if unknown.size:
        raise ValueError(
            f"evaluate_on[0] labels[{unknown[0]}] is {np.asarray(held_out.labels)[unknown[0]]}, but reference has "
            f"classes 0 .. {(reference.num_classes or 0) - 1}: leave such samples out."
        )


def _with_dtype(task: Task, dtype: jnp.dtype) -> Task:
    def cast(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, task)


def _checked_head(head: Head | None, reference: Task) -> Head | None:
    if head is None:
        return None
    if not isinstance(head, Head):
        raise ValueError(f"head must be a Head(weights, bias), got {type(head).__name__}.")
    expected = (reference.num_classes or 0, reference.num_features)
    weights, bias = jnp.asarray(head.weights), jnp.asarray(head.bias)
    if weights.shape != expected or bias.shape != expected[:1]:
        raise ValueError(
            f"head has weights {weights.shape} and bias {bias.shape}, but the reference needs {expected} and "
            f"{expected[:1]}: one row for each reference class, one column for each feature."
        )
    for name, values in (("weights", weights), ("bias", bias)):
        bad = np.argwhere(~np.isfinite(np.asarray(values)))
        if bad.size:
            raise ValueError(f"head.{name}[{', '.join(map(str, bad[0]))}] is not finite.")
    return Head(weights.astype(reference.features.dtype), bias.astype(reference.features.dtype))
