"""A small study on a Ray cluster, in a process that may be killed: `python cluster_study.py ADDRESS OUTPUT`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from studies import ENCODERS, matrix, sources

from jaxrel.study import EngineError
from jaxrel.study.ray import RayExecutor


def main() -> None:
    """Run the study; the status is 1, and the error on stderr, where the cluster loses parts of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("output", type=Path)
    parser.add_argument("--harm", default="")
    parser.add_argument("--marker", type=Path)
    parser.add_argument("--kill", type=int, nargs="+", default=[], help="processes to kill after the first result")
    options = parser.parse_args()

    def progress(what: str, done: int, total: int) -> None:
        while what == "scoring" and done and options.kill:
            os.kill(options.kill.pop() or os.getpid(), signal.SIGKILL)

    given = sources(options.harm, options.marker)
    try:
        with RayExecutor(options.address) as executor:
            matrix(["h_score"], ENCODERS, given=given, output=options.output, executor=executor, progress=progress)
    except EngineError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
