"""Scores an encoder metric by metric, from arrays with the names of `jaxrel.metrics.NEEDS`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrel._core.programs import release_if_many
from jaxrel._core.stopwatch import stopwatch
from jaxrel.metrics.batch import PER_ENCODER, score_encoders
from jaxrel.metrics.registry import METRICS
from jaxrel.metrics.result import ScoreStatus
from jaxrel.study.encoder_arrays import Arrays, Hub, common_fingerprint
from jaxrel.study.plan import Unit
from jaxrel.study.records import OK
from jaxrel.study.scoring.findings import Finding, failure
from jaxrel.study.settings import Settings
from jaxrel.study.sources import Progress, Source, targets_of

__all__ = ["score_arrays"]


def score_arrays(
    units: Sequence[Unit], sources: Mapping[str, Source], settings: Settings, progress: Progress
) -> Iterator[list[Finding]]:
    """The units of one encoder on one target and reference, all together."""
    lasting = False
    try:
        arrays = _arrays(units, sources, progress)
        inputs: dict[str, Any] = {name: [array] if name in PER_ENCODER else array for name, array in arrays.items()}
        lasting = True
        names = [unit.metric for unit in units]
        with stopwatch() as watch:
            results = score_encoders(inputs.pop("features", None), metrics=names, combined=False, **inputs)
    except MemoryError:
        raise
    except Exception as error:
        if settings.strict:
            raise
        lasting = lasting and isinstance(error, ValueError)
        yield [failure(unit, error, bits=ScoreStatus.INVALID_INPUT, lasting=lasting) for unit in units]
        return
    finally:
        release_if_many()
    told = {"target_samples": common_fingerprint(arrays)}
    findings = []
    for unit in units:
        result = results[unit.metric]
        numbers = {name: float(part[0]) for name, part in vars(result).items() if name != "status"}
        numbers["scoring_seconds"] = watch.seconds / len(units)
        bits = int(result.status[0])
        findings.append(Finding(unit, numbers, "; ".join(ScoreStatus.messages_of(bits)) or OK, bits, told))
    yield findings


def _arrays(units: Sequence[Unit], sources: Mapping[str, Source], progress: Progress) -> Arrays:
    """All arrays of the encoder, or the data that the metrics need from data sets."""
    unit = units[0]
    target = sources[unit.target_source]
    if isinstance(target, Hub):
        return target.arrays(unit.encoder, progress)
    sides = {"": target} | ({"reference_": sources[unit.reference_source]} if unit.reference_source else {})
    arrays: dict[str, Any] = {}
    for prefix, source in sides.items():
        task = source.features(unit.encoder, progress).train.of_labelled()
        given = {"features": task.rows(slice(None)), "labels": task.labels, "weights": task.weights}
        arrays |= {prefix + name: np.asarray(array) for name, array in given.items() if array is not None}
    if any("targets" in METRICS[unit.metric].needs for unit in units):
        arrays["targets"] = targets_of(target)
    if any("first_view" in METRICS[unit.metric].needs for unit in units):
        arrays["first_view"], arrays["second_view"] = target.views(unit.encoder, progress)
    return arrays
