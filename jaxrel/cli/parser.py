"""The parser of the `jaxrel` command line: arguments, help and errors.

Nothing here may import JAX, so that help, completion and errors appear at once.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxrel._core.printable import printable
from jaxrel._core.suggestions import suggestion
from jaxrel.cli import commands
from jaxrel.version import __version__

__all__ = ["parser"]

_EPILOG = """\
Examples:
  jaxrel rank --target digits --encoder pixels mobilenet-v2 --image-size 96
  jaxrel rank --help

Exit status:
  0    everything that was requested is there
  1    something failed or was left out, which is named on stderr; the rest is there
  2    the command is wrong: an option, a name or a file is not what it should be
  130  it was interrupted by Ctrl-C, 143 by SIGTERM; what is finished is kept

The result is on stdout, everything else on stderr. NO_COLOR=1 has no colours, FORCE_COLOR=1 has them in files too."""


class _Formatter(argparse.HelpFormatter):
    """Wraps paragraphs without breaking names; lines that begin with spaces, such as examples, are left unchanged."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = ([line] if line.startswith(" ") else _filled(line, width) or [""] for line in text.splitlines())
        return "\n".join(indent + line for line in itertools.chain(*lines))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _filled(text, width)


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    """Reports errors in two lines, and suggests the name nearest to a misspelled one."""

    def __init__(self, **given: Any) -> None:
        super().__init__(formatter_class=_Formatter, **given)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in the base class, but unknown arguments are errors. Unknown options are reported first, since they may
        be misspelled required ones."""
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:
            given = itertools.takewhile(lambda word: word != "--", words)
            self._refuse([word for word in given if word.startswith("--") and not self._begins_option(word)])
        found, unknown = super().parse_known_args(words, namespace)
        self._refuse(unknown)
        return found, unknown

    def _begins_option(self, word: str) -> bool:
        return any(option.startswith(word.partition("=")[0]) for option in self._option_string_actions)

    def _refuse(self, words: Sequence[str]) -> None:
        if words:
            asked = suggestion(words[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(words)}{asked}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            asked = suggestion(str(value), known)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{asked}: choose from {', '.join(known)}")

    def error(self, message: str) -> NoReturn:
        """Print the error and a pointer to the help."""
        self.exit(2, f"{self.prog}: error: {printable(message, lines=True)}\nTry: {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The parser; the parsed option `module` names the module that runs the command."""
    whole = _Parser(
        prog="jaxrel",
        usage="jaxrel COMMAND ...",
        description="How well pre-trained encoders transfer, and why.",
        epilog=_EPILOG,
    )
    whole.add_argument("--version", action="version", version=f"jaxrel {__version__}")
    # Without an explicit prog, argparse would use the usage text.
    found = whole.add_subparsers(required=True, prog="jaxrel", metavar="COMMAND", title="commands")
    for add in commands.ADD:
        add(found)
    return whole
