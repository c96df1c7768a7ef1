"""Many metrics of many encoders on many pairs of data sets: the same call for ten pairs and a hundred thousand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxrel.hosts import Hosts
from jaxrel.study.matrix.buckets import Bucket, padded_size
from jaxrel.study.matrix.execute import execute
from jaxrel.study.matrix.kernels import persistent_cache, score_units
from jaxrel.study.matrix.plan import MatrixPlan, plan_matrix
from jaxrel.study.matrix.result import Matrix, Timings, make_matrix
from jaxrel.study.matrix.samples import StoredFeatures
from jaxrel.study.plan import Progress, Source, silent

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
    hosts: Hosts | None = None,
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
        mesh: its devices do the work; None takes all devices of this process.
        output: folder that keeps finished scores (`scores.jsonl`), so that a second call computes only what is missing.
            None keeps them nowhere.
        memory_budget: bytes that a call may take on each device, by an estimate. Where memory does not suffice all the
            same, calls are halved; a single score that it does not suffice for has a status that says so, and is tried
            again by the next call. Rows kept on the host take as much at most.
        compilation_cache: folder that keeps compiled programs; None leaves JAX's settings as they are.
        hosts: the processes that share the work, from :func:`jaxrel.hosts.connect`, each with a file
            `scores-<index>.jsonl` in a common folder and its local devices; all return the whole matrix. None is this
            process alone.
        progress: told `(what, done, total)` as work goes on.

    Returns:
        A `Matrix`. On CPUs its bits depend neither on how units fall into calls nor on what was finished before.

    Raises:
        ValueError: before any work, for an unknown or doubled name, a metric that needs what data sets do not have
            (labels, probabilities, views), encoders whose widths differ, or no pair at all.
        BlockingIOError: another process writes into `output`.
        HostLostError: another process was lost; what is finished is kept.
    """
    if memory_budget < 1:
        raise ValueError(f"memory_budget is {memory_budget}: pass a number of bytes, such as 2 * 2**30.")
    here = jax.process_index()
    given = jax.devices() if mesh is None else mesh.devices.flat
    devices = [device for device in given if device.process_index == here]
    if not devices:
        raise ValueError("no device of the mesh belongs to this process: pass a mesh that has some.")
    plan = plan_matrix(metrics, references, targets, encoders, progress=progress)
    with persistent_cache(compilation_cache):
        entries, timings = execute(
            plan,
            devices=devices,
            output=None if output is None else Path(output),
            memory_budget=memory_budget,
            hosts=hosts or Hosts(),
            progress=progress,
        )
    return make_matrix(plan, entries, timings)
