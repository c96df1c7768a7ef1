"""The layout of the units of a call on the devices, and the arrays of a call.

Each device has a run of consecutive units and each distinct data set among these once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrel.metrics.registry import METRICS
from jaxrel.study.plan import Unit
from jaxrel.study.scoring.buckets import Bucket
from jaxrel.study.scoring.rows import Rows

__all__ = ["Arrays", "Layout"]

# Compilers treat axes of few entries specially, with different rounding.
_LEAST, _LEAST_SETS = 2, 4

Load = Callable[[str, str], Rows]
"""Returns the rows of a source by its name and the name of an encoder."""


class Arrays(NamedTuple):
    """The rows and index arguments of `score_units`, concatenated over devices."""

    rows: dict[str, np.ndarray]
    places: dict[str, np.ndarray]


class Layout(NamedTuple):
    """Sizes that all calls of a bucket share.

    Attributes:
        num_units: number of units per device.
        num_targets, num_references: capacity for data sets per device, enough for every call.
    """

    num_devices: int
    num_units: int
    num_targets: int
    num_references: int

    @classmethod
    def of(cls, units: Sequence[Unit], size: int, num_devices: int) -> Layout:
        """The sizes for all units in calls of this size."""
        num_units = math.ceil(size / num_devices)
        parts = [
            units[first : first + size][start : start + num_units]
            for first in range(0, len(units), size)
            for start in range(0, size, num_units)
        ]
        targets, references = (
            max(_LEAST_SETS, *(len(_distinct(part, side)) for part in parts)) for side in ("target", "reference")
        )
        return cls(num_devices, num_units, targets, references)

    def places(self) -> Iterator[int]:
        """Positions of the units among the results of a call."""
        room = max(_LEAST, self.num_units)
        return (device * room + unit for device in range(self.num_devices) for unit in range(self.num_units))

    def arrays(self, bucket: Bucket, units: Sequence[Unit], load: Load) -> Arrays:
        """The arrays of a call, padded by copies of the last unit."""
        room = self.num_devices * self.num_units
        filled = [*units, *[units[-1]] * (room - len(units))]
        starts = range(0, room, self.num_units)
        parts = [filled[start : start + self.num_units] for start in starts]
        sides = {"target": (self.num_targets, bucket.num_samples)}
        if bucket.reference_samples:
            sides["reference"] = self.num_references, bucket.reference_samples
        rows: dict[str, np.ndarray] = {}
        counts = [min(max(0, len(units) - start), self.num_units) for start in starts]
        index = {"count": np.asarray(counts, np.int32)}
        for side, (room, num_samples) in sides.items():
            places = [_distinct(part, side) for part in parts]
            prefix = "" if side == "target" else "reference_"
            stacked = _stacked(bucket, prefix, self.num_devices * room, num_samples)
            for device, names in enumerate(places):
                for name, place in names.items():
                    _fill(stacked, prefix, device * room + place, load(*name))
            rows |= stacked
            numbers = [[names[_name(unit, side)] for unit in part] for part, names in zip(parts, places, strict=True)]
            index[side] = self._spread(numbers, np.int32)
        index["seed"] = self._spread([[unit.seed for unit in part] for part in parts], np.uint32)
        return Arrays(rows, index)

    def _spread(self, numbers: Sequence[Sequence[int]], kind: type) -> np.ndarray:
        """Indices of the units of each device, padded to its capacity."""
        spread: np.ndarray = np.zeros((self.num_devices, max(_LEAST, self.num_units)), kind)
        spread[:, : self.num_units] = numbers
        return spread.ravel()


def _stacked(bucket: Bucket, prefix: str, count: int, num_samples: int) -> dict[str, np.ndarray]:
    """Rows of weight 0."""
    real = jnp.result_type(float)
    empty = {
        f"{prefix}features": np.zeros((count, num_samples, bucket.width), real),
        f"{prefix}weights": np.zeros((count, num_samples), real),
    }
    if f"{prefix}labels" in METRICS[bucket.metric].needs:
        empty[f"{prefix}labels"] = np.zeros((count, num_samples), np.int32)
    return empty


def _fill(stacked: dict[str, np.ndarray], prefix: str, place: int, rows: Rows) -> None:
    num_samples = len(rows.weights)
    for name, array in rows._asdict().items():
        if prefix + name in stacked:
            stacked[prefix + name][place, :num_samples] = array


def _distinct(units: Sequence[Unit], side: str) -> dict[tuple[str, str], int]:
    """The distinct sources of these units under their encoders, and the position of each unit's source."""
    names = dict.fromkeys(_name(unit, side) for unit in units)
    return {name: place for place, name in enumerate(names)}


def _name(unit: Unit, side: str) -> tuple[str, str]:
    return (unit.target_source if side == "target" else unit.reference_source or ""), unit.encoder
