"""64 encoders on one target, by every metric of features and labels: one batched call beside one call each.

    python benchmarks/metrics/batch.py

Prints a table and writes benchmarks/results/metrics_batch.json. Both are warm; results are waited for.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrel.scores import METRICS, score_encoders
from jaxrel.store import write_atomically

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


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median of warm calls."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def one_by_one(function: Callable[..., Any], hub: np.ndarray, arguments: tuple[np.ndarray, ...]) -> list[Any]:
    """A call for each encoder."""
    return [function(features, *arguments) for features in hub]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=4, type=int, default=(64, 2000, 256, 10), metavar=("E", "N", "D", "K"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    hub, labels = make_hub(*options.shape)
    rows = {}
    for name in NAMES:
        arguments = (labels,) if "labels" in METRICS[name].needs else ()
        function = METRICS[name].function
        together = seconds(functools.partial(score_encoders, hub, labels, metrics=[name]), options.repeats)
        apart = seconds(functools.partial(one_by_one, function, hub, arguments), options.repeats)
        rows[name] = {"batched": together / len(hub), "one_by_one": apart / len(hub), "ratio": apart / together}
    every = seconds(lambda: score_encoders(hub, labels), options.repeats)
    total = sum(row["one_by_one"] for row in rows.values())
    rows["all of them"] = {"batched": every / len(hub), "one_by_one": total, "ratio": total * len(hub) / every}
    table = Table("metric", "batched, ms an encoder", "one by one", "ratio")
    for name, row in rows.items():
        table.add_row(name, f"{1e3 * row['batched']:.1f}", f"{1e3 * row['one_by_one']:.1f}", f"{row['ratio']:.2f}")
    Console().print(table)
    report = {"shape": list(options.shape), "device": jax.devices()[0].device_kind, "seconds": rows}
    write_atomically(options.output, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
