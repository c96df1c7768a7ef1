"""Scores what a plan asks for and is not there yet; finished scores reach the disk one by one."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.encoders import VIEWS
from jaxrel.executables import release_if_many
from jaxrel.hosts import Hosts
from jaxrel.ranking.plan import Plan, Progress, Settings, Source, Split, Views
from jaxrel.store import RecordLog, finite_or_string, read_records

if TYPE_CHECKING:
    from jaxrel.relatedness import Relatedness, Transformation
    from jaxrel.tasks import Task

OK = "ok"
TERMS = ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch")
NUMBERS = (
    "bound",
    "tight_bound",
    *TERMS,
    "distribution_mismatch_lower",
    "transformed_reference_loss",
    "target_loss",
    "target_accuracy",
)
"""What a score takes over from a result of :func:`jaxrel.task_relatedness`."""
RESAMPLES = ("resampled_transferabilities", "resampled_bounds")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Score:
    """One encoder scored on one pair of tasks; every loss and bound is in nats, on samples not learned on.

    Attributes:
        key: hash of everything the numbers depend on.
        status: "ok", or what went wrong; numbers that could not be had are NaN then.
        target_labels: "given", or where the target classes come from that all but `transferability` are about.
        transferability: share of target samples told right, what encoders are ranked by: with labels, by the
            transformed head, which is `target_accuracy`; without, see `jaxrel.transferability_score`.
        vacuous_level: loss of the best constant guess, the entropy of the held-out target classes.
        resampled_transferabilities: on resampled target samples, the same ones for all encoders of a pair.
        resampled_bounds: the bound on resampled held-out samples, likewise; without labels there are none.
        extraction_seconds: what the features of both data sets took in the run that made this score; features
            from the store cost next to nothing.
        scoring_seconds: what learning, evaluating and resampling took, compilation included.
    """

    key: str
    reference: str
    target: str
    encoder: str
    status: str = OK
    target_labels: str = "given"
    num_classes: int = 0
    transferability: float = math.nan
    vacuous_level: float = math.nan
    bound: float = math.nan
    tight_bound: float = math.nan
    reweighted_reference_loss: float = math.nan
    label_mismatch: float = math.nan
    distribution_mismatch: float = math.nan
    distribution_mismatch_lower: float = math.nan
    transformed_reference_loss: float = math.nan
    target_loss: float = math.nan
    target_accuracy: float = math.nan
    extraction_seconds: float = 0.0
    scoring_seconds: float = 0.0
    resampled_transferabilities: tuple[float, ...] = ()
    resampled_bounds: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is no bound to trust."""
        return self.status != OK


class ScoreLog(RecordLog[Score]):
    """Finished scores by their keys."""

    def encoded(self, item: Score) -> dict[str, Any]:
        """The fields of a score."""
        return to_json(item)

    def decoded(self, record: dict[str, Any]) -> Score:
        """The score of these fields."""
        fields = dict(record)
        for field in dataclasses.fields(Score):
            if field.type == "float":
                fields[field.name] = float(fields[field.name])
        for name in RESAMPLES:
            fields[name] = tuple(map(float, fields[name]))
        return Score(**fields)


def execute(plan: Plan, log: ScoreLog, *, progress: Progress, hosts: Hosts) -> list[Score]:
    """Every score of the plan, encoder by encoder; those in a log of the folder already are taken from it.

    An encoder that cannot be scored on a pair is a :class:`Score` whose status says why. Each process scores a
    contiguous part of what is missing, and all return all scores.
    """
    wanted = [(encoder, pair) for encoder in plan.encoders for pair in plan.pairs]
    own_keys = [{"key": _key(encoder, pair, plan.settings)} for encoder, pair in hosts.share(wanted)]
    keys = [record["key"] for record in hosts.gather(own_keys)]
    scores = _finished(log, keys)
    # Where processes see different folders, the first that has a score passes it on.
    sources: dict[str, int] = {}
    for record in hosts.gather([{"key": key, "process": hosts.index} for key in scores]):
        sources.setdefault(record["key"], record["process"])
    missing = [(key, *entry) for key, entry in zip(keys, wanted, strict=True) if key not in sources]
    own = hosts.share(missing)
    done, total = len(sources), len(sources) + len(own)
    if done:
        _log.info("%d of %d scores are in %s and are not computed again", done, len(wanted), log.path.parent)
    for encoder, group in itertools.groupby(own, key=lambda entry: entry[1]):
        features = _Features(encoder, progress)
        for key, _, pair in group:
            hosts.check()
            score = _score(Score(key, pair[0].name, pair[1].name, encoder), pair, features, plan)
            log.append(score)
            scores[key], sources[key] = score, hosts.index
            done += 1
            _log.info("%s, %s → %s: %s", encoder, score.reference, score.target, _outcome(score))
            progress("scoring", done, total)
            release_if_many()
    passed_on = [log.encoded(score) for key, score in scores.items() if sources[key] == hosts.index]
    gathered = {record["key"]: log.decoded(record) for record in hosts.gather(passed_on)}
    return [gathered[key] for key in keys]


def _finished(log: ScoreLog, keys: Sequence[str]) -> dict[str, Score]:
    """Those of the scores that the log has, or the log of another process in its folder."""
    scores = {key: score for key in keys if (score := log.find(key)) is not None}
    for path in sorted(log.path.parent.glob("results*.jsonl")):
        if path.name != log.path.name:
            records = read_records(path)
            scores = {key: log.decoded(records[key]) for key in keys if key in records} | scores
    return scores


