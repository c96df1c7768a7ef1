"""The optimum of a batch of transport problems within 1 %, beside POT and ott-jax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from transport_peers import OttSetting, exact_optima, exact_problems, ott_solver, problems_of

from jaxrel.transport import sinkhorn

# Problems, points, dimensions; and settings of ott-jax (epsilon, threshold) that a search over its options found to be
# the fastest that bring the gap of every problem to 1 %: as many iterations as are needed, or its own stopping rule.
CASES: dict[tuple[int, int, int], dict[str, tuple[OttSetting, float, float]]] = {
    (10, 100, 10): {
        "ott-jax, known iterations": (OttSetting(log_domain=False, momentum=1.6, iterations=32), 0.0125, 1e-3),
        "ott-jax": (OttSetting(decay=0.7, momentum=1.4, inner_iterations=1), 0.008, 0.03),
    },
    (100, 25, 100): {
        "ott-jax, known iterations": (OttSetting(momentum=1.4, iterations=6), 0.0095, 1e-3),
        "ott-jax": (OttSetting(log_domain=False, momentum=1.4, inner_iterations=5), 0.0115, 0.3),
    },
    (16, 400, 64): {
        "ott-jax, known iterations": (OttSetting(log_domain=False, momentum=1.2, iterations=8), 0.0095, 1e-3),
        "ott-jax": (OttSetting(log_domain=False, momentum=1.2, inner_iterations=1), 0.008, 0.05),
    },
}
QUICK, *FURTHER = CASES


def ott_call(setting: OttSetting, epsilon: float, threshold: float, arrays: tuple[jax.Array, ...]) -> Callable[[], Any]:
    """ott-jax on a batch."""
    solve = jax.jit(jax.vmap(ott_solver(setting), in_axes=(0, 0, 0, None, None)))
    return partial(solve, *arrays, np.float32(epsilon), np.float32(threshold))


@pytest.mark.parametrize("by", ["jaxrel", "POT, exact", "ott-jax", "ott-jax, known iterations"])
@pytest.mark.parametrize("shape", [QUICK, *(pytest.param(shape, marks=pytest.mark.full) for shape in FURTHER)], ids=str)
def test_sinkhorn(shape: tuple[int, int, int], by: str, measure: Callable[..., Any]) -> None:
    """Costs are given, on the device; jaxrel's time has the proof in it, ott-jax's neither proof nor search."""
    problems = problems_of(*np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32))
    arrays = tuple(map(jax.device_put, (problems.cost, problems.a, problems.b)))
    if by == "jaxrel":
        call: Callable[[], Any] = partial(jax.jit(partial(sinkhorn, relative_gap=0.01)), arrays[0])
    elif by == "POT, exact":
        call = partial(exact_optima, exact_problems(problems))
    else:
        call = ott_call(*CASES[shape][by], arrays)
    count, points, dimension = shape
    value = measure(f"sinkhorn, {count} x {points} x {points}, d = {dimension}", by, call)
    if by == "jaxrel":
        value.raise_if_failed()
