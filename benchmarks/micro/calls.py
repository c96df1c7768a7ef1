"""Every metric as a call of a problem: those of the registry, and two that it has not by these options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxrel.metrics import METRICS, otce_components
from micro.problems import Problem

__all__ = ["EXACT", "NAMES", "metric_call", "metric_values", "suited"]

OPTIONS: dict[str, dict[str, Any]] = {"transrate": {"equal_classes": True}, "otdd_gaussian": {"inner": "gaussian"}}
# Transport to the end, as the originals have it, where the default is within 1 %.
EXACT: dict[str, dict[str, Any]] = {
    name: {"relative_gap": None} for name in ("otce", "ot_nce", "jc_otce", "otdd", "otdd_gaussian")
}
REGISTERED = {"otce": "ot_nce", "otdd_gaussian": "otdd"}  # under which their needs are in the registry
NAMES = (*METRICS, *REGISTERED)


def suited(name: str, problem: Problem) -> Problem:
    """A problem that the default options of a metric fit."""
    return problem.with_unit_features() if name in ("f_otce", "jc_otce") else problem


def metric_call(name: str, problem: Problem, **more: Any) -> Callable[[], Any]:
    """A metric with its arguments."""
    metric = METRICS[REGISTERED.get(name, name)]
    function: Callable[..., Any] = otce_components if name == "otce" else metric.function
    return partial(function, *(getattr(problem, need) for need in metric.needs), **OPTIONS.get(name, {}), **more)


def metric_values(result: Any) -> list[float]:
    """The numbers of what a metric returns that its original gives as well."""
    names = ("value",), ("wasserstein", "conditional_entropy"), ("simplex", "nearest_centre", "variability")
    found = next((found for found in names if all(hasattr(result, name) for name in found)), None)
    numbers = [getattr(result, name) for name in found] if found else jax.tree.leaves(result)
    return [float(number) for number in numbers if np.asarray(number).dtype.kind == "f"]
