"""Studies: encoders x references x targets x metrics, planned, run (resumable, on any executor), reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from jaxrel.encoders import Encoder
from jaxrel.study.encoder_arrays import Hub, from_arrays
from jaxrel.study.engine import EngineError
from jaxrel.study.estimate import Estimate, estimate
from jaxrel.study.execution import run
from jaxrel.study.page.write import write_page
from jaxrel.study.plan import Plan, Study, Unit, feature_store
from jaxrel.study.ranking.score import Score
from jaxrel.study.ranking.table import Ranking, Row, Table, ranking_of
from jaxrel.study.records import Record
from jaxrel.study.results import Results, Timings
from jaxrel.study.scoreboard.board import Scoreboard, scoreboard_of
from jaxrel.study.settings import Settings
from jaxrel.study.sources import FeatureArrays, Progress, Source, Split, Views, named_sources, silent
from jaxrel.study.verification.agreement import Accuracies, Agreement
from jaxrel.study.verification.columns import Column
from jaxrel.study.verification.result import Verification
from jaxrel.study.verification.verify import verification_of, verify

__all__ = [
    "Accuracies",
    "Agreement",
    "Column",
    "EngineError",
    "Estimate",
    "FeatureArrays",
    "Plan",
    "Progress",
    "Ranking",
    "Record",
    "Results",
    "Row",
    "Score",
    "Scoreboard",
    "Settings",
    "Source",
    "Split",
    "Study",
    "Table",
    "Timings",
    "Unit",
    "Verification",
    "Views",
    "estimate",
    "feature_store",
    "named_sources",
    "rank",
    "rank_regression",
    "ranking_of",
    "run",
    "score",
    "scoreboard_of",
    "verification_of",
    "verify",
    "write_page",
]


def rank(
    targets: Sequence[str | Source],
    encoders: Sequence[str | Encoder],
    references: Sequence[str | Source] = (),
    *,
    output: Path | str,
    settings: Settings | None = None,
    data_paths: Mapping[str, Path] | None = None,
    progress: Progress = silent,
    executor: Executor | None = None,
) -> Ranking:
    """Rank encoders on every target, by `jaxrel.transferability_score` of its training samples.

    A data set is a name that :mod:`jaxrel.data` knows, or anything that has features (:class:`Source`);
    pass your own arrays as :class:`FeatureArrays`, with any encoder names:

        mine = FeatureArrays("mine", {"my-net": Task(x, y), "other-net": Task(z, y)})
        ranking = rank([mine], ["my-net", "other-net"], output="results")
        ranking.tables[0].rows[0].score.encoder  # the best

    References add the bound of :func:`jaxrel.task_relatedness` and its terms, without changing the order. To vary
    more, use a :class:`Study` of these two metrics.

    Args:
        targets: data sets to transfer to.
        encoders: encoder names, where `NAME:random` is the same network with random weights, and encoders of your own,
            such as :func:`jaxrel.encoders.from_function` makes.
        references: data sets that serve as reference of the bound on the target loss; each has its own table for every
            other data set as target.
        output: folder of finished scores (`records.jsonl`), so that a second call computes only missing ones.
        settings: sample counts, method, seed, intervals.
        data_paths: by data set name, where you have the data.
        progress: called with `(what, done, total)` as work goes on.
        executor: runs the scoring on its workers, one encoder per call, with identical results: any executor of
            `concurrent.futures`, such as :class:`jaxrel.study.ray.RayExecutor`. None uses the devices of this process.

    Returns:
        The tables, largest transferability first; bounds and losses are in nats. An encoder or a data set that fails
        is listed in `incomplete`, and the others continue.

    Raises:
        ValueError: a name is unknown or passed twice, features are missing, or a setting is out of range.
        OSError: `output` cannot be written to; BlockingIOError where another process writes there.
        Exception: the first exception of a score, if the settings are strict.
        EngineError: the executor lost encoders, which it names; the others are finished and kept.
    """
    study = Study(encoders, targets, references, settings=settings or Settings(), data_paths=data_paths or {})
    return ranking_of(run(study.plan(), output=output, progress=progress, executor=executor))


def rank_regression(
    target: str | Source,
    encoders: Sequence[str | Encoder],
    *,
    output: Path | str,
    settings: Settings | None = None,
    data_paths: Mapping[str, Path] | None = None,
    progress: Progress = silent,
    executor: Executor | None = None,
) -> Scoreboard:
    """Rank encoders on a regression target, by how well a linear probe predicts it.

    Encoders are ordered by the cross-validated R^2 of ridge regression; LogME is computed as well. Transferability,
    task-relatedness and the other metrics of classes are not defined for numbers.

        rank_regression("prices.csv", ["glove-6b-50d", "all-minilm-l6-v2"], output="results")

    Args:
        target: the data set.
        encoders: as in :func:`rank`.
        output: folder of finished scores, as in :func:`rank`.
        settings: sample counts, seed, columns; `regression` is set.
        data_paths: by data set name, where you have the data.
        progress: called with `(what, done, total)` as work goes on.
        executor: runs the scoring on its workers, as in :func:`rank`.

    Raises:
        ValueError: as in :func:`rank`, and if the settings are for classes.
    """
    used = dataclasses.replace(settings or Settings(), regression=True, held_out=0, resamples=0)
    study = Study(encoders, [target], settings=used, data_paths=data_paths or {})
    return scoreboard_of(run(study.plan(), output=output, progress=progress, executor=executor)).ordered()


def score(
    encoders: Mapping[str, Mapping[str, np.ndarray]],
    *,
    metrics: Sequence[str] | None = None,
    output: Path | str,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Scoreboard:
    """Score encoders by many metrics, from arrays with the names of `jaxrel.metrics.NEEDS`.

        score({"mine": {"features": x, "labels": y}, "other": {...}}, output="results")

    Args:
        encoders: arrays of the same target, by the name of the encoder.
        metrics: names in `jaxrel.metrics.METRICS`; None selects all metrics whose arrays every encoder has.
        output: folder in which finished scores are kept (`records.jsonl`): the same call continues where it stopped.
        executor: any of `concurrent.futures` runs the scoring on its workers, one encoder per call; None uses this
            process.
        progress: called with `(what, done, total)` as work goes on.

    Raises:
        ValueError: there is no encoder, a metric or array is unknown, or an encoder lacks arrays of a metric. Errors
            in the arrays of one encoder are in its messages.
        EngineError: the executor lost encoders, which it names; the others are finished and kept.
        OSError: `output` cannot be written to; BlockingIOError where another process writes there.
    """
    hub = Hub([from_arrays(name, arrays) for name, arrays in encoders.items()])
    study = Study(
        tuple(hub.encoders),
        [hub],
        metrics=hub.metrics() if metrics is None else metrics,
        settings=Settings(resamples=0),
    )
    return scoreboard_of(run(study.plan(), output=output, executor=executor, progress=progress))
