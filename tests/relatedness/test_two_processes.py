"""One problem on the devices of two processes, under `jax.distributed`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxrel
from jaxrel import Task, task_relatedness


def bound(mesh: Mesh) -> str:
    """Of tasks that memory does not hold whole."""
    rng = np.random.default_rng(0)
    labels = np.arange(2_000) % 3
    reference, target = (Task(np.eye(3, 8)[labels] * 3 + rng.normal(size=(2_000, 8)), labels) for _ in range(2))
    result = task_relatedness(reference, target, memory_budget=BUDGET, mesh=mesh)
    return f"{float(result.bound)!r} {float(result.target_loss)!r} {float(result.distribution_mismatch)!r}"


BUDGET = 40_000_000

PROCESS = """
import sys
import jax
from jax.sharding import Mesh
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from test_two_processes import bound
assert len(jax.devices()) == 4
print("found", bound(Mesh(jax.devices(), "devices")))
"""


@pytest.mark.slow
def test_two_processes_of_two_devices_find_what_one_device_does() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folders = os.pathsep.join([str(Path(__file__).parent), str(Path(jaxrel.__file__).parents[1])])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": folders}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    expected = bound(Mesh(jax.devices()[:1], "devices"))
    for process in processes:
        out, error = process.communicate(timeout=400)
        assert process.returncode == 0, error[-3000:]
        assert f"found {expected}\n" in out