class _Features:
    """The features of one encoder, kept for the pairs that share a data set, and the seconds they took."""

    def __init__(self, encoder: str, progress: Progress) -> None:
        self._encoder = encoder
        self._progress = progress
        self._kept: dict[tuple[str, str], Any] = {}
        self._seconds: dict[str, float] = {}

    def of(self, source: Source) -> Split:
        split: Split = self._get(source, source.features)
        return split

    def views_of(self, source: Source) -> Views:
        views: Views = self._get(source, source.views)
        return views

    def seconds_of(self, source: Source) -> float:
        """What everything of this source took."""
        return self._seconds[source.name]

    def _get(self, source: Source, get: Callable[[str, Progress], Any]) -> Any:
        key = source.name, get.__name__
        if key not in self._kept:
            start = time.perf_counter()
            self._kept[key] = get(self._encoder, self._progress)
            self._seconds[source.name] = self._seconds.get(source.name, 0.0) + time.perf_counter() - start
        return self._kept[key]


def _score(score: Score, pair: tuple[Source, Source], features: _Features, plan: Plan) -> Score:
    """The score with its numbers filled in, or with a status that says why there are none."""
    measure = _label_free_numbers if plan.settings.label_free else _labelled_numbers
    try:
        reference, target = map(features.of, pair)
        views = features.views_of(pair[1]) if plan.settings.label_free else None
        start = time.perf_counter()
        numbers = measure(reference, target, views, plan.settings)
    except ValueError as error:
        return dataclasses.replace(score, status=f"failed: {error}")
    return dataclasses.replace(
        score,
        **numbers,
        extraction_seconds=sum(map(features.seconds_of, pair)),
        scoring_seconds=time.perf_counter() - start,
    )


def _labelled_numbers(reference: Split, target: Split, _: Views | None, settings: Settings) -> dict[str, Any]:
    """Learned on the training samples, evaluated on the held-out ones."""
    import jaxrel
    from jaxrel.relatedness import bound_resamples
    from jaxrel.transferability import resampled_means

    held_out = reference.held_out, target.held_out
    result = jaxrel.task_relatedness(
        reference.train, target.train, evaluate_on=held_out, method=settings.joint(), seed=settings.seed
    )
    hits = _hits(result.transformation, target.held_out)
    again: dict[str, Any] = {"num_resamples": settings.resamples, "seed": settings.seed}
    return {
        **_terms(result, _prior(target.held_out)),
        "transferability": float(result.target_accuracy),
        "resampled_transferabilities": _rounded(resampled_means(hits, target.held_out.weights, **again)),
        "resampled_bounds": () if result.messages else _rounded(bound_resamples(result, *held_out, **again)),
    }


def _label_free_numbers(reference: Split, target: Split, views: Views | None, settings: Settings) -> dict[str, Any]:
    """From the training samples and their views; the terms are those of the bound on pseudo-labels."""
    import jaxrel
    from jaxrel.pseudo_labels import ViewClusters
    from jaxrel.tasks import Task
    from jaxrel.transferability import resampled_means

    train = target.train
    unlabelled = Task(train.features, weights=train.weights, num_classes=settings.target_classes)
    found = jaxrel.transferability_score(unlabelled, views=views, seed=settings.seed)
    result = jaxrel.task_relatedness(
        reference.train,
        unlabelled,
        pseudo_labels=ViewClusters(),
        views=views,
        method=settings.joint(),
        seed=settings.seed,
    )
    again: dict[str, Any] = {"num_resamples": settings.resamples, "seed": settings.seed}
    assert result.pseudo_labels is not None  # noqa: S101 (for the type checker)
    return {
        **_terms(result, np.asarray(result.pseudo_labels.sizes, np.float64)),
        "target_labels": result.computed_with.target_labels,
        "transferability": float(found),
        "resampled_transferabilities": _rounded(resampled_means(found.hits, train.weights, **again)),
    }


def _terms(result: Relatedness, prior: np.ndarray) -> dict[str, Any]:
    return {name: float(getattr(result, name)) for name in NUMBERS} | {
        "status": "; ".join(result.messages) or OK,
        "num_classes": len(prior),
        "vacuous_level": float(-np.sum(prior * np.log(np.where(prior > 0, prior, 1)))),
    }


def _hits(transformation: Transformation, target: Task) -> np.ndarray:
    predicted = transformation.target_classes(transformation.target_logits(target.features))
    return np.asarray(predicted) == np.asarray(target.labels)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float64).round(6).tolist())


def _outcome(score: Score) -> str:
    if score.failed:
        return score.status
    return f"transferability {score.transferability:.1%}, bound {score.bound:.3f} in {score.scoring_seconds:.1f} s"


def _prior(task: Task) -> np.ndarray:
    weights = np.asarray(task.weights, np.float64)
    mass = np.bincount(np.asarray(task.labels), weights, minlength=task.num_classes or 0)
    share: np.ndarray = mass / mass.sum()
    return share


def _key(encoder: str, pair: tuple[Source, Source], settings: Settings) -> str:
    """Equal keys mean equal scores: a hash of everything the numbers depend on."""
    from jaxrel import __version__

    determined_by = {
        "version": __version__,
        "names": [*(source.name for source in pair), encoder],
        "fingerprints": [source.fingerprint(encoder) for source in pair],
        "method": repr(settings.joint()),
        "seed": settings.seed,
        "resamples": settings.resamples,
        "label-free": [settings.label_free, settings.target_classes, [repr(view(0)) for view in VIEWS.values()]],
    }
    return hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()


def to_json(score: Score) -> dict[str, Any]:
    """The fields of a score; numbers that are not finite, which JSON lacks, as the strings `float` reads."""
    record = dataclasses.asdict(score)
    for name, value in record.items():
        if isinstance(value, float):
            record[name] = finite_or_string(value)
    for name in RESAMPLES:
        record[name] = [finite_or_string(value) for value in record[name]]
    return record
