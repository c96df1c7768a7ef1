"""How time and memory of `Joint` grow with samples, features and classes, and where L-BFGS beats Adam.

    python benchmarks/relatedness_scaling.py [--only n d K solver] [--quick]

Two tasks of Gaussian classes: centres on a sphere, noise that makes neighbouring classes overlap; the target is the
reference rotated and moved, its classes in another order. Every size is measured in a process of its own.

n, d, K: samples of each task, features, classes; one of them grows. `Joint(ridge=0.01)`, all else by default. A step
    of learning is a fiftieth of what 50 steps take longer than none; set-up is what no step at all takes. The
    certificate is that of as many held-out samples. Exponents are slopes in log-log, of the largest three sizes, of all
    of them, and of those where plans are blockwise.
solver: L-BFGS on one fixed sample, the whole task where its classes have at most 100 samples, against 300 steps of Adam
    on minibatches: seconds of learning, and the held-out bound, both over three draws of the tasks.

Times are medians of three warm calls (fewer where one takes more than 20 s) with what they compute waited for; compile
time is what the first call takes longer. Memory is resident: what the tasks hold, what a warm call of learning and of
the certificate adds at its peak, and the peak of everything, compiler included, beyond a process that has imported
jaxrel and compiled something small. Prints tables, writes results/relatedness_scaling.json (parts that are not run keep
what they had) and draws docs/relatedness_scaling.png.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from jaxrel import Joint, Relatedness, Task
from jaxrel.relatedness import Transformation, block_sizes, evaluate_bound
from jaxrel.relatedness.class_transport import LARGEST_PLAN
from jaxrel.relatedness.in_memory import fit as learn

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "relatedness_scaling.json"
FIGURE = HERE.parent / "docs" / "relatedness_scaling.png"
RADIUS = 3.0  # of the sphere of class centres, in deviations of the noise: neighbours are confused in 2 % of the cases
RIDGE = 0.01
NUM_STEPS = 50
REPEATS = 3
SLOW = 20.0  # seconds from which on a warm call is not repeated
SEEDS = (0, 1, 2)  # of part `solver`
NAMES = {"n": "samples of each task", "d": "features", "K": "classes"}
QUANTITIES = {
    "setup_seconds": "set-up of learning",
    "step_seconds": "step of learning",
    "certificate_seconds": "certificate",
    "tasks_mib": "memory of the tasks",
    "learning_mib": "memory of learning",
    "certificate_mib": "memory of the certificate",
}

console = Console(highlight=False, width=150)
certify = jax.jit(evaluate_bound, static_argnames="block_sizes")


@dataclass(frozen=True)
class Size:
    """Samples of each task, features, classes."""

    n: int
    d: int
    K: int


@dataclass(frozen=True)
class Plan:
    """The sizes of the parts `n`, `d`, `K`, where each starts from, and the samples of part `solver`."""

    base: Size
    grids: Mapping[str, tuple[int, ...]]
    solver: tuple[int, ...]

    def sizes(self, part: str) -> tuple[Size, ...]:
        """What part `n`, `d` or `K` measures."""
        return tuple(replace(self.base, **{part: value}) for value in self.grids[part])


# One size with blockwise plans has no exponent, so n goes on to a second.
FULL = Plan(
    base=Size(4_000, 128, 10),
    grids={
        "n": (250, 1_000, 4_000, 15_000, 60_000, 120_000),
        "d": (32, 128, 512, 2_048),
        "K": (2, 8, 32, 100, 200),
    },
    solver=(250, 500, 1_000, 2_000),
)
QUICK = Plan(base=Size(60, 8, 3), grids={"n": (30, 60), "d": (4, 8), "K": (2, 3)}, solver=(30,))


@dataclass(frozen=True)
class Expectation:
    """An exponent as the method would have it, on the sizes of one kind: `"all"` or `"blockwise"`."""

    part: str
    quantity: str
    sizes: str
    exponent: float
    exactly: bool
    reason: str


EXPECTATIONS = (
    Expectation("n", "step_seconds", "all", 0, True, "minibatches are of one size"),
    Expectation("n", "setup_seconds", "all", 1, False, "sorting and standardising"),
    Expectation("n", "certificate_seconds", "blockwise", 1, True, "as many more blocks of one size"),
    Expectation("n", "certificate_mib", "blockwise", 1, False, "standardised features and logits"),
    Expectation("d", "setup_seconds", "all", 1, False, "standardising, and distances between classes"),
    Expectation("d", "step_seconds", "all", 1, False, "products of a minibatch with the head and the map"),
    Expectation("d", "certificate_seconds", "all", 1, False, "transport sees logits, not features"),
    Expectation("K", "setup_seconds", "all", 2, False, "distances between all pairs of classes"),
    Expectation("K", "step_seconds", "all", 1, False, "the cost arrays of a minibatch have a common limit"),
    Expectation("K", "certificate_seconds", "all", 1, False, "transport is n^2 / K pairs of K logits"),
    Expectation("K", "certificate_mib", "all", 1, False, "K logits of each sample, n^2 / K costs"),
)
TOLERANCE = 0.25  # of an exponent


# The tasks


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Class centres (K d), the rotation of the target (d d) and what its classes are called there (K)."""

    size: Size
    centres: np.ndarray
    rotation: np.ndarray
    renamed: np.ndarray

    @classmethod
    def of(cls, size: Size, rng: np.random.Generator) -> Gaussians:
        """Drawn at random."""
        centres = rng.standard_normal((size.K, size.d), dtype=np.float32)
        centres *= RADIUS / np.linalg.norm(centres, axis=1, keepdims=True)
        rotation, _ = np.linalg.qr(rng.standard_normal((size.d, size.d), dtype=np.float32))
        return cls(size, centres, rotation, rng.permutation(size.K))

    def draw(self, rng: np.random.Generator) -> tuple[Task, Task]:
        """A reference and a target of classes of equal size."""
        return self._task(rng, target=False), self._task(rng, target=True)

    def _task(self, rng: np.random.Generator, *, target: bool) -> Task:
        labels = rng.permutation(np.arange(self.size.n) % self.size.K)
        features = rng.standard_normal((self.size.n, self.size.d), dtype=np.float32)
        features += self.centres[labels]
        if target:
            features, labels = features @ self.rotation.T + 1, self.renamed[labels]
        return Task(features, labels, num_classes=self.size.K)


