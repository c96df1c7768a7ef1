"""What a study costs: pairs, devices, workers of Ray and what kills them, samples and features, a pod on paper.

    python benchmarks/scale.py [--only pairs devices engines failures resume n d grid published] [--quick]

Tasks are Gaussian classes, n = 500 samples of d = 128 features in K = 10 classes unless a part varies them. A pair
is one score of one encoder. LogME needs no reference, so that its pairs are of targets and encoders, about as many of
either; metrics of two tasks have as many references as targets.

pairs: pairs per second after compilation, and seconds of compilation, for 1 to 10,000 pairs; a size that would take
    more than 150 seconds is left out, by what the one before took. The exponent is the slope of seconds in log-log.
devices: the same pairs on 1, 2 and 4 virtual devices of one CPU, each count in a process of its own, the median of
    five. As cores are the same, seconds on k devices over those on 1 are what sharding costs, less what it gains from
    idle cores.
engines: the same pairs by MMD in this process and on a Ray cluster of this host with one and two workers of one core.
    Programs are compiled before the clock starts, and kept. CPU seconds are of this process and all of its children,
    workers among them, for a thousand scores. Scores must be those of this process.
failures: a worker, the driver and a worker again and again are killed during a study on two workers of Ray. What is
    there after the command has been called as often as it says: scores found, found twice, different, and the seconds.
resume: 10,000 pairs, killed in the middle and called again.
n, d: seconds of a pair, and the exponents.
grid: sizes drawn from 200 to 2,000, rounded up to 1, 2 or 4 sizes for each doubling: compilation against padding.
published: task-relatedness beside the training loop of its authors (`published_scheme.py`), pair by pair.

The last lines are a pod on paper: no chip waits for another, so that its pairs per second are those of one chip, times
chips, times the share of the time that a chip is not waiting for its host. Prints, writes results/scale.json and draws
docs/scale.png.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
import psutil
from rich.console import Console

from jaxrel import Task
from jaxrel.metrics import METRICS
from jaxrel.study import FeatureArrays, Results, Settings, Study, run
from jaxrel.study.scoring import buckets

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scale.json"
FIGURE = HERE.parent / "docs" / "scale.png"
N, D, K = 500, 128, 10
LONGEST = 150.0
REPEATS = 5
PARTS = ("pairs", "devices", "engines", "failures", "resume", "n", "d", "grid", "published")
PUBLISHED_STEPS = 1_001  # as in paper_small_scale.py
CHIPS, CHIPS_PER_HOST = 256, 4
NETWORK = 1e9  # bytes a second between hosts, assumed: a tenth of what data centres have

console = Console(highlight=False, width=140)
Row = dict[str, Any]


@functools.cache
def task(seed: int, n: int = N, d: int = D) -> Task:
    """Gaussian classes, neighbours overlapping."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((K, d)) * 3 / math.sqrt(d)
    labels = rng.permutation(np.arange(n) % K)
    return Task(centres[labels] + rng.standard_normal((n, d)), labels, num_classes=K)


def compares(metric: str) -> bool:
    """Whether pairs are of two tasks."""
    return "reference_features" in METRICS[metric].needs


def pairs_of(
    metric: str, references: list[FeatureArrays], targets: list[FeatureArrays], names: Sequence[str], **options: Any
) -> Results:
    """All pairs, without intervals."""
    return run(Study(names, targets, references, [metric], settings=Settings(resamples=0)).plan(), **options)


