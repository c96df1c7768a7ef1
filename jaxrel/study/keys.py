"""The keys of the numbers of a study, and how each number is computed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax.numpy as jnp

from jaxrel.encoders import VIEWS
from jaxrel.metrics.registry import METRICS
from jaxrel.study.documents import SCHEMA, as_data
from jaxrel.study.encoder_arrays import Hub
from jaxrel.study.plan import (
    BOUND,
    FINE_TUNED_ACCURACY,
    OF_STUDIES,
    TRAINED,
    TRANSFERABILITY,
    Plan,
    Unit,
)
from jaxrel.study.records import Record
from jaxrel.study.settings import Settings
from jaxrel.study.sources import Progress, Source, target_labels
from jaxrel.version import __version__

__all__ = ["Way", "keyed", "way_of"]

_log = logging.getLogger(__name__)

Way = Literal["batched", "arrays", "reasons"]

_OF_TASKS = {"features", "labels", "reference_features", "reference_labels"}


def _has_reasons(unit: Unit, settings: Settings) -> bool:
    """Whether a record has more than the value of the metric."""
    intervals = unit.metric == TRANSFERABILITY and (settings.resamples > 0 or settings.label_free)
    return unit.metric in OF_STUDIES or intervals


def way_of(unit: Unit, plan: Plan) -> Way:
    """How a unit is computed: with an explanation, by a program shared by all units of its shape, or from arrays."""
    if _has_reasons(unit, plan.settings):
        return "reasons"
    if isinstance(plan.sources[unit.target_source], Hub) or not set(METRICS[unit.metric].needs) <= _OF_TASKS:
        return "arrays"
    return "batched"


def keyed(plan: Plan, progress: Progress) -> Iterator[tuple[Unit, Record]]:
    """Every unit with its key and its record without numbers; if the key is not available, the reason instead."""
    fingerprints: dict[tuple[str, str], str | Exception] = {}
    dtype = jnp.result_type(float).name
    for done, unit in enumerate(plan.units):
        progress("loading", done, len(plan.units))
        record = Record(
            "",
            unit.metric,
            unit.encoder,
            unit.reference,
            unit.target,
            unit.samples,
            unit.seed,
            unit.reference_classes,
            texts=_told_of_labels(plan.sources[unit.target_source]),
        )
        told = [_fingerprint(name, unit.encoder, plan, fingerprints) for name in unit.sources]
        if error := next((one for one in told if isinstance(one, Exception)), None):
            if plan.settings.strict:
                raise error
            yield unit, _complained(record.failed_with(error))
            continue
        origin = {
            "fingerprints": dict(zip(("reference", "target")[-len(told) :], told, strict=True)),
            "options": {"type": dtype, **_options(unit, plan.settings)},
        }
        key = _key(unit, origin)
        yield dataclasses.replace(unit, key=key), dataclasses.replace(record, key=key, origin=origin)
    progress("loading", len(plan.units), len(plan.units))


def _told_of_labels(target: Source) -> dict[str, str]:
    """The source of the target labels, if they are not those of the samples."""
    labels = target_labels(target)
    return {} if labels == "given" else {"target_labels": labels}


def _fingerprint(
    source: str, encoder: str, plan: Plan, known: dict[tuple[str, str], str | Exception]
) -> str | Exception:
    """Computed once for each source and encoder; a failure is remembered too."""
    if (source, encoder) not in known:
        try:
            known[source, encoder] = plan.sources[source].fingerprint(encoder)
        except MemoryError:
            raise
        except Exception as error:
            known[source, encoder] = error
    return known[source, encoder]


def _options(unit: Unit, settings: Settings) -> dict[str, Any]:
    """Everything that a number depends on besides the samples."""
    options: dict[str, Any] = {"seed": unit.seed}
    if not _has_reasons(unit, settings):
        return options
    options["resamples"] = settings.resamples
    if unit.metric in TRAINED:
        tuning = {"fine_tuning": as_data(settings.tuning())} if unit.metric == FINE_TUNED_ACCURACY else {}
        return options | {"resampling_seed": settings.seed} | tuning
    if settings.label_free:
        options["label_free"] = [settings.target_classes, *(repr(view(0)) for view in VIEWS.values())]
    if unit.metric == BOUND:
        return options | {"method": as_data(settings.joint())}
    return options | {"confidence": settings.confidence}


def _key(unit: Unit, origin: Mapping[str, Any]) -> str:
    """A hash of everything that a number depends on: equal keys mean equal numbers."""
    names = [unit.metric, unit.encoder, unit.reference, unit.target]
    determined_by = {"version": __version__, "schema": SCHEMA, "names": names, **origin}
    return hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()


def _complained(record: Record) -> Record:
    _log.warning("%s, %s on %s: %s", record.encoder, record.metric, record.tasks, record.status)
    return record
