"""Accuracies on held-out samples of a linear probe and of the fine-tuned network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrel.study.draws import underlying
from jaxrel.study.plan import Unit
from jaxrel.study.records import OK
from jaxrel.study.scoring.features import Features
from jaxrel.study.scoring.findings import Finding
from jaxrel.study.settings import Settings
from jaxrel.study.sources import NamedSource

if TYPE_CHECKING:
    from jaxrel.task import Task
    from jaxrel.training import LinearProbe, Partition

__all__ = ["NOTHING_TO_TUNE", "fine_tuned_accuracy", "probe_accuracy"]

NOTHING_TO_TUNE = "has no parameters that could be tuned: only its linear probe is available"
"""The status of an encoder that is not a network."""


def probe_accuracy(unit: Unit, features: Features, settings: Settings) -> Finding:
    """The accuracy of a linear probe of the training samples; the seed draws the validation split for its ridge."""
    partition, probe = _probe(unit, features)
    logits = np.asarray(probe(_held_out(unit, features).rows(slice(None))))
    chosen = {"ridge": probe.ridge, "validation_accuracy": probe.validation.accuracy}
    return _finding(unit, features, settings, logits, partition, chosen)


def fine_tuned_accuracy(unit: Unit, features: Features, settings: Settings) -> Finding:
    """The accuracy of the network fine-tuned from the same probe; the seed also shuffles its batches."""
    from jaxrel.training import fine_tune, has_parameters

    source = underlying(features.sources[unit.target_source])
    assert isinstance(source, NamedSource)  # noqa: S101 (checked with the plan)
    encoder = source.encoder(unit.encoder)
    if not has_parameters(encoder):
        return Finding(unit, {"value": math.nan}, NOTHING_TO_TUNE)
    train, held_out = features.inputs_of(unit.target_source)
    partition, probe = _probe(unit, features)
    network = fine_tune(
        encoder,
        train,
        np.asarray(features.of(unit.target_source).train.labels),
        partition,
        probe=probe,
        settings=settings.tuning(),
        seed=unit.seed,
        progress=lambda done, total: features.progress(f"tuning {unit.encoder}, seed {unit.seed}", done, total),
    )
    chosen = {
        "learning_rate": network.learning_rate,
        "epoch": float(network.epoch),
        "validation_accuracy": network.validation.accuracy,
    }
    return _finding(unit, features, settings, network(held_out), partition, chosen)


def _held_out(unit: Unit, features: Features) -> Task:
    task = features.of(unit.target_source).held_out
    assert task is not None  # noqa: S101 (checked with the plan)
    return task.of_labelled()


def _probe(unit: Unit, features: Features) -> tuple[Partition, LinearProbe]:
    from jaxrel.training import Partition, fit_linear_probe, stratified_partition

    task = features.of(unit.target_source).train.of_labelled()
    given, num_classes = task.labelled
    labels, live = np.asarray(given), _live(task)
    drawn = stratified_partition(labels[live], seed=unit.seed, class_names=task.class_names)
    partition = Partition(*(live[rows] for rows in drawn))
    return partition, fit_linear_probe(task.rows(slice(None)), labels, partition, num_classes=num_classes)


def _live(task: Task) -> Int[np.ndarray, " m"]:
    """The rows with weight."""
    weights = np.asarray(task.weights)
    if not np.isin(weights, (0, 1)).all():
        raise ValueError("samples differ in weight: pass weights 0 and 1, because training weights samples equally.")
    return np.flatnonzero(weights)


def _finding(
    unit: Unit,
    features: Features,
    settings: Settings,
    logits: Float[np.ndarray, "n k"],
    partition: Partition,
    chosen: dict[str, float],
) -> Finding:
    task = _held_out(unit, features)
    live = _live(task)
    labels = np.asarray(task.labels)[live]
    hits = logits[live].argmax(axis=1) == labels
    numbers = {
        "value": float(hits.mean()),
        "balanced_accuracy": float(np.mean([hits[labels == one].mean() for one in np.unique(labels)])),
        "train_samples": float(partition.train.size),
        "validation_samples": float(partition.validation.size),
        "test_samples": float(labels.size),
    }
    return Finding(unit, numbers | chosen, OK, resamples=_resampled(hits, settings))


def _resampled(hits: Bool[np.ndarray, " n"], settings: Settings) -> tuple[float, ...]:
    """Accuracies on resampled test samples, the same ones for every encoder and seed."""
    generator = np.random.default_rng(settings.seed)
    counts = generator.multinomial(hits.size, np.full(hits.size, 1 / hits.size), settings.resamples)
    return tuple((counts @ hits / hits.size).round(6).tolist())
