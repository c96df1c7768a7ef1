"""The same scoring by one process and by two: how many pairs of data sets a second?

Made-up features of several encoders on three data sets are scored twice over: by `rank`, which learns the
transformation of task-relatedness for each pair, and by `score_matrix` with metrics that take milliseconds. The
processes find each other through `jaxrel.hosts.connect` on this machine; each takes its share, and all gather the
results, which have to be those of one process. Compilation is done before the clock starts. One process has all cores,
so that two gain only where one leaves cores idle; on hosts of their own they do not compete. LAPACK has as many threads
in each as there are cores for it. Prints a table;
`scale.py --only processes` keeps it.

    python benchmarks/processes.py [--encoders 8] [--samples 400] [--width 64] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrel.hosts import Hosts, connect

DATA_SETS = ("red", "green", "blue")
CLASSES = 5
METRICS = ("logme", "transrate", "h_score", "f_otce", "ot_nce", "energy_distance")
SECONDS = 540  # after which a run is given up


def sources(encoders: Sequence[str], samples: int, width: int) -> list[Any]:
    """Clusters, the same in every process."""
    from jaxrel import Task
    from jaxrel.study import FeatureArrays

    generator = np.random.default_rng(0)

    def task(centres: np.ndarray) -> Task:
        labels = np.arange(samples) % CLASSES
        features = centres[labels] + generator.normal(size=(samples, width))
        return Task(features.astype(np.float32), labels, num_classes=CLASSES)

    def splits() -> tuple[Task, Task]:
        centres = 0.5 * generator.normal(size=(CLASSES, width))
        return task(centres), task(centres)

    return [FeatureArrays(name, {encoder: splits() for encoder in encoders}) for name in DATA_SETS]


def rank(hosts: Hosts, encoders: Sequence[str], given: list[Any], output: Path) -> tuple[int, Any]:
    """Every ordered pair under every encoder, by what encoders are ranked by."""
    from jaxrel import study

    settings = study.Settings(resamples=100)
    result = study.rank(given, encoders, given, output=output, settings=settings, hosts=hosts)
    rows = [row.score for table in result.tables for row in table.rows]
    return len(rows), sorted([score.key, score.transferability, score.bound] for score in rows)


def matrix(hosts: Hosts, encoders: Sequence[str], given: list[Any], output: Path) -> tuple[int, Any]:
    """Many metrics of the same."""
    from jaxrel.study import score_matrix

    result = score_matrix(METRICS, given, given, encoders, output=output, hosts=hosts)
    return int(np.isfinite(result.values).sum()), np.nan_to_num(result.values).tolist()


JOBS: dict[str, Callable[[Hosts, Sequence[str], list[Any], Path], tuple[int, Any]]] = {"rank": rank, "matrix": matrix}


def work(hosts: Hosts, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What one process does: everything once for the compilation, then against the clock."""
    encoders = [f"encoder {number}" for number in range(options.encoders)]
    given = sources(encoders, options.samples, options.width)
    job = JOBS[options.job]
    job(Hosts(), encoders[:1], given, folder / f"warm-{hosts.index}")
    seconds, pairs, results = [], 0, None
    for repeat in range(options.repeats):
        hosts.gather([])  # all start together
        start = time.perf_counter()
        pairs, results = job(hosts, encoders, given, folder / str(repeat))
        seconds.append(time.perf_counter() - start)
    return {"pairs": pairs, "seconds": seconds, "results": results}


def run(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """The job by so many processes; what process 0 found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    numbers = [f"--{name}={getattr(options, name)}" for name in ("encoders", "samples", "width", "repeats", "job")]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *numbers, "--folder", folder, "--processes", str(count)]
        processes = [
            subprocess.Popen(
                [*command, "--coordinator", address, "--process", str(index)],
                env=environment,
                stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
            )
            for index in range(count)
        ]
        try:
            found = processes[0].communicate(timeout=SECONDS)[0]
            for process in processes:
                if process.wait(timeout=SECONDS):
                    raise RuntimeError(f"a process failed with status {process.returncode}; its output says why.")
        finally:
            for process in processes:
                process.kill()
                process.wait()
    result: dict[str, Any] = json.loads(found)
    return result


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One job by one process and by two."""
    found = {count: run(count, options) for count in (1, 2)}
    if found[1]["results"] != found[2]["results"]:
        raise RuntimeError(f"two processes have other results of {options.job} than one.")
    rates = {count: result["pairs"] / float(np.median(result["seconds"])) for count, result in found.items()}
    return {
        "job": options.job,
        "pairs": found[1]["pairs"],
        "seconds_1": found[1]["seconds"],
        "seconds_2": found[2]["seconds"],
        "pairs_per_second_1": rates[1],
        "pairs_per_second_2": rates[2],
        "speed_up": rates[2] / rates[1],
    }


def main() -> None:
    """Run everything and print the table; with --process, be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", type=int, default=8)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--job", choices=JOBS, action="append")
    for name in ("coordinator", "folder", "process", "processes"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    jobs = options.job or list(JOBS)
    if options.process is not None:
        options.job = jobs[0]
        where = {"num_processes": int(options.processes), "process_id": int(options.process)}
        with connect(coordinator=options.coordinator, **where) as hosts:
            found = work(hosts, options, Path(options.folder))
        print(json.dumps(found))
        return
    rows = [measured(argparse.Namespace(**(vars(options) | {"job": job}))) for job in jobs]
    table = Table("job", "pairs", "1 process, pairs/s", "2 processes, pairs/s", "speed-up")
    for row in rows:
        rates = [f"{row[f'pairs_per_second_{count}']:.2f}" for count in (1, 2)]
        table.add_row(row["job"], str(row["pairs"]), *rates, f"{row['speed_up']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
