"""`jaxrel metrics`: what there is to score by."""

from __future__ import annotations

import argparse
import json
from typing import Any

from jaxrel.cli import console

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    parser = commands.add_parser("metrics", help="list the metrics, what each needs and where it is from")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_metrics)


def _metrics(options: argparse.Namespace) -> None:
    from jaxrel.study.scoreboard import report

    if options.json:
        print(json.dumps(report.metric_records(), indent=1))
    else:
        report.print_metrics(console.literal_console())
