"""jaxrel's Sinkhorn against POT, ott-jax and geomloss: large clouds, and work against precision.

    python benchmarks/transport.py [--only large] [--quick] [--exact]

geomloss needs torch: `pip install torch geomloss`; a peer that is not installed is left out, and the tables say so.
All times are medians of warm runs with what they compute waited for; compile time is apart. Every solver is judged by
`true_errors` of transport_peers.py against the optimum of POT's exact solver. Prints tables, writes
benchmarks/results/transport.json and docs/transport.png.

The time until an optimum is known within 1 % is a microbenchmark: `python -m benchmarks --only sinkhorn`.

large: one problem of 2,000 x 2,000 or 10,000 x 10,000 points in 64 dimensions. Each solver runs in a process of its
    own, whose peak memory beyond imports, data and a first compilation is reported.
work_precision: 10 problems of 100 x 100, five values of epsilon, four kinds of clouds.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from transport_peers import (
    DISTRIBUTIONS,
    POT_METHODS,
    OttSetting,
    Problems,
    compiled,
    exact_optima,
    exact_problems,
    geomloss_potentials,
    installed_versions,
    ott_solver,
    ott_streamed,
    pot_potentials,
    problems_of,
    timed,
    true_errors,
)

from jaxrel.transport import PointCloud, sinkhorn

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parent.parent / "docs" / "transport.png"
EXACT = RESULTS / "exact_transport.json"
DIMENSION = 64  # of part `large`
LEVELS = (0.1, 0.03, 0.01, 0.003, 0.001)  # of epsilon and of the error, in part `work_precision`

console = Console(highlight=False, width=150)


@dataclass(frozen=True)
class Plan:
    """How much of everything is measured."""

    repeats: int
    large: tuple[tuple[int, float], ...]  # points, and seconds after which a process starts no further setting
    cases: tuple[str, ...]
    epsilons: tuple[float, ...]


FULL = Plan(
    repeats=15,
    large=((2_000, 12), (10_000, 45)),
    cases=("gaussian", "clustered", "high-dimensional", "unequal weights"),
    epsilons=LEVELS,
)
QUICK = Plan(
    repeats=2,
    large=((300, 0),),
    cases=("gaussian",),
    epsilons=(0.1, 0.03),
)


def gaussian_clouds(num_problems: int, num_points: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Two batches of standard normal clouds (k n d), float32."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, num_problems, num_points, dimension), dtype=np.float32)
    return x, y


# Large clouds


def large_part(plan: Plan, peers: Sequence[str], *, quick: bool, exact: bool) -> list[dict[str, Any]]:
    """Time, true error and memory on single large problems."""
    return [large_case(*size, peers, quick=quick, exact=exact) for size in plan.large]


def large_settings(contestant: str, points: int) -> list[dict[str, float]]:
    """What a contestant is run with, the settings that matter most first."""
    small = points < 5_000
    epsilons = (0.03, 0.01, 0.1, 0.005) if small else (0.03, 0.01)
    if contestant.startswith("jaxrel"):
        gaps = [{"relative_gap": gap} for gap in (0.02, 0.01, 0.1, 0.03, 0.015)]
        loose = [{"epsilon": 0.01, "tolerance": tolerance} for tolerance in (5e-2, 1e-2)]
        return gaps + loose + [{"epsilon": epsilon} for epsilon in epsilons]
    if contestant == "geomloss":
        scalings = (0.5, 0.7, 0.9)
        return [{"epsilon": epsilon, "scaling": scaling} for scaling in scalings for epsilon in epsilons]
    if contestant.startswith("ott-jax"):
        grid = itertools.product((1e-2, 5e-2, 1e-3), (1.0, 0.8), epsilons)
        settings = [{"epsilon": epsilon, "threshold": threshold, "decay": decay} for threshold, decay, epsilon in grid]
        return settings[:1] if "batch_size" in contestant else settings
    return [{}]


def large_solver(contestant: str, x: np.ndarray, y: np.ndarray) -> Callable[..., tuple[Callable[[], Any], float]]:
    """`(**setting) -> (run, compile seconds)`; `run()` gives `(f, absolute epsilon, converged)`, or the optimum."""
    points = len(x)
    if contestant == "POT emd2 (exact)":
        problems = exact_problems(problems_of(x[None], y[None]))
        return lambda: (lambda: exact_optima(problems)[0], 0.0)
    if contestant == "geomloss":
        torch = importlib.import_module("torch")
        first, second = torch.from_numpy(x), torch.from_numpy(y)
        weights = torch.full((points,), 1 / points)
        mean = float(torch.cdist(first[:1_000], second).mean())

        def geomloss_run(epsilon: float, scaling: float) -> tuple[Callable[[], Any], float]:
            loss = geomloss_potentials(epsilon * mean, scaling=scaling)
            return lambda: (loss(weights, first, weights, second)[0].numpy(), epsilon * mean, True), 0.0

        return geomloss_run
    first, second = jax.device_put(x), jax.device_put(y)
    executables: dict[Any, tuple[Callable[..., Any], float]] = {}

    def once(key: Any, function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], float]:
        if key not in executables:
            executables[key] = compiled(function, *arguments)
        executable, seconds = executables[key]
        return lambda: executable(*arguments), seconds

    if contestant.startswith("jaxrel"):
        tile = 1_024 if "tiled" in contestant else None

        def jaxrel_run(**setting: float) -> tuple[Callable[[], Any], float]:
            def solve(x: jax.Array, y: jax.Array, options: dict[str, Any]) -> Any:
                result = sinkhorn(PointCloud(x, y, tile=tile), **options)
                return result.f, result.epsilon, result.status == 0, result.lower, result.upper

            values = {name: np.float32(value) for name, value in setting.items()}
            return once(tuple(values), solve, first, second, values)

        return jaxrel_run

    from ott.geometry import costs, pointcloud

    weights = jnp.full(points, 1 / points)

    def ott_run(epsilon: float, threshold: float, decay: float) -> tuple[Callable[[], Any], float]:
        solver = ott_solver(OttSetting(log_domain="kernel" not in contestant, decay=decay, limit=500))

        def solve(x: jax.Array, y: jax.Array, epsilon: jax.Array, threshold: jax.Array) -> Any:
            if "batch_size" in contestant:
                return ott_streamed(x, y, epsilon, threshold, batch_size=min(1_000, points))
            cost = pointcloud.PointCloud(x, y, cost_fn=costs.Euclidean()).cost_matrix
            return solver(cost, weights, weights, epsilon, threshold)

        return once(decay, solve, first, second, np.float32(epsilon), np.float32(threshold))

    return ott_run


def run_contestant(contestant: str, points: int, seconds: float, output: Path) -> None:
    """Run one contestant at all its settings, in this process, and write what it returned, its times and its memory.

    Memory is counted from after imports, data and a first small compilation: `run_mib` is what the solver holds (POT:
    the cost array) and a run adds, `peak_mib` the peak of the process, which for JAX is often that of the compiler.
    A setting that takes more than a tenth of the time allowed is run once, compiled but not warm.
    """
    x, y = (batch[0] for batch in gaussian_clouds(1, points, DIMENSION))
    modules = {"ott-jax": "ott.solvers.linear.sinkhorn", "geomloss": "geomloss", "POT": "ot"}
    if contestant.split()[0] in modules:
        importlib.import_module(modules[contestant.split()[0]])
    jax.block_until_ready(jax.jit(jnp.sum)(x))
    baseline = _memory("VmRSS")
    solver = large_solver(contestant, x, y)
    held = _memory("VmRSS") - baseline
    runs: list[dict[str, Any]] = []
    potentials: list[np.ndarray] = []
    settings = large_settings(contestant, points)
    spent = added = 0.0  # without compiling
    peak = _memory("VmHWM")
    for index, setting in enumerate(settings):
        if spent > seconds:
            runs.append({"setting": {}, "failure": f"{len(settings) - index} more settings: out of time"})
            break
        try:
            run, compile_seconds = solver(**setting)
            peak, before = max(peak, _memory("VmHWM")), _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew from VmRSS
            start = time.perf_counter()
            value, warm_seconds = timed(run, budget=seconds / 10)
            spent += time.perf_counter() - start
            added = max(added, _memory("VmHWM") - before)
        except Exception as error:  # whatever a peer raises is a result
            runs.append({"setting": setting, "failure": f"{type(error).__name__}: {error}"[:300]})
            continue
        record = {"setting": setting, "seconds": warm_seconds, "compile_seconds": compile_seconds}
        if isinstance(value, tuple):
            f, epsilon, converged, *interval = (np.asarray(array) for array in value)
            record |= {"epsilon": float(epsilon), "converged": bool(converged), "potentials": len(potentials)}
            record |= {"certified": [float(end) for end in interval]} if interval else {}
            potentials.append(f.reshape(-1))
        else:
            record |= {"optimum": float(value)}
        runs.append(record)
    document = {"runs": runs, "run_mib": held + added, "peak_mib": max(peak, _memory("VmHWM")) - baseline}
    output.with_suffix(".json").write_text(json.dumps(document))
    np.save(output.with_suffix(".npy"), np.array(potentials, np.float64))


def _memory(name: str) -> float:
    """VmRSS or VmHWM, the peak, in MiB; getrusage's ru_maxrss is at least that of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def in_a_process_of_its_own(contestant: str, points: int, seconds: float) -> tuple[dict[str, Any], np.ndarray]:
    """The record and the potentials of `run_contestant`."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        options = ["--contestant", contestant, "--points", str(points), "--seconds", str(seconds)]
        command = [sys.executable, str(Path(__file__).resolve()), *options, "--output", str(output)]
        try:
            subprocess.run(command, check=True, timeout=4 * seconds + 300, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {"runs": [{"setting": {}, "failure": "ran out of time"}]}, np.empty((0, points))
        except subprocess.CalledProcessError as error:
            reason = f"exit status {error.returncode}: {error.stderr.strip()[-300:]}"
            return {"runs": [{"setting": {}, "failure": reason}]}, np.empty((0, points))
        return json.loads(output.with_suffix(".json").read_text()), np.load(output.with_suffix(".npy"))


def large_case(points: int, seconds: float, peers: Sequence[str], *, quick: bool, exact: bool) -> dict[str, Any]:
    """One size."""
    x, y = (batch[0] for batch in gaussian_clouds(1, points, DIMENSION))
    contestants = ["jaxrel dense"] if points < 5_000 else []
    contestants += [] if quick else ["jaxrel tiled"]
    contestants += ["ott-jax log"] if "ott" in peers else []
    contestants += ["ott-jax kernel", "ott-jax batch_size"] if "ott" in peers and not quick else []
    contestants += ["geomloss"] if "geomloss" in peers else []
    exact_record = exact_optimum(x, y, recompute=exact, seconds=seconds)
    if exact_record is None:
        console.print(f"{points:,} points: no exact optimum stored; run with --exact")
        return {"points": points, "contestants": {}}
    optimum = float(exact_record["optimum"])
    problem = problems_of(x[None], y[None])
    rows: list[dict[str, Any]] = []
    memory = {}
    for contestant in contestants:
        record, potentials = in_a_process_of_its_own(contestant, points, seconds)
        memory[contestant] = {name: record.get(name) for name in ("run_mib", "peak_mib")}
        for run in record["runs"]:
            if "potentials" in run:
                f = potentials[run.pop("potentials")]
                errors = true_errors(problem.cost[0], problem.a[0], problem.b[0], f, run["epsilon"], optimum)
                run |= dict(zip(("lower_error", "upper_error"), errors, strict=True))
            if "certified" in run and not run["certified"][0] <= optimum <= run["certified"][1]:
                raise AssertionError(f"{run['certified']} does not contain the exact optimum {optimum}")
            rows.append({"contestant": contestant} | run)
    ours = [row for row in rows if row["contestant"].startswith("jaxrel")]
    for row in rows:
        if row not in ours and np.isfinite(row.get("lower_error", np.nan)):
            no_worse = [
                ours_row["seconds"]
                for ours_row in ours
                if all(ours_row.get(side, np.inf) <= row[side] for side in ("lower_error", "upper_error"))
            ]
            row["jaxrel_seconds"] = min(no_worse, default=None)
    print_large(points, rows, memory, exact_record)
    return {"points": points, "dimension": DIMENSION, "exact": exact_record, "memory": memory, "runs": rows}


def exact_optimum(x: np.ndarray, y: np.ndarray, *, recompute: bool, seconds: float) -> dict[str, Any] | None:
    """POT's exact optimum, its time and memory; for large clouds from a file, unless `recompute` is true."""
    key = hashlib.sha256(b"euclidean" + x.tobytes() + y.tobytes()).hexdigest()
    stored: dict[str, Any] = json.loads(EXACT.read_text()) if EXACT.exists() else {}
    small = len(x) < 5_000
    if not small and not recompute:
        return stored.get(key)
    record, _ = in_a_process_of_its_own("POT emd2 (exact)", len(x), seconds)
    (run,) = record["runs"]
    found = {
        "points": len(x),
        "dimension": x.shape[1],
        "cost": "euclidean",
        "optimum": run["optimum"],
        "seconds": run["seconds"],
        "memory": {name: record[name] for name in ("run_mib", "peak_mib")},
        "POT": version("POT"),
    }
    if not small:
        EXACT.write_text(json.dumps(stored | {key: found}, indent=2) + "\n", encoding="utf-8")
    return found


