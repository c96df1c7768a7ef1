"""Tables of what pytest-benchmark wrote: jaxrel beside its peers, one run beside another."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["AGREEMENT", "CHANGES", "COLUMNS", "agreement", "changes", "lines", "machine", "read", "sections", "show"]

COLUMNS = ("benchmark", "jaxrel", "quartiles", "CPU", "first call", "peer", "its time", "ratio", "float32 off by")
CHANGES = ("benchmark", "by", "before", "now", "now / before", "")
AGREEMENT = ("metric", "original", "relative difference", "difference of definition")
LEAST_CHANGE = 1.1  # what a ratio is worth where every time is of one call

Row = dict[str, Any]  # of one side of a benchmark, as pytest-benchmark writes it


def read(path: Path) -> Row:
    """The content of a file that `python -m benchmarks --output` wrote."""
    content: Row = json.loads(path.read_text())
    return content


def machine(report: Row) -> str:
    """What the times depend on, in a line."""
    return ", ".join(f"{name}: {value}" for name, value in report["machine_info"].items())


def sections(report: Row) -> dict[str, list[Row]]:
    """Rows by the subject of their file."""
    found: dict[str, list[Row]] = {}
    for row in report["benchmarks"]:
        subject = row["fullname"].partition("test_")[2].partition(".py")[0]
        found.setdefault(subject, []).append(row)
    return found


def lines(rows: Iterable[Row]) -> list[list[str]]:
    """A line for each benchmark, and a further one for each further peer; the geometric mean of all ratios below."""
    table, ratios = [], []
    for group, sides in _grouped(rows).items():
        if "jaxrel" not in sides:
            continue
        mine = sides.pop("jaxrel")
        start, end = [group, *_times(mine)], [_off_by(mine["extra_info"])]
        for by, peer in sides.items():
            ratios.append(peer["stats"]["median"] / mine["stats"]["median"])
            table.append([*start, by, _seconds(peer["stats"]["median"]), f"{ratios[-1]:.3g}", *end])
            start, end = [""] * len(start), [""]
        if not sides:
            table.append([*start, "", "", "", *end])
    if len(ratios) > 1:
        table.append(["geometric mean", *[""] * 6, f"{statistics.geometric_mean(ratios):.2f}", ""])
    return table


def changes(old: Iterable[Row], new: Iterable[Row]) -> list[list[str]]:
    """A line for each side that both have: slower or faster where the middle halves of the times lie apart."""
    before, now = _grouped(old), _grouped(new)
    table = []
    for group, by in ((group, by) for group, sides in now.items() for by in sides if by in before.get(group, {})):
        first, second = before[group][by]["stats"], now[group][by]["stats"]
        ratio = second["median"] / first["median"]
        slower = second["q1"] > first["q3"] and ratio > LEAST_CHANGE
        faster = second["q3"] < first["q1"] and ratio < 1 / LEAST_CHANGE
        verdict = "slower" if slower else "faster" if faster else ""
        table.append([group, by, _seconds(first["median"]), _seconds(second["median"]), f"{ratio:.2f}", verdict])
    return table


def agreement(rows: Iterable[Row]) -> list[list[str]]:
    """How far originals are from jaxrel in float64."""
    table = []
    for group, sides in _grouped(rows).items():
        for by, peer in sides.items():
            if by != "jaxrel" and "values" in peer["extra_info"] and "jaxrel" in sides:
                off = _largest_difference(peer["extra_info"]["values"], sides["jaxrel"]["extra_info"]["float64"])
                table.append([f"`{group.partition(',')[0]}`", by, f"{off:.0e}", peer["extra_info"]["differs"]])
    return table


def show(title: str, header: Iterable[str], table: Iterable[Iterable[str]]) -> None:
    """Print a table."""
    printed = Table(*header, title=title, title_justify="left")
    for line in table:
        printed.add_row(*line)
    Console(highlight=False, width=170).print(printed)


def _grouped(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["group"], {})[row["extra_info"]["by"]] = row
    return found


def _times(row: Row) -> list[str]:
    stats, extra = row["stats"], row["extra_info"]
    quartiles = f"{_seconds(stats['q1'])} to {_seconds(stats['q3'])}" if stats["rounds"] > 1 else ""
    return [_seconds(stats["median"]), quartiles, _seconds(extra["cpu"]), _seconds(extra["first"])]


def _seconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _off_by(extra: Row) -> str:
    return f"{_largest_difference(extra['values'], extra['float64']):.0e}" if "float64" in extra else ""


def _largest_difference(values: list[float], exact: list[float]) -> float:
    """Relative."""
    return max(abs(value - right) / max(abs(right), 1e-300) for value, right in zip(values, exact, strict=True))
