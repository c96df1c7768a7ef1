"""Estimates the programs, memory and time of a plan before it is run."""

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
    """The estimated cost of a plan.

    Attributes:
        units: number of values in the plan.
        finished: how many of them are already in the folder.
        programs: number of programs to compile for metrics whose units share programs; other numbers compile several
            each.
        row_bytes: bytes of features that are read for these.
        largest_unit_bytes: estimated memory of the largest of these, including its rows.
        seconds: estimated time of the missing scores, from the time of finished numbers of the same metric in the
            folder, without extraction and compilation. NaN if a metric has no finished number: run a part first.
    """

    units: int
    finished: int
    programs: int
    row_bytes: int
    largest_unit_bytes: int
    seconds: float

    def __str__(self) -> str:
        """The estimate as lines of text."""
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
    """The remaining cost of a plan; missing features are extracted, because shapes follow from them.

    Args:
        plan: `Study(...).plan()`.
        output: folder of finished records, if any.
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
