"""Scores units on workers of an executor: a part is some units of one bucket with the samples they need."""

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
from jaxrel.study.matrix.buckets import Bucket
from jaxrel.study.matrix.kernels import persistent_cache
from jaxrel.study.matrix.layout import Layout
from jaxrel.study.matrix.local import LocalScorer, Programs, Work
from jaxrel.study.matrix.plan import Unit
from jaxrel.study.matrix.records import Entry
from jaxrel.study.matrix.samples import Samples

__all__ = ["RemoteScorer"]

_MOST_UNITS = 256
_PARTS_A_WORKER = 4  # at least, where there are enough units, so that none is idle for long at the end

Result = tuple[list[Entry], Work]


class RemoteScorer:
    """Scores on workers of an executor, each with all devices of its own."""

    waits_for_compilers = False  # one worker compiles while others score

    def __init__(
        self,
        samples: Mapping[str, Samples],
        executor: Executor,
        memory_budget: int,
        compilation_cache: Path | str | None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            samples: by name.
            executor: left open.
            memory_budget: bytes that a call may take on each device of a worker, by an estimate.
            compilation_cache: folder in which workers keep compiled programs.
        """
        self.work = Work()
        self._samples = samples
        self._executor = executor
        self._options = memory_budget, compilation_cache

    def batches(self, units: Sequence[Unit]) -> Generator[list[Entry]]:
        """Entries of all units, part by part as they are ready."""
        with contextlib.closing(run_parts(self._executor, self._parts(units))) as results:
            for _, (entries, work) in results:
                self.work.add(work)
                yield entries

    def _parts(self, units: Sequence[Unit]) -> Iterator[Part[Result]]:
        most = min(_MOST_UNITS, math.ceil(len(units) / (_PARTS_A_WORKER * num_workers(self._executor))))
        for bucket, members in itertools.groupby(units, key=lambda unit: unit.bucket):
            own = list(members)
            size = math.ceil(len(own) / math.ceil(len(own) / most))  # parts of equal size
            room = Layout.of(own, size, 1)
            for start in range(0, len(own), size):
                part = own[start : start + size]
                name = f"{bucket.metric}, {_told(part[0])} to {_told(part[-1])}"
                yield Part(name, _score_part, (self._sent(part), part, room, *self._options))

    def _sent(self, units: Sequence[Unit]) -> dict[str, Samples]:
        """The samples of these units."""
        needed: dict[str, set[str]] = {}
        for unit in units:
            for name in filter(None, (unit.reference, unit.target)):
                needed.setdefault(name, set()).add(unit.encoder)
        return {name: self._samples[name].restricted_to(encoders) for name, encoders in needed.items()}


def _told(unit: Unit) -> str:
    tasks = f"{unit.reference} → {unit.target}" if unit.reference else unit.target
    return f"{unit.encoder} on {tasks}"


def _score_part(
    samples: Mapping[str, Samples],
    units: Sequence[Unit],
    room: Layout,
    memory_budget: int,
    compilation_cache: Path | str | None,
) -> Result:
    """On a worker."""
    programs_of = functools.partial(_programs, jnp.result_type(float).name)
    scorer = LocalScorer(samples, jax.local_devices(), memory_budget, room=room, programs_of=programs_of)
    with persistent_cache(compilation_cache):
        return [entry for batch in scorer.batches(units) for entry in batch], scorer.work


@functools.lru_cache(maxsize=8)
def _programs(dtype: str, bucket: Bucket) -> Programs:  # noqa: ARG001 - one dictionary for each
    """What a worker keeps compiled from one part to the next."""
    return {}
