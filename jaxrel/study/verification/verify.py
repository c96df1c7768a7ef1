"""Trains networks and compares their accuracies with scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from jaxrel.encoders import Encoder
from jaxrel.study.execution import run
from jaxrel.study.plan import FINE_TUNED_ACCURACY, PROBE_ACCURACY, TRAINED, TRANSFERABILITY, Plan, Study, name_of
from jaxrel.study.ranking.table import Ranking
from jaxrel.study.records import OK, Record
from jaxrel.study.results import Results
from jaxrel.study.scoring.trained import NOTHING_TO_TUNE
from jaxrel.study.settings import Settings
from jaxrel.study.sources import NamedSource, Progress, Source, has_inputs, silent
from jaxrel.study.verification.agreement import Accuracies, agreements, counted, named
from jaxrel.study.verification.columns import Column, columns_of, target_of
from jaxrel.study.verification.result import Verification

__all__ = ["check_samples", "planned", "verification_of", "verify"]


def verify(
    encoders: Sequence[str | Encoder] = (),
    target: str | Source | None = None,
    *,
    scores: Results | Ranking | None = None,
    best: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    output: Path | str,
    settings: Settings | None = None,
    data_paths: Mapping[str, Path] | None = None,
    progress: Progress = silent,
    executor: Executor | None = None,
) -> Verification:
    """Train a linear probe and a fine-tuned network of each encoder, and compute how well scores agree with the
    accuracies.

        verification = verify(["mobilenet-v2", "efficientnet-lite0", "pixels"], "digits", output="verified")
        print(verification)
        verification = verify(scores=Ranking.load("jaxrel-results"), best=5, output="verified")

    Of the `settings.samples` training samples, each seed draws four fifths for training, class by class; ridge,
    learning rate and epoch are chosen on the remaining fifth. Accuracies are those on `settings.held_out` test
    samples, the same
    for every seed. :mod:`jaxrel.training` describes the training. Encoders that are not networks, and targets with
    only features, have only the probe.

    Args:
        encoders: at least two, by name or your own; none means all that have scores.
        target: a data set, as in :class:`jaxrel.study.Study`; may be left out if the scores have only one target.
        scores: a finished study or ranking; None computes transferability.
        best: number of encoders to keep, the best by transferability, or by the first score if there is none.
            The best encoders differ little, so any score agrees less with them than with all.
        seeds: seeds of draws, initial values and batches; a single seed says nothing about the noise of training.
        output: folder of finished accuracies (`records.jsonl`), so that a second call computes only missing ones.
        settings: sample counts, image size, intervals, fine-tuning; None means those of the scores.
        data_paths: by data set name, where you have the data.
        progress: called with `(what, done, total)` as work goes on.
        executor: runs the training on its workers, one encoder per call; None uses this process.

    Raises:
        ValueError: fewer than two encoders, a name that is unknown, no labels, a class with fewer than two training
            samples, a number out of range, or no encoder has an accuracy (why the first has none).
        OSError: `output` cannot be written to; BlockingIOError where another process writes there.
        EngineError: the executor lost encoders, which it names; the others are finished and kept.
    """
    plan = planned(
        encoders, target, scores=scores, best=best, seeds=seeds, settings=settings, data_paths=data_paths or {}
    )
    check_samples(plan)
    return verification_of(run(plan, output=output, progress=progress, executor=executor), scores)


def planned(
    encoders: Sequence[str | Encoder],
    target: str | Source | None,
    *,
    scores: Results | Ranking | None,
    best: int | None,
    seeds: Sequence[int],
    settings: Settings | None,
    data_paths: Mapping[str, Path],
) -> Plan:
    """The plan of the trainings; nothing is loaded.

    Raises:
        ValueError: see :func:`verify`.
    """
    if scores is not None:
        name = target_of(scores, None if target is None else name_of(target))
        target = name if target is None else target
        columns = columns_of(scores, name)
        if not columns:
            raise ValueError(f"there are no scores on {name!r}, only accuracies: pass a study that has scores.")
        encoders = _chosen(encoders, columns, best)
        # Training uses the labels of the target, whether or not the scores did.
        left_alone: dict[str, Any] = {"label_free": False, "target_classes": None, "class_names": (), "teacher": None}
        settings = dataclasses.replace(settings or scores.settings, **left_alone)
    elif best is not None:
        raise ValueError(f"best is {best}, of no scores: pass the results of a study or ranking, or leave it out.")
    if target is None:
        raise ValueError("no target was passed: pass a data set, or the results of a study or ranking.")
    if len(encoders) < 2:
        given = counted(len(encoders), "encoder")
        raise ValueError(f"{given} given: pass at least 2, as it is their order that is verified.")
    settings = settings or Settings()
    if not settings.resamples:
        raise ValueError("resamples is 0: pass at least 2, to estimate the noise of the test samples.")
    if not seeds:
        raise ValueError("no seed was passed: pass at least one, preferably three.")
    accuracies = TRAINED if isinstance(target, str) or has_inputs(target) else (PROBE_ACCURACY,)
    metrics = (*(() if scores is not None else (TRANSFERABILITY,)), *accuracies)
    plan = Study(encoders, [target], metrics=metrics, seeds=seeds, settings=settings, data_paths=data_paths).plan()
    # The score uses all training samples, whatever the seed.
    units = [unit for unit in plan.units if unit.metric in TRAINED or unit.seed == plan.seeds[0]]
    return dataclasses.replace(plan, units=tuple(units))


def _chosen(
    encoders: Sequence[str | Encoder], columns: Sequence[Column], best: int | None
) -> list[str] | list[str | Encoder]:
    """The encoders passed, or all that have scores, or the best of these."""
    known = list(dict.fromkeys(encoder for column in columns for encoder in column.values))
    if unknown := [name for name in map(name_of, encoders) if name not in known]:
        raise ValueError(f"there is no score of {', '.join(unknown)}: there are those of {', '.join(known)}.")
    kept = list(encoders) or known
    if best is None:
        return kept
    if best < 2:
        raise ValueError(f"best is {best}: pass at least 2, as it is their order that is verified.")
    column = next((column for column in columns if column.name == TRANSFERABILITY), columns[0])
    sign = -1 if column.higher_is_better else 1

    def place(encoder: str | Encoder) -> float:
        value = column.values.get(name_of(encoder), math.nan)
        return math.inf if math.isnan(value) else sign * value

    return sorted(kept, key=place)[:best]


def check_samples(plan: Plan) -> None:
    """Raise ValueError if samples cannot be drawn from a named target, before anything is extracted."""
    from jaxrel.training import stratified_partition

    (source,) = plan.sources.values()
    if not isinstance(source, NamedSource):
        return
    train, test = source.parts
    known, judged = (part.labels[part.labels >= 0] for part in (train, test))
    if not known.size or not judged.size:
        which = "training" if not known.size else "test"
        raise ValueError(f"no {which} sample of {source.name!r} has a label, which training needs: label some.")
    stratified_partition(known, seed=0, class_names=train.class_names)
    if unseen := np.setdiff1d(judged, known).tolist():
        raise ValueError(
            f"class {train.class_names[unseen[0]]!r} has test samples and none to train on: pass more samples, or "
            "leave the class out."
        )


def verification_of(results: Results, scores: Results | Ranking | None = None) -> Verification:
    """Compare the accuracies of a study of one target with scores, either its own or those of another study or ranking.

    Raises:
        ValueError: no encoder has an accuracy for every seed.
    """
    settings, target = results.settings, results.targets[0]
    columns = columns_of(results if scores is None else scores, target)
    accuracies = [found for kind in TRAINED if (found := _accuracies(results, kind)) is not None]
    if not accuracies:
        raise ValueError(f"no encoder has an accuracy: {results.incomplete[0].status}.")
    order = {encoder: place for place, encoder in enumerate(_by_accuracy(accuracies))}
    compared = [kind for kind in accuracies if len(kind.encoders) > 1]
    options = {"seed": settings.seed, "num_resamples": settings.resamples}
    return Verification(
        target=target,
        encoders=tuple(sorted(results.encoders, key=lambda encoder: order.get(encoder, len(order)))),
        accuracies=tuple(accuracies),
        columns=tuple(columns),
        agreements=tuple(agreement for kind in compared for agreement in agreements(columns, kind, **options)),
        settings=settings,
        notes=tuple(_notes(results, accuracies, computed=scores is None)),
        complaints=tuple(_complaints(results, columns)),
    )


def _accuracies(results: Results, kind: str) -> Accuracies | None:
    """The accuracies of the encoders that have one for every seed, if any."""
    records: dict[str, list[Record]] = {encoder: [] for encoder in results.encoders}
    for record in results.entries:
        if record.metric == kind and record.status == OK:
            records[record.encoder].append(record)
    kept = {encoder: own for encoder, own in records.items() if len(own) == len(results.seeds)}
    if not kept:
        return None
    resampled = [np.mean([record.resamples for record in own], axis=0) for own in kept.values()]
    return Accuracies(
        kind,
        tuple(kept),
        np.array([[record.value for record in own] for own in kept.values()]).T,
        np.atleast_2d(np.cov(resampled, bias=True)),
        int(next(iter(kept.values()))[0].numbers["test_samples"]),
        results.settings.confidence,
    )


def _by_accuracy(accuracies: Sequence[Accuracies]) -> list[str]:
    """The encoders, the best first, by the last kind of accuracy that each has."""
    last = {
        encoder: float(mean) for kind in accuracies for encoder, mean in zip(kind.encoders, kind.means, strict=True)
    }
    return sorted(last, key=lambda encoder: -last[encoder])


def _notes(results: Results, accuracies: Sequence[Accuracies], *, computed: bool) -> Iterable[str]:
    settings = results.settings
    sample = next(record for record in results.entries if record.metric in TRAINED and record.status == OK)
    train, validation, test = (int(sample.numbers[f"{part}_samples"]) for part in ("train", "validation", "test"))
    yield (
        f"Means of {counted(len(results.seeds), 'seed')}, trained on {train} samples, choices made by {validation}, "
        f"accuracy on {test} test samples; in brackets is the {settings.confidence:.0%} interval over test samples "
        "and seeds."
    )
    if untuned := [record.encoder for record in results.entries if record.status == NOTHING_TO_TUNE]:
        yield f"No parameters to tune, so only the probe is available: {', '.join(dict.fromkeys(untuned))}."
    if FINE_TUNED_ACCURACY not in results.metrics:
        yield "There are only features and no networks to tune: accuracies are those of linear probes."
    if len(results.seeds) == 1:
        yield "One seed says nothing about the noise of training: intervals only include the noise of the test samples."
    for kind in accuracies:
        if len(kind.encoders) == 1:
            yield f"Only one encoder has a {named(kind.kind)}, so there is no pair to order: {kind.encoders[0]}."
    if not computed and train + validation < settings.samples:
        yield (
            f"The target has fewer training samples than the {settings.samples} that scores may use, so the "
            f"scores may include test samples. For scores that have not seen them, run it without the results."
        )


def _complaints(results: Results, columns: Sequence[Column]) -> Iterable[str]:
    failed = [record for record in results.incomplete if record.status != NOTHING_TO_TUNE]
    yield from dict.fromkeys(f"{record.encoder}, {record.metric}: {record.status}" for record in failed)
    for column in columns:
        missing = [name for name in results.encoders if not math.isfinite(column.values.get(name, math.nan))]
        if missing:
            yield f"{column.name} is missing, and counts as the worst: {', '.join(missing)}."
