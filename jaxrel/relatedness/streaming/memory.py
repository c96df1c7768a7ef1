"""What fits into a memory budget: whole tasks, or sizes of blocks, calls, reads and subsamples for learning.

These are estimates: the number of live arrays of each kind was inferred from the memory use of processes. All sizes are
powers of two, so that budgets and tasks of similar size share compiled programs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jaxrel._core.memory_budget import largest_power, rows_within
from jaxrel.relatedness.class_transport import LARGEST_PLAN
from jaxrel.relatedness.methods import Method
from jaxrel.task import Task

__all__ = [
    "BlockSizes",
    "Workload",
    "block_sizes_within",
    "checked_budget",
    "fits_whole",
    "learned_within",
    "rows_at_once",
]

_BYTES_PER_SAMPLE = 64  # labels, weights, orders, and what sorting them takes
_COST_ARRAYS = 8  # of the size of the cost array of a block: itself, scaled, the kernel, and temporaries
_FEATURE_COPIES = 5  # read ahead, on the device, in use, standardised
_LEARNING_COPIES = 8  # of features and logits in learning: given, standardised, held out, in line searches
_MINIBATCH_COPIES = 6
_CLOUD_COPIES = 8  # of weights and potentials of every sample for every target class, where tasks are taken whole
_LARGEST_SIDE, _SMALLEST_SIDE = 1024, 32  # samples of a block of as many of each task
_LARGEST_SKEW = 3  # log2 of the largest factor by which one side of a block may exceed that, if one cloud is larger
_ENTRIES_ON_CPU, _ENTRIES = 2**20, 2**24  # of cost arrays solved side by side: fits a cache, suits a GPU
_GROUPS = 4  # of blocks solved side by side in a call
_MOST_LEARNING = 2**15


@dataclass(frozen=True)
class Workload:
    """The sizes that determine memory use: both tasks, with rows of `width` numbers of `itemsize` bytes.

    `num_samples` counts all samples whose labels and weights are in memory. The mesh has `num_devices` devices.
    """

    num_samples: int
    width: int
    num_reference: int
    num_target: int
    itemsize: int
    num_devices: int
    on_cpu: bool

    @classmethod
    def of(cls, tasks: set[Task], reference: Task, target: Task, devices: Any) -> Workload:
        """The sizes of these tasks; `reference` and `target` are one pair of them."""
        return cls(
            num_samples=sum(task.num_samples for task in tasks),
            width=reference.num_features,
            num_reference=reference.labelled[1],
            num_target=target.labelled[1],
            itemsize=max(task.dtype.itemsize for task in tasks),
            num_devices=devices.size,
            on_cpu=devices.devices.flat[0].platform == "cpu",
        )

    @property
    def state(self) -> int:
        """Bytes in use all the time."""
        return _BYTES_PER_SAMPLE * self.num_samples

    @property
    def whole_bytes(self) -> int:
        """Bytes for learning from, and evaluating on, all samples at once."""
        costs = _COST_ARRAYS * min(LARGEST_PLAN, self.num_samples**2)
        clouds = _CLOUD_COPIES * self.num_target * self.num_samples
        return self.itemsize * (costs + clouds) + self.learning_bytes(self.num_samples) // 2

    def block_bytes(self, rows: int, columns: int, at_once: int = 1, blocks: int = 1) -> int:
        """Bytes for a call that solves blocks, `at_once` of them side by side on each device."""
        costs = _COST_ARRAYS * at_once * rows * columns
        features = _FEATURE_COPIES * blocks * (rows + columns) * self.width
        return self.num_devices * self.itemsize * (costs + features)

    def learning_bytes(self, num_samples: int) -> int:
        """Bytes for learning from this many samples of each task, without minibatches."""
        return 2 * _LEARNING_COPIES * self.itemsize * num_samples * (self.width + self.num_reference)

    def minibatch_bytes(self, points: int, space: str) -> int:
        """Bytes for a learning step with this many points of each target class."""
        costs = points**2 * (self.num_reference if space == "prediction" else 1)
        return _MINIBATCH_COPIES * self.itemsize * self.num_target * (costs + 2 * points * self.width)

    @property
    def fewest_learned(self) -> int:
        """The smallest number of samples of each task for learning."""
        return 8 * max(self.num_reference, self.num_target)


@dataclass(frozen=True)
class BlockSizes:
    """Sizes: samples in a block, blocks solved side by side and in one device call, and rows read at a time."""

    rows: int
    columns: int
    at_once: int
    blocks_per_call: int
    rows_at_once: int


def fits_whole(budget: int, work: Workload) -> bool:
    """Whether the tasks fit as a whole."""
    return work.state + work.whole_bytes <= budget


def checked_budget(budget: int, work: Workload, method: Method | None = None) -> int:
    """The budget; if it is too small, a ValueError names the smallest that suffices (with learning if `method`)."""
    least = work.block_bytes(_SMALLEST_SIDE, _SMALLEST_SIDE)
    if method is not None:
        least = max(least, 2 * work.learning_bytes(work.fewest_learned), 2 * work.minibatch_bytes(4, method.space))
    if budget < work.state + least:
        raise ValueError(
            f"memory_budget of {budget:,} bytes is too small: {work.num_samples:,} samples and the smallest blocks "
            f"take {work.state + least:,} bytes, pass at least that."
        )
    return budget


def learned_within(budget: int, work: Workload, method: Method) -> tuple[int, Method]:
    """The samples of each task that half of the free budget holds, and the method with minibatches for the rest."""
    half = (budget - work.state) // 2
    num_samples = min(_MOST_LEARNING, largest_power(half // work.learning_bytes(1)))
    fitting = method.within(lambda points: work.minibatch_bytes(points, method.space) <= half)
    return max(work.fewest_learned, num_samples), fitting


def block_sizes_within(budget: int, work: Workload, clouds: tuple[int, int]) -> BlockSizes:
    """The largest blocks, up to 1,024 samples of each task, in the proportion of the two largest clouds."""
    free = budget - work.state
    skew = round(math.log(clouds[0] / clouds[1], 4))
    skew = max(-_LARGEST_SKEW, min(skew, _LARGEST_SKEW))
    side = _LARGEST_SIDE
    while side > _SMALLEST_SIDE and work.block_bytes(*_skewed(side, skew)) > free:
        side //= 2
    while skew and work.block_bytes(*_skewed(side, skew)) > free:
        skew -= 1 if skew > 0 else -1
    rows, columns = (
        min(most, max(4, _power_above(points))) for most, points in zip(_skewed(side, skew), clouds, strict=True)
    )

    most = max(1, (_ENTRIES_ON_CPU if work.on_cpu else _ENTRIES) // (rows * columns))
    at_once = largest_power(most)
    while at_once > 1 and work.block_bytes(rows, columns, at_once, at_once) > free:
        at_once //= 2
    groups = _GROUPS
    while groups > 1 and work.block_bytes(rows, columns, at_once, groups * at_once) > free:
        groups //= 2
    return BlockSizes(rows, columns, at_once, groups * at_once, rows_at_once(budget, work))


def rows_at_once(budget: int, work: Workload) -> int:
    """Rows that a device receives at a time in a pass over a file."""
    row = work.num_devices * work.itemsize * _FEATURE_COPIES * (work.width + work.num_reference)
    return rows_within(budget - work.state, row)


def _skewed(side: int, skew: int) -> tuple[int, int]:
    return (side << skew, side >> skew) if skew >= 0 else (side >> -skew, side << -skew)


def _power_above(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << (max(size, 1) - 1).bit_length()
