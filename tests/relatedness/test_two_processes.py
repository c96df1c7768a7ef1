"""One problem on the devices of two processes, under `jax.distributed`."""

from __future__ import annotations

import json
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
from jaxrel.relatedness import Joint
from jaxrel.relatedness.streaming import memory, plan


def terms(mesh: Mesh) -> list[float]:
    """The bound and its terms of tasks that are taken in blocks, as those are that memory does not hold."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3
    reference, target = (Task(np.eye(3, 8)[labels] * 3 + rng.normal(size=(600, 8)), labels) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "fits_whole", lambda *_: False)
        for name, value in (("_LARGEST_SIDE", 32), ("_SMALLEST_SIDE", 32), ("_ENTRIES_ON_CPU", 2048)):
            patch.setattr(memory, name, value)
        method = Joint(num_steps=20)
        result = task_relatedness(reference, target, memory_budget=2**31, method=method, mesh=mesh)
    return [
        float(getattr(result, name)) for name in ("bound", "label_mismatch", "distribution_mismatch", "target_loss")
    ]


PROCESS = """
import json
import sys
import jax
from jax.sharding import Mesh
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from test_two_processes import terms
assert len(jax.devices()) == 4
print(json.dumps(terms(Mesh(jax.devices(), "devices"))))
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
    expected = terms(Mesh(jax.devices()[:1], "devices"))
    for process in processes:
        out, error = process.communicate(timeout=400)
        assert process.returncode == 0, error[-3000:]
        np.testing.assert_allclose(json.loads(out[out.rindex("[") :]), expected, atol=5e-6)
