"""Task-relatedness of a million samples on each side within a budget of memory, and how its time grows.

    python benchmarks/million_samples.py [--sizes 10000 100000 1000000] [--budget BYTES] [--folder FOLDER] [--quick]

Two tasks of ten Gaussian classes in 128 dimensions, float32, in files that are mapped into memory (512 MB each for a
million samples; they are kept in the folder and used again). The target is the reference moved, its classes in another
order. What the budget holds is taken whole; beyond it `task_relatedness` learns on a subsample and evaluates on all
samples, in blocks. Every size has a process of its own, which starts with nothing compiled.

Seconds: "compile" is tracing, lowering and compiling as JAX reports them, wherever they occur; "learning" is what
happens before the evaluation, "evaluation" the rest, compiling included in both. Memory: "peak" is ru_maxrss, in which
pages of the mapped files count that the system could take back; "anonymous" is the largest RssAnon seen, ten times a
second, in which they do not; "before" is RssAnon once JAX is imported and started. The exponent is the slope of
seconds of evaluation, compilation taken out, against n in log-log.

Prints a table and writes results/million_samples.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "million_samples.json"
SIZES = (10_000, 100_000, 1_000_000)
NUM_FEATURES, NUM_CLASSES = 128, 10
RADIUS = 3.0  # of the sphere of class centres, in deviations of the noise
RIDGE = 0.01
LIMIT = 4 * 10**9  # bytes of the process
TERMS = (
    "target_loss",
    "tight_bound",
    "bound",
    "reweighted_reference_loss",
    "label_mismatch",
    "distribution_mismatch",
    "distribution_mismatch_lower",
    "target_accuracy",
)
console = Console(highlight=False, width=170)


def mapped_features(folder: Path, side: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Features in a file, written a part at a time unless it is there, and labels."""
    target = side == "target"
    labels = np.random.default_rng((n, target)).permutation(np.arange(n) % NUM_CLASSES)
    path = folder / f"jaxrel-{side}-{n}x{NUM_FEATURES}.f32"
    if not path.exists() or path.stat().st_size != 4 * n * NUM_FEATURES:
        centres = np.random.default_rng(0).standard_normal((NUM_CLASSES, NUM_FEATURES), dtype=np.float32)
        centres *= RADIUS / np.linalg.norm(centres, axis=1, keepdims=True)
        rng = np.random.default_rng((1, n, target))
        with path.open("wb") as file:
            for start in range(0, n, 50_000):
                part = labels[start : start + 50_000]
                file.write((centres[part] + rng.standard_normal((part.size, NUM_FEATURES), np.float32) + target).data)
    renamed = (labels + 3 * target) % NUM_CLASSES
    return np.memmap(path, np.float32, "r", shape=(n, NUM_FEATURES)), renamed


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024


@contextmanager
def watched_anonymous_bytes() -> Iterator[list[int]]:
    """The largest seen so far, as the only entry of a list."""
    largest, done = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            largest[0] = max(largest[0], anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        done.set()
        thread.join()


def measure(n: int, budget: int, folder: Path) -> dict[str, Any]:
    """Terms, seconds and memory of one size, in this process."""
    import jax

    from jaxrel import Joint, Task, task_relatedness

    compiling: list[float] = []
    ends: dict[str, float] = {}

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile"):
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    tasks = [Task(*mapped_features(folder, side, n)) for side in ("reference", "target")]
    jax.block_until_ready(jax.numpy.ones(3) + 1)
    compiling.clear()
    before = anonymous_bytes()

    def progress(what: str, done: int, total: int) -> None:
        del done, total
        ends[what] = time.perf_counter()
        if what == "learning":
            ends["compiling until then"] = sum(compiling)

    start = time.perf_counter()
    with watched_anonymous_bytes() as anonymous:
        result = task_relatedness(
            *tasks, method=Joint(ridge=RIDGE), memory_budget=budget, progress=progress
        ).raise_if_failed()
    end = time.perf_counter()
    return {
        "n": n,
        **{name: float(getattr(result, name)) for name in TERMS},
        "seconds": end - start,
        "compile_seconds": sum(compiling),
        "learning_seconds": ends["learning"] - start,
        "evaluation_seconds": end - ends["learning"],
        "evaluation_compile_seconds": sum(compiling) - ends["compiling until then"],
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "anonymous_bytes": anonymous[0],
        "anonymous_bytes_before": before,
    }


def in_a_process_of_its_own(n: int, budget: int, folder: Path) -> dict[str, Any]:
    """The record of one size."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(n)]
    command += ["--budget", str(budget), "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def exponent(rows: list[dict[str, Any]]) -> float | None:
    """Slope of the seconds of evaluation, compilation taken out, against n in log-log."""
    if len(rows) < 2:
        return None
    seconds = [row["evaluation_seconds"] - row["evaluation_compile_seconds"] for row in rows]
    slope, _ = np.polyfit(np.log([row["n"] for row in rows]), np.log(seconds), 1)
    return float(slope)


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table(title="Task-relatedness in blocks (nats, seconds, MB)")
    titles = ("n", "target loss", "tight bound", "bound", "reference", "labels", "transport: upper", "lower")
    for title in (*titles, "compile", "learning", "evaluation", "peak", "anonymous", "before"):
        table.add_column(title, justify="right")
    for row in rows:
        memory = (row[name] / 1e6 for name in ("peak_rss_bytes", "anonymous_bytes", "anonymous_bytes_before"))
        seconds = (row[f"{name}_seconds"] for name in ("compile", "learning", "evaluation"))
        table.add_row(
            f"{row['n']:,}",
            *(f"{row[name]:.4f}" for name in TERMS[:-1]),
            *(f"{number:.1f}" for number in seconds),
            *(f"{number:,.0f}" for number in memory),
        )
    console.print(table)


def main() -> None:
    """Measure every size, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--budget", type=int, default=2 * 2**30, help="bytes that the computation may take")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the features lie")
    parser.add_argument("--quick", action="store_true", help="two small sizes, nothing written")
    parser.add_argument("--output", type=Path, help="default: results/million_samples.json")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.budget, options.folder)))
        return

    sizes = (500, 2_000) if options.quick else options.sizes
    rows = [in_a_process_of_its_own(n, options.budget, options.folder) for n in sizes]
    show(rows)
    slope = exponent(rows)
    console.print("" if slope is None else f"evaluation grows like n^{slope:.2f}")
    largest = max(row["peak_rss_bytes"] for row in rows)
    console.print(f"largest peak {largest / 1e6:,.0f} MB, {'below' if largest < LIMIT else 'NOT below'} 4 GB")
    output = options.output or (None if options.quick else RESULTS)
    if output is not None:
        document = {
            "command": "python benchmarks/million_samples.py",
            "cores": os.cpu_count(),
            "load_at_the_end": os.getloadavg()[0],
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("jaxrel", "jax", "jaxlib", "numpy")},
            "budget_bytes": options.budget,
            "num_features": NUM_FEATURES,
            "num_classes": NUM_CLASSES,
            "sizes": rows,
            "evaluation_exponent": slope,
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        console.print(f"Written to {output}", soft_wrap=True)


if __name__ == "__main__":
    main()
