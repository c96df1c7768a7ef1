"""Task-relatedness and the number to rank by, as a user calls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from jaxrel import Task, task_relatedness, transferability_score
from micro.problems import SIZES, Problem, Size, make_problem

SMALL = SIZES["small"][0]


def bound(problem: Problem, reference_features: Any, features: Any) -> Any:
    """Of one encoder; may be traced."""
    tasks = [
        Task(each, labels, num_classes=SMALL.classes)
        for each, labels in ((reference_features, problem.reference_labels), (features, problem.labels))
    ]
    return task_relatedness(*tasks).bound


def one_by_one(problem: Problem, references: Any, targets: Any) -> list[Any]:
    """Of many encoders."""
    return [bound(problem, *pair) for pair in zip(references, targets, strict=True)]


def test_task_relatedness(measure: Callable[..., Any]) -> None:
    """One pair of tasks, by default options."""
    problem = make_problem(SMALL)
    call = partial(bound, problem, problem.reference_features, problem.features)
    measure(f"task_relatedness, {SMALL}", "jaxrel", call)


@pytest.mark.parametrize("by", ["jaxrel", "a call for each"])
def test_task_relatedness_of_many(by: str, small: bool, measure: Callable[..., Any]) -> None:
    """Encoders of one width through `jax.vmap`, beside a loop over them."""
    problem, count = make_problem(SMALL), 4 if small else 64
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.5, 2, (count, 1, SMALL.features)).astype(np.float32)
    pairs = problem.reference_features * scales, problem.features * scales
    if by == "jaxrel":
        call: Callable[[], Any] = partial(jax.jit(jax.vmap(partial(bound, problem))), *pairs)
    else:
        call = partial(one_by_one, problem, *pairs)
    measure(f"task_relatedness by vmap, {count} encoders of {SMALL}", by, call)


def test_transferability_score(size: Size, measure: Callable[..., Any]) -> None:
    """With its interval."""
    problem = make_problem(size)
    task = Task(problem.features, problem.labels)
    measure(f"transferability_score, {size}", "jaxrel", lambda: transferability_score(task))
