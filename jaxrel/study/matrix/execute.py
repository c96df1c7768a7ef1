"""Scores what a plan asks for and is not there yet: bucket by bucket, on all devices, batch by batch onto the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.linalg  # noqa: F401 - has to be loaded for its threads to be counted
from threadpoolctl import threadpool_limits

from jaxrel._core.programs import release_if_many
from jaxrel.hosts import Hosts
from jaxrel.metrics.registry import METRICS
from jaxrel.metrics.result import ScoreStatus
from jaxrel.study.matrix.buckets import Bucket
from jaxrel.study.matrix.kernels import compiled, sharding_over
from jaxrel.study.matrix.layout import Arrays, Layout
from jaxrel.study.matrix.plan import MatrixPlan, Unit
from jaxrel.study.matrix.records import Entry, EntryLog, finished_elsewhere
from jaxrel.study.matrix.result import Timings
from jaxrel.study.matrix.samples import RowCache, Rows, Samples
from jaxrel.study.plan import Progress

__all__ = ["execute"]

_log = logging.getLogger(__name__)

# Of a device in a call, so that a kill loses little and the next lines are never far away.
_MOST_UNITS_CPU, _MOST_UNITS = 64, 1024


def execute(
    plan: MatrixPlan,
    *,
    devices: Sequence[jax.Device],
    output: Path | None,
    memory_budget: int,
    hosts: Hosts,
    progress: Progress,
) -> tuple[list[Entry], Timings]:
    """Every entry of the plan; those that are finished are taken from the folder, and not counted in the timings."""
    units = hosts.share(plan.units)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_cores_shared_by(devices))
        log, found = None, {}
        if output is not None:
            name = "scores.jsonl" if hosts.count == 1 else f"scores-{hosts.index}.jsonl"
            log = stack.enter_context(EntryLog(output / name))
            found = finished_elsewhere(output, log.path) | {
                unit.key: entry for unit in units if (entry := log.find(unit.key)) is not None
            }
        missing = [unit for unit in units if unit.key not in found]
        if len(missing) < len(units):
            _log.info("%d of %d scores are in %s already", len(units) - len(missing), len(units), output)
        run = _Run(plan.samples, devices, memory_budget)
        for entries in run.batches(missing):
            if log is not None:
                # What failed is not finished: another run, with more memory, tries again.
                log.extend(entry for entry in entries if not entry.failure)
            run.note_result(len(entries))
            found |= {entry.key: entry for entry in entries}
            progress("scoring", len(units) - len(missing) + run.num_scores, len(units))
            hosts.check()
    entries = [found[unit.key] for unit in units]
    everything = [Entry.from_json(record) for record in hosts.gather([entry.to_json() for entry in entries])]
    return everything, run.timings()


def _cores_shared_by(devices: Sequence[jax.Device]) -> contextlib.AbstractContextManager[Any]:
    """Give each CPU device its part of the cores for LAPACK, which JAX takes from SciPy on CPUs.

    Every call would take all cores otherwise, and calls of several devices wait for each other in turns: two devices
    had half the throughput of one, four a fifth.
    """
    if devices[0].platform != "cpu" or len(devices) == 1:
        return contextlib.nullcontext()
    return threadpool_limits(max(1, (os.cpu_count() or 1) // len(devices)), user_api="blas")


class _Run:
    """Programs, rows and seconds of one run."""

    def __init__(self, samples: Mapping[str, Samples], devices: Sequence[jax.Device], memory_budget: int) -> None:
        self.num_scores = 0
        self._samples = samples
        self._devices = devices
        self._memory_budget = memory_budget
        self._kept = RowCache(memory_budget)
        self._programs: dict[Any, Any] = {}
        self._num_compilations = 0
        self._compile_seconds = 0.0
        self._device_seconds = 0.0
        self._start = time.perf_counter()
        self._first_result_seconds = math.nan

    def batches(self, units: Sequence[Unit]) -> Iterator[list[Entry]]:
        """Entries of all units, in the order of these; units of one bucket are neighbours."""
        for bucket, members in itertools.groupby(units, key=lambda unit: unit.bucket):
            yield from self._of_bucket(bucket, list(members))
            self._programs.clear()
            release_if_many()

    def note_result(self, num_scores: int) -> None:
        """A batch is finished and on the disk."""
        self.num_scores += num_scores
        if math.isnan(self._first_result_seconds):
            self._first_result_seconds = time.perf_counter() - self._start

    def timings(self) -> Timings:
        """Of all that has been done."""
        elapsed = time.perf_counter() - self._start
        return Timings(
            num_scores=self.num_scores,
            num_compilations=self._num_compilations,
            compile_seconds=self._compile_seconds,
            first_result_seconds=self._first_result_seconds,
            scoring_seconds=elapsed - self._compile_seconds if self.num_scores else 0.0,
            device_seconds=self._device_seconds,
        )

    def _of_bucket(self, bucket: Bucket, units: list[Unit]) -> Iterator[list[Entry]]:
        most = _most_units(bucket, self._memory_budget, self._devices[0].platform) * len(self._devices)
        size = math.ceil(len(units) / math.ceil(len(units) / most))  # calls of equal size
        layout = Layout.of(units, size, len(self._devices))
        done = 0
        while done < len(units):
            batch = units[done : done + size]
            try:
                entries = self._scored(bucket, batch, layout)
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if len(batch) > 1:
                    size = math.ceil(len(batch) / 2)
                    layout = Layout.of(units[done:], size, len(self._devices))
                    _log.warning("%s: no memory for %d scores at once; %d are tried", bucket.metric, len(batch), size)
                    continue
                entries = [_failed(batch[0], error)]
            yield entries
            done += len(batch)

    def _scored(self, bucket: Bucket, units: Sequence[Unit], layout: Layout) -> list[Entry]:
        arrays = layout.arrays(bucket, units, self._load)
        if layout not in self._programs:
            start = time.perf_counter()
            self._programs[layout] = compiled(bucket, arrays.rows, arrays.places, self._devices)
            self._compile_seconds += time.perf_counter() - start
            self._num_compilations += 1
        start = time.perf_counter()
        result = _call(self._programs[layout], arrays, self._devices)
        self._device_seconds += time.perf_counter() - start
        columns = {name: np.asarray(part).tolist() for name, part in vars(result).items()}
        status = columns.pop("status")
        return [
            _entry(unit, status[place], {name: column[place] for name, column in columns.items()})
            for place, unit in zip(layout.places(), units, strict=False)
        ]

    def _load(self, name: str, encoder: str) -> Rows:
        return self._kept.get((name, encoder), lambda: self._samples[name].rows(encoder))


def _call(program: Any, arrays: Arrays, devices: Sequence[jax.Device]) -> Any:
    """What a program makes of arrays, waited for."""
    return jax.block_until_ready(program(*jax.device_put((arrays.rows, arrays.places), sharding_over(devices))))


def _most_units(bucket: Bucket, memory_budget: int, platform: str) -> int:
    """How many units of a bucket fit into the memory of a device, at least one."""
    rows, work = bucket.unit_bytes(jax.numpy.result_type(float).itemsize)
    if platform == "cpu":  # one unit is worked on at a time
        return max(1, min(_MOST_UNITS_CPU, (memory_budget - work) // rows))
    return max(1, min(_MOST_UNITS, memory_budget // (2 * rows + work)))  # each takes its rows out of those of the call


def _entry(unit: Unit, status: int, fields: dict[str, float], failure: str = "") -> Entry:
    return Entry(unit.key, unit.metric, unit.encoder, unit.reference, unit.target, status, fields, failure)


def _failed(unit: Unit, error: Exception) -> Entry:
    fields = {field.name: math.nan for field in dataclasses.fields(METRICS[unit.metric].result)}
    del fields["status"]
    why = f"no memory for one score of this shape: {str(error).splitlines()[0] if str(error) else 'MemoryError'}"
    _log.warning("%s, %s, %s → %s: %s", unit.metric, unit.encoder, unit.reference, unit.target, why)
    return _entry(unit, ScoreStatus.UNDEFINED, fields, why)
