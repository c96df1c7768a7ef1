"""`jaxrel completion`: the script by which a shell completes command lines of jaxrel."""

from __future__ import annotations

import argparse

from argcomplete.shell_integration import shellcode

__all__ = ["run"]


def run(options: argparse.Namespace) -> None:
    """Print the script, which calls the command itself for each completion."""
    print(shellcode(["jaxrel"], shell=options.shell))
