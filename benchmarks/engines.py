"""The same scores in process and on workers of Ray: what an engine costs, and what a second worker gains.

    python benchmarks/engines.py [--tasks 40] [--samples 500] [--width 128] [--repeats 3] [--quick]

All ordered pairs of made-up data sets are scored by MMD, in this process and on a Ray cluster of this host with one and
with two workers of one core each. Compilation is done before the clock starts, by the same study. Scores must be those
of this process. Prints, and writes results/engines.json unless --quick:

pairs_per_second: the median of the repeats.
cpu_seconds_per_1000: of this process and all of its children, workers among them, for a thousand scores; of these
    numbers the one that other work on the machine changes least.
first_result_seconds: until the first scores are on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from scale import task

from jaxrel.study import FeatureArrays, Matrix, score_matrix
from jaxrel.study.ray import RayExecutor

RESULTS = Path(__file__).parent / "results" / "engines.json"
Row = dict[str, Any]


@contextlib.contextmanager
def workers(count: int) -> Iterator[Executor | None]:
    """So many of Ray's; none is this process."""
    if count == 0:
        yield None
        return
    import ray

    ray.init("local", num_cpus=count, include_dashboard=False, log_to_driver=False)
    try:
        with RayExecutor() as executor:
            yield executor
    finally:
        ray.shutdown()


def cpu_seconds() -> float:
    """Of this process and its children that run."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(part.user + part.system for part in times)


def score(sources: list[FeatureArrays], executor: Executor | None) -> Matrix:
    """All pairs, into a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        return score_matrix(["mmd"], sources, sources, ["e"], output=folder, executor=executor)


def measured(count: int, options: argparse.Namespace) -> tuple[Row, np.ndarray]:
    """One row, and the scores."""
    tasks = [task(seed, options.samples, options.width) for seed in range(options.tasks)]
    sources = [FeatureArrays(f"task {number}", {"e": own}) for number, own in enumerate(tasks)]
    start = time.perf_counter()
    with workers(count) as executor:
        started = time.perf_counter() - start
        score(sources, executor)
        rates, firsts, costs = [], [], []
        for _ in range(options.repeats):
            before, start = cpu_seconds(), time.perf_counter()
            matrix = score(sources, executor)
            seconds = time.perf_counter() - start - (0.0 if executor else matrix.timings.compile_seconds)
            pairs = matrix.timings.num_scores
            rates.append(pairs / seconds)
            firsts.append(matrix.timings.first_result_seconds)
            costs.append(1000 * (cpu_seconds() - before) / pairs)
    row: Row = {"workers": count, "pairs": pairs, "start_seconds": started, "pairs_per_second": float(np.median(rates))}
    row |= {"cpu_seconds_per_1000": float(np.median(costs)), "first_result_seconds": float(np.median(firsts))}
    return row | {"compilations_a_repeat": matrix.timings.num_compilations}, matrix.values


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tasks", 40), ("samples", 500), ("width", 128), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--quick", action="store_true", help="a smoke run; the figures mean nothing")
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.samples, options.repeats = 6, 100, 1
    console = Console(highlight=False, width=140)
    load, rows, values = os.getloadavg()[0], [], []
    for count in (0, 1, 2):
        row, found = measured(count, options)
        rows.append(row)
        values.append(found)
        console.print(row)
    for found in values[1:]:
        np.testing.assert_array_equal(found, values[0])
    if not options.quick:
        document = {
            "command": "python benchmarks/engines.py",
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("jaxrel", "jax", "numpy", "ray")},
            "cores": os.cpu_count(),
            "load_average_before": load,
            "options": {name: getattr(options, name) for name in ("tasks", "samples", "width", "repeats")},
            "rows": rows,
        }
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        console.print(f"Written to {RESULTS}", soft_wrap=True)


if __name__ == "__main__":
    main()
