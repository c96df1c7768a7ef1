"""Every metric beside the algorithm of its original: times, memory, and whether the two agree.

    python benchmarks/metrics/speed.py [--only logme sfda] [--again] [--check] [--page]

Each metric is measured on both sizes by two processes, one for jaxrel in float32 and one for the original in float64
(see originals.py), that take turns on all cores. jaxrel is given numpy arrays, so that their transfer counts, and what
it computes is waited for; its first call, with compilation, is apart. Times are medians of repeats: 7 below a second,
3 below 4 seconds, else 1. A call that takes longer than --limit is stopped, and the ratio is a bound.

Writes benchmarks/results/metrics.json row by row. Rows that it has, from the same machine and versions, are kept:
--only measures some again, --again all. --check compares the values of both on a small problem in float64, --page puts
the tables into docs/metrics.md; with either nothing is measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic import Problem, Size, make_problem, unit_rows

from jaxrel.metrics.cka import cka_score
from jaxrel.metrics.confidence import (
    information_maximisation_score,
    maximum_probability_score,
    negative_entropy_score,
)
from jaxrel.metrics.etran import discriminant_score, energy_score
from jaxrel.metrics.f_otce import f_otce_score
from jaxrel.metrics.gbc import gbc_score
from jaxrel.metrics.h_score import h_score, regularised_h_score
from jaxrel.metrics.jc_otce import jc_otce_score
from jaxrel.metrics.label_feature_correlation import lfc_score
from jaxrel.metrics.leep import leep_score
from jaxrel.metrics.linear_probe import ridge_probe_score
from jaxrel.metrics.logme import logme_score
from jaxrel.metrics.logme_regression import logme_regression_score
from jaxrel.metrics.nce import nce_score
from jaxrel.metrics.ncti import ncti_components
from jaxrel.metrics.nearest_neighbours import nearest_neighbours_score
from jaxrel.metrics.nleep import nleep_score
from jaxrel.metrics.ot_nce import ot_nce_score
from jaxrel.metrics.otce import otce_components
from jaxrel.metrics.otdd import otdd_distance
from jaxrel.metrics.pactran import pactran_dirichlet_score, pactran_gamma_score, pactran_gaussian_score
from jaxrel.metrics.parc import parc_score
from jaxrel.metrics.sfda import sfda_score
from jaxrel.metrics.silhouette import silhouette_score
from jaxrel.metrics.spectrum import alpha_req_score, rankme_score
from jaxrel.metrics.transrate import transrate_score
from jaxrel.metrics.two_sample import energy_distance_score, mmd_score
from jaxrel.storage.records import write_atomically

sys.path.append(str(Path(__file__).parents[1]))

from pages import markdown, write_tables

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
RESULTS = ROOT / "benchmarks" / "results" / "metrics.json"
SIZES = (Size(5000, 768, 100), Size(5000, 2048, 100))
SMALL = Size(300, 40, 5)
PACKAGES = ("jax", "numpy", "scipy", "scikit-learn", "POT", "torch")

Side = Literal["jaxrel", "original"]
SIDES: tuple[Side, ...] = ("jaxrel", "original")
Row = dict[str, Any]
Report = dict[str, Any]


def labelled(function: Callable[..., Any], **options: Any) -> Callable[[Problem], Any]:
    """A metric of features and labels."""
    return lambda problem: function(problem.features, problem.labels, **options)


def predicted(function: Callable[..., Any]) -> Callable[[Problem], Any]:
    """A metric of source probabilities and labels."""
    return lambda problem: function(problem.probabilities, problem.labels)


def paired(function: Callable[..., Any], *, unit: bool = False, **options: Any) -> Callable[[Problem], Any]:
    """A metric of two labelled tasks; of unit features where a regularisation in their squares has to fit them."""
    scaled = unit_rows if unit else np.asarray
    return lambda problem, **more: function(
        scaled(problem.reference_features),
        problem.reference_labels,
        scaled(problem.features),
        problem.labels,
        **options,
        **more,
    )


MINE: dict[str, Callable[..., Any]] = {
    "logme": labelled(logme_score),
    "logme_truncated": labelled(logme_score),
    "logme_regression": lambda problem: logme_regression_score(problem.features, problem.targets),
    "leep": predicted(leep_score),
    "nce": lambda problem: nce_score(problem.source_labels, problem.labels),
    "nleep": labelled(nleep_score),
    "h_score": labelled(h_score),
    "regularised_h_score": labelled(regularised_h_score),
    "transrate": labelled(transrate_score, equal_classes=True),
    "sfda": labelled(sfda_score),
    "gbc": labelled(gbc_score),
    "discriminant": labelled(discriminant_score),
    "energy": lambda problem: energy_score(problem.features),
    "ncti": labelled(ncti_components),
    "pactran_dirichlet": predicted(pactran_dirichlet_score),
    "pactran_gamma": predicted(pactran_gamma_score),
    "pactran_gaussian": labelled(pactran_gaussian_score),
    "parc": labelled(parc_score),
    "lfc": labelled(lfc_score),
    "silhouette": labelled(silhouette_score),
    "nearest_neighbours": labelled(nearest_neighbours_score),
    "ridge_probe": labelled(ridge_probe_score),
    "rankme": lambda problem: rankme_score(problem.features),
    "alpha_req": lambda problem: alpha_req_score(problem.features),
    "energy_distance": lambda problem: energy_distance_score(problem.features, problem.reference_features),
    "mmd": lambda problem: mmd_score(problem.features, problem.reference_features),
    "cka": lambda problem: cka_score(problem.features, problem.other_features),
    "maximum_probability": lambda problem: maximum_probability_score(problem.probabilities),
    "negative_entropy": lambda problem: negative_entropy_score(problem.probabilities),
    "information_maximisation": lambda problem: information_maximisation_score(problem.probabilities),
    "otce": paired(otce_components),
    "ot_nce": paired(ot_nce_score),
    "f_otce": paired(f_otce_score, unit=True),
    "jc_otce": paired(jc_otce_score, unit=True),
    "otdd_exact": paired(otdd_distance),
    "otdd_gaussian": paired(otdd_distance, inner="gaussian"),
}
# A second original of a metric that has a row; the geometric mean has each metric once.
FURTHER = {"logme_truncated"}
# Metrics of a transport that is certified within 1 %, which the agreement takes to the end as the originals do.
GAPPED = {"otce", "ot_nce", "jc_otce", "otdd_exact", "otdd_gaussian"}
# Why a metric is slower than its original, to be named on the page.
CHECKS = "both take milliseconds; jaxrel also checks every number of its input and moves it to the device"
DECOMPOSITION = "a singular value decomposition, where the original squares the features and loses half of the digits"
REASONS = {
    **dict.fromkeys(("leep", "nce", "energy", "gbc"), CHECKS),
    **dict.fromkeys(("maximum_probability", "negative_entropy", "information_maximisation"), CHECKS),
    **dict.fromkeys(("logme", "logme_truncated", "h_score", "regularised_h_score"), DECOMPOSITION),
    **dict.fromkeys(("discriminant", "sfda", "rankme", "alpha_req", "transrate"), DECOMPOSITION),
    "f_otce": "jaxrel iterates until the coupling has converged, the original for a fixed number of rounds",
    "ncti": "all principal components are computed, where the original finds 64 by random projections",
    "nleep": "the mixture takes time for directions that are left out too: their number is not known when compiled",
    "pactran_gaussian": "jaxrel goes to the minimum, the original stops its 100 steps 1 % away from it",
    "silhouette": "distances of blocks of rows and classes, in O(n) memory where the original has all pairs",
    "nearest_neighbours": "ties and weights share votes exactly, by bisection; the original takes any k of a sort",
    "logme_regression": DECOMPOSITION,
}

console = Console(highlight=False, width=170)


def write_inputs(size: Size, folder: Path) -> None:
    """A problem for each side; loading it takes no more memory than it has."""
    problem = make_problem(size)
    for side, inputs in zip(SIDES, (problem, problem.in_double_precision()), strict=True):
        np.savez(folder / f"{side}.npz", **vars(inputs))


def prepared(side: Side, name: str, folder: Path) -> Callable[[], object]:
    """A call with its inputs."""
    with np.load(folder / f"{side}.npz") as arrays:
        problem = Problem(**arrays)
    if side == "jaxrel":
        return lambda: jax.block_until_ready(MINE[name](problem))
    function = originals()[name].function
    return lambda: function(problem)


def originals() -> dict[str, Any]:
    """The other side; imported here, as its packages would take memory on jaxrel's."""
    for backend in ("CUPY", "JAX", "PYTORCH", "TENSORFLOW"):
        os.environ[f"POT_BACKEND_DISABLE_{backend}"] = "1"
    found: dict[str, Any] = importlib.import_module("originals").ORIGINALS
    return found


