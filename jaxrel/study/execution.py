"""Computes the missing numbers of a plan; each is written to disk as soon as it is finished."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrel.encoders.registry import split_layer
from jaxrel.study.documents import SCHEMA, write_json
from jaxrel.study.draws import underlying
from jaxrel.study.engine import Part, run_parts
from jaxrel.study.extraction import extract
from jaxrel.study.keys import Way, keyed, way_of
from jaxrel.study.plan import Plan, Unit, needed_by
from jaxrel.study.records import LOG, OK, Record, StudyLog
from jaxrel.study.results import Results, Timings
from jaxrel.study.scoring.arrays import score_arrays
from jaxrel.study.scoring.buckets import bucketed
from jaxrel.study.scoring.explained import score_explained
from jaxrel.study.scoring.findings import Finding
from jaxrel.study.scoring.kernels import persistent_cache, persistent_worker_cache
from jaxrel.study.scoring.local import LocalScorer, Work, cores_shared_by
from jaxrel.study.scoring.remote import RemoteScorer
from jaxrel.study.settings import Settings
from jaxrel.study.sources import NamedSource, Progress, Source, silent

__all__ = ["BROKEN", "run"]

_log = logging.getLogger(__name__)

BROKEN = "left_out.json"

_Function = Callable[[Sequence[Unit], Mapping[str, Source], Settings, Progress], Iterator[list[Finding]]]


def run(
    plan: Plan,
    *,
    output: Path | str | None = None,
    executor: Executor | None = None,
    mesh: Mesh | None = None,
    memory_budget: int = 2 * 2**30,
    compilation_cache: Path | str | None = None,
    command: Sequence[str] = (),
    progress: Progress = silent,
) -> Results:
    """Compute every number of a plan.

    Metrics of features and labels are computed by one program for all units of one metric and shape: the
    number of samples is rounded up by at most 2^(1/2) (and 7 samples) with samples of weight 0; widths and class
    counts are exact. Each device runs its own loop over units, and no device waits for another.

    Args:
        plan: `Study(...).plan()`.
        output: folder of finished records (`records.jsonl`), so that a second call computes only missing ones, and of
            the list of unreadable samples that were left out (`left_out.json`). None keeps nothing.
        executor: runs the scoring on its workers: any executor of `concurrent.futures`, such as
            :class:`jaxrel.study.ray.RayExecutor`. None uses the devices of this process.
        mesh: devices to use; None uses all devices of this process. Workers of an executor use all of theirs.
        memory_budget: estimated bytes that a call may take on each device. If memory still runs out, calls are halved;
            a single score that does not fit has a status that says so, and is tried again by the next call. Rows kept
            on the host take at most as much.
        compilation_cache: folder of compiled programs, on the hosts of the workers if there is an executor; None
            leaves JAX's settings unchanged.
        command: the arguments of the command line, for the records.
        progress: called with `(what, done, total)` as work goes on.

    Returns:
        A record for every unit. A unit that fails has a status that says why, and the others are still computed.

    Raises:
        ValueError: a number is out of range, or the folder has records of another version.
        OSError: `output` cannot be written to; BlockingIOError where another process writes there.
        Exception: the first exception of a score, if the settings are strict.
        EngineError: the executor lost some of the calls, which it names; the others are finished and kept.
    """
    if memory_budget < 1:
        raise ValueError(f"memory_budget is {memory_budget}: pass a number of bytes, such as 2 * 2**30.")
    if mesh is not None and executor is not None:
        raise ValueError(
            "mesh selects devices of this process, but an executor has its own devices: pass only one of them."
        )
    devices = _devices(mesh) if executor is None else []
    with contextlib.ExitStack() as stack:
        log = None if output is None else stack.enter_context(StudyLog(Path(output) / LOG, command))
        units = list(keyed(plan, progress))
        _tell_of_broken(plan, output)
        records = {record.key: record for _, record in units if record.key}
        found = {} if log is None else {key: kept for key in records if (kept := log.find(key)) is not None}
        if found:
            _log.info("%d of %d scores are in %s and are not computed again", len(found), len(units), output)
        missing = [unit for unit, _ in units if unit.key and unit.key not in found]
        scorer: LocalScorer | RemoteScorer
        if executor is None:
            scorer = LocalScorer(plan.sources, devices, memory_budget)
        else:
            scorer = RemoteScorer(plan.sources, executor, memory_budget, compilation_cache)
        start, first_result = time.perf_counter(), math.nan
        stack.enter_context(persistent_cache(compilation_cache if executor is None else None))
        stack.enter_context(cores_shared_by(devices))
        batches = stack.enter_context(
            contextlib.closing(_findings(plan, missing, scorer, executor, compilation_cache, progress))
        )
        progress("scoring", len(found), len(records))
        for findings in batches:
            done = [(_filled(records[finding.unit.key], finding), finding.lasting) for finding in findings]
            if log is not None:
                log.extend(record for record, lasting in done if lasting)
            first_result = time.perf_counter() - start if math.isnan(first_result) else first_result
            found |= {record.key: record for record, _ in done}
            progress("scoring", len(found), len(records))
        elapsed = time.perf_counter() - start
    return Results.of(
        plan,
        [found.get(record.key, record) for _, record in units],
        _timings(len(missing), scorer.work, elapsed, first_result, waited=scorer.waits_for_compilers),
    )


def _tell_of_broken(plan: Plan, output: Path | str | None) -> None:
    """List unreadable samples that were left out in a file beside the records, and count them in the log."""
    named = [source for source in plan.sources.values() if isinstance(source, NamedSource)]
    broken = {source.name: [list(sample) for sample in source.skipped] for source in named if source.skipped}
    for name, samples in broken.items():
        _log.warning(
            "%s: samples that cannot be read and are left out: %s, named in %s", name, f"{len(samples):,}", BROKEN
        )
    if output is not None and broken:
        write_json(Path(output) / BROKEN, {"schema": SCHEMA, "left_out": broken})
    elif output is not None:
        (Path(output) / BROKEN).unlink(missing_ok=True)


def _devices(mesh: Mesh | None) -> list[jax.Device]:
    """The devices of the mesh that belong to this process."""
    here = jax.process_index()
    given = jax.devices() if mesh is None else mesh.devices.flat
    if devices := [device for device in given if device.process_index == here]:
        return devices
    raise ValueError("no device of the mesh belongs to this process: pass a mesh that has some.")


def _timings(num_scores: int, work: Work, elapsed: float, first_result: float, *, waited: bool) -> Timings:
    return Timings(
        num_scores=num_scores,
        num_compilations=work.num_compilations,
        compile_seconds=work.compile_seconds,
        first_result_seconds=first_result,
        scoring_seconds=elapsed - (work.compile_seconds if waited else 0.0) if num_scores else 0.0,
        device_seconds=work.device_seconds,
    )


def _findings(
    plan: Plan,
    missing: Sequence[Unit],
    scorer: LocalScorer | RemoteScorer,
    executor: Executor | None,
    compilation_cache: Path | str | None,
    progress: Progress,
) -> Generator[list[Finding]]:
    """The findings of all units, as they are ready."""
    kinds: dict[Way, list[Unit]] = {"batched": [], "arrays": [], "reasons": []}
    order = {encoder: place for place, encoder in enumerate(plan.encoders)}
    for unit in sorted(missing, key=lambda unit: order[unit.encoder]):
        kinds[way_of(unit, plan)].append(unit)
    if executor is not None:
        # Besides units scored in batches, the layers of networks, which separate calls would extract separately.
        extracted = [
            unit for unit in missing if split_layer(unit.encoder)[1] is not None or way_of(unit, plan) == "batched"
        ]
        named = {id(source): source for source in _named_sources(extracted, plan.sources)}
        extract(executor, list(named.values()), list(dict.fromkeys(unit.encoder for unit in extracted)), progress)
    if kinds["batched"]:
        units, failed = bucketed(kinds["batched"], plan.sources, progress, strict=plan.settings.strict)
        if failed:
            yield [_told(finding) for finding in failed]
        with contextlib.closing(scorer.batches(units)) as batches:
            yield from batches
    groups: list[tuple[_Function, list[Unit]]] = [
        *((score_arrays, units) for units in _grouped(kinds["arrays"], lambda unit: (unit.encoder, *unit.sources))),
        *((score_explained, units) for units in _grouped(kinds["reasons"], lambda unit: unit.encoder)),
    ]
    if executor is None:
        for function, units in groups:
            for findings in function(units, plan.sources, plan.settings, progress):
                yield [_told(finding) for finding in findings]
        return
    calls = ((function, units, needed_by(units, plan.sources), plan.settings) for function, units in groups)
    parts = (Part(f"encoder {call[1][0].encoder}", _on_worker, (compilation_cache, *call)) for call in calls)
    with contextlib.closing(run_parts(executor, parts)) as results:
        for _, found in results:
            yield [_told(finding) for finding in found]


def _on_worker(
    compilation_cache: Path | str | None,
    function: _Function,
    units: Sequence[Unit],
    sources: Mapping[str, Source],
    settings: Settings,
) -> list[Finding]:
    with persistent_worker_cache(compilation_cache):
        return [finding for findings in function(units, sources, settings, silent) for finding in findings]


def _named_sources(units: Iterable[Unit], sources: Mapping[str, Source]) -> Iterator[NamedSource]:
    for unit in units:
        for name in unit.sources:
            if isinstance(source := underlying(sources[name]), NamedSource):
                yield source


def _grouped(units: Sequence[Unit], of: Callable[[Unit], Any]) -> list[list[Unit]]:
    """The units that are computed together."""
    groups: dict[Any, list[Unit]] = {}
    for unit in units:
        groups.setdefault(of(unit), []).append(unit)
    return list(groups.values())


# Results


def _filled(record: Record, finding: Finding) -> Record:
    return dataclasses.replace(
        record,
        status=finding.status,
        bits=finding.bits,
        numbers=finding.numbers,
        texts={**record.texts, **finding.texts},
        resamples=finding.resamples,
        classes=finding.classes,
    )


def _told(finding: Finding) -> Finding:
    unit = finding.unit
    level = logging.INFO if finding.status == OK else logging.WARNING
    tasks = unit.target if unit.reference is None else f"{unit.reference} → {unit.target}"
    value = f"{finding.numbers.get('value', math.nan):.6g}" if finding.status == OK else finding.status
    _log.log(level, "%s, %s on %s: %s", unit.encoder, unit.metric, tasks, value)
    return finding
