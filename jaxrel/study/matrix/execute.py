"""Scores what a plan asks for and is not there yet, batch by batch onto the disk."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

from jaxrel.study.matrix.local import Work
from jaxrel.study.matrix.plan import MatrixPlan, Unit
from jaxrel.study.matrix.records import Entry, EntryLog
from jaxrel.study.matrix.result import Timings
from jaxrel.study.sources import Progress

__all__ = ["Scorer", "execute"]

_log = logging.getLogger(__name__)


class Scorer(Protocol):
    """Scores units somewhere.

    Attributes:
        work: what it took so far.
        waits_for_compilers: whether nothing is scored while a program is compiled.
    """

    work: Work
    waits_for_compilers: bool

    def batches(self, units: Sequence[Unit]) -> Generator[list[Entry]]:
        """Entries of all units, as they are ready."""


def execute(
    plan: MatrixPlan, scorer: Scorer, *, output: Path | None, progress: Progress
) -> tuple[list[Entry], Timings]:
    """Every entry of the plan; those that are finished are taken from the folder, and not counted in the timings."""
    with contextlib.ExitStack() as stack:
        log = None if output is None else stack.enter_context(EntryLog(output / "scores.jsonl"))
        found: dict[str, Entry] = {}
        if log is not None:
            found = {unit.key: entry for unit in plan.units if (entry := log.find(unit.key)) is not None}
        missing = [unit for unit in plan.units if unit.key not in found]
        if found:
            _log.info("%d of %d scores are in %s already", len(found), len(plan.units), output)
        start, first_result = time.perf_counter(), math.nan
        batches = stack.enter_context(contextlib.closing(scorer.batches(missing)))
        for entries in batches:
            if log is not None:
                # What failed is not finished: another run, with more memory, tries again.
                log.extend(entry for entry in entries if not entry.failure)
            first_result = time.perf_counter() - start if math.isnan(first_result) else first_result
            found |= {entry.key: entry for entry in entries}
            progress("scoring", len(found), len(plan.units))
    elapsed = time.perf_counter() - start
    compiling = scorer.work.compile_seconds if scorer.waits_for_compilers else 0.0
    timings = Timings(
        num_scores=len(missing),
        num_compilations=scorer.work.num_compilations,
        compile_seconds=scorer.work.compile_seconds,
        first_result_seconds=first_result,
        scoring_seconds=elapsed - compiling if missing else 0.0,
        device_seconds=scorer.work.device_seconds,
    )
    return [found[unit.key] for unit in plan.units], timings
