"""Every metric beside the algorithm of its original, and many metrics of many encoders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from jaxrel.metrics import METRICS, score_encoders
from micro.calls import EXACT, NAMES, metric_call, metric_values, suited
from micro.originals import ORIGINALS
from micro.problems import Size, make_problem

SECOND = {"logme_truncated": "logme"}  # originals of a metric that has one of its own name
SIDES = [(name, "jaxrel") for name in NAMES] + [(SECOND.get(peer, peer), peer) for peer in ORIGINALS]
SIDES = sorted(SIDES, key=lambda side: NAMES.index(side[0]))
LABELLED = tuple(name for name, metric in METRICS.items() if set(metric.needs) <= {"features", "labels"})


@pytest.mark.parametrize(("name", "by"), SIDES)
def test_metric(
    name: str, by: str, size: Size, small: bool, benchmark: BenchmarkFixture, measure: Callable[..., Any]
) -> None:
    """jaxrel has float32 numpy arrays, whose transfer counts; originals float64 as they compute."""
    problem = suited(name, make_problem(size))
    double = problem.in_double_precision()
    group = f"{name}, {size}"
    if by == "jaxrel":
        values = metric_values(measure(group, by, metric_call(name, problem)))
        with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
            # To the end, transport of 5,000 samples takes minutes.
            exact = metric_values(metric_call(name, double, **(EXACT.get(name, {}) if small else {}))())
        benchmark.extra_info |= {"values": values, "float64": exact}
    else:
        original = ORIGINALS[by]
        value = measure(group, original.code, lambda: original.function(double))
        benchmark.extra_info |= {"values": np.atleast_1d(value).tolist(), "differs": original.differs}


@pytest.mark.parametrize("by", ["jaxrel", "a call for each"])
def test_score_encoders(by: str, small: bool, measure: Callable[..., Any]) -> None:
    """Many encoders, that tell the classes apart more or less, by all metrics of features and labels."""
    count, samples, width, classes = (4, 500, 128, 10) if small else (64, 2000, 256, 10)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    encoders = [
        (scale * rng.normal(size=(classes, width))[labels] + rng.normal(size=(samples, width))).astype(np.float32)
        for scale in np.linspace(0.1, 1.0, count)
    ]

    def one_by_one() -> list[Any]:
        arguments = {name: (labels,) if "labels" in METRICS[name].needs else () for name in LABELLED}
        return [METRICS[name].function(each, *arguments[name]) for name in LABELLED for each in encoders]

    together = partial(score_encoders, np.asarray(encoders), labels, metrics=LABELLED)
    group = f"score_encoders, {len(LABELLED)} metrics, {count} encoders of {samples:,} x {width}"
    measure(group, by, together if by == "jaxrel" else one_by_one)
