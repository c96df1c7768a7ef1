"""Encoders scored by many metrics on one target: from files or data sets, resumable, with a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from jaxrel.study.scoreboard.execute import Finished, FinishedLog, Scoreboard, chosen_metrics, score_by_metrics
from jaxrel.study.scoreboard.inputs import EncoderArrays, from_arrays, from_file, from_files, from_source
from jaxrel.study.sources import Progress, silent

__all__ = [
    "EncoderArrays",
    "Finished",
    "FinishedLog",
    "Scoreboard",
    "chosen_metrics",
    "from_arrays",
    "from_file",
    "from_files",
    "from_source",
    "run",
    "scoreboard",
]


def scoreboard(
    encoders: Mapping[str, Mapping[str, np.ndarray]],
    *,
    metrics: Sequence[str] | None = None,
    output: Path | str,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Scoreboard:
    """Score encoders, given as arrays by the names of `jaxrel.metrics.NEEDS`, by many metrics.

        scoreboard({"mine": {"features": x, "labels": y}, "other": {...}}, output="results")

    Finished scores are kept in `output/scores.jsonl`: the same call goes on where it was stopped. An executor, any of
    `concurrent.futures`, has its workers score, one encoder a call; None is this process.

    Raises:
        ValueError: see `score_by_metrics`.
        EngineError: the executor lost encoders, which it names; the others are finished and kept.
        OSError: `output` cannot be written to; BlockingIOError where another process writes there.
    """
    hub = [from_arrays(name, arrays) for name, arrays in encoders.items()]
    return run(hub, metrics, output=output, executor=executor, progress=progress)


def run(
    encoders: Sequence[EncoderArrays],
    metrics: Sequence[str] | None,
    *,
    output: Path | str,
    executor: Executor | None = None,
    progress: Progress = silent,
    strict: bool = False,
) -> Scoreboard:
    """As `scoreboard`, for encoders from anywhere; `strict` raises what an encoder fails with."""
    chosen_metrics(encoders, metrics)  # before a file is made
    with FinishedLog(Path(output) / "scores.jsonl") as log:
        return score_by_metrics(encoders, metrics, log, executor=executor, progress=progress, strict=strict)