def scored(metric: str, num_pairs: int, n: int = N, d: int = D) -> Row:
    """Timings of at least so many pairs, every one on the disk."""
    rows, columns = math.isqrt(num_pairs - 1) + 1, -(-num_pairs // (math.isqrt(num_pairs - 1) + 1))
    tasks = [task(seed, n, d) for seed in range(rows + columns)]
    if compares(metric):
        names: tuple[str, ...] = ("e",)
        sources = [FeatureArrays(f"task {seed}", {"e": (own, own)}) for seed, own in enumerate(tasks)]
        references, targets = sources[:rows], sources[rows:]
    else:
        names = tuple(f"e{number}" for number in range(rows))
        references = []
        targets = [
            FeatureArrays(f"task {seed}", dict.fromkeys(names, (own, own))) for seed, own in enumerate(tasks[:columns])
        ]
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        timings = pairs_of(metric, references, targets, names, output=folder).timings
        written = (Path(folder) / "records.jsonl").stat().st_size
    pairs = timings.num_scores
    return {
        "metric": metric,
        "pairs": pairs,
        "n": n,
        "d": d,
        "programs": timings.num_compilations,
        "compile_seconds": timings.compile_seconds,
        "first_result_seconds": timings.first_result_seconds,
        "seconds": timings.scoring_seconds,
        "device_seconds": timings.device_seconds,
        "planning_seconds": time.perf_counter() - start - timings.compile_seconds - timings.scoring_seconds,
        "pairs_per_second": timings.scores_per_second,
        "bytes_written_a_pair": written / pairs,
    }


def exponent(rows: Sequence[Row], by: str) -> float | None:
    """Slope of seconds in log-log: of all for pairs, of a pair for sizes; None for fewer than two rows."""
    if len(rows) < 2:
        return None
    each = [row["seconds"] / (1 if by == "pairs" else row["pairs"]) for row in rows]
    return float(np.polyfit(np.log([row[by] for row in rows]), np.log(each), 1)[0])


def show(row: Mapping[str, Any]) -> None:
    """One line."""
    console.print(
        "  ".join(f"{name} {part:.4g}" if isinstance(part, float) else f"{name} {part}" for name, part in row.items())
    )


# Parts


def pairs_part(*, quick: bool) -> Row:
    """Throughput by the number of pairs."""
    sizes = {"logme": (1, 10, 100, 1_000, 10_000), "mmd": (1, 10, 100, 1_000, 10_000), "task_relatedness": (1, 10, 100)}
    found: Row = {}
    for metric, counts in sizes.items():
        rows: list[Row] = []
        for count in counts[:2] if quick else counts:
            if rows and count * rows[-1]["seconds"] / rows[-1]["pairs"] > LONGEST:
                break
            rows.append(scored(metric, count))
            show(rows[-1])
        found[metric] = {"rows": rows, "exponent": exponent(rows, "pairs")}
    return found


def size_part(name: str, sizes: Sequence[int], *, quick: bool) -> Row:
    """Seconds of a pair by `n` or `d`."""
    found: Row = {}
    for metric in ("logme", "mmd"):
        rows = [scored(metric, 16, **{name: size}) for size in (sizes[:2] if quick else sizes)]
        for row in rows:
            show(row)
        found[metric] = {"rows": rows, "exponent": exponent(rows, name)}
    return found


def devices_part(*, quick: bool) -> list[Row]:
    """The same pairs on 1, 2 and 4 devices; medians."""
    rows: list[Row] = []
    count = 20 if quick else 1_000
    for metric in ("logme", "mmd"):
        found: dict[int, list[Row]] = {1: [], 2: [], 4: []}
        for _ in range(1 if quick else REPEATS):  # in turns, as the machine may have better and worse minutes
            for number, runs in found.items():
                command = [sys.executable, str(Path(__file__).resolve()), "--measure", metric, str(count)]
                flags = f"--xla_force_host_platform_device_count={number}"
                environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                runs.append(json.loads(done.stdout))
        medians = {number: sorted(runs, key=itemgetter("seconds"))[len(runs) // 2] for number, runs in found.items()}
        for number, row in medians.items():
            all_seconds = [run["seconds"] for run in found[number]]
            over = row["seconds"] / medians[1]["seconds"]
            rows.append({"devices": number, **row, "all_seconds": all_seconds, "over_one_device": over})
            show(rows[-1])
    return rows


@contextlib.contextmanager
def workers(count: int) -> Iterator[Executor | None]:
    """So many of Ray's; none is this process."""
    if count == 0:
        yield None
        return
    import ray

    from jaxrel.study.ray import RayExecutor

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


def sources_of(count: int) -> list[FeatureArrays]:
    """Made-up data sets, each a reference and a target."""
    return [FeatureArrays(f"task {seed}", {"e": (task(seed), task(seed))}) for seed in range(count)]


def engines_part(*, quick: bool) -> list[Row]:
    """In process, on one and on two workers."""
    sources = sources_of(6 if quick else 30)
    rows: list[Row] = []
    expected: np.ndarray | None = None
    for count in (0, 1, 2):
        start = time.perf_counter()
        with workers(count) as executor, TemporaryDirectory() as programs:
            started = time.perf_counter() - start
            options: Row = {"executor": executor, "compilation_cache": programs}
            pairs_of("mmd", sources, sources, ["e"], **options)  # compiles, on each worker
            runs = [one_run(sources, options) for _ in range(1 if quick else 3)]
        medians = {name: float(np.median([run[name] for run, _ in runs])) for name in runs[0][0]}
        rows.append({"workers": count, "pairs": len(sources) * (len(sources) - 1), "start_seconds": started} | medians)
        rows[-1]["cpu_over_in_process"] = rows[-1]["cpu_seconds_per_1000"] / rows[0]["cpu_seconds_per_1000"]
        show(rows[-1])
        for _, values in runs:
            expected = values if expected is None else expected
            np.testing.assert_array_equal(values, expected)
    return rows


def one_run(sources: list[FeatureArrays], options: Row) -> tuple[dict[str, float], np.ndarray]:
    """Of all pairs, into a folder of their own."""
    before, start = cpu_seconds(), time.perf_counter()
    with TemporaryDirectory() as folder:
        results = pairs_of("mmd", sources, sources, ["e"], output=folder, **options)
    timings = results.timings
    seconds = time.perf_counter() - start - (0.0 if options["executor"] else timings.compile_seconds)
    pairs = timings.num_scores
    measured = {
        "pairs_per_second": pairs / seconds,
        "cpu_seconds_per_1000": 1000 * (cpu_seconds() - before) / pairs,
        "first_result_seconds": timings.first_result_seconds,
    }
    return measured, results.values


class Harmful(FeatureArrays):
    """Kills the worker that reads it: once where it has a marker to leave, else each time."""

    def __init__(self, name: str, tasks: Mapping[str, Any], marker: Path | None) -> None:
        """Of these tasks."""
        super().__init__(name, tasks)
        self._driver, self._marker = os.getpid(), marker

    def features(self, encoder: str, progress: Any) -> Any:
        """As those of any data set, unless it kills."""
        if os.getpid() != self._driver and (self._marker is None or not self._marker.exists()):
            if self._marker is not None:
                self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().features(encoder, progress)


def drive(folder: str, harm: str, count: str, address: str) -> None:
    """A study that is harmed, in a process of its own; the driver kills itself after half of the scores."""
    from jaxrel.study import EngineError
    from jaxrel.study.ray import RayExecutor

    sources = sources_of(int(count))
    if harm in ("worker", "part"):
        tasks = {"e": (task(0), task(0))}
        sources[0] = Harmful("task 0", tasks, Path(folder) / "marker" if harm == "worker" else None)

    def progress(what: str, done: int, total: int) -> None:
        if harm == "driver" and what == "scoring" and done >= total // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    options: Row = {"output": folder, "progress": progress}
    if address == "none":
        pairs_of("mmd", sources, sources, ["e"], **options)
        return
    with RayExecutor(address) as executor:
        try:
            pairs_of("mmd", sources, sources, ["e"], executor=executor, **options)
        except EngineError as error:
            sys.exit(str(error)[:200])


def driven(folder: str, harm: str, count: int, address: str) -> tuple[int, float, str]:
    """Exit status, seconds and what was said."""
    command = [sys.executable, str(Path(__file__).resolve()), "--drive", folder, harm, str(count), address]
    start = time.perf_counter()
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr.strip() else ""
    return done.returncode, time.perf_counter() - start, said


def kept(folder: str) -> tuple[int, int, dict[str, float]]:
    """How many scores are on the disk, how many of them twice, and their values by key."""
    records = [json.loads(line) for line in (Path(folder) / "records.jsonl").read_text().splitlines()]
    values = {record["key"]: record["numbers"]["value"] for record in records}
    return len(values), len(records) - len(values), values


def failures_part(*, quick: bool) -> list[Row]:
    """What is left after something was killed, and after the same command was called again."""
    count = 4 if quick else 12
    rows: list[Row] = []
    with TemporaryDirectory() as whole, workers(2):
        import ray

        address = ray.get_runtime_context().gcs_address
        sources = sources_of(count)
        pairs_of("mmd", sources, sources, ["e"], output=whole)
        expected = kept(whole)[2]
        for harm in ("nothing", "worker", "driver", "part"):
            with TemporaryDirectory() as folder:
                status, seconds, said = driven(folder, harm, count, address)
                after = kept(folder)[0]
                again = driven(folder, "nothing", count, address) if status else (0, 0.0, "")
                scores, twice, values = kept(folder)
                row = {"killed": harm, "status": status, "seconds": seconds, "scores_after": after, "of": len(expected)}
                row |= {"status_again": again[0], "seconds_again": again[1], "scores": scores, "twice": twice}
                differ = sum(values[key] != value for key, value in expected.items() if key in values)
                rows.append(row | {"differ": differ, "lost": len(expected) - scores, "said": said})
                show(rows[-1])
    return rows


def resume_part(*, quick: bool) -> Row:
    """Many pairs, killed in the middle."""
    count = 6 if quick else 101
    with TemporaryDirectory() as folder:
        status, seconds, _ = driven(folder, "driver", count, "none")
        after, twice_after, _ = kept(folder)
        status_again, seconds_again, _ = driven(folder, "nothing", count, "none")
        scores, twice, _ = kept(folder)
        _, seconds_finished, _ = driven(folder, "nothing", count, "none")
    row: Row = {"pairs": count * (count - 1), "status": status, "seconds": seconds, "scores_after_the_kill": after}
    row |= {
        "status_again": status_again,
        "seconds_again": seconds_again,
        "scores": scores,
        "twice": twice + twice_after,
    }
    row["seconds_when_finished"] = seconds_finished
    show(row)
    return row


def grid_part(*, quick: bool) -> list[Row]:
    """Compilation and padding, for grids of 1, 2 and 4 sizes for each doubling."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(math.log(200), math.log(2_000), 3 if quick else 12)).astype(int)
    sources = [FeatureArrays(f"task {n}", {"e": (task(0, int(n)),) * 2}) for n in sizes]
    rows: list[Row] = []
    default = buckets.STEPS_PER_DOUBLING
    for metric in ("logme", "mmd"):
        for steps in (1, 2, 4):
            buckets.STEPS_PER_DOUBLING = steps
            buckets.bucket_of.cache_clear()
            timings = pairs_of(metric, sources[:4], sources[-8:], ["e"]).timings
            padded = float(np.mean([buckets.padded_size(int(n)) / n for n in sizes]))
            row: Row = {"metric": metric, "sizes_a_doubling": steps, "pairs": timings.num_scores}
            row |= {"programs": timings.num_compilations, "compile_seconds": timings.compile_seconds}
            rows.append(row | {"seconds": timings.scoring_seconds, "padded_over_samples": padded})
            show(rows[-1])
    buckets.STEPS_PER_DOUBLING = default
    buckets.bucket_of.cache_clear()
    return rows


def published_part(*, quick: bool) -> Row:
    """A loop over the published scheme, which does one pair at a time."""
    from published_scheme import run

    reference, target = (task(seed) for seed in (0, 1))
    features, labels = np.asarray(reference.features), np.asarray(reference.labels)
    weights = np.stack([features[labels == label].mean(axis=0) for label in range(K)])
    tasks = features, labels, np.asarray(target.features), np.asarray(target.labels)
    options: Row = {"num_reference_classes": K, "num_target_classes": K, "num_steps": 2 if quick else 20}
    step = run(*tasks, weights, -(weights**2).sum(axis=1) / 2, **options).seconds_per_step
    own = scored("task_relatedness", 2 if quick else 16)
    seconds = own["seconds"] / own["pairs"]
    row = {
        "published_seconds_a_step": step,
        "steps": PUBLISHED_STEPS,
        "published_seconds_a_pair": step * PUBLISHED_STEPS,
    }
    row |= {
        "seconds_a_pair": seconds,
        "compile_seconds": own["compile_seconds"],
        "ratio": step * PUBLISHED_STEPS / seconds,
    }
    show(row)
    return row


def pod(row: Mapping[str, Any]) -> Row:
    """Pairs per second of many chips that each take as long as the device measured, with hosts of this speed."""
    chip = row["device_seconds"] / row["pairs"]
    host = (row["seconds"] - row["device_seconds"]) / row["pairs"]
    share = chip / (chip + CHIPS_PER_HOST * host)
    pairs = 100_000 * CHIPS
    compute = pairs / CHIPS * chip / share
    gather = pairs * row["bytes_written_a_pair"] / NETWORK
    return {
        "metric": row["metric"],
        "chips": CHIPS,
        "chips_per_host": CHIPS_PER_HOST,
        "chip_seconds_a_pair": chip,
        "host_seconds_a_pair": host,
        "share_of_time_computing": share,
        "row_bytes_a_pair_at_most": (1 + compares(row["metric"])) * N * (D + 2) * 4,
        "gathered_bytes_a_pair": row["bytes_written_a_pair"],
        "pairs": pairs,
        "compute_seconds": compute,
        "gather_seconds": gather,
        "weak_scaling_efficiency": 100_000 * chip / (compute + gather),
        "pairs_per_second": pairs / (compute + gather),
    }


def draw(document: Row, path: Path) -> None:
    """Throughput by pairs, and seconds of a pair by n and d."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for axis, part, label in zip(axes, ("pairs", "n", "d"), ("pairs", "samples n", "features d"), strict=True):
        sizes: set[int] = set()
        for metric, found in document.get(part, {}).get("metrics", {}).items():
            x = [row[part] for row in found["rows"]]
            y = [row["pairs_per_second"] for row in found["rows"]]
            slope = "" if found["exponent"] is None else f": seconds ~ {part}^{found['exponent']:.2f}"
            axis.loglog(x, y, "o-", label=metric + slope)
            sizes |= set(x)
        axis.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.set_ylabel("pairs per second, compiled")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run; the file keeps others")
    parser.add_argument("--quick", action="store_true", help="a smoke run; the figures mean nothing")
    parser.add_argument("--output", type=Path, help=f"where the numbers go; without --quick, results/{RESULTS.name}")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(*options.drive)
        return
    if options.measure:
        print(json.dumps(scored(options.measure[0], int(options.measure[1]))))
        return
    quick = options.quick
    provenance = {
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("jaxrel", "jax", "numpy")},
        "cores": os.cpu_count(),
        "device": str(jax.devices()[0]),
    }
    output = options.output or (None if quick else RESULTS)
    earlier: Row = json.loads(output.read_text()) if output is not None and output.exists() else {}
    document = {"command": "python benchmarks/scale.py"} | {part: earlier[part] for part in PARTS if part in earlier}
    for part in options.only:
        console.rule(part)
        load = os.getloadavg()[0]
        found: Row
        if part == "pairs":
            found = {"metrics": pairs_part(quick=quick)}
            found["pod"] = [pod(part["rows"][-1]) for part in found["metrics"].values()]
            for row in found["pod"]:
                show(row)
        elif part == "devices":
            found = {"rows": devices_part(quick=quick)}
        elif part == "engines":
            found = {"rows": engines_part(quick=quick)}
        elif part == "failures":
            found = {"rows": failures_part(quick=quick)}
        elif part == "resume":
            found = resume_part(quick=quick)
        elif part == "grid":
            found = {"rows": grid_part(quick=quick)}
        elif part == "published":
            found = published_part(quick=quick)
        else:
            sizes = (125, 250, 500, 1_000, 2_000) if part == "n" else (32, 128, 512, 2_048)
            found = {"metrics": size_part(part, sizes, quick=quick)}
        document[part] = provenance | {"load_average_before": load} | found
        if output is not None:
            output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if output is not None:
        figure = FIGURE if output == RESULTS else output.with_suffix(".png")
        draw(document, figure)
        console.print(f"Written to {output} and {figure}", soft_wrap=True)


if __name__ == "__main__":
    main()
