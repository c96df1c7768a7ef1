"""`jaxrel completion`: what a shell reads to complete command lines of jaxrel."""

from __future__ import annotations

import argparse

from argcomplete.shell_integration import shellcode

__all__ = ["run"]


def run(options: argparse.Namespace) -> None:
    """Print the script, which asks the command itself at each key press."""
    print(shellcode(["jaxrel"], shell=options.shell))
