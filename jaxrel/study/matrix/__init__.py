"""Many metrics of many encoders on many pairs of data sets: the same call for ten pairs and a hundred thousand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxrel.study.matrix.buckets import Bucket, padded_size
from jaxrel.study.matrix.execute import execute
from jaxrel.study.matrix.kernels import persistent_cache, score_units
from jaxrel.study.matrix.local import LocalScorer, cores_shared_by
from jaxrel.study.matrix.plan import MatrixPlan, plan_matrix
from jaxrel.study.matrix.remote import RemoteScorer
from jaxrel.study.matrix.result import Matrix, Timings, make_matrix
from jaxrel.study.matrix.samples import StoredFeatures
from jaxrel.study.sources import Progress, Source, silent

__all__ = [
    "Bucket",
    "Matrix",
    "MatrixPlan",
    "StoredFeatures",
    "Timings",
    "padded_size",
    "plan_matrix",
    "score_matrix",
    "score_units",
]


def score_matrix(
    metrics: Sequence[str],
    references: Sequence[Source | StoredFeatures],
    targets: Sequence[Source | StoredFeatures],
    encoders: Sequence[str],
    *,
    mesh: Mesh | None = None,
    output: Path | str | None = None,
    memory_budget: int = 2 * 2**30,
    compilation_cache: Path | str | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Matrix:
    """Every metric of every encoder on every target, and with every other data set as reference where it needs one.

        sources = [FeatureArrays(name, {"my-net": (train, test)}) for name, (train, test) in tasks.items()]
        matrix = score_matrix(["logme", "ot_nce"], sources, sources, ["my-net"], output="scores")
        matrix.values[1, 0]  # OT-NCE of my-net, (reference, target)

    Scores are computed on the training samples, in programs that each serve all units of one metric and shape: the
    number of samples is rounded up by at most 2^(1/2) (and 7 samples) with samples of weight 0, widths and class counts
    are exact. `plan_matrix(...).num_compilations` says how many programs there are. Each device runs a loop of its own
    over units, and no device waits for another. Finished scores are on the disk after each call of a program.

    Args:
        metrics: names in `jaxrel.metrics.METRICS` that need features and labels, of a target and maybe a reference.
        references: data sets to compare targets with; may be empty where no metric needs one.
        targets: data sets to transfer to; one may be a reference as well, but is not compared with itself.
        encoders: names that all data sets have features of.
        mesh: its devices do the work; None takes all devices of this process. An executor's workers take all of theirs.
        output: folder that keeps finished scores (`scores.jsonl`), so that a second call computes only what is missing.
            None keeps them nowhere.
        memory_budget: bytes that a call may take on each device, by an estimate. Where memory does not suffice all the
            same, calls are halved; a single score that it does not suffice for has a status that says so, and is tried
            again by the next call. Rows kept on the host take as much at most.
        compilation_cache: folder that keeps compiled programs; None leaves JAX's settings as they are.
        executor: has its workers score, at most 256 numbers of one bucket a call, fewer where there are many workers:
            any of `concurrent.futures`, such as :class:`jaxrel.study.ray.RayExecutor`. Compilation and device seconds
            are then sums over workers, and scoring seconds all that passed. None is this process with its devices.
        progress: told `(what, done, total)` as work goes on.

    Returns:
        A `Matrix`. On CPUs its bits depend neither on how units fall into calls nor on what was finished before.

    Raises:
        ValueError: before any work, for an unknown or doubled name, a metric that needs what data sets do not have
            (labels, probabilities, views), encoders whose widths differ, or no pair at all.
        BlockingIOError: another process writes into `output`.
        EngineError: the executor lost some of the calls, which it names; the others are finished and kept.
    """
    if memory_budget < 1:
        raise ValueError(f"memory_budget is {memory_budget}: pass a number of bytes, such as 2 * 2**30.")
    if mesh is not None and executor is not None:
        raise ValueError("mesh is of this process, and an executor has devices of its own: pass one of them.")
    devices = _devices(mesh) if executor is None else []
    plan = plan_matrix(metrics, references, targets, encoders, executor=executor, progress=progress)
    scorer: LocalScorer | RemoteScorer
    if executor is None:
        scorer = LocalScorer(plan.samples, devices, memory_budget)
    else:
        scorer = RemoteScorer(plan.samples, executor, memory_budget, compilation_cache)
    with persistent_cache(compilation_cache), cores_shared_by(devices):
        entries, timings = execute(plan, scorer, output=None if output is None else Path(output), progress=progress)
    return make_matrix(plan, entries, timings)


def _devices(mesh: Mesh | None) -> list[jax.Device]:
    """Those of the mesh that are of this process."""
    here = jax.process_index()
    given = jax.devices() if mesh is None else mesh.devices.flat
    if devices := [device for device in given if device.process_index == here]:
        return devices
    raise ValueError("no device of the mesh belongs to this process: pass a mesh that has some.")
