"""A thousand tasks of different sizes and widths in one process, mixed over the public functions: what grows.

    python benchmarks/many_shapes.py [--count 1000] [--seconds 1200] [--seed 0]

Sample counts from 20 to 400, widths from 2 to 48 and class counts from 2 to 6 are drawn anew for each call. The calls
are `task_relatedness` and `transferability_score`, each metric, `score_encoders`, strategies for pseudo-labels, optimal
transport from cost arrays and from points, and the statistics of evaluation, in turn. The verdict asks that memory maps
stay below the limit of the system, that the resident memory of the second half of the run is at most a third above that
of the first, and that threads and file descriptors are as many in the end as after a tenth of the run.

Nearly all of the time is compiling, which is three to five times as fast without optimisations: see XLA_FLAGS in
tests/conftest.py. Prints a table and writes results/many_shapes.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrel import Joint, Task, task_relatedness, transferability_score
from jaxrel.evaluation import bootstrap_intervals, evaluate_score
from jaxrel.metrics import METRICS, score_encoders
from jaxrel.pseudo_labels import GaussianMixture, KMeans, ViewClusters, pseudo_label
from jaxrel.transport import PointCloud, euclidean_cost, sinkhorn, sinkhorn_divergence

RESULTS = Path(__file__).parent / "results" / "many_shapes.json"
LIMIT = 65_530
console = Console(highlight=False, width=120)
Calls = dict[str, Callable[["Problem"], Any]]


class Problem:
    """Arrays of one size, with all that a metric can need."""

    def __init__(self, rng: np.random.Generator) -> None:  # noqa: D107 (described by the class)
        self.n, self.m = (int(2 ** rng.uniform(np.log2(20), np.log2(400))) for _ in range(2))
        self.d, self.num_classes = int(rng.integers(2, 49)), int(rng.integers(2, 7))
        n, m, d = self.n, self.m, self.d
        labels, reference_labels = np.arange(n) % self.num_classes, np.arange(m) % self.num_classes
        centres = rng.normal(size=(self.num_classes, d))

        def around(classes: np.ndarray) -> np.ndarray:
            return (centres[classes] + rng.normal(size=(classes.size, d))).astype(np.float32)

        features = around(labels)
        self.arrays = {
            "features": features,
            "labels": labels,
            "targets": rng.normal(size=(n, 2)).astype(np.float32),
            "source_probabilities": rng.dirichlet(np.ones(5), n).astype(np.float32),
            "source_labels": rng.integers(0, 5, n),
            "reference_features": around(reference_labels),
            "reference_labels": reference_labels,
            "aligned_features": rng.normal(size=(n, 7)).astype(np.float32),
            "first_view": features + 0.1,
            "second_view": features - 0.1,
        }
        self.target = Task(features, labels)
        self.reference = Task(self.arrays["reference_features"], reference_labels)
        self.unlabelled = Task(features, num_classes=self.num_classes)
        self.views = self.arrays["first_view"], self.arrays["second_view"]


def calls() -> Calls:
    """What is called, by name."""
    method = Joint(num_steps=2, points_per_class=4)

    def metric(name: str) -> Callable[[Problem], Any]:
        options: dict[str, Any] = {"method": method} if name == "task_relatedness" else {}
        return lambda p: METRICS[name].function(*(p.arrays[need] for need in METRICS[name].needs), **options)

    def strategy(of: Any) -> Callable[[Problem], Any]:
        return lambda p: pseudo_label(p.unlabelled, of, views=p.views)

    def statistics(p: Problem) -> Any:
        table = np.random.default_rng(p.n).normal(size=(2, 3 + p.d % 12, 1 + p.n % 5))
        return evaluate_score(*table), bootstrap_intervals(*table, num_resamples=50)

    def encoders(p: Problem) -> Any:
        hub = [p.arrays["features"], p.arrays["first_view"]]
        return score_encoders(hub, p.arrays["labels"], metrics=["logme", "h_score", "gbc"])

    rest: Calls = {
        "task_relatedness()": lambda p: task_relatedness(p.reference, p.target, method=method),
        "transferability_score()": lambda p: transferability_score(p.target, num_resamples=50),
        "score_encoders()": encoders,
        "pseudo_label(KMeans())": strategy(KMeans()),
        "pseudo_label(GaussianMixture())": strategy(GaussianMixture()),
        "pseudo_label(ViewClusters())": strategy(ViewClusters()),
        "sinkhorn(cost)": lambda p: sinkhorn(
            np.random.default_rng(0).random((p.n, p.m)).astype(np.float32), relative_gap=0.1
        ),
        "sinkhorn(points)": lambda p: sinkhorn(
            PointCloud(jnp.asarray(p.arrays["features"]), jnp.asarray(p.arrays["reference_features"]), euclidean_cost),
            relative_gap=0.1,
        ),
        "sinkhorn_divergence": lambda p: sinkhorn_divergence(
            p.arrays["features"], p.arrays["reference_features"], epsilon=1.0
        ),
        "evaluation": statistics,
    }
    return {name: metric(name) for name in METRICS} | rest


def in_use() -> dict[str, int]:
    """Memory maps, resident megabytes, threads and file descriptors of this process."""
    with Path("/proc/self/maps").open("rb") as maps:
        count = sum(1 for _ in maps)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
    threads, descriptors = (len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("task", "fd"))
    return {"maps": count, "MB": resident, "threads": threads, "descriptors": descriptors}


def run(count: int, seconds: float, seed: int) -> Iterator[dict[str, Any]]:
    """What is in use after each call."""
    rng = np.random.default_rng(seed)
    started = time.monotonic()
    for done, (name, call) in enumerate(itertools.cycle(calls().items()), start=1):
        jax.block_until_ready(call(Problem(rng)))
        used = {"calls": done, "seconds": round(time.monotonic() - started, 1), **in_use()}
        yield {"name": name, **used}
        if done == count or used["seconds"] > seconds:
            return


def verdict(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """What is bounded."""
    tenth, half = rows[len(rows) // 10], len(rows) // 2
    first, second = (max(row["MB"] for row in part) for part in (rows[:half], rows[half:]))
    return {
        "maps": max(row["maps"] for row in rows) < LIMIT,
        "MB": second <= first * 4 / 3,
        "threads": rows[-1]["threads"] <= tenth["threads"],
        "descriptors": rows[-1]["descriptors"] <= tenth["descriptors"],
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no call after so many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("jaxrel._core.programs").setLevel(logging.INFO)

    rows: list[dict[str, Any]] = []
    every = max(1, options.count // 40)
    for row in run(options.count, options.seconds, options.seed):
        rows.append(row)
        if row["calls"] % every == 0:
            console.print(row)
    bounded = verdict(rows)
    columns = ("calls", "seconds", "maps", "MB", "threads", "descriptors")
    table = Table(*columns, title=f"bounded: {bounded}")
    shown = rows[:: max(1, len(rows) // 10)] + rows[-1:]
    for row in shown:
        table.add_row(*(str(row[column]) for column in columns))
    console.print(table)
    most = {name: max(row[name] for row in rows) for name in columns}
    environment = {
        "python": platform.python_version(),
        "jax": version("jax"),
        "cores": os.cpu_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    RESULTS.write_text(
        json.dumps({"environment": environment, "bounded": bounded, "most": most, "rows": shown}, indent=1) + "\n"
    )
    raise SystemExit(not all(bounded.values()))


if __name__ == "__main__":
    main()
