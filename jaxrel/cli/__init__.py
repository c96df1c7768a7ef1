"""The `jaxrel` command, one file for each of its commands."""

from jaxrel.cli.main import main

__all__ = ["main"]
