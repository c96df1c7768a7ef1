"""Signals that end the command: each raises a KeyboardInterrupt, and ends the process where that is of no use.

A KeyboardInterrupt that comes while an extension module is imported leaves it as an ImportError, and one in a callback
or a finaliser is forgotten. While XLA compiles there is none, as Python is not asked.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from types import FrameType

__all__ = ["PATIENCE_SECONDS", "install", "status"]

PATIENCE_SECONDS = 5.0
"""How long the current work may continue after a signal; a second signal ends it at once."""

_received: list[int] = []


def install() -> None:
    """Have SIGINT and SIGTERM end the work; for the main thread of a process that is a command."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is after nohup
            signal.signal(number, _interrupt)
    sys.unraisablehook = _report
    threading.Thread(target=_end, args=(reading,), daemon=True).start()


def status() -> int | None:
    """The exit status of a shell for the signal that has come, if one has."""
    return 128 + _received[0] if _received else None


def _interrupt(number: int, _: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _report(forgotten: sys.UnraisableHookArgs) -> None:
    """Say what a callback or a finaliser raised, unless it is the signal, of which `_end` tells."""
    if not (_received and isinstance(forgotten.exc_value, KeyboardInterrupt)):
        sys.__unraisablehook__(forgotten)


def _end(reading: int) -> None:
    """End the process some time after the number of a signal can be read."""
    (number,) = os.read(reading, 1)
    select.select([reading], [], [], PATIENCE_SECONDS)
    print(
        "\njaxrel: error: interrupted. What is finished is kept: the same command goes on from there.", file=sys.stderr
    )
    sys.stderr.flush()
    os._exit(128 + number)