def peak_mib() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def serve(side: Side, name: str, folder: Path, connection: Connection) -> None:
    """Call whenever asked to, and tell the seconds and the memory beyond imports and inputs."""
    call = prepared(side, name, folder)
    before = peak_mib()
    connection.send("ready")
    while connection.recv():
        start = time.perf_counter()
        call()
        connection.send((time.perf_counter() - start, peak_mib() - before))


class Runner:
    """One side of a row, in a process of its own."""

    def __init__(self, side: Side, name: str, folder: Path) -> None:
        """Start the process."""
        self.side = side
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(side, name, folder, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.times: list[float] = []
        self.memory = 0.0
        self.trouble = ""

    def prepare(self) -> None:
        """Wait until the process has its inputs."""
        try:
            self.connection.recv()
        except EOFError:
            self.trouble = "failed"

    def run(self, limit: float) -> None:
        """One more call; the process ends if it takes longer than the limit."""
        self.connection.send(True)
        try:
            if self.connection.poll(limit):
                seconds, self.memory = self.connection.recv()
                self.times.append(seconds)
            else:
                self.trouble = "stopped"
                self.end()
        except EOFError:
            self.trouble = "failed"

    def wanted(self) -> bool:
        """Whether another call is to be made; a slow original has nothing to warm up."""
        if self.trouble or not self.times:
            return not self.trouble
        last = self.times[-1]
        repeats = 7 if last < 1 else 3 if last < 4 else self.side == "jaxrel"
        return len(self.times) - 1 < repeats

    def end(self) -> None:
        """Stop the process."""
        self.process.terminate()
        self.process.join()

    def summary(self, limit: float) -> Row:
        """What is kept of one side; the first call counts only where there is no other."""
        row: Row = {"trouble": self.trouble, "memory_mib": round(self.memory)}
        if self.trouble == "failed":
            return row | {"first": None, "seconds": None, "repeats": 0}
        if self.trouble:
            return row | {"first": None, "seconds": limit, "repeats": 0}
        first, *later = self.times
        return row | {"first": first, "seconds": statistics.median(later or [first]), "repeats": len(later)}


def measured(name: str, folder: Path, limit: float) -> Row:
    """A row: both sides, taking turns."""
    runners = {side: Runner(side, name, folder) for side in SIDES}
    for runner in runners.values():
        runner.prepare()
    while any(runner.wanted() for runner in runners.values()):
        for runner in runners.values():
            if runner.wanted():
                runner.run(limit)
    for runner in runners.values():
        runner.end()
    return compared({side: runner.summary(limit) for side, runner in runners.items()})


def compared(sides: Row) -> Row:
    """A row with its ratio, which is a bound where one side was stopped."""
    mine, theirs = (sides[side]["seconds"] for side in SIDES)
    stopped = [sides[side]["trouble"] == "stopped" for side in SIDES]
    known = mine is not None and theirs is not None and not all(stopped)
    bound = "< " if stopped[0] else "> " if stopped[1] else ""
    return sides | {"ratio": theirs / mine if known else None, "bound": bound}


def machine() -> Row:
    """What the times depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def stored(path: Path, sizes: tuple[Size, ...]) -> Report:
    """The report to go on with: what the file has, if it is from here."""
    empty: Report = {"machine": machine(), "agreement": {}, "sizes": [asdict(size) | {"rows": {}} for size in sizes]}
    if not path.exists():
        return empty
    found: Report = json.loads(path.read_text())
    same = [(part["samples"], part["features"], part["classes"]) for part in found["sizes"]]
    if found["machine"] != empty["machine"] or same != [(s.samples, s.features, s.classes) for s in sizes]:
        console.print("The file is of another machine, other versions or other sizes: all is measured anew.")
        return empty
    return found


def write(path: Path, report: Report) -> None:
    """The report with its means, rows in the order of the metrics."""
    for part in report["sizes"]:
        rows = dict(part["rows"])
        part["rows"].clear()
        part["rows"].update((name, rows[name]) for name in MINE if name in rows)
        ratios = [row["ratio"] for name, row in part["rows"].items() if name not in FURTHER and row["ratio"]]
        part["geometric_mean"] = statistics.geometric_mean(ratios) if ratios else None
        part["metrics_in_mean"] = len(ratios)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())


def measure(report: Report, path: Path, names: list[str], limit: float, again: bool) -> None:
    """Fill in the rows, one metric after the other, and write after each."""
    for part in report["sizes"]:
        size, rows = Size(part["samples"], part["features"], part["classes"]), part["rows"]
        todo = [name for name in names if again or name not in rows]
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(size, Path(folder))
            for number, name in enumerate(todo, 1):
                row = rows[name] = measured(name, Path(folder), limit)
                mine, theirs = (seconds_text(row[side]) for side in SIDES)
                console.print(
                    f"{size}  {number:2d}/{len(todo)}  {name:26s} jaxrel {mine:>8s}  original {theirs:>8s}  "
                    f"{ratio_text(row)}"
                )
                write(path, report)


def seconds_text(side: Row) -> str:
    """Of a call."""
    if side["seconds"] is None:
        return side["trouble"]
    return ("> " if side["trouble"] else "") + f"{side['seconds']:.3g}"


def ratio_text(row: Row) -> str:
    """Original over jaxrel."""
    return "" if row["ratio"] is None else f"{row['bound']}{row['ratio']:.2g}"


def value_of(result: Any) -> np.ndarray:
    """The numbers that the original gives as well."""
    names = ("simplex", "nearest_centre", "variability"), ("wasserstein", "conditional_entropy"), ("value",)
    found = next(found for found in names if all(hasattr(result, name) for name in found))
    return np.array([float(getattr(result, name)) for name in found])


def agreement() -> dict[str, Row]:
    """Largest relative difference of the values of both on a small problem, in float64."""
    problem = make_problem(SMALL).in_double_precision()
    found = {}
    for name, original in originals().items():
        with jax.enable_x64(True):
            mine = value_of(MINE[name](problem, **({"relative_gap": None} if name in GAPPED else {})))
        theirs = np.atleast_1d(original.function(problem))
        difference = float(np.max(np.abs(mine - theirs) / np.maximum(np.abs(theirs), 1e-300)))
        found[name] = {"relative_difference": difference, "code": original.code, "differs": original.differs}
        console.print(f"{name:26s} {difference:9.1e}  {mine} {theirs}  {original.differs}")
    return found


def show(report: Report) -> None:
    """All rows in the terminal."""
    for part in report["sizes"]:
        table = Table(title=str(Size(part["samples"], part["features"], part["classes"])))
        for column in ("metric", "jaxrel s", "compilation s", "MiB", "original s", "MiB", "ratio"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for name, row in part["rows"].items():
            mine, theirs = (row[side] for side in SIDES)
            compilation = "" if mine["first"] is None else f"{max(mine['first'] - mine['seconds'], 0):.1f}"
            memory = [f"{side['memory_mib']:,}" for side in (mine, theirs)]
            times = seconds_text(mine), seconds_text(theirs)
            table.add_row(name, times[0], compilation, memory[0], times[1], memory[1], ratio_text(row))
        console.print(table)
        if part.get("geometric_mean"):
            console.print(f"geometric mean of {part['metrics_in_mean']} ratios: {part['geometric_mean']:.2f}\n")


def tables(report: Report) -> dict[str, str]:
    """Every table of the page, by the name of its mark."""
    return {"speed": speed_table(report), "slower": slower_table(report), "agreement": agreement_table(report)}


def speed_table(report: Report) -> str:
    """Times and ratios on both sizes, and the geometric means below."""
    header = ["metric", "original"]
    for part in report["sizes"]:
        header += [f"d = {part['features']:,}: jaxrel", "original", "ratio"]
    header += ["compilation"]
    lines = []
    for name in MINE:
        rows = [part["rows"][name] for part in report["sizes"]]
        cells = [[*(seconds_text(row[side]) for side in SIDES), ratio_text(row)] for row in rows]
        first = [row["jaxrel"]["first"] - row["jaxrel"]["seconds"] for row in rows if row["jaxrel"]["first"]]
        compilation = f"{max(0.0, *first):.1f}" if first else ""
        code = report["agreement"][name]["code"]
        lines.append([f"`{name}`", code, *(cell for part in cells for cell in part), compilation])
    means = [["", "", f"**{part['geometric_mean']:.2f}**"] for part in report["sizes"]]
    lines.append(["geometric mean", "", *(cell for part in means for cell in part), ""])
    return markdown(header, lines)


def slower_table(report: Report) -> str:
    """Metrics that take longer than their original on one of the sizes, and why."""
    sizes = [f"d = {part['features']:,}" for part in report["sizes"]]
    lines = []
    for name in MINE:
        rows = [part["rows"][name] for part in report["sizes"]]
        if any(row["ratio"] is not None and row["ratio"] < 1 for row in rows):
            if name not in REASONS:
                raise ValueError(f"REASONS must say why {name} is slower than its original.")
            lines.append([f"`{name}`", *map(ratio_text, rows), REASONS[name]])
    return markdown(["slower than the original", *sizes, "reason"], lines)


def agreement_table(report: Report) -> str:
    """Relative differences of the values, and where definitions differ."""
    lines = [
        [f"`{name}`", f"{entry['relative_difference']:.0e}", entry["differs"]]
        for name, entry in report["agreement"].items()
    ]
    return markdown(["metric", "relative difference", "difference of definition"], lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(MINE), metavar="NAME", help="measure these again")
    parser.add_argument("--again", action="store_true", help="measure all again")
    parser.add_argument("--limit", type=float, default=240, help="seconds for one call")
    parser.add_argument("--size", nargs=3, type=int, action="append", metavar=("N", "D", "K"), help="instead of both")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON")
    parser.add_argument("--check", action="store_true", help="compare values on a small problem")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/metrics.md")
    arguments = parser.parse_args()
    sizes = tuple(Size(*numbers) for numbers in arguments.size) if arguments.size else SIZES
    report = stored(arguments.results, sizes)
    if arguments.check:
        report["agreement"] = agreement()
        write(arguments.results, report)
    if arguments.page:
        write_tables(PAGE, tables(report))
    if arguments.check or arguments.page:
        return
    again = arguments.again or arguments.only is not None
    measure(report, arguments.results, arguments.only or list(MINE), arguments.limit, again)
    show(report)


if __name__ == "__main__":
    main()