def print_large(
    points: int, rows: Sequence[dict[str, Any]], memory: dict[str, dict[str, Any]], exact: dict[str, Any]
) -> None:
    """One table of the runs that no other of the same solver beats, with jaxrel's fastest that is no worse."""
    columns = ("solver", "setting", "s", "lower side off", "upper side off", "jaxrel s, no worse", "ratio")
    title = f"{points:,} x {points:,} points, d = {DIMENSION}; true errors relative to the exact optimum"
    table = Table(*columns, "run MiB", "peak MiB", title=title, title_justify="left")
    sizes = [f"{exact['memory'][name]:,.0f}" for name in ("run_mib", "peak_mib")]
    table.add_row("POT emd2", "exact", f"{exact['seconds']:.3f}", "0", "0", "", "", *sizes, end_section=True)
    for contestant, used in memory.items():
        own = [row for row in rows if row["contestant"] == contestant]
        done = sorted((row for row in own if "seconds" in row), key=lambda row: row["seconds"])
        for place, row in enumerate(done):
            sides = [max(other["lower_error"], other["upper_error"]) for other in done[: place + 1]]
            if sides[-1] > min(sides):
                continue
            ours = row.get("jaxrel_seconds")
            table.add_row(
                contestant,
                _describe(row["setting"]),
                f"{row['seconds']:.3f}",
                f"{row['lower_error']:.3%}",
                f"{row['upper_error']:.3%}",
                "" if contestant.startswith("jaxrel") else f"{ours:.3f}" if ours else "none",
                f"{row['seconds'] / ours:.2f}" if ours else "",
                *(f"{used[name]:,.0f}" for name in ("run_mib", "peak_mib")),
            )
        for failure in dict.fromkeys(row["failure"] for row in own if "failure" in row):
            table.add_row(contestant, failure[:60])
        table.add_section()
    console.print(table)


