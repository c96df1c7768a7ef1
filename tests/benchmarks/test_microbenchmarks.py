"""`python -m benchmarks`: it measures and writes, and says what became slower."""

from __future__ import annotations

import copy
import importlib
import json
import os
import subprocess
import sys

import pytest
from paths import BENCHMARKS, ROOT


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("micro.report")


def row(group, by, median, spread=0.0, **extra):
    stats = {"median": median, "q1": median - spread, "q3": median + spread, "rounds": 5}
    extra = {"by": by, "first": 1.0, "cpu": 0.02} | extra
    return {"fullname": "test_metrics.py::test_metric", "group": group, "stats": stats, "extra_info": extra}


def command(*arguments):
    """What it prints; pytest-benchmark does not measure where a worker of the tests seems to run it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    program = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_benchmark_is_measured_and_compared(tmp_path):
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    printed = command("--size", "small", "--only", "memory", "--busy", "1", "--output", before)
    assert "64 MiB" in printed
    found = json.loads(before.read_text())
    (measured,) = found["benchmarks"]
    assert min(measured["stats"]["median"], measured["extra_info"]["first"], measured["extra_info"]["cpu"]) > 0
    assert found["machine_info"]["devices"] >= found["machine_info"]["busy processes"] == 1

    for name in ("median", "q1", "q3"):
        measured["stats"][name] *= 10
    now.write_text(json.dumps(found))
    assert "10.00" in (printed := command("--compare", before, now))
    assert "slower" in printed


def test_slower_and_faster_are_beyond_the_spread(report):
    old = [row("a", "jaxrel", 1.0, 0.1), row("b", "jaxrel", 1.0, 0.1), row("c", "POT", 1.0), row("gone", "POT", 1.0)]
    new = [row("a", "jaxrel", 1.3, 0.1), row("b", "jaxrel", 1.15, 0.1), row("c", "POT", 0.5), row("new", "POT", 1.0)]
    assert [(line[0], *line[-2:]) for line in report.changes(old, new)] == [
        ("a", "1.30", "slower"),
        ("b", "1.15", ""),
        ("c", "0.50", "faster"),
    ]


def test_peers_stand_beside_and_off_values_show(report):
    mine = row("logme, small", "jaxrel", 0.01, values=[1.001, 2.0], float64=[1.0, 2.0])
    peers = [row("logme, small", by, 0.02, values=[1.1, 2.0], differs="a sign") for by in ("one", "another")]
    first, second, mean = report.lines([mine, *peers])
    assert first[0] == "logme, small"
    assert first[-4:] == ["one", "20 ms", "2", "1e-03"]
    assert second == ["", "", "", "", "", "another", "20 ms", "2", ""]
    assert mean[-2] == "2.00"
    assert report.agreement([mine, *peers])[0] == ["`logme`", "one", "1e-01", "a sign"]
    lone = copy.deepcopy(mine) | {"group": "alone"}
    assert [len(line) for line in report.lines([lone, *peers])] == [len(report.COLUMNS)]
