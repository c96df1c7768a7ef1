"""Rank encoders for target tasks by transferability, with its reasons: plan, execute (resumable), report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxrel.assets import cache_dir
from jaxrel.feature_store import FeatureStore
from jaxrel.hosts import Hosts
from jaxrel.ranking.execute import Score, ScoreLog, execute
from jaxrel.ranking.matrix import Matrix, MatrixPlan, StoredFeatures, Timings, plan_matrix, score_matrix
from jaxrel.ranking.plan import (
    FeatureArrays,
    Plan,
    Progress,
    Settings,
    Source,
    Split,
    Views,
    make_plan,
    named_sources,
    silent,
)
from jaxrel.ranking.table import Ranking, Row, Table, make_ranking

__all__ = [
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
    "log_path",
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
    references: Sequence[str | Source],
    targets: Sequence[str | Source],
    encoders: Sequence[str],
    *,
    output: Path | str,
    settings: Settings | None = None,
    data_paths: Mapping[str, Path] | None = None,
    progress: Progress = silent,
    hosts: Hosts | None = None,
) -> Ranking:
    """Rank encoders on every pair of a reference and another data set as target.

    A data set is a name that :mod:`jaxrel.data` knows, or anything that has features (:class:`Source`);
    arrays of your own go into :class:`FeatureArrays`, whose encoder names may be any:

        mine = FeatureArrays("mine", {"my-net": (Task(train_x, train_y), Task(test_x, test_y))})
        other = FeatureArrays("other", {"my-net": (...)})
        ranking = rank([other], [mine], ["my-net"], output="results")

    Args:
        references: data sets whose labels the bound is transferred from.
        targets: data sets whose loss is bounded.
        encoders: encoder names; `NAME:random` is the same network with random weights.
        output: folder in which finished scores are kept (`results.jsonl`), so that a second call computes
            only what is missing.
        settings: sample counts, method, seed, intervals.
        data_paths: by data set name, where you have the data.
        progress: told `(what, done, total)` as work goes on.
        hosts: the processes that share the work, from :func:`jaxrel.hosts.connect`; each keeps what it finishes in
            `results-<index>.jsonl`, and any number of processes goes on from there. None is this process alone.

    Returns:
        The tables, largest transferability first; bounds and losses are in nats.

    Raises:
        ValueError: a name is unknown or given twice, features are missing, a setting is out of range.
        BlockingIOError: another process writes into `output`.
        HostLostError: another process was lost; what is finished is kept.
    """
    plan = make_plan(
        references,
        targets,
        encoders,
        settings=settings or Settings(),
        store=feature_store(),
        data_paths=data_paths,
    )
    return run(plan, output=output, progress=progress, hosts=hosts)


def log_path(output: Path, hosts: Hosts) -> Path:
    """The file in which a process keeps what it finishes."""
    return output / ("results.jsonl" if hosts.count == 1 else f"results-{hosts.index}.jsonl")


def run(plan: Plan, *, output: Path | str, progress: Progress = silent, hosts: Hosts | None = None) -> Ranking:
    """Score what `output` lacks of the plan, and rank."""
    hosts = hosts or Hosts()
    with ScoreLog(log_path(Path(output), hosts)) as log:
        return make_ranking(execute(plan, log, progress=progress, hosts=hosts), plan.settings)
