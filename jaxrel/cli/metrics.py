"""`jaxrel metrics`: the list of metrics."""

from __future__ import annotations

import argparse
import json

from jaxrel.cli import console
from jaxrel.study.documents import SCHEMA
from jaxrel.study.scoreboard import report

__all__ = ["run"]


def run(options: argparse.Namespace) -> None:
    """Print the list."""
    if options.json:
        print(json.dumps({"schema": SCHEMA, "metrics": report.metric_records()}, indent=1))
    else:
        report.print_metrics(console.literal_console())
