"""What the device moves: the measure of every other row on an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def test_memory_bandwidth(small: bool, measure: Callable[..., Any]) -> None:
    """An array that no cache holds is read and written once."""
    mebibytes = 64 if small else 1024
    x = jnp.ones(mebibytes * 2**18, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    measure(f"memory, {mebibytes:,} MiB read and written", "jaxrel", lambda: add(x))
