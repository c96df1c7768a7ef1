"""Console output: results on stdout; progress, the log and notes on stderr."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import progress as bars
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Column

from jaxrel._core.printable import printable

if TYPE_CHECKING:
    from jaxrel.study import Progress

__all__ = ["can_plot", "conclude", "literal_console", "narrator", "print_files"]

_log = logging.getLogger("jaxrel")

_SECONDS_BETWEEN_LINES = 10.0


def literal_console(width: int | None = None, *, stderr: bool = False) -> Console:
    """A console that prints names verbatim: text that looks like markup or an emoji name is not interpreted."""
    return Console(highlight=False, markup=False, emoji=False, width=width, stderr=stderr)


def conclude(
    options: argparse.Namespace,
    files: Sequence[Path],
    print_tables: Callable[[Console], None],
    *,
    notes: Sequence[str] = (),
) -> None:
    """Print the result, which the first of the files holds, then how to read it and which files were written."""
    if options.json:
        print(files[0].read_text(encoding="utf-8"), end="")
    else:
        print_tables(literal_console())
    if options.quiet:
        return
    sys.stdout.flush()  # so that it precedes the stderr output in a terminal
    for paragraph in () if options.json else notes:
        literal_console(stderr=True).print("\n" + paragraph)
    print_files([*files, options.output / options.log])


def print_files(paths: Sequence[Path]) -> None:
    """List the files that were written, if any."""
    console = literal_console(stderr=True)
    if paths:
        console.print("\nThe files:")
    for path in paths:
        console.print(f"  {printable(str(path))}", soft_wrap=True)


def can_plot(wanted: bool) -> bool:
    """Whether pictures are requested and can be drawn; warns if they are requested but cannot be drawn."""
    plot = wanted and importlib.util.find_spec("matplotlib") is not None
    if wanted and not plot:
        _log.warning("no plot, because matplotlib is not installed: pip install 'jaxrel[plot]'")
    return plot


class _Handler(RichHandler):
    """Escapes control characters, because names in messages are data."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


@contextlib.contextmanager
def narrator(*, quiet: bool) -> Iterator[Progress]:
    """Progress and the log, on stderr."""
    console = Console(stderr=True)
    handler = _Handler(console=console, show_path=False, show_level=False, log_time_format="[%X]")
    level, propagate = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.setLevel(logging.WARNING if quiet else logging.INFO)
    _log.propagate = False  # some libraries add a handler to the root logger, which would write every line twice
    try:
        # Colours may be useful in a file; a live progress line is not.
        with _Line(console, moving=sys.stderr.isatty() and not quiet, plain=not quiet) as line:
            yield line
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        _log.propagate = propagate


class _Line:
    """One line for the current part and the parts that contain it: a bar on a terminal, otherwise a plain line at
    intervals."""

    def __init__(self, console: Console, *, moving: bool, plain: bool) -> None:
        self._plain = plain and not moving
        self._console = console
        self._parts: dict[str, bars.TaskID] = {}
        self._shown = bars.Progress(
            bars.TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            bars.BarColumn(bar_width=10),
            bars.MofNCompleteColumn(table_column=Column(no_wrap=True)),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
            expand=True,  # Long names are truncated; numbers never are.
            disable=not moving,
            transient=True,
        )
        self._told = time.monotonic()

    def __enter__(self) -> _Line:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show the progress of `what`, which is part of whatever started earlier and is not finished."""
        if what in self._parts:
            while next(reversed(self._parts)) != what:  # Its own parts have ended, finished or not.
                self._end_last()
        else:
            self._begin(what, total)
        task = self._shown.tasks[-1]
        rate = "" if task.speed is None else f"{task.speed:.1f}/s"
        self._shown.update(task.id, completed=done, total=total, rate=rate)
        if self._plain and time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            left = f", {task.time_remaining:,.0f} s left" if task.time_remaining else ""
            self._console.print(f"{task.description}: {done} of {total}{left}", markup=False, emoji=False)
        if done >= total:
            self._end_last()

    def _begin(self, what: str, total: int) -> None:
        whole = ""
        for task in self._shown.tasks[-1:]:
            self._shown.update(task.id, visible=False)
            whole = f"{task.description} {task.completed:.0f}/{task.total:.0f} · "
        self._parts[what] = self._shown.add_task(whole + printable(what), total=total, rate="")

    def _end_last(self) -> None:
        _, part = self._parts.popitem()
        self._shown.remove_task(part)
        for task in self._shown.tasks[-1:]:
            self._shown.update(task.id, visible=True)
