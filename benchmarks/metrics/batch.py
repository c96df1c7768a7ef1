"""64 encoders on one target, by every metric of features and labels: one batched call beside a call for each.

    python benchmarks/metrics/batch.py

Prints a table and writes benchmarks/results/metrics_batch.json. Both are warm; results are waited for.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrel.metrics import METRICS, score_encoders
from jaxrel.storage.records import write_atomically

RESULTS = Path(__file__).parents[1] / "results" / "metrics_batch.json"
NAMES = tuple(name for name, metric in METRICS.items() if set(metric.needs) <= {"features", "labels"})


def make_hub(encoders: int, samples: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of encoders that tell the classes apart more or less, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    separations = np.linspace(0.1, 1.0, encoders)
    hub = [
        scale * rng.normal(size=(classes, width))[labels] + rng.normal(size=(samples, width)) for scale in separations
    ]
    return np.asarray(hub, np.float32), labels


class Clock:
    """Told of progress, it notes the seconds since it was told before."""

    def __init__(self) -> None:
        """Start."""
        self.laps: list[float] = []
        self._last = time.perf_counter()

    def __call__(self, what: str, done: int, total: int) -> None:  # noqa: ARG002
        """Note a lap."""
        now = time.perf_counter()
        self.laps.append(now - self._last)
        self._last = now


def seconds(call: Callable[[], object]) -> float:
    """Of one call, its results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def one_by_one(function: Callable[..., Any], arguments: tuple[np.ndarray, ...], hub: np.ndarray) -> list[Any]:
    """A call for each encoder."""
    return [function(features, *arguments) for features in hub]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=4, type=int, default=(64, 2000, 256, 10), metavar=("E", "N", "D", "K"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    hub, labels = make_hub(*options.shape)
    rows = {}
    for name in NAMES:
        arguments = (labels,) if "labels" in METRICS[name].needs else ()
        call = functools.partial(one_by_one, METRICS[name].function, arguments)
        call(hub[:1])
        rows[name] = {"one_by_one": seconds(functools.partial(call, hub)) / len(hub)}
    score_encoders(hub, labels, metrics=NAMES)
    clock = Clock()
    score_encoders(hub, labels, metrics=NAMES, progress=clock)
    # The first has waited for the decompositions that all of them share.
    for name, took in zip(NAMES, clock.laps, strict=True):
        rows[name]["batched"] = took / len(hub)
    rows["all of them"] = {kind: sum(row[kind] for row in rows.values()) for kind in ("one_by_one", "batched")}
    for row in rows.values():
        row["ratio"] = row["one_by_one"] / row["batched"]
    table = Table("metric", "batched, ms an encoder", "one by one", "ratio")
    for name, row in rows.items():
        table.add_row(name, f"{1e3 * row['batched']:.1f}", f"{1e3 * row['one_by_one']:.1f}", f"{row['ratio']:.2f}")
    Console().print(table)
    report = {"shape": list(options.shape), "device": jax.devices()[0].device_kind, "seconds": rows}
    write_atomically(options.output, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