Tasks = tuple[Task, Task]


def training_and_held_out(size: Size, seed: int = 0) -> tuple[Tasks, Tasks]:
    """Two independent draws of the same classes."""
    rng = np.random.default_rng(seed)
    gaussians = Gaussians.of(size, rng)
    return gaussians.draw(rng), gaussians.draw(rng)


# Measuring, in a process of its own


def memory(name: str) -> float:
    """VmRSS or VmHWM, the peak, in MiB; getrusage's ru_maxrss is at least that of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def memory_in_use() -> float:
    """VmRSS without what is freed but kept, from which VmHWM starts anew."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def seconds_of(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns, waited for, and how long it took."""
    start = time.perf_counter()
    value = jax.block_until_ready(run())
    return value, time.perf_counter() - start


def warm_seconds(run: Callable[[], Any]) -> float:
    """The median of three calls, or of those up to the first that is slow."""
    times: list[float] = []
    while len(times) < REPEATS and (not times or times[-1] <= SLOW):
        times.append(seconds_of(run)[1])
    return float(np.median(times))


@dataclass(frozen=True)
class Measured:
    """What a computation returned, its times, what a warm call adds to memory, and the peak, compilation included."""

    value: Any
    compile_seconds: float
    seconds: float
    added: float
    peak: float


def measured(run: Callable[[], Any]) -> Measured:
    """Call once to compile, then warm."""
    memory_in_use()
    value, first = seconds_of(run)
    peak = memory("VmHWM")
    before = memory_in_use()
    seconds = warm_seconds(run)
    warm_peak = memory("VmHWM")
    return Measured(value, first - seconds, seconds, warm_peak - before, max(peak, warm_peak))


