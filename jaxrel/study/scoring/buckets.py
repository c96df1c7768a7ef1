"""Groups units of work by shape: the units of a bucket share a compiled program.

The number of samples is rounded up to a geometric grid by padding with samples of weight 0; width and class counts are
exact, because both change the result.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrel.metrics.class_blocks import checked_largest_class
from jaxrel.metrics.registry import METRICS
from jaxrel.study.plan import TRANSFERABILITY, Unit
from jaxrel.study.scoring.findings import Finding, failure
from jaxrel.study.scoring.rows import Outline, outline_of
from jaxrel.study.sources import Progress, Source

__all__ = ["STEPS_PER_DOUBLING", "Bucket", "bucket_of", "bucketed", "padded_size"]

STEPS_PER_DOUBLING = 2
_MULTIPLE = 8


@dataclass(frozen=True, order=True)
class Bucket:
    """The shape for which a metric is compiled.

    Attributes:
        metric: its name.
        num_samples: samples of the target, including padding.
        reference_samples: likewise for the reference; 0 if the metric needs none.
        width: width of the features.
        options: static arguments of the metric that follow from labels: class counts, and capacities for the largest
            class.
    """

    metric: str
    num_samples: int
    reference_samples: int
    width: int
    options: tuple[tuple[str, Any], ...]

    def unit_bytes(self, itemsize: int) -> tuple[int, int]:
        """Bytes of the rows of one unit, and an estimate of the memory of its computation besides them.

        The estimate is a few arrays of the size of the rows, and a few of all pairs of samples.
        """
        samples = self.num_samples + self.reference_samples
        return samples * self.width * itemsize, 4 * samples * (samples + self.width) * itemsize


def bucketed(
    units: Sequence[Unit], sources: Mapping[str, Source], progress: Progress, *, strict: bool
) -> tuple[list[Unit], list[Finding]]:
    """Units with their buckets, grouped by bucket, and the errors of units that have none.

    Missing features are extracted here, because shapes follow from them.
    """
    outlines: dict[tuple[str, str], Outline | Exception] = {}
    found: list[Unit] = []
    failed: list[Finding] = []
    for done, unit in enumerate(units):
        progress("reading shapes", done, len(units))
        try:
            sides = [_outline(source, unit.encoder, sources, outlines, progress) for source in unit.sources]
            found.append(dataclasses.replace(unit, bucket=_checked_bucket(unit, sides)))
        except MemoryError:
            raise
        except Exception as error:
            if strict:
                raise
            failed.append(failure(unit, error, lasting=isinstance(error, ValueError)))
    progress("reading shapes", len(units), len(units))
    order = {metric: place for place, metric in enumerate(dict.fromkeys(unit.metric for unit in units))}
    found.sort(key=lambda unit: (order[unit.metric], unit.bucket))  # stable, so that neighbours still share a target
    return found, failed


def _outline(
    source: str,
    encoder: str,
    sources: Mapping[str, Source],
    outlines: dict[tuple[str, str], Outline | Exception],
    progress: Progress,
) -> Outline:
    """Computed once for each source and encoder; a failure is remembered too."""
    known = outlines.get((source, encoder))
    if known is None:
        try:
            known = outline_of(sources[source].features(encoder, progress).train)
        except MemoryError:
            raise
        except Exception as error:
            known = error
        outlines[source, encoder] = known
    if isinstance(known, Exception):
        raise known
    return known


def _checked_bucket(unit: Unit, sides: Sequence[Outline]) -> Bucket:
    if len({side.width for side in sides}) > 1:
        widths = " and ".join(
            f"{side.width} in {name!r}" for name, side in zip((unit.reference, unit.target), sides, strict=True)
        )
        raise ValueError(f"features of encoder {unit.encoder!r} have width {widths}: pass those of one encoder.")
    if unit.metric == TRANSFERABILITY and sides[-1].partly_labelled:
        raise ValueError(
            f"some samples of {unit.target!r} have no label: {TRANSFERABILITY} then also uses views, and is "
            f"only computed with an interval: pass at least 2 resamples, as `jaxrel rank` and `jaxrel study` do."
        )
    needs = METRICS[unit.metric].needs
    for name, need, side in zip(
        (unit.target, unit.reference), ("labels", "reference_labels"), sides[::-1], strict=False
    ):
        if side.num_classes is None and need in needs:
            raise ValueError(
                f"{unit.metric} needs {need}, which {name!r} does not have: pass them, or leave out this metric."
            )
    return bucket_of(unit.metric, sides[-1], sides[0] if unit.reference_source else None)


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
    """The smallest size of the grid that holds the samples: `2^(k / STEPS_PER_DOUBLING)`, rounded up to a multiple of
    8.

    It is at most `2^(1 / STEPS_PER_DOUBLING)` times the number of samples, plus 7.
    """
    step = math.ceil(STEPS_PER_DOUBLING * math.log2(num_samples))
    # The next smaller size may also be large enough after rounding up.
    return min(size for size in (_grid_size(step - 1), _grid_size(step)) if size >= num_samples)


def _grid_size(step: int) -> int:
    return _MULTIPLE * math.ceil(2 ** (step / STEPS_PER_DOUBLING) / _MULTIPLE)
