"""The `jaxrel` command: runs the module of each command and sets the exit status."""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrel._core import interrupts
from jaxrel._core.printable import printable
from jaxrel.cli.parser import parser
from jaxrel.storage.records import ReplacedError

__all__ = ["main"]

FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None, *, programs: Path | None = None) -> int:
    """Run the command line; returns the exit status, which `jaxrel --help` explains.

    Args:
        arguments: the arguments after `jaxrel`; None reads those of this process.
        programs: folder of JAX's compilation cache; None leaves JAX's settings unchanged.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    read = parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(read)  # and ends the process
    options = read.parse_args(words)
    options.command = ["jaxrel", *words]
    try:
        if options.computes and programs is not None:
            from jaxrel._core.programs import keep_in

            keep_in(programs)
        incomplete = importlib.import_module(options.module).run(options)
    except BrokenPipeError:
        raise  # the end of the process, not of the command
    except KeyboardInterrupt:
        return _interrupted(options, words)
    except Exception as error:
        if interrupts.status() is not None:
            return _interrupted(options, words)
        return _failed(error, options, words)
    return _complain(incomplete, FAILURE) if incomplete else 0


def _interrupted(options: argparse.Namespace, words: Sequence[str]) -> int:
    kept = f" What is finished is in {options.output / options.log}." if "log" in options else ""
    again = shlex.join(["jaxrel", *words])
    return _complain(f"interrupted.{kept} To continue:\n  {again}", interrupts.status() or INTERRUPTED)


def _failed(error: Exception, options: argparse.Namespace, words: Sequence[str]) -> int:
    """Print the error in one line; an unexpected error keeps its traceback."""
    match error:
        case BlockingIOError():
            return _complain(f"another process is writing into {options.output}: choose another --output.", FAILURE)
        case OSError(strerror=str(), filename=str()):
            return _complain(f"{error.filename}: {error.strerror}.", FAILURE)
        case ReplacedError():
            again = shlex.join(["jaxrel", *_elsewhere(words, error.folder)])
            return _complain(f"{error} For example:\n  {again}", USAGE_ERROR)
        case ValueError():
            return _complain(str(error), USAGE_ERROR)
        case OSError() | RuntimeError() | ImportError() | MemoryError():
            return _complain(str(error) or type(error).__name__, FAILURE)
        case _:
            raise error


def _elsewhere(words: Sequence[str], folder: Path) -> list[str]:
    """The arguments with a new folder for the output."""
    new = next(path for number in itertools.count(2) if not (path := Path(f"{folder}-{number}")).exists())
    kept = list(words)
    if "--output" in kept:
        place = kept.index("--output")
        del kept[place : place + 2]
    return [*kept, "--output", str(new)]


def _complain(message: str, status: int) -> int:
    print(f"jaxrel: error: {printable(message, lines=True)}", file=sys.stderr)
    return status
