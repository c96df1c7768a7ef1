"""One call in a new process, of which `test_first_calls.py` starts some: `python -m micro.first_call NAME`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrel.transport import sinkhorn
from micro.calls import metric_call
from micro.problems import SIZES, make_problem


def prepared(name: str) -> Callable[[], Any]:
    """A call of a metric, or of `sinkhorn` between as many points."""
    problem = make_problem(SIZES["small"][0])
    if name != "sinkhorn":
        return metric_call(name, problem)
    x, y = problem.features[:, None, :8], problem.reference_features[None, :, :8]
    cost = jax.device_put(np.square(x - y).sum(-1))
    return lambda: sinkhorn(cost, relative_gap=0.01)


def main() -> None:
    """Print the seconds of the call and the CPU seconds of the whole process."""
    call = prepared(sys.argv[1])
    start = time.perf_counter()
    jax.block_until_ready(call())
    print(json.dumps({"first": time.perf_counter() - start, "cpu": time.process_time()}))


if __name__ == "__main__":
    main()