def measure_size(size: Size) -> dict[str, Any]:
    """Times, memory and the bound of one size."""
    jax.block_until_ready(jax.jit(jnp.sum)(optax.scale_by_adam().init(jnp.ones(4)).mu))
    baseline = memory_in_use()
    training, held_out = training_and_held_out(size)
    method = Joint(ridge=RIDGE, num_steps=NUM_STEPS)
    key = jax.random.key(0)
    learning = measured(partial(learn, method, *training, None, key))
    setup_seconds = warm_seconds(partial(learn, replace(method, num_steps=0), *training, None, key))
    transformation: Transformation = learning.value
    sizes = block_sizes(transformation, *held_out)
    certificate = measured(partial(certify, transformation, *held_out, method=method, block_sizes=sizes))
    return asdict(size) | {
        "setup_seconds": setup_seconds,
        "step_seconds": (learning.seconds - setup_seconds) / NUM_STEPS,
        "learning_compile_seconds": learning.compile_seconds,
        "certificate_seconds": certificate.seconds,
        "certificate_compile_seconds": certificate.compile_seconds,
        "block_sizes": sizes,
        "blockwise": math.prod(sizes) > LARGEST_PLAN,
        "tasks_mib": sum(leaf.nbytes for leaf in jax.tree.leaves((training, held_out))) / 2**20,
        "learning_mib": learning.added,
        "certificate_mib": certificate.added,
        "peak_mib": max(learning.peak, certificate.peak) - baseline,
        **numbers_of(certificate.value),
    }


def numbers_of(result: Relatedness) -> dict[str, float]:
    """The bound, the interval of its transport, and the status."""
    return {
        "bound": float(result.bound),
        "transport_lower": float(result.distribution_mismatch_lower),
        "transport_upper": float(result.distribution_mismatch),
        "target_loss": float(result.target_loss),
        "status": int(result.status),
    }


