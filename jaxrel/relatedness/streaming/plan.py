"""The decision whether tasks are streamed, and the limits of streaming."""

from __future__ import annotations

from dataclasses import dataclass

from jax.sharding import Mesh

from jaxrel._core.checks import is_traced
from jaxrel._core.memory_budget import limit_of
from jaxrel.relatedness.methods import Method
from jaxrel.relatedness.streaming.devices import Progress, in_one_row
from jaxrel.relatedness.streaming.memory import Workload, checked_budget, fits_whole, rows_at_once
from jaxrel.task import Task

__all__ = ["Plan", "plan_of"]


@dataclass(frozen=True)
class Plan:
    """The memory budget, the work it covers, the devices along one axis, and the progress callback."""

    budget: int
    work: Workload
    devices: Mesh
    progress: Progress | None


def plan_of(
    named: dict[str, Task],
    memory_budget: int | None,
    mesh: Mesh | None,
    progress: Progress | None,
    method: Method | None = None,
) -> Plan | None:
    """How to stream the tasks (a reference and a target come first), or None to use them whole.

    `method` is the method of learning, or None if nothing is learned. Stored values are checked here.
    """
    reference, target, *_ = tasks = list(named.values())
    budget = limit_of(memory_budget, in_memory=all(task.in_memory for task in tasks))
    if budget is None or any(is_traced(task.labels, task.weights) for task in tasks):
        return None
    devices = in_one_row(mesh)
    work = Workload.of(set(tasks), reference, target, devices)
    if fits_whole(budget, work):
        return None
    budget = checked_budget(budget, work, method)
    for name, task in named.items():
        task.check_values(name, rows_at_once(budget, work))
    return Plan(budget, work, devices, progress)
