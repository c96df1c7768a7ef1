"""Rank encoders for target tasks by transferability, with its reasons: plan, execute (resumable), report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxrel.assets import cache_dir
from jaxrel.feature_store import FeatureStore
from jaxrel.ranking.execute import Score, ScoreLog, execute
from jaxrel.ranking.plan import FeatureArrays, Plan, Progress, Settings, Source, Split, Views, make_plan, named_sources
from jaxrel.ranking.table import Ranking, Row, Table, make_ranking

__all__ = [
    "FeatureArrays",
    "Plan",
    "Progress",
    "Ranking",
    "Row",
    "Score",
    "Settings",
    "Source",
    "Split",
    "Table",
    "Views",
    "feature_store",
    "make_plan",
    "named_sources",
    "rank",
    "run",
]


def _silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


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
    progress: Progress = _silent,
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

    Returns:
        The tables, largest transferability first; bounds and losses are in nats.

    Raises:
        ValueError: a name is unknown or given twice, features are missing, a setting is out of range.
        BlockingIOError: another process writes into `output`.
    """
    plan = make_plan(
        references,
        targets,
        encoders,
        settings=settings or Settings(),
        store=feature_store(),
        data_paths=data_paths,
    )
    return run(plan, output=output, progress=progress)


def run(plan: Plan, *, output: Path | str, progress: Progress = _silent) -> Ranking:
    """Score what `output` lacks of the plan, and rank."""
    with ScoreLog(Path(output) / "results.jsonl") as log:
        return make_ranking(execute(plan, log, progress=progress), plan.settings)
