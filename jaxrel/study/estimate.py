"""What a plan takes: programs, memory and time, before it is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxrel.storage.records import read_records
from jaxrel.study.keys import keyed, way_of
from jaxrel.study.plan import Plan, Unit
from jaxrel.study.records import logs_of
from jaxrel.study.scoring.buckets import bucketed
from jaxrel.study.sources import Progress, silent

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a plan takes.

    Attributes:
        units: numbers of the plan.
        finished: how many of them are in the folder already.
        programs: how many are compiled for metrics that many units share a program of; other numbers take several each.
        row_bytes: features that are read for these.
        largest_unit_bytes: an estimate of what the largest of these takes, its rows included.
        seconds: of scoring what is missing, by what finished numbers of the same metric in the folder took; without
            extraction and compilation. NaN where a metric has none: run a part, and ask again.
    """

    units: int
    finished: int
    programs: int
    row_bytes: int
    largest_unit_bytes: int
    seconds: float

    def __str__(self) -> str:
        """In lines."""
        time = "unknown until some are finished" if math.isnan(self.seconds) else f"about {self.seconds:.3g} s"
        return "\n".join(
            [
                f"numbers: {self.units}, of which {self.finished} are finished",
                f"programs to compile: {self.programs}",
                f"features to read: {self.row_bytes / 1e6:,.1f} MB",
                f"memory of the largest score: {self.largest_unit_bytes / 1e6:,.1f} MB",
                f"time of the rest, without extraction and compilation: {time}",
            ]
        )


def estimate(plan: Plan, *, output: Path | str | None = None, progress: Progress = silent) -> Estimate:
    """What there is to compute of a plan; features that are yet to be extracted are extracted, as shapes follow.

    Args:
        plan: `Study(...).plan()`.
        output: folder that has finished records, if there is one.
        progress: called with `(what, done, total)` as work goes on.
    """
    logs = [] if output is None else logs_of(Path(output))
    records = {key: record for path in logs for key, record in read_records(path).items()}
    units = [unit for unit, _ in keyed(plan, progress)]
    missing = [unit for unit in units if unit.key not in records]
    shaped, _ = bucketed(
        [unit for unit in missing if way_of(unit, plan) == "batched"], plan.sources, progress, strict=False
    )
    itemsize = jnp.result_type(float).itemsize
    sizes = [unit.bucket.unit_bytes(itemsize) for unit in shaped if unit.bucket is not None]
    took: dict[str, list[float]] = {}
    for record in records.values():
        seconds = record["numbers"].get("scoring_seconds")
        if isinstance(seconds, float):
            took.setdefault(record["metric"], []).append(seconds)
    return Estimate(
        units=len(units),
        finished=len(units) - len(missing),
        programs=len({unit.bucket for unit in shaped}),
        row_bytes=sum(rows for rows, _ in sizes),
        largest_unit_bytes=max((sum(pair) for pair in sizes), default=0),
        seconds=_seconds(missing, took),
    )


def _seconds(missing: Sequence[Unit], took: dict[str, list[float]]) -> float:
    each = {metric: float(np.median(seconds)) for metric, seconds in took.items()}
    return float(sum(each.get(unit.metric, math.nan) for unit in missing))