def measure_solvers(size: Size) -> dict[str, Any]:
    """Both solvers at their own settings, taking turns."""
    methods = {
        "adam": Joint(ridge=RIDGE),
        "lbfgs": Joint(ridge=RIDGE, solver="lbfgs", num_steps=100, points_per_class=min(size.n // size.K, 100)),
    }
    key = jax.random.key(0)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    first: dict[str, float] = {}
    for seed in SEEDS:
        training, held_out = training_and_held_out(size, seed)
        for name, method in methods.items():
            run = partial(learn, method, *training, None, key)
            if name not in first:
                _, first[name] = seconds_of(run)
            transformation, elapsed = seconds_of(run)
            seconds[name].append(elapsed)
            sizes = block_sizes(transformation, *held_out)
            found[name].append(numbers_of(certify(transformation, *held_out, method=method, block_sizes=sizes)))
    solvers = {
        name: {
            "seconds": float(np.median(seconds[name])),
            "compile_seconds": first[name] - seconds[name][0],
            "bounds": [numbers["bound"] for numbers in found[name]],
            "bound": float(np.mean([numbers["bound"] for numbers in found[name]])),
            "width": float(
                np.mean([numbers["transport_upper"] - numbers["transport_lower"] for numbers in found[name]])
            ),
        }
        for name in methods
    }
    return asdict(size) | {"points_per_class": methods["lbfgs"].points_per_class, "solvers": solvers}


MEASUREMENTS: dict[str, Callable[[Size], dict[str, Any]]] = {"size": measure_size, "solver": measure_solvers}


def in_a_process_of_its_own(measurement: str, size: Size) -> dict[str, Any]:
    """The record of one of `MEASUREMENTS`; where the process fails, what it said last."""
    numbers = [str(number) for number in asdict(size).values()]
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", measurement, *numbers]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        return asdict(size) | {"failure": f"exit status {done.returncode}: {done.stderr.strip()[-300:]}"}
    record: dict[str, Any] = json.loads(done.stdout)
    return record


# Exponents


def exponent(part: str, quantity: str, rows: Sequence[dict[str, Any]]) -> float | None:
    """The least-squares slope in log-log; None for fewer than two sizes."""
    points = [(row[part], row[quantity]) for row in rows if row[quantity] > 0]
    if len(points) < 2:
        return None
    sizes, values = np.log(np.array(points)).T
    return float(np.polyfit(sizes, values, 1)[0])


def exponents_of(part: str, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of each quantity over the largest three sizes, over all, and over those with blockwise plans."""
    chosen = {
        "largest three": rows[-3:],
        "all": rows,
        "blockwise": [row for row in rows if row["blockwise"]],
    }
    return {
        quantity: {name: exponent(part, quantity, some) for name, some in chosen.items()} for quantity in QUANTITIES
    }


# Printing and drawing


def scaling_part(part: str, plan: Plan) -> dict[str, Any]:
    """Measure, print and return part `n`, `d` or `K`."""
    rows = [in_a_process_of_its_own("size", size) for size in plan.sizes(part)]
    done = [row for row in rows if "failure" not in row]
    exponents = exponents_of(part, done)
    print_sizes(part, rows)
    print_exponents(part, exponents)
    print_expectations(part, exponents)
    print_open_intervals(part, done)
    return {"sizes": rows, "exponents": exponents}


def print_sizes(part: str, rows: Sequence[dict[str, Any]]) -> None:
    """One line for each size."""
    fixed = ", ".join(f"{name} = {rows[0][name]:,}" for name in NAMES if name != part)
    title = f"{NAMES[part]} ({fixed}); seconds warm, memory in MiB"
    columns = ("set-up s", "step ms", "certificate s", "plans", "bound", "transport in", "status", "compile s")
    memory_columns = ("tasks", "learning", "certificate", "peak")
    table = Table(part, *columns, *memory_columns, title=title, title_justify="left")
    for row in rows:
        if "failure" in row:
            table.add_row(f"{row[part]:,}", "failed", row["failure"].splitlines()[-1][:60])
            continue
        table.add_row(
            f"{row[part]:,}",
            f"{row['setup_seconds']:.3f}",
            f"{1e3 * row['step_seconds']:.1f}",
            f"{row['certificate_seconds']:.3f}",
            "blockwise" if row["blockwise"] else "whole",
            f"{row['bound']:.3f}",
            f"[{row['transport_lower']:.3f}, {row['transport_upper']:.3f}]",
            str(row["status"]),
            f"{row['learning_compile_seconds']:.1f} + {row['certificate_compile_seconds']:.1f}",
            *(f"{row[name]:,.0f}" for name in ("tasks_mib", "learning_mib", "certificate_mib", "peak_mib")),
        )
    console.print(table)


def print_exponents(part: str, exponents: dict[str, dict[str, float | None]]) -> None:
    """One line for each quantity."""
    columns = next(iter(exponents.values()))
    table = Table("", *columns, title=f"exponents in {part}", title_justify="left")
    for quantity, values in exponents.items():
        cells = ("" if value is None else f"{value:.2f}" for value in values.values())
        table.add_row(QUANTITIES[quantity], *cells)
    console.print(table)


def print_expectations(part: str, exponents: dict[str, dict[str, float | None]]) -> None:
    """Where what is measured is what the method would have, and where not."""
    for expected in EXPECTATIONS:
        sizes = "largest three" if expected.sizes == "all" else expected.sizes
        found = exponents[expected.quantity][sizes] if expected.part == part else None
        if found is None:
            continue
        off = found - expected.exponent
        as_expected = (abs(off) if expected.exactly else off) <= TOLERANCE
        console.print(
            f"  {'as expected' if as_expected else 'NOT AS EXPECTED'}: {QUANTITIES[expected.quantity]} grows as "
            f"{part}^{found:.2f} ({sizes}), expected {'' if expected.exactly else 'at most '}{expected.exponent:g}: "
            f"{expected.reason}"
        )


def print_open_intervals(part: str, rows: Sequence[dict[str, Any]]) -> None:
    """Sizes where a whole plan is not certified to the gap that was asked for."""
    gap = Joint().certificate_gap
    for row in rows:
        width = (row["transport_upper"] - row["transport_lower"]) / row["transport_upper"]
        if not row["blockwise"] and width > gap:
            console.print(
                f"  NOT AS EXPECTED: the certified interval of transport at {part} = {row[part]:,} is {width:.1%} "
                f"wide, asked for {gap:.0%}"
            )


def solver_part(plan: Plan) -> dict[str, Any]:
    """Measure, print and return part `solver`."""
    rows = [in_a_process_of_its_own("solver", replace(plan.base, n=n)) for n in plan.solver]
    size = ", ".join(f"{name} = {getattr(plan.base, name):,}" for name in ("d", "K"))
    title = f"solvers ({size}): seconds warm, median, and held-out bounds, mean, of {len(SEEDS)} draws"
    columns = ("points per class", "adam s", "L-BFGS s", "adam bound", "L-BFGS bound", "")
    table = Table("n", *columns, title=title, title_justify="left")
    for row in rows:
        if "failure" in row:
            table.add_row(f"{row['n']:,}", "failed", row["failure"].splitlines()[-1][:60])
            continue
        adam, lbfgs = (row["solvers"][name] for name in ("adam", "lbfgs"))
        row |= comparison(adam, lbfgs)
        table.add_row(
            f"{row['n']:,}",
            str(row["points_per_class"]),
            f"{adam['seconds']:.2f}",
            f"{lbfgs['seconds']:.2f}",
            f"{adam['bound']:.3f}",
            f"{lbfgs['bound']:.3f}",
            f"L-BFGS takes {lbfgs['seconds'] / adam['seconds']:.2f} times as long, its bound is {row['lbfgs_bound']}",
        )
    console.print(table)
    wins = [f"{row['n']:,}" for row in rows if row.get("lbfgs_wins")]
    console.print(
        f"  L-BFGS is faster at an equal or smaller bound at n = {', '.join(wins) if wins else 'none of these'}"
    )
    return {"sizes": rows}


def comparison(adam: dict[str, Any], lbfgs: dict[str, Any]) -> dict[str, Any]:
    """Bounds are equal where they differ by less than their certified intervals are wide."""
    off = lbfgs["bound"] - adam["bound"]
    equal = abs(off) <= max(adam["width"], lbfgs["width"])
    bound = "equal" if equal else "smaller" if off < 0 else "larger"
    return {"lbfgs_bound": bound, "lbfgs_wins": lbfgs["seconds"] < adam["seconds"] and bound != "larger"}


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Seconds against size in log-log, one panel for each of the parts `n`, `d` and `K` that there are."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    parts = [part for part in NAMES if part in document]
    figure, axes = plt.subplots(
        1, len(parts), figsize=(3.4 * len(parts), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, part in zip(axes[0], parts, strict=True):
        rows = [row for row in document[part]["sizes"] if "failure" not in row]
        for index, quantity in enumerate(("certificate_seconds", "setup_seconds", "step_seconds")):
            slope = document[part]["exponents"][quantity]["largest three"]
            label = QUANTITIES[quantity] + ("" if slope is None else f", {part}$^{{{slope:.1f}}}$")
            sizes, values = [row[part] for row in rows], [row[quantity] for row in rows]
            axis.plot(sizes, values, marker="o", markersize=3.5, color=f"C{index}", label=label)
        blockwise = [row for row in rows if row["blockwise"]]
        points = [row[part] for row in blockwise], [row["certificate_seconds"] for row in blockwise]
        axis.plot(*points, "o", markersize=8, markerfacecolor="none", color="C0")
        axis.set(xlabel=f"{part}, {NAMES[part]}", xscale="log", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[0, 0].set_ylabel("seconds (ring: blockwise plans)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# Running it


def provenance() -> dict[str, Any]:
    """What the numbers of a part depend on."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("jaxrel", "jax", "jaxlib", "numpy", "optax")},
        "cores": os.cpu_count(),
        "device": str(jax.devices()[0]),
    }


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = (*NAMES, "solver")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to run; the file keeps others")
    parser.add_argument("--quick", action="store_true", help="a smoke run of tiny sizes; the figures mean nothing")
    parser.add_argument("--output", type=Path, help=f"where the numbers go; without --quick, results/{RESULTS.name}")
    parser.add_argument("--figure", type=Path, help=f"where the plot goes; without --quick, docs/{FIGURE.name}")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measurement, *numbers = options.measure
        print(json.dumps(MEASUREMENTS[measurement](Size(*map(int, numbers)))))
        return

    output = options.output or (None if options.quick else RESULTS)
    figure = options.figure or (None if options.quick else FIGURE)
    plan = QUICK if options.quick else FULL
    start = time.perf_counter()
    found: dict[str, Any] = {}
    for part in options.only:
        numbers_of_part = solver_part(plan) if part == "solver" else scaling_part(part, plan)
        found[part] = provenance() | numbers_of_part
    console.print(f"{time.perf_counter() - start:.0f} s")
    kept = json.loads(output.read_text()) if output is not None and output.exists() else {}
    command = "python benchmarks/relatedness_scaling.py"
    document = {"command": command} | {part: (kept | found)[part] for part in parts if part in kept | found}
    if figure is not None and any(part in document for part in NAMES):
        draw(document, figure)
        console.print(f"Drawn to {figure}", soft_wrap=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        console.print(f"Written to {output}", soft_wrap=True)


if __name__ == "__main__":
    main()
