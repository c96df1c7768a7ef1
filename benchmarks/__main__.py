"""All microbenchmarks by one command, on whatever device JAX finds.

    python -m benchmarks [--only NAME ...] [--size small] [--seconds 10] [--busy 2] [--output FILE]
        [--compare OLD.json [NEW.json]]

Runs benchmarks/micro with pytest-benchmark, prints jaxrel beside its peers and writes JSON. Every row has the median of
warm calls, their quartiles, CPU seconds of a call and the seconds of the first, which compiles. --compare puts OLD
beside NEW, or beside this run. --page writes the tables of docs from such files and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from micro import report
from micro.problems import SIZES
from pages import markdown, write_tables

ROOT = Path(__file__).parents[1]


def run(arguments: argparse.Namespace, output: Path) -> int:
    """Measure, and write the JSON."""
    options = [
        f"--size={arguments.size}",
        f"--busy={arguments.busy}",
        f"--benchmark-max-time={arguments.seconds}",
        "--benchmark-quiet",
        f"--benchmark-json={output}",
    ]
    chosen = ["-k", " or ".join(arguments.only)] if arguments.only else []
    return pytest.main([str(Path(__file__).parent / "micro"), "-v", "--no-header", "--tb=short", *options, *chosen])


def show(path: Path) -> None:
    """Print the tables of a file."""
    found = report.read(path)
    print(report.machine(found))
    for subject, rows in report.sections(found).items():
        report.show(subject.replace("_", " "), report.COLUMNS, report.lines(rows))


def compare(old: Path, new: Path) -> None:
    """Print one file beside another."""
    before, now = report.read(old), report.read(new)
    print(f"before: {report.machine(before)}\nnow: {report.machine(now)}")
    report.show("", report.CHANGES, report.changes(before["benchmarks"], now["benchmarks"]))


def write_pages(path: Path, *quick: Path) -> None:
    """Put a full run, and a quick one on a quiet machine and on a busy one, onto the pages."""
    full = report.read(path)
    tables = {subject: markdown(report.COLUMNS, report.lines(rows)) for subject, rows in report.sections(full).items()}
    tables["hardware"] = markdown(("", ""), ((name, str(value)) for name, value in full["machine_info"].items()))
    write_tables(ROOT / "docs" / "performance.md", tables)
    if not quick:
        return
    quiet, busy = map(report.read, quick)
    changes = markdown(report.CHANGES, report.changes(quiet["benchmarks"], busy["benchmarks"]))
    write_tables(ROOT / "docs" / "performance.md", {"busy": changes})
    agreement = report.agreement(report.sections(quiet)["metrics"])
    write_tables(ROOT / "docs" / "metrics.md", {"agreement": markdown(report.AGREEMENT, agreement)})


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names: logme, transport, first_call")
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--seconds", type=float, default=10, help="for the repeated calls of each")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="keep N processes busy beside")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument("--compare", nargs="+", type=Path, metavar="JSON", help="OLD beside this run, or OLD and NEW")
    parser.add_argument(
        "--page", nargs="+", type=Path, metavar="JSON", help="write the tables of docs/: FULL, or FULL QUIET BUSY"
    )
    arguments = parser.parse_args()
    if arguments.page:
        write_pages(*arguments.page)
        return 0
    old, *new = arguments.compare or [None]
    if new:
        compare(old, *new)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        output = (arguments.output or Path(folder) / "micro.json").absolute()
        status = run(arguments, output)
        if output.exists():
            show(output)
            if old:
                compare(old, output)
    return status


if __name__ == "__main__":
    sys.exit(main())