# Work against precision


def work_problems(case: str) -> Problems:
    """Ten problems of 100 x 100."""
    rng = np.random.default_rng(0)
    shape = (10, 100, 512 if case == "high-dimensional" else 10)
    x, y = rng.standard_normal((2, *shape))
    if case == "clustered":
        centres = 3 * rng.standard_normal((10, 10, 10))
        shares = rng.dirichlet(np.ones(10), (2, 10))
        x, y = (
            np.stack([c[rng.choice(10, 100, p=p)] for c, p in zip(centres, side, strict=True)]) + 0.05 * points
            for side, points in zip(shares, (x, y), strict=True)
        )
    if case == "unequal weights":
        return problems_of(x, y, *rng.dirichlet(np.full(100, 0.3), (2, 10)))
    return problems_of(x, y)


def work_contestants(
    problems: Problems, epsilons: Sequence[float], peers: Sequence[str]
) -> Iterable[tuple[str, dict[str, Any], Callable[[], tuple[Any, Any, Any]]]]:
    """`(solver, setting, run)`; `run()` gives `(f, absolute epsilon, converged)`, for jaxrel: a status of 0."""
    cost, a, b = (jax.device_put(array) for array in (problems.cost, problems.a, problems.b))
    tolerances = (1e-2, 1e-3)

    def of_jaxrel(*arrays: jax.Array, **options: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        result = sinkhorn(*arrays, **options)
        return result.f, result.epsilon, result.status == 0

    arrays, number = (cost, a, b), np.float32(0.1)
    plain, _ = compiled(
        lambda epsilon, tolerance, *arrays: of_jaxrel(*arrays, epsilon=epsilon, tolerance=tolerance),
        *(number, number, *arrays),
    )
    gapped, _ = compiled(lambda number, *arrays: of_jaxrel(*arrays, relative_gap=number), number, *arrays)
    for epsilon in epsilons:
        for tolerance in (*tolerances, float(np.sqrt(np.finfo(np.float32).eps))):  # the last is jaxrel's default
            run = partial(plain, np.float32(epsilon), np.float32(tolerance), *arrays)
            yield "jaxrel", {"epsilon": epsilon, "tolerance": tolerance}, run
        yield "jaxrel, certified gap", {"relative_gap": epsilon}, partial(gapped, np.float32(epsilon), *arrays)

    if "ott" in peers:
        variants: tuple[dict[str, Any], ...] = ({"decay": 1.0}, {"decay": 0.8}, {"decay": 1.0, "momentum": 1.5})
        for options in variants:
            for domain in ("log", "kernel") if options["decay"] == 1 else ("log",):
                setting = OttSetting(log_domain=domain == "log", **options)
                batched = jax.vmap(ott_solver(setting), in_axes=(0, 0, 0, None, None))
                solve, _ = compiled(batched, *arrays, number, number)
                for epsilon, threshold in itertools.product(epsilons, tolerances):
                    run = partial(solve, *arrays, np.float32(epsilon), np.float32(threshold))
                    yield f"ott-jax {domain}", {"epsilon": epsilon, "threshold": threshold} | options, run
    if "pot" in peers:
        for method, dtype in POT_METHODS:
            cast = exact_problems(problems, dtype)
            for epsilon, tolerance in itertools.product(epsilons, tolerances):
                labels = {"epsilon": epsilon, "tolerance": tolerance, "dtype": np.dtype(dtype).name}
                yield f"POT {method}", labels, partial(pot_potentials, method, cast, epsilon, tolerance)
    if "geomloss" in peers:
        torch = importlib.import_module("torch")
        shape = problems.cost.shape
        tags = torch.zeros(*shape[:2], 1), torch.ones(shape[0], shape[2], 1)
        weights = torch.from_numpy(problems.a), torch.from_numpy(problems.b)
        mean, diameter = float(problems.mean_cost.mean()), float(problems.cost.max())

        def run_geomloss(loss: Callable[..., Any], absolute: float) -> tuple[Any, Any, Any]:
            f, _ = loss(weights[0], tags[0], weights[1], tags[1])
            return f.numpy(), np.full(len(f), absolute), np.ones(len(f), bool)

        for epsilon, scaling in itertools.product(epsilons, (0.5, 0.7, 0.9, 0.97)):
            loss = geomloss_potentials(epsilon * mean, scaling=scaling, diameter=diameter, cost=problems.cost)
            yield "geomloss", {"epsilon": epsilon, "scaling": scaling}, partial(run_geomloss, loss, epsilon * mean)


def work_case(case: str, plan: Plan, peers: Sequence[str]) -> dict[str, Any]:
    """Time and worst true error of every solver at every setting on one kind of clouds."""
    problems = work_problems(case)
    exact_inputs = exact_problems(problems)
    exact = exact_optima(exact_inputs)
    _, exact_seconds = timed(partial(exact_optima, exact_inputs), repeats=plan.repeats, budget=1.0)
    rows: list[dict[str, Any]] = []
    if "pot" in peers:
        found = {"worst_error": 0.0, "failures": {}, "num_failed": 0}
        rows.append({"solver": "POT emd2 (exact)", "setting": {}, "seconds": exact_seconds} | found)
    for solver, setting, run in work_contestants(problems, plan.epsilons, peers):
        value, seconds = timed(run, budget=0.5)
        f, epsilon, converged = (np.asarray(array) for array in value)
        inputs = zip(problems.cost, problems.a, problems.b, f, epsilon, exact, strict=True)
        errors = np.array([true_errors(*one) for one in inputs])
        worst = errors.max(axis=1)
        failures = {
            "not finite": ~np.isfinite(worst),
            "not converged": ~converged,
            "error above 10 epsilon": worst * exact > 10 * epsilon,
        }
        rows.append(
            {
                "solver": solver,
                "setting": setting,
                "seconds": seconds,
                "worst_lower_error": float(errors[:, 0].max()),
                "worst_upper_error": float(errors[:, 1].max()),
                "worst_error": float(worst.max()),
                "failures": {name: int(failed.sum()) for name, failed in failures.items() if failed.any()},
                "num_failed": int(np.any(list(failures.values()), axis=0).sum()),
            }
        )
    winners = print_work(case, rows, len(exact))
    return {"case": case, "exact": exact.tolist(), "winners": winners, "runs": rows}


def print_work(case: str, rows: Sequence[dict[str, Any]], num_problems: int) -> dict[str, str | None]:
    """One table, and who reaches each level of the worst error first."""
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    fastest: dict[tuple[str, float], dict[str, Any]] = {}
    for row, level in itertools.product(rows, LEVELS):
        best = fastest.get((row["solver"], level))
        if row["worst_error"] <= level and (best is None or row["seconds"] < best["seconds"]):
            fastest[row["solver"], level] = row
    winners: dict[str, str | None] = {}
    for level in LEVELS:
        reached = {solver: fastest[solver, level]["seconds"] for solver in solvers if (solver, level) in fastest}
        winners[f"{level:g}"] = min(reached, key=lambda solver: reached[solver]) if reached else None
    title = f"{case}: ms until both sides of all {num_problems} problems are within; * is the fastest"
    table = Table("solver", *(f"{level:g}" for level in LEVELS), "failed problems", title=title, title_justify="left")
    for solver in solvers:
        cells = []
        for level in LEVELS:
            row = fastest.get((solver, level))
            star = " *" if winners[f"{level:g}"] == solver else "  "
            cells.append(f"{1e3 * row['seconds']:.2f}{star}" if row else "-  ")
        own = [row for row in rows if row["solver"] == solver]
        failed = sum(row["num_failed"] for row in own)
        kinds = dict.fromkeys(kind for row in own for kind in row["failures"])
        table.add_row(
            solver, *cells, f"{failed} of {len(own) * num_problems}" + (f" ({', '.join(kinds)})" if kinds else "")
        )
    console.print(table)
    lost = {level: winner for level, winner in winners.items() if winner and not winner.startswith("jaxrel")}
    for level, winner in lost.items():
        ours = [
            fastest[s, float(level)]["seconds"]
            for s in solvers
            if s.startswith("jaxrel") and (s, float(level)) in fastest
        ]
        peer = fastest[winner, float(level)]["seconds"]
        behind = f"{min(ours) / peer:.2f} times as long" if ours else "never reaches it"
        console.print(
            f"  error {level}: {winner} wins, jaxrel takes {behind}"
            if ours
            else f"  error {level}: {winner} wins, jaxrel {behind}"
        )
    return winners


def draw(cases: Sequence[dict[str, Any]], path: Path) -> None:
    """Time against the worst true error, one panel for each case: for each solver what no other of its runs beats."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(cases), figsize=(3.6 * len(cases), 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, case in zip(axes[0], cases, strict=True):
        for index, solver in enumerate(dict.fromkeys(row["solver"] for row in case["runs"])):
            runs = sorted((row["seconds"], row["worst_error"]) for row in case["runs"] if row["solver"] == solver)
            runs = [(seconds, error) for seconds, error in runs if np.isfinite(error)]
            front = [run for place, run in enumerate(runs) if all(run[1] < faster[1] for faster in runs[:place])]
            style = {"color": f"C{index}", "label": solver}
            if solver.startswith("POT emd2"):
                axis.axvline(1e3 * runs[0][0], linestyle=":", **style)
            elif front:
                seconds, errors = zip(*front, strict=True)
                width = 2.5 if solver.startswith("jaxrel") else 1.2
                axis.plot(
                    1e3 * np.array(seconds), 100 * np.array(errors), marker="o", markersize=3, linewidth=width, **style
                )
        axis.set(title=case["case"], xlabel="ms for 10 problems of 100 x 100", xscale="log", yscale="log")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("worst true error, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# Running it


def _describe(setting: dict[str, Any]) -> str:
    neutral = {"decay": 1.0, "momentum": 1.0}
    shown = {name: value for name, value in setting.items() if neutral.get(name, "") != value}
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float | int) else str(value) for name, value in shown.items()
    )


def machine() -> dict[str, Any]:
    """What the times depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "platform": platform.platform(),
        "processor": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": str(jax.devices()[0]),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("large", "work_precision")
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=parts, help="parts to run; the file keeps the others"
    )
    parser.add_argument("--peers", nargs="*", choices=tuple(DISTRIBUTIONS), default=tuple(DISTRIBUTIONS))
    parser.add_argument("--quick", action="store_true", help="a smoke run of every part; the figures mean nothing")
    parser.add_argument("--exact", action="store_true", help="compute the exact optima of the large clouds again")
    parser.add_argument(
        "--output", type=Path, help=f"where the figures go; without --quick, {RESULTS.name}/transport.json"
    )
    parser.add_argument("--figure", type=Path, help="plot of part work_precision; without --quick, docs/transport.png")
    for internal in ("--contestant", "--points", "--seconds"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        run_contestant(options.contestant, int(options.points), float(options.seconds), options.output)
        return

    plan = QUICK if options.quick else FULL
    output = options.output or (None if options.quick else RESULTS / "transport.json")
    figure = options.figure or (None if options.quick else FIGURE)
    versions = installed_versions(options.peers)
    for peer in options.peers:
        if peer not in versions:
            console.print(f"{DISTRIBUTIONS[peer]} is not installed: left out")
    start = time.perf_counter()
    found: dict[str, Any] = {}
    if "large" in options.only:
        found["large"] = large_part(plan, tuple(versions), quick=options.quick, exact=options.exact)
    if "work_precision" in options.only:
        found["work_precision"] = [work_case(case, plan, tuple(versions)) for case in plan.cases]
        if figure:
            draw(found["work_precision"], figure)
            console.print(f"Drawn to {figure}", soft_wrap=True)
    own = {name: version(name) for name in ("jaxrel", "jax", "jaxlib", "numpy")}
    header = {
        "versions": {"python": platform.python_version()} | own | {DISTRIBUTIONS[p]: v for p, v in versions.items()},
        "machine": machine(),
        "quick": options.quick,
    }
    console.print(f"{time.perf_counter() - start:.0f} s")
    if output is None:
        return
    before = json.loads(output.read_text()) if output.exists() else {}
    kept = before if all(before.get(name) == value for name, value in header.items()) else {}
    document = header | {part: found.get(part, kept.get(part)) for part in parts if part in found or part in kept}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {output}", soft_wrap=True)


if __name__ == "__main__":
    main()
