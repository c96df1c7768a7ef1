"""Scores units on workers of an executor: a part is a set of units of one bucket with their samples."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxrel.study.engine import Part, num_workers, run_parts
from jaxrel.study.plan import Unit, needed_by
from jaxrel.study.scoring.buckets import Bucket
from jaxrel.study.scoring.findings import Finding
from jaxrel.study.scoring.kernels import persistent_worker_cache
from jaxrel.study.scoring.layout import Layout
from jaxrel.study.scoring.local import LocalScorer, Programs, Work, bucket_of_unit
from jaxrel.study.sources import Source

__all__ = ["RemoteScorer"]

_MOST_UNITS = 256
_PARTS_A_WORKER = 4  # at least, if there are enough units, so that no worker is idle for long at the end

Result = tuple[list[Finding], Work]


class RemoteScorer:
    """Scores on workers of an executor, each with all devices of its own."""

    waits_for_compilers = False  # one worker compiles while others score

    def __init__(
        self,
        sources: Mapping[str, Source],
        executor: Executor,
        memory_budget: int,
        compilation_cache: Path | str | None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            sources: by name.
            executor: left open.
            memory_budget: estimated bytes that a call may take on each device of a worker.
            compilation_cache: folder in which workers keep compiled programs.
        """
        self.work = Work()
        self._sources = sources
        self._executor = executor
        self._options = memory_budget, compilation_cache

    def batches(self, units: Sequence[Unit]) -> Generator[list[Finding]]:
        """The findings of all units, part by part as they are ready."""
        with contextlib.closing(run_parts(self._executor, self._parts(units))) as results:
            for _, (findings, work) in results:
                self.work.add(work)
                yield findings

    def _parts(self, units: Sequence[Unit]) -> Iterator[Part[Result]]:
        most = min(_MOST_UNITS, math.ceil(len(units) / (_PARTS_A_WORKER * num_workers(self._executor))))
        for bucket, members in itertools.groupby(units, key=bucket_of_unit):
            own = list(members)
            size = math.ceil(len(own) / math.ceil(len(own) / most))  # parts of equal size
            room = Layout.of(own, size, 1)
            for start in range(0, len(own), size):
                part = own[start : start + size]
                name = f"{bucket.metric}, {_told(part[0])} to {_told(part[-1])}"
                yield Part(name, _score_part, (needed_by(part, self._sources), part, room, *self._options))


def _told(unit: Unit) -> str:
    tasks = f"{unit.reference} → {unit.target}" if unit.reference else unit.target
    return f"{unit.encoder} on {tasks}"


def _score_part(
    sources: Mapping[str, Source],
    units: Sequence[Unit],
    room: Layout,
    memory_budget: int,
    compilation_cache: Path | str | None,
) -> Result:
    """Runs on a worker."""
    programs_of = functools.partial(_programs, jnp.result_type(float).name)
    scorer = LocalScorer(sources, jax.local_devices(), memory_budget, room=room, programs_of=programs_of)
    with persistent_worker_cache(compilation_cache):
        return [finding for batch in scorer.batches(units) for finding in batch], scorer.work


@functools.lru_cache(maxsize=8)
def _programs(dtype: str, bucket: Bucket) -> Programs:  # noqa: ARG001 - one dictionary for each
    """The compiled programs that a worker keeps between parts."""
    return {}
