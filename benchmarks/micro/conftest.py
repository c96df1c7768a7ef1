"""What every microbenchmark shares: options, how a call is measured, and what is written about the machine."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from micro.problems import SIZES

MOST_ROUNDS = 30
LIMIT = 120  # seconds for one call of a peer

LOAD = os.getloadavg()
for backend in ("CUPY", "JAX", "PYTORCH", "TENSORFLOW"):
    os.environ[f"POT_BACKEND_DISABLE_{backend}"] = "1"  # POT imports every backend that it finds
jax.config.update("jax_enable_compilation_cache", False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that `python -m benchmarks` passes on."""
    parser.addoption("--size", choices=tuple(SIZES), default="full")
    parser.addoption("--busy", type=int, default=0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a `size` with each that the option names."""
    if "size" in metafunc.fixturenames:
        metafunc.parametrize("size", SIZES[metafunc.config.getoption("size")], ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a quick run does not want."""
    if config.getoption("size") == "small":
        items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(scope="session")
def small(pytestconfig: pytest.Config) -> bool:
    """Whether this is a quick run."""
    return bool(pytestconfig.getoption("size") == "small")


@pytest.fixture(scope="session", autouse=True)
def _busy_processes(pytestconfig: pytest.Config) -> Iterator[None]:
    """Keep as many cores busy as the option says, until this process ends in whatever way."""
    program = f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(100_000))"
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command) for _ in range(pytestconfig.getoption("busy"))]
    yield
    for process in processes:
        process.kill()
        process.wait()


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Skip the benchmark if what is inside takes longer."""

    def stop(*_: object) -> None:
        pytest.skip(f"one call takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


@pytest.fixture
def measure(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Callable[..., Any]:
    """`measure(group, by, call)`: a first call, which compiles; one that tells how many to measure; these."""
    budget = float(pytestconfig.getoption("benchmark_max_time"))

    def run(group: str, by: str, call: Callable[[], Any]) -> Any:
        with _time_limit(LIMIT if by != "jaxrel" else 0):
            first = _timed(call)
        # A peer this slow is measured once, whatever its first call had to prepare.
        seconds = first if by != "jaxrel" and first > 2 * budget else _timed(call)
        rounds = int(np.clip(budget / seconds, 1, MOST_ROUNDS))
        benchmark.group = group
        start = time.process_time()
        value = benchmark.pedantic(lambda: jax.block_until_ready(call()), rounds=rounds)
        cpu = (time.process_time() - start) / rounds
        benchmark.extra_info |= {"by": by, "first": first, "cpu": cpu}
        return value

    return run


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """What the times depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    devices = jax.devices()
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(LOAD[0], 2),
        "busy processes": config.getoption("busy"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jaxrel", "jax", "jaxlib", "numpy")},
    }


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Keep statistics, without every single time and what is the same of all."""
    for each in output_json["benchmarks"]:
        del each["options"], each["stats"]["data"]
