"""How long a piece of work took, with the compilation that it caused apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Stopwatch", "stopwatch"]


@dataclass
class Stopwatch:
    """Seconds of a block.

    Attributes:
        seconds: without those of compilation.
        compilation_seconds: in which JAX traced, lowered or compiled, or read compiled programs from its cache.
    """

    seconds: float = 0.0
    compilation_seconds: float = 0.0


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measure a block; the numbers are there once it is left."""
    import jax

    spans: list[tuple[float, float]] = []

    def note(event: str, start_time: float, end_time: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            spans.append((start_time, end_time))

    watch = Stopwatch()
    start = time.time()  # the clock of the events
    jax.monitoring.register_event_time_span_listener(note)
    try:
        yield watch
    finally:
        jax.monitoring.unregister_event_time_span_listener(note)
        watch.compilation_seconds = _covered(spans)
        watch.seconds = time.time() - start - watch.compilation_seconds


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union: the function that is traced may call others that are traced within it."""
    total, reached = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
