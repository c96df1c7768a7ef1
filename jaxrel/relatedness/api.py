"""`task_relatedness`: validation of concrete values, then the kernels of the method, compiled once for each shape."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxrel._core.arrays import jax_array
from jaxrel._core.checks import checked_seed
from jaxrel._core.programs import compiled
from jaxrel._core.size_classes import in_size_class
from jaxrel.heads import Head
from jaxrel.pseudo_labels import ClassPrior, Strategy
from jaxrel.relatedness.bound import Contributions
from jaxrel.relatedness.label_free import pseudo_labelled_tasks
from jaxrel.relatedness.methods import Joint, Method
from jaxrel.relatedness.result import ComputedWith, Relatedness, Transformation
from jaxrel.task import Task
from jaxrel.version import __version__

__all__ = ["block_sizes", "task_relatedness"]


# Compiled on first use, then for each new shape and structure of the method, whose numbers are traced.
@compiled
def _fit(method: Method, *given: Any) -> Transformation:
    return method.fit(*given)


@functools.partial(compiled, static_argnames="block_sizes")
def _evaluate(
    method: Method, transformation: Transformation, reference: Task, target: Task, *, block_sizes: tuple[int, int]
) -> tuple[Relatedness, Contributions]:
    return method.evaluate(transformation, reference, target, block_sizes)


def evaluated(
    method: Method, transformation: Transformation, reference: Task, target: Task
) -> tuple[Relatedness, Contributions]:
    """The bound on concrete, shareable tasks, and what each sample adds to it."""
    sizes = block_sizes(transformation, reference, target)
    return _evaluate(method.for_evaluation(), transformation, reference, target, block_sizes=sizes)


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
        seed: draws the minibatches and the starts of clusters; the same seed gives the same numbers.

    Returns:
        A `Relatedness`; call `.raise_if_failed()` on it or look at `.messages`.

    Raises:
        ValueError: for tasks without labels, different feature widths, an empty class in training, labels of the
            held-out reference that the training reference does not have, a head that does not fit, an `init` for
            a method that has no use for it or from another space, a class map that does not fit the classes; for
            pseudo-labels or views of a target that has labels, and what `pseudo_label` raises.

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
    check_method(method)
    if init is not None and not isinstance(init, Relatedness):
        raise ValueError(f"init must be a Relatedness, got {type(init).__name__}.")
    start = None if init is None else init.transformation
    head = _checked_head(head, reference)
    seed = checked_seed(seed)
    method.check(reference, target, head, start)
    names = reference.class_names, target.class_names
    num_reference, num_target = (task.num_samples for task in held_out or (reference, target))
    reference, target = map(shareable, (reference, target))
    evaluation = tuple(map(shareable, held_out)) if held_out else (reference, target)
    key = jax.random.key(seed)
    method = method.resolved(reference, target, key)
    transformation = _fit(method, reference, target, head, key, start)
    result, _ = evaluated(method, transformation, *evaluation)
    computed_with = ComputedWith(
        method=method,
        seed=seed,
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


def checked_training_tasks(reference: Task, target: Task) -> tuple[Task, Task]:
    """Two labelled tasks of one width and dtype, each class with a sample; a ValueError says what is wrong."""
    checked_reference, checked_target, _ = _checked_tasks(reference, target, None)
    return shareable(checked_reference), shareable(checked_target)


def check_method(method: Any) -> None:
    """A ValueError for anything else."""
    if not isinstance(method, Method):
        raise ValueError(f"method must be a Joint(...), a Paper(...) or a Method of your own, got {method!r}.")


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
        for held_out, known in (("evaluate_on[0]", "reference"), ("evaluate_on[1]", "target")):
            named[held_out] = numbered_as(held_out, named[held_out], named[known])
        _check_held_out_reference(named["evaluate_on[0]"], reference)
    dtype = functools.reduce(jnp.promote_types, (task.features.dtype for task in named.values()))
    tasks = [_with_dtype(task, dtype) for task in named.values()]
    return tasks[0], tasks[1], (tasks[2], tasks[3]) if evaluate_on is not None else None


def numbered_as(name: str, task: Any, known: Any) -> Any:
    """A task with the class numbers of another one; a ValueError with its name where these cannot be compared."""
    try:
        return task.with_classes_of(known)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


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
            f"evaluate_on[0] labels[{unknown[0]}] is {_class_name(held_out, unknown[0])}, but reference has "
            f"{_classes(reference)}: leave such samples out."
        )


def _class_name(task: Task, row: int) -> str:
    number = int(np.asarray(task.labels)[row])
    return str(number) if task.class_names is None else task.class_names[number]


def _classes(task: Task) -> str:
    return f"classes 0 .. {(task.num_classes or 0) - 1}" if task.class_names is None else str(task.class_names)


def _with_dtype(task: Task, dtype: jnp.dtype) -> Task:
    def cast(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, task)


def shareable(task: Task) -> Task:
    """The same task in the form in which tasks share programs: in a size class, classes without names."""
    task = in_size_class(task)
    return Task.tree_unflatten((task.num_classes, None), (task.features, task.labels, task.weights))


def _checked_head(head: Head | None, reference: Task) -> Head | None:
    if head is None:
        return None
    if not isinstance(head, Head):
        raise ValueError(f"head must be a Head(weights, bias), got {type(head).__name__}.")
    expected = (reference.num_classes or 0, reference.num_features)
    weights, bias = jax_array("head.weights", head.weights), jax_array("head.bias", head.bias)
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
