"""The process of the `jaxrel` command: from the first import to the exit."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys

from jaxrel._core import interrupts


def command() -> None:
    """Run the command line and exit with its status.

    After a signal the process ends without the interpreter's own shutdown: threads of XLA still compute what was
    interrupted, and crash when that takes their memory away. By then files are closed, and what is buffered is written.
    """
    interrupts.install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no lines or arrows shows question marks
            stream.reconfigure(errors="replace")
    status: int | str | None
    try:
        status = _status()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except BaseException:
        if interrupts.status() is None:
            raise
        status = 1
    if (interrupted := interrupts.status()) is None:
        sys.exit(status)
    if status != interrupted:  # A callback took the signal, or it came when all was done: nobody has said so.
        print("jaxrel: error: interrupted.", file=sys.stderr)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(interrupted)


def _status() -> int | str | None:
    from jaxrel.cli import main
    from jaxrel.storage.assets import AssetError, cache_dir

    programs = None
    with contextlib.suppress(AssetError):  # No home folder: what needs one says so.
        programs = cache_dir() / "programs"
    try:
        return main(programs=programs)
    except SystemExit as stop:  # of argparse, after --help and after wrong options
        return stop.code


if __name__ == "__main__":
    command()
