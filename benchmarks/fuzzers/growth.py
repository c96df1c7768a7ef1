"""Calls of ever other shapes in one process: memory maps, memory, threads and descriptors stay bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from many_shapes import LIMIT, run, verdict

from fuzzers.tally import Tally

__all__ = ["batches"]

_CALLS, _WARM = 20, 400


def batches(rng: np.random.Generator) -> Iterator[Tally]:
    """Some calls at a time, judged with all before them; by maps alone until each function was called often."""
    rows: list[dict[str, Any]] = []
    for row in run(10**9, float("inf"), int(rng.integers(2**31))):
        rows.append(row)
        if len(rows) % _CALLS == 0:
            bounded = verdict(rows) if len(rows) >= _WARM else {"maps": row["maps"] < LIMIT}
            false = sum(not well for well in bounded.values())
            yield Tally("calls", _CALLS, false, 0, row["maps"] / LIMIT, f"{bounded} {row}" if false else "")
