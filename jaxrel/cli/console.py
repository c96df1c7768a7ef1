"""What is shown in the terminal: tables on stdout; the progress bar and the log on stderr."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import progress as bars
from rich.console import Console
from rich.logging import RichHandler

from jaxrel._core.printable import printable
from jaxrel.study import Progress

__all__ = ["can_plot", "literal_console", "narrator", "print_files"]

_log = logging.getLogger("jaxrel")


def literal_console(width: int | None = None) -> Console:
    """One that prints names as they are: what looks like markup or the name of an emoji is text."""
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_files(console: Console, paths: Sequence[Path]) -> None:
    """List what was written."""
    console.print("\nThe files:")
    for path in paths:
        console.print(f"  {printable(str(path))}", soft_wrap=True)


def can_plot(wanted: bool) -> bool:
    """Whether pictures are wanted and can be drawn; a warning where only the first is true."""
    plot = wanted and importlib.util.find_spec("matplotlib") is not None
    if wanted and not plot:
        _log.warning("no plot, as matplotlib is not installed: pip install 'jaxrel[plot]'")
    return plot


class _Handler(RichHandler):
    """Escapes what a terminal would obey, as names in messages are data."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


@contextlib.contextmanager
def narrator(*, quiet: bool) -> Iterator[Progress]:
    """A progress bar with rate and remaining time, and the log, on stderr."""
    console = Console(stderr=True)
    handler = _Handler(console=console, show_path=False, show_level=False, log_time_format="[%X]")
    level, propagate = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.setLevel(logging.WARNING if quiet else logging.INFO)
    _log.propagate = False  # some libraries give the root logger a handler, which would write every line again
    shown = bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
        console=console,
        disable=quiet,
    )
    tasks: dict[str, bars.TaskID] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = shown.add_task(printable(what), total=total, rate="")
        speed = shown.tasks[list(tasks).index(what)].speed
        rate = "" if speed is None else f"{speed:.1f}/s"
        shown.update(tasks[what], completed=done, rate=rate, visible=done < total)

    try:
        with shown:
            yield progress
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        _log.propagate = propagate
