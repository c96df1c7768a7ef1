"""Scores units on devices of this process: bucket by bucket, with as many units per call as fit into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import scipy.linalg  # noqa: F401 - must be loaded for its threads to be counted
from threadpoolctl import threadpool_limits

from jaxrel._core.programs import release_if_many
from jaxrel.metrics.registry import METRICS
from jaxrel.metrics.result import ScoreStatus
from jaxrel.study.plan import Unit
from jaxrel.study.records import OK
from jaxrel.study.scoring.buckets import Bucket
from jaxrel.study.scoring.findings import Finding
from jaxrel.study.scoring.kernels import compiled, sharding_over
from jaxrel.study.scoring.layout import Arrays, Layout
from jaxrel.study.scoring.rows import RowCache, Rows, rows_of
from jaxrel.study.sources import Source, silent

__all__ = ["LocalScorer", "Programs", "Work", "bucket_of_unit", "cores_shared_by"]

_log = logging.getLogger(__name__)

# Units per device and call, so that a kill loses little and results are written often.
_MOST_UNITS_CPU, _MOST_UNITS = 64, 1024


@dataclasses.dataclass
class Work:
    """The cost of scoring so far.

    Attributes:
        num_compilations: programs compiled or loaded from a cache.
        compile_seconds: time of these compilations.
        device_seconds: time of devices, including copies to them.
    """

    num_compilations: int = 0
    compile_seconds: float = 0.0
    device_seconds: float = 0.0

    def add(self, other: Work) -> None:
        """Add the cost of another scorer."""
        self.num_compilations += other.num_compilations
        self.compile_seconds += other.compile_seconds
        self.device_seconds += other.device_seconds


Programs = dict[Layout, Any]


class LocalScorer:
    """Scores on devices of this process."""

    waits_for_compilers = True

    def __init__(
        self,
        sources: Mapping[str, Source],
        devices: Sequence[jax.Device],
        memory_budget: int,
        *,
        room: Layout | None = None,
        programs_of: Callable[[Bucket], Programs] = lambda _: {},
    ) -> None:
        """Nothing is read yet.

        Args:
            sources: by name.
            devices: devices to use.
            memory_budget: estimated bytes that a call may take on each device.
            room: sizes of a call for all units, if other scorers with other units share its program.
            programs_of: programs already compiled for a bucket by other scorers; new ones are added.
        """
        self.work = Work()
        self._sources = sources
        self._devices = devices
        self._memory_budget = memory_budget
        self._room = room
        self._programs_of = programs_of
        self._kept = RowCache(memory_budget)

    def batches(self, units: Sequence[Unit]) -> Generator[list[Finding]]:
        """The findings of all units, in order; units of one bucket are consecutive."""
        for bucket, members in itertools.groupby(units, key=bucket_of_unit):
            yield from self._of_bucket(bucket, list(members))
            release_if_many()

    def _of_bucket(self, bucket: Bucket, units: list[Unit]) -> Iterator[list[Finding]]:
        most = self._most_units(bucket) * len(self._devices)
        size = math.ceil(len(units) / math.ceil(len(units) / most))  # calls of equal size
        layout = Layout.of(units, size, len(self._devices))
        if self._room is not None and size == len(units) and len(self._devices) == self._room.num_devices:
            layout = self._room
        programs = self._programs_of(bucket)
        done = 0
        while done < len(units):
            batch = units[done : done + size]
            try:
                findings = self._scored(bucket, batch, layout, programs)
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if len(batch) > 1:
                    size = math.ceil(len(batch) / 2)
                    layout = Layout.of(units[done:], size, len(self._devices))
                    _log.warning("%s: no memory for %d scores at once; %d are tried", bucket.metric, len(batch), size)
                    continue
                findings = [_failed(batch[0], error)]
            yield findings
            done += len(batch)

    def _scored(self, bucket: Bucket, units: Sequence[Unit], layout: Layout, programs: Programs) -> list[Finding]:
        arrays = layout.arrays(bucket, units, self._load)
        if layout not in programs:
            start = time.perf_counter()
            programs[layout] = compiled(bucket, arrays.rows, arrays.places, self._devices)
            self.work.add(Work(1, time.perf_counter() - start))
        start = time.perf_counter()
        result = _call(programs[layout], arrays, self._devices)
        seconds = time.perf_counter() - start
        self.work.add(Work(device_seconds=seconds))
        columns = {name: np.asarray(part).tolist() for name, part in vars(result).items()}
        status = columns.pop("status")
        share = {"scoring_seconds": seconds / len(units)}
        return [
            _finding(unit, {name: column[place] for name, column in columns.items()} | share, status[place])
            for place, unit in zip(layout.places(), units, strict=False)
        ]

    def _most_units(self, bucket: Bucket) -> int:
        """The number of units of a bucket that fit into the memory of a device, at least one."""
        rows, work = bucket.unit_bytes(jax.numpy.result_type(float).itemsize)
        if self._devices[0].platform == "cpu":  # one unit is computed at a time
            most = _MOST_UNITS_CPU if self._room is None else self._room.num_units
            return max(1, min(most, (self._memory_budget - work) // rows))
        # Each unit gathers its rows from those of the call.
        return max(1, min(_MOST_UNITS, self._memory_budget // (2 * rows + work)))

    def _load(self, name: str, encoder: str) -> Rows:
        return self._kept.get((name, encoder), lambda: rows_of(self._sources[name].features(encoder, silent).train))


def cores_shared_by(devices: Sequence[jax.Device]) -> contextlib.AbstractContextManager[Any]:
    """Give each CPU device its share of the cores for LAPACK, which JAX calls through SciPy on CPUs.

    Otherwise every call would use all cores, and calls of several devices would wait for each other: two devices had
    half the throughput of one, four a fifth.
    """
    if len(devices) < 2 or devices[0].platform != "cpu":
        return contextlib.nullcontext()
    return threadpool_limits(max(1, (os.cpu_count() or 1) // len(devices)), user_api="blas")


def _call(program: Any, arrays: Arrays, devices: Sequence[jax.Device]) -> Any:
    """The result of a program, after waiting for it."""
    return jax.block_until_ready(program(*jax.device_put((arrays.rows, arrays.places), sharding_over(devices))))


def bucket_of_unit(unit: Unit) -> Bucket:
    """The dtype of the computation."""
    assert unit.bucket is not None  # noqa: S101 (for the type checker)
    return unit.bucket


def _finding(unit: Unit, numbers: Mapping[str, float], bits: int) -> Finding:
    return Finding(unit, numbers, "; ".join(ScoreStatus.messages_of(bits)) or OK, bits)


def _failed(unit: Unit, error: Exception) -> Finding:
    numbers = {field.name: math.nan for field in dataclasses.fields(METRICS[unit.metric].result)}
    del numbers["status"]
    why = f"no memory for one score of this shape: {str(error).splitlines()[0] if str(error) else 'MemoryError'}"
    # Another run with more memory may succeed.
    return Finding(unit, numbers, why, ScoreStatus.UNDEFINED, lasting=False)
