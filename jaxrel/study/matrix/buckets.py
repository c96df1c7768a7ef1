"""Units of work by shape: those of one bucket run in one compiled program.

The number of samples is rounded up to a geometric grid, for a sample of weight 0 does not exist; width and class counts
are exact, as both change what is computed.
"""

from __future__ import annotations

import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrel.metrics.class_blocks import checked_largest_class
from jaxrel.metrics.registry import METRICS
from jaxrel.study.matrix.samples import Outline

__all__ = ["STEPS_PER_DOUBLING", "Bucket", "bucket_of", "padded_size"]

STEPS_PER_DOUBLING = 2
_MULTIPLE = 8


@dataclass(frozen=True, order=True)
class Bucket:
    """What a metric is compiled for.

    Attributes:
        metric: its name.
        num_samples: samples of the target, padding included.
        reference_samples: likewise of the reference; 0 where the metric needs none.
        width: of the features.
        options: what is static in the metric and follows from labels: class counts, and rooms for the largest class.
    """

    metric: str
    num_samples: int
    reference_samples: int
    width: int
    options: tuple[tuple[str, Any], ...]

    def unit_bytes(self, itemsize: int) -> tuple[int, int]:
        """Bytes of the rows of one unit, and an estimate of what its computation takes beside them.

        A few arrays of the size of the rows, and a few of all pairs of samples.
        """
        samples = self.num_samples + self.reference_samples
        return samples * self.width * itemsize, 4 * samples * (samples + self.width) * itemsize


@functools.cache
def bucket_of(metric: str, target: Outline, reference: Outline | None) -> Bucket:
    """The bucket in which a metric is computed for samples of these shapes."""
    sides = {"": target} | ({} if reference is None else {"reference_": reference})
    facts: dict[str, Any] = {}
    for prefix, side in sides.items():
        if side.num_classes is not None:
            room = checked_largest_class(np.empty(padded_size(side.num_samples)), side.largest_class)
            facts |= {f"{prefix}num_classes": side.num_classes, f"{prefix}largest_class": room}
    if "largest_class" in facts and "reference_largest_class" in facts:
        facts["block_sizes"] = (facts["reference_largest_class"], facts["largest_class"])
    accepted = inspect.signature(METRICS[metric].function).parameters
    return Bucket(
        metric,
        padded_size(target.num_samples),
        0 if reference is None else padded_size(reference.num_samples),
        target.width,
        tuple((name, value) for name, value in facts.items() if name in accepted),
    )


def padded_size(num_samples: int) -> int:
    """The least size of the grid that holds the samples: `2^(k / STEPS_PER_DOUBLING)`, up to a multiple of 8.

    At most `2^(1 / STEPS_PER_DOUBLING)` times as many, plus 7.
    """
    step = math.ceil(STEPS_PER_DOUBLING * math.log2(num_samples))
    # That below may hold as many after it is rounded up.
    return min(size for size in (_grid_size(step - 1), _grid_size(step)) if size >= num_samples)


def _grid_size(step: int) -> int:
    return _MULTIPLE * math.ceil(2 ** (step / STEPS_PER_DOUBLING) / _MULTIPLE)
