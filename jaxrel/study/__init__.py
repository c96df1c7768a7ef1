"""Rank encoders for target tasks by transferability, with its reasons: plan, execute (resumable), report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from jaxrel.storage.assets import cache_dir
from jaxrel.storage.features import FeatureStore
from jaxrel.study.engine import EngineError
from jaxrel.study.matrix import Matrix, MatrixPlan, StoredFeatures, Timings, plan_matrix, score_matrix
from jaxrel.study.ranking.execute import execute
from jaxrel.study.ranking.plan import Plan, make_plan
from jaxrel.study.ranking.score import Score, ScoreLog
from jaxrel.study.ranking.table import Ranking, Row, Table, make_ranking
from jaxrel.study.settings import Settings
from jaxrel.study.sources import FeatureArrays, Progress, Source, Split, Views, named_sources, silent

__all__ = [
    "EngineError",
    "FeatureArrays",
    "Matrix",
    "MatrixPlan",
    "Plan",
    "Progress",
    "Ranking",
    "Row",
    "Score",
    "Settings",
    "Source",
    "Split",
    "StoredFeatures",
    "Table",
    "Timings",
    "Views",
    "feature_store",
    "make_plan",
    "named_sources",
    "plan_matrix",
    "rank",
    "run",
    "score_matrix",
]


def feature_store() -> FeatureStore:
    """The store of extracted features that all rankings of this user share."""
    return FeatureStore(cache_dir() / "features")


def rank(
    targets: Sequence[str | Source],
    encoders: Sequence[str],
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
    arrays of your own go into :class:`FeatureArrays`, whose encoder names may be any:

        mine = FeatureArrays("mine", {"my-net": Task(x, y), "other-net": Task(z, y)})
        ranking = rank([mine], ["my-net", "other-net"], output="results")
        ranking.tables[0].rows[0].score.encoder  # the best

    References add the bound of :func:`jaxrel.task_relatedness` and its terms, and change no order.

    Args:
        targets: data sets to transfer to.
        encoders: encoder names; `NAME:random` is the same network with random weights.
        references: data sets whose labels a bound on the target loss is transferred from; each makes a table of its own
            with every other data set as target.
        output: folder in which finished scores are kept (`results.jsonl`), so that a second call computes
            only what is missing.
        settings: sample counts, method, seed, intervals.
        data_paths: by data set name, where you have the data.
        progress: told `(what, done, total)` as work goes on.
        executor: has its workers score, one encoder a call, to the same numbers: any of `concurrent.futures`, such as
            :class:`jaxrel.study.ray.RayExecutor`. None is this process with its devices.

    Returns:
        The tables, largest transferability first; bounds and losses are in nats. An encoder or a data set that fails is
        named in `incomplete`, and the others go on.

    Raises:
        ValueError: a name is unknown or given twice, features are missing, a setting is out of range.
        OSError: `output` cannot be written to; BlockingIOError where another process writes there.
        Exception: the first that a score fails with, where the settings are strict.
        EngineError: the executor lost encoders, which it names; the others are finished and kept.
    """
    plan = make_plan(
        targets,
        encoders,
        references,
        settings=settings or Settings(),
        store=feature_store(),
        data_paths=data_paths,
    )
    return run(plan, output=output, progress=progress, executor=executor)


def run(plan: Plan, *, output: Path | str, progress: Progress = silent, executor: Executor | None = None) -> Ranking:
    """Score what `output` lacks of the plan, and rank."""
    with ScoreLog(Path(output) / "results.jsonl") as log:
        return make_ranking(execute(plan, log, executor=executor, progress=progress), plan.settings)
