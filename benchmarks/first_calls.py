"""What the first call of each function costs: CPU seconds and time in a new process without compiled programs.

`benchmarks/first_calls.py [--only logme_score ...] [--package FOLDER] [--output FILE]` prints a table and writes JSON.
Each function has processes of its own, the importing of JAX and jaxrel is left out; `--package` measures the jaxrel of
another checkout. 500 samples of 128 features in 10 classes; warm times are medians of 5 calls.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "first_calls.json"
CALLS = {
    "task_relatedness": "jaxrel.task_relatedness(reference, target)",
    "transferability_score": "jaxrel.transferability_score(target)",
    "logme_score": "scores.logme_score(features, labels)",
    "h_score": "scores.h_score(features, labels)",
    "gbc_score": "scores.gbc_score(features, labels)",
    "nleep_score": "scores.nleep_score(features, labels)",
    "ridge_probe_score": "scores.ridge_probe_score(features, labels)",
    "nearest_neighbours_score": "scores.nearest_neighbours_score(features, labels)",
    "pactran_gaussian_score": "scores.pactran_gaussian_score(features, labels)",
    "sinkhorn": "jaxrel.transport.sinkhorn(cost, relative_gap=0.01)",
}
PROGRAM = """
import json, statistics, sys, time
import jax, numpy as np
import jaxrel, jaxrel.transport
from jaxrel import scores
rng = np.random.default_rng(0)
labels = np.arange(500) % 10
features, others = (
    (rng.normal(size=(500, 128)) + 3 * rng.normal(size=(10, 128))[labels]).astype(np.float32) for _ in range(2)
)
target, reference = jaxrel.Task(features, labels), jaxrel.Task(others, labels)
cost = jax.numpy.asarray(np.square(features[:, None, :8] - others[None, :, :8]).sum(-1))
def call():
    start = time.perf_counter(), time.process_time()
    jax.block_until_ready(jax.tree.leaves(eval(sys.argv[1])))
    return time.perf_counter() - start[0], time.process_time() - start[1]
first = call()
warm = [call() for _ in range(5)]
times = (*first, *(statistics.median(column) for column in zip(*warm)))
print(json.dumps(dict(zip(("first_seconds", "first_cpu", "warm_seconds", "warm_cpu"), times))))
"""


def measured(call: str, package: Path) -> dict[str, float]:
    """Seconds of the first and of a warm call, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(package), "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    command = [sys.executable, "-c", PROGRAM, call]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def main() -> None:
    """Parse the arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CALLS, default=list(CALLS), metavar="NAME")
    parser.add_argument("--package", type=Path, default=Path(__file__).parents[1], help="folder that has jaxrel/")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = Table("function", "first, CPU s", "first, s", "warm, CPU ms", "warm, ms")
    results = {}
    for name in args.only:
        results[name] = times = measured(CALLS[name], args.package.resolve())
        table.add_row(
            name,
            f"{times['first_cpu']:.2f}",
            f"{times['first_seconds']:.2f}",
            f"{1000 * times['warm_cpu']:.1f}",
            f"{1000 * times['warm_seconds']:.1f}",
        )
    Console().print(table)
    args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
