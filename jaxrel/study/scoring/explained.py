"""Scores an encoder with explanations: intervals, terms of the bound, trained accuracies, costs."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from jaxrel._core.programs import release_if_many
from jaxrel._core.stopwatch import stopwatch
from jaxrel.study.draws import underlying
from jaxrel.study.plan import BOUND, FINE_TUNED_ACCURACY, PROBE_ACCURACY, TRANSFERABILITY, Unit
from jaxrel.study.records import OK
from jaxrel.study.scoring.features import Features
from jaxrel.study.scoring.findings import Finding, failure
from jaxrel.study.scoring.trained import fine_tuned_accuracy, probe_accuracy
from jaxrel.study.settings import Settings
from jaxrel.study.sources import NamedSource, Progress, Source, Split, Views, samples_fingerprint, target_labels

if TYPE_CHECKING:
    from jaxrel.relatedness import Relatedness
    from jaxrel.task import Task

__all__ = ["BOUND_NUMBERS", "score_explained"]

_log = logging.getLogger(__name__)

BOUND_NUMBERS = (
    "bound",
    "tight_bound",
    "reweighted_reference_loss",
    "label_mismatch",
    "distribution_mismatch",
    "distribution_mismatch_lower",
    "transformed_reference_loss",
    "target_loss",
    "target_accuracy",
)
"""Fields that a record copies from a result of :func:`jaxrel.task_relatedness`."""


def score_explained(
    units: Sequence[Unit], sources: Mapping[str, Source], settings: Settings, progress: Progress
) -> Iterator[list[Finding]]:
    """Score the units of one encoder one by one; features are extracted once per data set."""
    features = Features(units[0].encoder, sources, progress)
    for unit in units:
        yield [_finding(unit, features, settings)]
        release_if_many()


def _finding(unit: Unit, features: Features, settings: Settings) -> Finding:
    """The numbers, or the error."""
    compute = _COMPUTED[unit.metric]
    before = features.spent
    try:
        with stopwatch() as watch:
            finding = compute(unit, features, settings)
    except MemoryError:
        raise
    except Exception as error:
        if settings.strict:
            raise
        _log.debug("%s on %s failed", unit.encoder, unit.target, exc_info=True)
        return failure(unit, error, lasting=isinstance(error, ValueError))
    # With a transferability beside it, only the features of the reference count as time of the bound.
    costs = features.costs_of(unit.reference_source or unit.target_source)
    costs["scoring_seconds"] = watch.seconds - (features.spent.seconds - before.seconds)
    costs["compilation_seconds"] += watch.compilation_seconds - (
        features.spent.compilation_seconds - before.compilation_seconds
    )
    return finding._replace(numbers=dict(finding.numbers) | costs)


def _transferability(unit: Unit, features: Features, settings: Settings) -> Finding:
    """The findings from the training samples of the target alone."""
    import jaxrel

    task, views = _seen(unit, features, settings)
    found = jaxrel.transferability_score(
        task,
        views=views,
        confidence=settings.confidence,
        num_resamples=max(2, settings.resamples),
        key=unit.seed,
    )
    source = features.sources[unit.target_source]
    original = underlying(source)
    parameters = original.encoder(unit.encoder).num_parameters if isinstance(original, NamedSource) else None
    numbers = {
        "value": float(found.value),
        **{name: float(getattr(found, name)) for name in ("lower", "upper", "accuracy", "majority")},
        "feature_width": float(task.features.shape[1]),
        "num_parameters": math.nan if parameters is None else float(parameters),
    }
    labels = target_labels(source)
    recipe = found.recipe if labels == "given" else f"{found.recipe}, on {labels}"
    if task.partly_labelled:
        num_samples = np.count_nonzero(np.asarray(task.weights) > 0)
        num_labels = np.count_nonzero(np.asarray(task.of_labelled().weights) > 0)
        share = f"{float(found.label_share):.0%} of the value" if found.num_labelled else "none of a class with two"
        recipe += f" ({num_labels:,} labels of {num_samples:,} samples, {share})"
    texts = {"recipe": recipe, "target_samples": samples_fingerprint(source, task)}
    if settings.class_names:
        texts["class_counts"] = json.dumps(_class_counts(task, settings.named_classes))
    return Finding(unit, numbers, "; ".join(found.messages) or OK, texts=texts, resamples=_rounded(found.resamples))


def _class_counts(task: Task, names: Iterable[str]) -> dict[str, int]:
    """How many samples got each of these class names."""
    assert task.class_names is not None  # noqa: S101 (for the type checker)
    given = Counter(task.class_names[label] for label in np.asarray(task.labels)[np.asarray(task.weights) > 0])
    return {name: given[name] for name in names}


def _seen(unit: Unit, features: Features, settings: Settings) -> tuple[Task, Views | None]:
    """The inputs from the training samples that the settings allow: labels or views."""
    from jaxrel.task import Task

    task = features.of(unit.target_source).train
    if not settings.label_free:
        lacking = task.partly_labelled or task.labels is None
        return task, features.views_if_any(unit.target_source) if lacking else None
    unlabelled = Task(task.features, weights=task.weights, num_classes=settings.target_classes)
    return unlabelled, features.views_of(unit.target_source)


def _bound(unit: Unit, features: Features, settings: Settings) -> Finding:
    """The bound and its terms, learned on the training samples and evaluated on the held-out ones.

    Without labels, everything is evaluated on pseudo-labels of the training samples.
    """
    import jaxrel
    from jaxrel.pseudo_labels import ViewClusters
    from jaxrel.relatedness import bound_resamples

    assert unit.reference_source is not None  # noqa: S101 (for the type checker)
    train, held_out = features.of(unit.reference_source)
    known = Split(train.of_labelled(), held_out and held_out.of_labelled())
    options: dict[str, Any] = {"method": settings.joint(), "key": unit.seed}
    resampled: tuple[float, ...] = ()
    if settings.label_free:
        task, views = _seen(unit, features, settings)
        result = jaxrel.task_relatedness(known.train, task, pseudo_labels=ViewClusters(), views=views, **options)
        assert result.pseudo_labels is not None  # noqa: S101 (for the type checker)
        prior = np.asarray(result.pseudo_labels.sizes, np.float64)
    else:
        held_out, (task, of_target) = known.held_out, features.of(unit.target_source)
        assert held_out is not None  # noqa: S101 (checked with the plan)
        assert of_target is not None  # noqa: S101 (likewise)
        result = jaxrel.task_relatedness(known.train, task, evaluate_on=(held_out, of_target), **options)
        prior = _prior(of_target.of_labelled())
        if settings.resamples and not result.messages:
            drawn = bound_resamples(result, held_out, of_target, num_resamples=settings.resamples, key=unit.seed)
            resampled = _rounded(drawn)
    numbers = {name: float(getattr(result, name)) for name in BOUND_NUMBERS} | {
        "value": float(result.bound),
        "num_classes": float(len(prior)),
        "num_reference_classes": float(known.train.labelled[1]),
        "vacuous_level": float(-np.sum(prior * np.log(np.where(prior > 0, prior, 1)))),
    }
    labels = target_labels(features.sources[unit.target_source])
    if settings.label_free or labels == "given":
        labels = result.computed_with.target_labels
    texts, status = {"target_labels": labels}, "; ".join(result.messages) or OK
    classes = _classes(result, known.train, task) if status == OK else ()
    return Finding(unit, numbers, status, texts=texts, resamples=resampled, classes=classes)


def _classes(result: Relatedness, reference: Task, target: Task) -> tuple[dict[str, Any], ...]:
    from jaxrel.relatedness import explain

    found = explain(result, reference_names=reference.class_names, target_names=target.class_names)
    return tuple(
        {name: round(part, 6) if isinstance(part, float) else part for name, part in record.items()}
        | {"leans_on": [[name, round(weight, 4)] for name, weight in record["leans_on"]]}
        for record in found.class_records()
    )


_COMPUTED: Mapping[str, Callable[[Unit, Features, Settings], Finding]] = {
    TRANSFERABILITY: _transferability,
    BOUND: _bound,
    PROBE_ACCURACY: probe_accuracy,
    FINE_TUNED_ACCURACY: fine_tuned_accuracy,
}


def _rounded(values: ArrayLike) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float64).round(6).tolist())


def _prior(task: Task) -> np.ndarray:
    weights = np.asarray(task.weights, np.float64)
    mass = np.bincount(np.asarray(task.labels), weights, minlength=task.num_classes or 0)
    share: np.ndarray = mass / mass.sum()
    return share
