"""All attacks by one command: `benchmarks/fuzz.py all --problems 100000 --seconds 600`, or some kinds by name.

Problems of transport, bounds and metrics against float64, exact solvers and definitions; damaged files; threads;
growth. Each kind has a process of its own and as many problems or seconds. Prints a table, adds the counts to
benchmarks/results/fuzz.json under the name of the kind and puts them on the page docs/promises.md; fails where an
answer was false.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fuzzers.tally import Tally
from pages import markdown, write_tables
from rich.console import Console
from rich.table import Table

KINDS = ("transport", "bounds", "metrics", "files", "threads", "growth")
PAGE = Path(__file__).parent.parent / "docs" / "promises.md"
RESULTS = Path(__file__).parent / "results" / "fuzz.json"


def run(kind: str, *, problems: int, seconds: float, seed: int) -> list[Tally]:
    """Counts by sort, once that many problems were tried or that much time has passed."""
    start, tallies = time.monotonic(), dict[str, Tally]()
    for tally in importlib.import_module(f"fuzzers.{kind}").batches(np.random.default_rng(seed)):
        known = tallies.get(tally.sort)
        tallies[tally.sort] = known + tally if known else tally
        if sum(t.problems for t in tallies.values()) >= problems or time.monotonic() - start > seconds:
            break
    return sorted(tallies.values(), key=lambda tally: tally.sort)


def show(kind: str, tallies: list[Tally]) -> None:
    """Print the counts, and how to make one false answer of each sort again."""
    table = Table("sort", "problems", "false", "refused", "worst", title=kind)
    for tally in tallies:
        table.add_row(tally.sort, f"{tally.problems:,}", f"{tally.false:,}", f"{tally.refused:,}", f"{tally.worst:.1e}")
    console = Console()
    console.print(table)
    for tally in tallies:
        if tally.example:
            console.print(f"{tally.sort}: {tally.example}", markup=False, highlight=False, soft_wrap=True)


def keep(kind: str, seed: int, tallies: list[Tally]) -> None:
    """Put the counts into the results and onto the page."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[kind] = {"seed": seed, "sorts": [dataclasses.asdict(tally) for tally in tallies]}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_tables(PAGE, {"fuzz": page_table(results)})


def page_table(results: dict[str, Any]) -> str:
    """Counts by kind, and by sort of problem."""
    header = ("kind", "sort", "problems", "false", "refused")
    rows = [
        [kind, sort["sort"], *(f"{sort[key]:,}" for key in header[2:])]
        for kind in KINDS
        for sort in results.get(kind, {"sorts": []})["sorts"]
    ]
    return markdown(header, rows)


def main() -> None:
    """Parse the arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=(*KINDS, "all"), metavar="KIND", help=f"{', '.join(KINDS)} or all")
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    false = 0
    spawn = multiprocessing.get_context("spawn")
    for kind in KINDS if "all" in args.kinds else args.kinds:
        with ProcessPoolExecutor(1, spawn) as process:
            budget = {"problems": args.problems, "seconds": args.seconds, "seed": args.seed}
            tallies = process.submit(run, kind, **budget).result()
        show(kind, tallies)
        keep(kind, args.seed, tallies)
        false += sum(tally.false for tally in tallies)
    raise SystemExit(bool(false))


if __name__ == "__main__":
    main()
