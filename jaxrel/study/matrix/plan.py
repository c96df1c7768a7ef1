"""What a matrix of scores will compute: units of work with their keys and buckets, validated before any work."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import jax.numpy as jnp

from jaxrel.metrics.registry import METRICS
from jaxrel.study.matrix.buckets import Bucket, bucket_of
from jaxrel.study.matrix.samples import Outline, Samples, StoredFeatures, TrainingSamples
from jaxrel.study.sources import NamedSource, Progress, Source, extract, silent
from jaxrel.version import __version__

__all__ = ["MatrixPlan", "Unit", "needs_reference", "plan_matrix"]

_GIVEN = ("features", "labels", "reference_features", "reference_labels")


@dataclass(frozen=True)
class Unit:
    """One number to compute, or the components of one.

    Attributes:
        key: hash of everything the numbers depend on.
        reference: empty where the metric needs none.
        bucket: what it is compiled for.
    """

    key: str
    metric: str
    encoder: str
    reference: str
    target: str
    bucket: Bucket


@dataclass(frozen=True)
class MatrixPlan:
    """Everything a matrix is made of.

    Attributes:
        units: in the order of their buckets, so that neighbours share a program and rows.
        samples: by name, references and targets alike.
    """

    metrics: tuple[str, ...]
    encoders: tuple[str, ...]
    references: tuple[str, ...]
    targets: tuple[str, ...]
    units: tuple[Unit, ...]
    samples: Mapping[str, Samples]

    @property
    def num_compilations(self) -> int:
        """How many programs all of it takes: one for each bucket, and so for each metric and shape."""
        return len({unit.bucket for unit in self.units})


def needs_reference(metric: str) -> bool:
    """Whether a metric compares the target with a reference task."""
    return any(need.startswith("reference_") for need in METRICS[metric].needs)


def plan_matrix(
    metrics: Sequence[str],
    references: Sequence[Source | StoredFeatures],
    targets: Sequence[Source | StoredFeatures],
    encoders: Sequence[str],
    *,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> MatrixPlan:
    """Every metric of every encoder on every target, and with every other data set as reference where it needs one.

    Features of a :class:`Source` that has yet to extract them are extracted here, as shapes follow from them; those
    of named data sets by workers of the executor, if there is one, into the feature store.

    Raises:
        ValueError: a name is unknown or given twice, a metric needs what there is not, widths differ, or nothing is
            left to compute.
    """
    compared = [name for name in metrics if name in METRICS and needs_reference(name)]
    for kind, names, least in (
        ("metric", list(metrics), 1),
        ("encoder", list(encoders), 1),
        ("target", [source.name for source in targets], 1),
        ("reference", [source.name for source in references], min(1, len(compared))),
    ):
        _check_distinct(kind, names, least)
    _check_metrics(metrics, encoders)
    sources = _sources([*references, *targets])
    samples = {
        name: source if isinstance(source, StoredFeatures) else TrainingSamples(source, progress)
        for name, source in sources.items()
    }
    for encoder in encoders:
        for entry in samples.values():
            entry.check(encoder)
    if executor is not None:
        extract(
            executor, [source for source in sources.values() if isinstance(source, NamedSource)], encoders, progress
        )
    of_samples = _Facts(samples)
    reference_names, target_names = (tuple(part.name for part in role) for role in (references, targets))
    units = [
        _unit(metric, encoder, reference, target, of_samples)
        for metric in metrics
        for encoder in encoders
        for target in target_names
        for reference in (reference_names if needs_reference(metric) else ("",))
        if reference != target
    ]
    if not units:
        raise ValueError("no pair is left, as a data set is not compared with itself: pass another reference.")
    order = {name: position for position, name in enumerate(metrics)}
    units.sort(key=lambda unit: (order[unit.metric], unit.bucket))  # stable: neighbours keep sharing a target
    return MatrixPlan(tuple(metrics), tuple(encoders), reference_names, target_names, tuple(units), samples)


class _Facts:
    """Outlines and fingerprints, found once for each data set and encoder."""

    def __init__(self, samples: Mapping[str, Samples]) -> None:
        self.outline = functools.cache(lambda name, encoder: samples[name].outline(encoder))
        self.fingerprint = functools.cache(lambda name, encoder: samples[name].fingerprint(encoder))


def _unit(metric: str, encoder: str, reference: str, target: str, facts: _Facts) -> Unit:
    names = [name for name in (reference, target) if name]
    outlines: list[Outline] = [facts.outline(name, encoder) for name in names]
    if len({outline.width for outline in outlines}) > 1:
        widths = " and ".join(f"{outline.width} in {name!r}" for name, outline in zip(names, outlines, strict=True))
        raise ValueError(f"features of encoder {encoder!r} have width {widths}: pass those of one encoder.")
    for name, outline in zip(names, outlines, strict=True):
        need = "labels" if name == target else "reference_labels"
        if outline.num_classes is None and need in METRICS[metric].needs:
            raise ValueError(f"{metric} needs {need}, which {name!r} has not: pass them, or leave out this metric.")
    bucket = bucket_of(metric, outlines[-1], outlines[0] if reference else None)
    determined_by = {
        "version": __version__,
        "metric": metric,
        "names": [encoder, reference, target],
        "fingerprints": [facts.fingerprint(name, encoder) for name in names],
        "shape": [bucket.num_samples, bucket.reference_samples, bucket.width],
        "options": bucket.options,
        "type": jnp.result_type(float).name,
    }
    key = hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()
    return Unit(key, metric, encoder, reference, target, bucket)


def _check_metrics(metrics: Sequence[str], encoders: Sequence[str]) -> None:
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}: there are {', '.join(METRICS)}.")
        if missing := [need for need in METRICS[name].needs if need not in _GIVEN]:
            raise ValueError(
                f"{name} needs {', '.join(missing)}, which data sets do not have: leave it out, or call "
                "jaxrel.metrics.score_encoders with these arrays."
            )
        if METRICS[name].combine is not None and len(encoders) < 2:
            raise ValueError(f"{name} compares encoders with each other: pass at least two, or leave it out.")


def _check_distinct(kind: str, names: Sequence[str], least: int) -> None:
    if len(names) < least:
        raise ValueError(f"no {kind} is given: pass at least one.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{kind} given twice: {', '.join(twice)}; name each once.")


def _sources(entries: Iterable[Source | StoredFeatures]) -> dict[str, Source | StoredFeatures]:
    """By name."""
    found: dict[str, Source | StoredFeatures] = {}
    for entry in entries:
        if not entry.name:
            raise ValueError("a data set has an empty name: give it one.")
        if found.setdefault(entry.name, entry) is not entry:
            raise ValueError(f"two data sets are called {entry.name!r}: give them different names.")
    return found
