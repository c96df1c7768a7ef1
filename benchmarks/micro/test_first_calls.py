"""New processes without compiled programs: their whole time, imports included, and that of the call in them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from micro.problems import SIZES

NAMES = ("task_relatedness", "transferability", "logme", "h_score", "gbc", "nleep", "ridge_probe")
ENVIRONMENT = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}


@pytest.mark.parametrize("name", [*NAMES, "nearest_neighbours", "pactran_gaussian", "sinkhorn"])
def test_first_call(name: str, benchmark: BenchmarkFixture) -> None:
    """Three processes, one after the other."""
    command = [sys.executable, "-m", "micro.first_call", name]
    printed: list[dict[str, float]] = []

    def process() -> None:
        output = subprocess.check_output(command, cwd=Path(__file__).parents[1], env=ENVIRONMENT)
        printed.append(json.loads(output))

    benchmark.group = f"first call of {name}, {SIZES['small'][0]}"
    benchmark.pedantic(process, rounds=3)
    benchmark.extra_info["by"] = "jaxrel"
    benchmark.extra_info |= {key: statistics.median(each[key] for each in printed) for key in ("first", "cpu")}
