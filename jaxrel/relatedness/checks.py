"""Input checks of `task_relatedness`: shapes always, values unless they are traced."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int

from jaxrel._core.arrays import jax_array
from jaxrel._core.checks import is_traced
from jaxrel.heads import Head
from jaxrel.relatedness.methods import Method
from jaxrel.task import Task

__all__ = ["check_label_free", "check_method", "checked_head", "checked_tasks", "class_counts", "numbered_as"]


def checked_tasks(
    reference: Task, target: Task, evaluate_on: tuple[Task, Task] | None
) -> tuple[Task, Task, tuple[Task, Task] | None]:
    """Labelled tasks of one feature width with matching class numbers; anything else is a ValueError.

    Unlabelled samples of a partly labelled target are left out.
    """
    named = {"reference": reference, "target": target}
    if evaluate_on is not None:
        if not isinstance(evaluate_on, tuple | list) or len(evaluate_on) != 2:
            raise ValueError("evaluate_on must be a pair (held-out reference Task, held-out target Task).")
        named |= {"evaluate_on[0]": evaluate_on[0], "evaluate_on[1]": evaluate_on[1]}
    for name, task in named.items():
        if not isinstance(task, Task):
            raise ValueError(f"{name} must be a Task, got {type(task).__name__}: pass Task(features, labels).")
        if task.labels is None:
            raise ValueError(
                f"{name} has no labels: pass Task(features, labels)"
                + (", or pseudo_labels=, such as ViewClusters() with views=." if "target" in name else ".")
            )
        if task.partly_labelled and name in ("reference", "evaluate_on[0]"):
            raise ValueError(f"some samples of {name} have no label: pass task.of_labelled(), which leaves them out.")
        if task.num_features != reference.num_features:
            raise ValueError(
                f"{name} has {task.num_features} features and reference has {reference.num_features}: "
                "extract all of them with the same encoder."
            )
        named[name] = task.of_labelled()
    for name in ("reference", "target"):
        _check_classes(name, named[name])
    if evaluate_on is not None:
        for held_out, known in (("evaluate_on[0]", "reference"), ("evaluate_on[1]", "target")):
            named[held_out] = numbered_as(held_out, named[held_out], named[known])
        _check_held_out_reference(named["evaluate_on[0]"], reference)
    tasks = list(named.values())
    return tasks[0], tasks[1], (tasks[2], tasks[3]) if evaluate_on is not None else None


def check_label_free(reference: Task, target: Task, evaluate_on: tuple[Task, Task] | None, pseudo_labels: Any) -> None:
    """Raise a ValueError unless only the reference has labels and `pseudo_labels` is given for the target."""
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
    if reference.labels is None or reference.partly_labelled:
        raise ValueError(
            "reference lacks labels: pass Task(features, labels) of all samples; only the target may lack them."
        )
    if reference.num_features != target.num_features:
        raise ValueError(
            f"target has {target.num_features} features and reference has {reference.num_features}: "
            "extract all of them with the same encoder."
        )
    _check_classes("reference", reference)


def check_method(method: Any) -> None:
    """The method; anything else is a ValueError."""
    if not isinstance(method, Method):
        raise ValueError(f"method must be a Joint(...), a Paper(...) or a Method of your own, got {method!r}.")


def numbered_as(name: str, task: Any, known: Any) -> Any:
    """A task with the class numbers of another one; a ValueError naming the task if the classes cannot be matched."""
    try:
        return task.with_classes_of(known)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_classes(name: str, task: Task) -> None:
    if is_traced(task.labels, task.weights):
        return
    counts = class_counts(task, task.num_classes or 0)
    if (counts == 0).any():
        empty = int(np.argmin(counts))
        label = f" ({task.class_names[empty]})" if task.class_names else ""
        raise ValueError(
            f"{name} has no sample of class {empty}{label} of its {task.num_classes} classes: "
            "add samples of it, or renumber the labels without it."
        )


def _check_held_out_reference(held_out: Task, reference: Task) -> None:
    if is_traced(held_out.labels, held_out.weights):
        return
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


def checked_head(head: Head | None, reference: Task) -> Head | None:
    """The head in the dtype of the reference; a ValueError if its shape does not match or it is not finite."""
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
        if not is_traced(values) and not np.isfinite(np.asarray(values)).all():
            bad = np.argwhere(~np.isfinite(np.asarray(values)))
            raise ValueError(f"head.{name}[{', '.join(map(str, bad[0]))}] is not finite.")
    return Head(weights.astype(reference.dtype), bias.astype(reference.dtype))


def class_counts(task: Task, num_classes: int) -> Int[np.ndarray, " k"]:
    """Number of samples of positive weight in each class."""
    live = np.asarray(task.weights) > 0
    return np.bincount(np.asarray(task.labels)[live], minlength=num_classes)
