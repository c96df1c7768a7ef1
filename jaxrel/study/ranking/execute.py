"""Scores what a plan asks for and is not there yet; finished scores reach the disk one by one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from jaxrel._core.programs import release_if_many
from jaxrel._core.stopwatch import Stopwatch, stopwatch
from jaxrel.encoders import VIEWS
from jaxrel.study.engine import Part, run_parts
from jaxrel.study.ranking.costs import CountedProgress
from jaxrel.study.ranking.plan import Pair, Plan
from jaxrel.study.ranking.score import NUMBERS, OK, Score, ScoreLog
from jaxrel.study.settings import Settings
from jaxrel.study.sources import NamedSource, Progress, Source, Split, Views, restricted_to, samples_fingerprint, silent

if TYPE_CHECKING:
    from jaxrel.relatedness import Relatedness
    from jaxrel.task import Task

_log = logging.getLogger(__name__)

Blank = tuple[Score, Pair]
"""A score without numbers, and what they will be of."""


def execute(plan: Plan, log: ScoreLog, *, executor: Executor | None = None, progress: Progress) -> list[Score]:
    """Every score of the plan; those in the log already are taken from it.

    An encoder or data set that fails is a :class:`Score` whose status says why, unless the settings are strict. This
    process scores encoder by encoder, or has workers of the executor do so, one encoder a call.
    """
    blanks = _blanks(plan, progress)
    keys = [score.key for score, _ in blanks if score.key]
    scores = {key: score for key in keys if (score := log.find(key)) is not None}
    missing = [(score, pair) for score, pair in blanks if score.key and score.key not in scores]
    if scores:
        _log.info("%d of %d scores are in %s and are not computed again", len(scores), len(blanks), log.path.parent)
    done, total = len(scores), len(scores) + len(missing)
    with contextlib.closing(_scored(missing, plan.settings, executor, progress)) as results:
        for score, lasting in results:
            if lasting:
                log.append(score)
            scores[score.key] = score
            done += 1
            _log.info("%s, %s: %s", score.encoder, _tasks(score), _outcome(score))
            progress("scoring", done, total)
    return [scores.get(score.key, score) for score, _ in blanks]


def _blanks(plan: Plan, progress: Progress) -> list[Blank]:
    """Of every score of the plan, encoder by encoder."""
    blanks: list[Blank] = []
    total = len(plan.encoders) * len(plan.pairs)
    for encoder in plan.encoders:
        fingerprints: dict[str, str] = {}
        for pair in plan.pairs:
            progress("loading", len(blanks), total)
            blanks.append((_begun(encoder, pair, plan.settings, fingerprints), pair))
    progress("loading", total, total)
    return blanks


def _scored(
    missing: Sequence[Blank], settings: Settings, executor: Executor | None, progress: Progress
) -> Generator[tuple[Score, bool]]:
    """Every missing score as it is ready, and whether another run would find the same."""
    groups = [(name, list(own)) for name, own in itertools.groupby(missing, key=lambda blank: blank[0].encoder)]
    if executor is None:
        for _, own in groups:
            yield from _of_encoder(own, settings, progress)
        return
    parts = (Part(f"encoder {name}", _on_worker, (_sent(name, own), settings)) for name, own in groups)
    with contextlib.closing(run_parts(executor, parts)) as results:
        for _, found in results:
            yield from found


def _on_worker(blanks: Sequence[Blank], settings: Settings) -> list[tuple[Score, bool]]:
    return list(_of_encoder(blanks, settings, silent))


def _of_encoder(blanks: Sequence[Blank], settings: Settings, progress: Progress) -> Iterator[tuple[Score, bool]]:
    """The scores of one encoder, whose features are had once for each data set."""
    features = _Features(blanks[0][0].encoder, progress)
    for score, pair in blanks:
        yield _score(score, pair, features, settings)
        release_if_many()


def _sent(encoder: str, blanks: Sequence[Blank]) -> list[Blank]:
    """With as much of the data sets as this encoder needs."""
    sources = {source.name: source for _, pair in blanks for source in pair if source}
    own = {name: restricted_to([encoder], source) for name, source in sources.items()}
    return [
        (score, (own[reference.name] if reference else None, own[target.name])) for score, (reference, target) in blanks
    ]


def _begun(encoder: str, pair: Pair, settings: Settings, fingerprints: dict[str, str]) -> Score:
    """A score without numbers; failed where its key, which asks for the samples and the encoder, cannot be had."""
    reference, target = pair
    score = Score("", reference.name if reference else None, target.name, encoder)
    try:
        return dataclasses.replace(score, key=_key(encoder, pair, settings, fingerprints))
    except MemoryError:
        raise
    except Exception as error:
        if settings.strict:
            raise
        _log.warning("%s, %s: %s", encoder, _tasks(score), _said(error))
        return dataclasses.replace(score, status=_said(error))


class _Features:
    """The features of one encoder, kept for the pairs that share a data set, and the time they took."""

    def __init__(self, encoder: str, progress: Progress) -> None:
        self._encoder = encoder
        self._progress = progress
        self._kept: dict[tuple[str, str], Any] = {}
        self._watches: dict[str, list[Stopwatch]] = {}
        self._extracted: dict[str, int] = {}
        self.numbers: dict[str, dict[str, Any]] = {}
        """By target: the numbers that do not depend on a reference."""

    def of(self, source: Source) -> Split:
        split: Split = self._get(source, source.features)
        return split

    def views_of(self, source: Source) -> Views:
        views: Views = self._get(source, source.views)
        return views

    def watches_of(self, source: Source | None) -> list[Stopwatch]:
        """What everything of this source took."""
        return [] if source is None else self._watches.get(source.name, [])

    def extracted_of(self, source: Source | None) -> int:
        """How many samples of this source were extracted; those from the store were not."""
        return 0 if source is None else self._extracted.get(source.name, 0)

    def _get(self, source: Source, get: Callable[[str, Progress], Any]) -> Any:
        key = source.name, get.__name__
        if key not in self._kept:
            counted = CountedProgress(self._progress)
            with stopwatch() as watch:
                self._kept[key] = get(self._encoder, counted)
            self._watches.setdefault(source.name, []).append(watch)
            self._extracted[source.name] = self.extracted_of(source) + counted.samples
        return self._kept[key]


def _score(score: Score, pair: Pair, features: _Features, settings: Settings) -> tuple[Score, bool]:
    """The score with its numbers filled in, or what went wrong; and whether another run would find the same."""
    lasting = True
    for field, numbers in (("status", _numbers), ("terms_status", _terms)):
        try:
            score = dataclasses.replace(score, **numbers(score, pair, features, settings))
        except MemoryError:
            raise
        except Exception as error:
            if settings.strict:
                raise
            _log.debug("%s, %s failed", score.encoder, _tasks(score), exc_info=True)
            failure: dict[str, Any] = {field: _said(error)}
            score = dataclasses.replace(score, **failure)
            lasting = lasting and isinstance(error, ValueError)
        if score.failed or score.reference is None:
            break
    extraction = [watch for source in pair for watch in features.watches_of(source)]
    seconds, extracted = sum(watch.seconds for watch in extraction), sum(map(features.extracted_of, pair))
    return dataclasses.replace(
        score,
        extraction_seconds=seconds,
        samples_per_second=extracted / seconds if extracted and seconds else math.nan,
        compilation_seconds=score.compilation_seconds + sum(watch.compilation_seconds for watch in extraction),
    ), lasting


def _said(error: Exception) -> str:
    """An error in a line; the type is left out where the message was written for the user."""
    said = " ".join(str(error).split())
    return f"failed: {said}" if isinstance(error, ValueError) and said else f"failed: {type(error).__name__}: {said}"


def _numbers(score: Score, pair: Pair, features: _Features, settings: Settings) -> dict[str, Any]:
    """What there is to say of the training samples of the target alone: computed once for all references."""
    import jaxrel

    _, target = pair
    if score.target not in features.numbers:
        task, views = _seen(target, features, settings)
        with stopwatch() as watch:
            found = jaxrel.transferability_score(
                task,
                views=views,
                confidence=settings.confidence,
                num_resamples=settings.resamples,
                key=settings.seed,
            )
            numbers = {
                "transferability": float(found.value),
                **{name: float(getattr(found, name)) for name in ("lower", "upper", "accuracy", "majority")},
                "recipe": found.recipe,
                "target_samples": samples_fingerprint(target, task),
                "status": "; ".join(found.messages) or OK,
                "resampled_transferabilities": _rounded(found.resamples),
                "feature_width": int(task.features.shape[1]),
                "num_parameters": target.encoder(score.encoder).num_parameters
                if isinstance(target, NamedSource)
                else None,
            }
        features.numbers[score.target] = numbers | {
            "scoring_seconds": watch.seconds,
            "compilation_seconds": watch.compilation_seconds,
        }
    return features.numbers[score.target]


def _seen(target: Source, features: _Features, settings: Settings) -> tuple[Task, Views | None]:
    """What the settings allow to look at of the training samples: labels or views."""
    from jaxrel.task import Task

    task = features.of(target).train
    if not settings.label_free:
        return task, None
    unlabelled = Task(task.features, weights=task.weights, num_classes=settings.target_classes)
    return unlabelled, features.views_of(target)


def _terms(score: Score, pair: Pair, features: _Features, settings: Settings) -> dict[str, Any]:
    """The bound and its terms, learned on the training samples and evaluated on the held-out ones.

    Without labels there are pseudo-labels of the training samples, on which all is evaluated.
    """
    import jaxrel
    from jaxrel.pseudo_labels import ViewClusters
    from jaxrel.relatedness import bound_resamples

    reference, target = pair
    assert reference is not None  # noqa: S101 (for the type checker)
    known, (task, views) = features.of(reference), _seen(target, features, settings)
    options: dict[str, Any] = {"method": settings.joint(), "key": settings.seed}
    with stopwatch() as watch:
        resampled: tuple[float, ...] = ()
        if settings.label_free:
            result = jaxrel.task_relatedness(known.train, task, pseudo_labels=ViewClusters(), views=views, **options)
            assert result.pseudo_labels is not None  # noqa: S101 (for the type checker)
            prior = np.asarray(result.pseudo_labels.sizes, np.float64)
            target_labels = result.computed_with.target_labels
        else:
            held_out, of_target = known.held_out, features.of(target).held_out
            assert held_out is not None  # noqa: S101 (checked with the plan)
            assert of_target is not None  # noqa: S101 (likewise)
            result = jaxrel.task_relatedness(known.train, task, evaluate_on=(held_out, of_target), **options)
            prior, target_labels = _prior(of_target), score.target_labels
            if not result.messages:
                resampled = _rounded(
                    bound_resamples(result, held_out, of_target, num_resamples=settings.resamples, key=settings.seed)
                )
        numbers = _taken_over(result, prior) | {"target_labels": target_labels, "resampled_bounds": resampled}
    return numbers | {
        "scoring_seconds": score.scoring_seconds + watch.seconds,
        "compilation_seconds": score.compilation_seconds + watch.compilation_seconds,
    }


def _taken_over(result: Relatedness, prior: np.ndarray) -> dict[str, Any]:
    return {name: float(getattr(result, name)) for name in NUMBERS} | {
        "terms_status": "; ".join(result.messages) or OK,
        "num_classes": len(prior),
        "vacuous_level": float(-np.sum(prior * np.log(np.where(prior > 0, prior, 1)))),
    }


def _rounded(values: ArrayLike) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float64).round(6).tolist())


def _tasks(score: Score) -> str:
    return score.target if score.reference is None else f"{score.reference} → {score.target}"


def _outcome(score: Score) -> str:
    if score.complaint:
        return score.complaint
    bound = "" if score.reference is None else f", bound {score.bound:.3f}"
    return (
        f"transferability {score.transferability:.1%}{bound} in {score.scoring_seconds:.1f} s "
        f"and {score.compilation_seconds:.1f} s of compilation"
    )


def _prior(task: Task) -> np.ndarray:
    weights = np.asarray(task.weights, np.float64)
    mass = np.bincount(np.asarray(task.labels), weights, minlength=task.num_classes or 0)
    share: np.ndarray = mass / mass.sum()
    return share


def _key(encoder: str, pair: Pair, settings: Settings, fingerprints: dict[str, str]) -> str:
    """Equal keys mean equal scores: a hash of everything the numbers depend on, fingerprints among it."""
    for source in filter(None, pair):
        if source.name not in fingerprints:
            fingerprints[source.name] = source.fingerprint(encoder)
    from jaxrel import __version__

    determined_by = {
        "version": __version__,
        "record": 4,  # of which fields there are, and what they mean
        "names": [*(source and source.name for source in pair), encoder],
        "fingerprints": [source and fingerprints[source.name] for source in pair],
        "method": pair[0] and repr(settings.joint()),
        "seed": settings.seed,
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "label-free": [settings.label_free, settings.target_classes, [repr(view(0)) for view in VIEWS.values()]],
    }
    return hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()
