"""Ranking: plan, order and ties, the log of finished scores, reports, and what a kill leaves."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_zoo
import numpy as np
import pytest

import jaxrel
from jaxrel import study
from jaxrel.storage.features import FeatureStore
from jaxrel.study import FeatureArrays, Record, Score, Settings, Study, Table
from jaxrel.study.page.rankings import part_of_ranking
from jaxrel.study.ranking.report import check_output, print_ranking, write_files
from jaxrel.study.ranking.table import make_ranking
from jaxrel.study.records import StudyLog

FAST = Settings(samples=30, held_out=12, resamples=50)
RANK = ["rank", "--reference", "circles", "crosses", "--target", "squares", "circles", "--encoder", "narrow", "wide"]
RANK += ["--samples", "60", "--held-out", "20", "--resamples", "50", "--batch-size", "8", "--no-plot"]


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    fake_zoo.install(monkeypatch.setattr)


def make_plan(references: Any, targets: Any, encoders: Any, **options: Any) -> study.Plan:
    return Study(encoders, targets, references, settings=FAST, **options).plan()


def score(encoder: str, transferability: float, resampled: Any = (), **fields: Any) -> Score:
    return Score(
        key=f"{encoder}{fields}",
        encoder=encoder,
        transferability=transferability,
        lower=transferability - 0.1,
        upper=transferability + 0.1,
        resampled_transferabilities=tuple(resampled),
        **{"reference": "r", "target": "t"} | fields,
    )


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        others = ("jaxrel", "samples_per_second", "extracted_samples", "written", "command")
        kept = {name: entry for name, entry in value.items() if not name.endswith("_seconds") and name not in others}
        return {name: without_seconds(entry) for name, entry in kept.items()}
    return [without_seconds(entry) for entry in value] if isinstance(value, list) else value


def finished(folder: Path) -> dict[str, Any]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {record["key"]: without_seconds(record) for record in map(json.loads, lines)}


# The plan


@pytest.mark.usefixtures("zoo")
def test_plan_has_every_pair_but_a_set_with_itself() -> None:
    plan = make_plan(["circles", "crosses"], ["circles", "squares"], ["wide"])
    assert plan.pairs == [("circles", "squares"), ("crosses", "circles"), ("crosses", "squares")]
    bounds = [(unit.reference, unit.target) for unit in plan.units if unit.metric == "bound"]
    assert sorted(bounds) == plan.pairs
    assert [unit.target for unit in plan.units if unit.metric == "transferability"] == ["circles", "squares"]


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("references", "targets", "encoders", "message"),
    [
        (["ovals"], ["squares"], ["wide"], r"unknown data set 'ovals': there are circles, crosses, squares"),
        (["circles"], ["ovals"], ["wide"], r"unknown data set 'ovals'"),
        (["circles"], ["squares"], ["tall"], r"unknown encoder 'tall': there are broken, narrow, wide"),
        (["circles"], ["squares"], ["tall:random"], r"unknown encoder 'tall'"),
        (["circles"], ["squares"], ["wide", "narrow", "wide"], r"encoder given twice: wide"),
        (["circles", "circles"], ["squares"], ["wide"], r"reference given twice: circles"),
        (["circles"], ["circles"], ["wide"], r"'circles' is not compared with itself: pass another reference"),
        (["circles"], ["squares", "circles"], ["wide"], r"'circles' is not compared with itself"),
        (["circles"], ["squares"], [], r"no encoder was passed"),
        (["circles"], [], ["wide"], r"no target was passed"),
        ([""], ["squares"], ["wide"], r"the name of a data set is empty"),
        ([], ["squares", " "], ["wide"], r"the name of a data set is empty"),
    ],
)
def test_plan_refuses(references: list[str], targets: list[str], encoders: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(references, targets, encoders)


@pytest.mark.usefixtures("zoo")
def test_plan_refuses_paths_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crosses, which is neither reference nor target"):
        make_plan(["circles"], ["squares"], ["wide"], data_paths={"crosses": tmp_path})
    with pytest.raises(ValueError, match="does not exist"):
        make_plan(["circles"], ["squares"], ["wide"], data_paths={"circles": tmp_path / "nowhere"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples is 0: pass an integer of at least 1"),
        ({"held_out": -1}, "held_out is -1: pass an integer of at least 0"),
        ({"image_size": 8}, "image_size is 8: pass an integer of at least 32"),
        ({"resamples": 1}, "resamples is 1"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"confidence": math.nan}, "confidence is nan"),
    ],
)
def test_settings_refuse_numbers_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**options)


# Order, intervals and ties


def test_largest_transferability_is_first_and_failures_are_last() -> None:
    scores = [
        score("nan", math.nan, status="failed: x"),
        score("c", 0.3),
        score("a", 0.9),
        score("failed", 0.99, status="not converged"),
        score("d", 0.3, bound=math.nan),
        score("b", 0.3, bound=1.0),
    ]
    (table,) = make_ranking(scores, FAST).tables
    assert [row.score.encoder for row in table.rows] == ["a", "b", "c", "d", "failed", "nan"]
    assert [row.rank for row in table.rows] == [1, 2, 3, 4, None, None]


def test_ties_follow_the_paired_difference() -> None:
    noise = np.random.default_rng(0).normal(size=1000)
    scores = [
        score("a", -1.0, -1.0 + noise),
        score("b", -1.1, -1.1 + noise),  # moves with a, so 0.1 is a real difference although the intervals overlap
        score("c", -1.2, -1.2 - noise),  # does not
        score("d", -99.0, -99.0 + noise),
        score("e", math.nan, status="failed"),
    ]
    (table,) = make_ranking(scores, FAST).tables
    tied = {row.score.encoder: (row.tied_with_best, row.tied_with) for row in table.rows}
    assert tied == {
        "a": (False, ("c",)),
        "b": (False, ("c",)),
        "c": (True, ("a", "b")),
        "d": (False, ()),
        "e": (False, ()),
    }


def test_ties_with_the_best_do_not_chain() -> None:
    spread = np.linspace(-1, 1, 1001)
    scores = [score("a", 0.9, 0.9 + 0 * spread), score("b", 0.8, 0.8 + 0.2 * spread), score("c", 0.7, 0.7 + 0 * spread)]
    failed = [score(name, math.nan, status="failed: x") for name in ("y", "z")]
    (table,) = make_ranking([*scores, *failed], FAST).tables
    (section,) = table.sections()
    assert [row.tied_with for row in table.rows] == [("b",), ("a", "c"), ("b",), (), ()]
    assert [row["rank"] for row in section.rows] == ["1", "=2", "3", "", ""]
    assert [row["transfer-\nability"] for row in section.rows][3:] == ["failed", "failed"]
    assert section.complaints == ["y, z: failed: x"]
    marks = [
        row.get("transferability_mark") for row in part_of_ranking(study.Ranking((table,), (), FAST)).grids[0].rows
    ]
    assert marks == ["best", "tied", None, None, None]
    assert [record["rank"] for record in table.records()] == [1, 2, 3, None, None]


def test_equal_transferabilities_are_tied() -> None:
    (table,) = make_ranking([score("a", 1.0, [1, 2, 3]), score("b", 1.0, [1, 2, 3])], FAST).tables
    assert table.rows[1].tied_with_best
    (table,) = make_ranking([score("a", 1.0), score("b", 1.0), score("c", 0.5)], FAST).tables  # without resamples
    assert [row.tied_with_best for row in table.rows] == [False, True, False]


def test_interval_holds_the_confidence_asked_for() -> None:
    found = score("a", 0.5, resampled_bounds=tuple(2 * np.arange(1001) / 1000))
    (table,) = make_ranking([found], Settings(confidence=0.8)).tables
    assert table.rows[0].bound_interval == pytest.approx((0.2, 1.8), abs=0.003)


def test_summary_takes_the_reference_of_the_smallest_bound() -> None:
    scores = [
        score("a", 0.9, reference="r1", bound=2.0),
        score("a", 0.9, reference="r2", bound=1.0),
        score("b", 0.5, reference="r1", bound=1.0),
        score("b", 0.5, reference="r2", terms_status="failed"),
        score("a", 0.1, reference="r1", target="other"),
    ]
    result = make_ranking(scores, FAST)
    assert [(table.reference, table.target) for table in result.tables] == [("r1", "t"), ("r2", "t"), ("r1", "other")]
    (summary,) = result.summaries
    assert summary.is_summary
    assert [(row.score.encoder, row.score.reference) for row in summary.rows] == [("a", "r2"), ("b", "r1")]
    assert [(score.encoder, score.reference) for score in result.incomplete] == [("b", "r2")]


# Running


def arrays(name: str, shift: float, nan: bool = False) -> FeatureArrays:
    generator = np.random.default_rng(len(name))
    labels = np.arange(24) % 3

    def task() -> jaxrel.Task:
        return jaxrel.Task(generator.normal(size=(24, 4)) + shift * labels[:, None], labels, num_classes=3)

    return FeatureArrays(name, {"mine": (task(), task())})


@pytest.mark.usefixtures("zoo")
def test_arrays_of_the_user_are_ranked(tmp_path: Path) -> None:
    result = study.rank([arrays("other", 2.0)], ["mine"], [arrays("one", 1.0)], output=tmp_path, settings=FAST)
    (row,) = result.tables[0].rows
    assert (row.score.status, row.score.terms_status) == ("ok", "ok")
    assert row.score.vacuous_level == pytest.approx(math.log(3))
    with pytest.raises(ValueError, match="'other' has no features of encoder 'yours': it has mine"):
        study.rank([arrays("other", 2.0)], ["yours"], output=tmp_path)
    with pytest.raises(ValueError, match="two data sets are called 'one'"):
        study.rank([arrays("one", 2.0)], ["mine"], [arrays("one", 1.0)], output=tmp_path)


@pytest.mark.usefixtures("zoo")
def test_second_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: Any = (["squares", "crosses"], ["wide", "narrow"], ["circles"])
    first = study.rank(*arguments, output=tmp_path, settings=FAST)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(jaxrel, "task_relatedness", refuse)
    monkeypatch.setattr(jaxrel, "transferability_score", refuse)
    content = (tmp_path / "records.jsonl").read_bytes()
    assert study.rank(*arguments, output=tmp_path, settings=FAST) == first
    assert (tmp_path / "records.jsonl").read_bytes() == content


# Without a reference


@pytest.mark.usefixtures("zoo")
def test_one_target_and_encoders_are_enough(tmp_path: Path) -> None:
    (table,) = study.rank(["squares"], ["wide", "narrow"], output=tmp_path, settings=FAST).tables
    assert (table.reference, table.target, table.is_summary) == (None, "squares", False)
    scores = [row.score for row in table.rows]
    assert scores[0].transferability > scores[1].transferability
    for found in scores:
        assert (found.status, found.recipe, found.majority) == ("ok", "made up", 1 / 3)
        assert found.lower < found.transferability < found.upper
        assert len(found.resampled_transferabilities) == FAST.resamples
        assert math.isnan(found.bound)


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("label_free", [False, True])
def test_a_reference_adds_terms_and_changes_no_number(
    label_free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def counted(target: Any, **options: Any) -> Any:
        calls.append(target)
        return fake_zoo.transferability_score(target, **options)

    monkeypatch.setattr(jaxrel, "transferability_score", counted)
    settings = Settings(samples=30, held_out=12, resamples=50, label_free=label_free)
    alone = study.rank(["squares"], ["wide"], output=tmp_path, settings=settings).tables
    both = study.rank(["squares"], ["wide"], ["circles", "crosses"], output=tmp_path, settings=settings).tables
    # Once for both references; and with labels, where samples are held out for these, once without them.
    assert len(calls) == (1 if label_free else 2)
    scores = [table.rows[0].score for table in (*alone, *both)]
    assert len({(found.transferability, found.lower, found.upper) for found in scores}) == 1
    assert [math.isnan(found.bound) for found in scores] == [True, False, False]
    assert {call.features.shape for call in calls} == {(30, 5)}
    assert (calls[0].labels is None) == label_free


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(("references", "label_free", "held_out"), [([], False, 0), (["circles"], True, 0)])
def test_no_sample_is_held_out_where_none_is_looked_at(references: list[str], label_free: bool, held_out: int) -> None:
    seen = []

    def load_splits(name: str, **options: Any) -> Any:
        seen.append(options["test_limit"])
        return fake_zoo.load_splits(name, **options)

    settings = Settings(samples=20, held_out=12, label_free=label_free)
    plan = Study(["wide"], ["squares"], references, settings=settings).plan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxrel.data.load_splits", load_splits)
        plan.sources["squares"].fingerprint("wide")
    assert seen == [held_out]


@pytest.mark.slow
def test_the_number_of_the_table_is_that_of_the_function(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(20) % 2
    task = jaxrel.Task(generator.normal(size=(20, 4)) + labels[:, None], labels)
    mine = FeatureArrays("mine", {"net": task})
    (table,) = study.rank([mine], ["net"], output=tmp_path, settings=Settings(seed=3, confidence=0.8)).tables
    expected = jaxrel.transferability_score(task, key=3, confidence=0.8, num_resamples=1000)
    found = table.rows[0].score
    assert (found.transferability, found.lower, found.upper) == tuple(
        float(value) for value in (expected.value, expected.lower, expected.upper)
    )
    assert found.recipe == expected.recipe


# What fails


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("error", [OSError("no disk"), ValueError("odd"), RuntimeError("XLA"), ImportError("onnx")])
@pytest.mark.parametrize("where", ["load", "extract", "score"])
def test_one_failing_encoder_is_named_and_the_others_go_on(
    error: Exception, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "wide":
                raise error
            return function(*arguments, **options)

        return call

    if where == "load":
        monkeypatch.setattr(
            "jaxrel.encoders.load", lambda name, **options: failing(name, fake_zoo.FakeEncoder)(name, **options)
        )
    elif where == "extract":
        forward = fake_zoo.FakeEncoder.forward
        monkeypatch.setattr(
            fake_zoo.FakeEncoder, "forward", lambda encoder, images: failing(encoder.name, forward)(encoder, images)
        )
    else:
        wide = fake_zoo.FakeEncoder("wide", seed=0, image_size=None)
        squares = fake_zoo.load_data("squares", split="train", limit=30).images
        monkeypatch.setattr(
            jaxrel,
            "transferability_score",
            lambda target, **options: failing(
                "wide" if np.allclose(target.features, wide.forward(squares).features) else "",
                fake_zoo.transferability_score,
            )(target, **options),
        )
    for _ in range(2):
        result = study.rank(["squares"], ["wide", "narrow"], output=tmp_path, settings=FAST)
        narrow, wide_row = result.tables[0].rows
        assert (narrow.score.encoder, narrow.score.status) == ("narrow", "ok")
        assert wide_row.score.status.startswith("failed: ")
        assert str(error) in wide_row.score.status
        assert math.isnan(wide_row.score.lower)
        assert [score.encoder for score in result.incomplete] == ["wide"]
    with pytest.raises(type(error), match=str(error)):
        study.rank(["squares"], ["narrow", "wide"], output=tmp_path / "s", settings=Settings(samples=30, strict=True))


@pytest.mark.usefixtures("zoo")
def test_what_may_not_fail_again_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(jaxrel, "transferability_score", full)
    assert study.rank(["squares"], ["wide"], output=tmp_path, settings=FAST).incomplete
    monkeypatch.setattr(jaxrel, "transferability_score", fake_zoo.transferability_score)
    assert not study.rank(["squares"], ["wide"], output=tmp_path, settings=FAST).incomplete


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupts_and_exhausted_memory_are_no_failures_of_an_encoder(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(jaxrel, "transferability_score", stop)
    with pytest.raises(error):
        study.rank(["squares"], ["wide"], output=tmp_path, settings=FAST)


@pytest.mark.usefixtures("zoo")
def test_a_data_set_that_fails_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_splits(name: str, **options: Any) -> Any:
        calls.append(name)
        if name == "crosses":
            raise OSError("unreadable")
        return fake_zoo.load_splits(name, **options)

    monkeypatch.setattr("jaxrel.data.load_splits", load_splits)
    result = study.rank(["crosses", "squares"], ["wide", "narrow"], output=tmp_path, settings=FAST)
    assert [row.score.failed for table in result.tables for row in table.rows] == [True, True, False, False]
    assert calls.count("crosses") == 1


@pytest.mark.usefixtures("zoo")
def test_failing_terms_leave_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no plan")

    monkeypatch.setattr(jaxrel, "task_relatedness", fail)
    result = study.rank(["squares"], ["wide"], ["circles"], output=tmp_path, settings=FAST)
    found = result.tables[0].rows[0].score
    assert (found.status, found.terms_status) == ("ok", "failed: no plan")
    assert found.transferability > 0
    assert not found.has_terms
    assert result.incomplete == (found,)


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    "change",
    [
        {"samples": 31},
        {"held_out": 13},
        {"seed": 1},
        {"resamples": 51},
        {"image_size": 64},
        {"batch_size": 7},  # rounding differs
        {"method": jaxrel.Joint(learn_head=False)},
        {"label_free": True},
        {"confidence": 0.5},
    ],
)
def test_scores_of_other_settings_are_not_taken_for_these(tmp_path: Path, change: dict[str, Any]) -> None:
    study.rank(["squares"], ["wide"], ["circles"], output=tmp_path, settings=FAST)
    changed = Settings(**{"samples": 30, "held_out": 12, "resamples": 50} | change)
    study.rank(["squares"], ["wide"], ["circles"], output=tmp_path, settings=changed)
    one_of_both = set(change) <= {"method", "confidence"}  # of the bound, and of the other
    assert len(finished(tmp_path)) == (3 if one_of_both else 4)


@pytest.mark.usefixtures("zoo")
def test_encoder_that_fails_is_kept_and_stops_nothing(tmp_path: Path) -> None:
    result = study.rank(["squares"], ["broken", "wide"], ["circles"], output=tmp_path, settings=FAST)
    wide, broken = result.tables[0].rows
    assert wide.score.status == "ok"
    assert broken.score.encoder == "broken"
    assert broken.score.status.startswith("failed: broken gives features of sample 0 that are NaN or infinite")
    assert math.isnan(broken.score.bound)


@pytest.mark.usefixtures("zoo")
def test_terms_with_a_status_are_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unseen_class(*tasks: Any, **options: Any) -> Any:
        result = fake_zoo.task_relatedness(*tasks, **options)
        result.bound, result.messages = math.inf, ("a class was never seen",)
        return result

    monkeypatch.setattr(jaxrel, "task_relatedness", unseen_class)
    for _ in range(2):  # the second time from the file, where JSON has no infinity
        (row,) = study.rank(["squares"], ["wide"], ["circles"], output=tmp_path, settings=FAST).tables[0].rows
        assert not row.score.has_terms
        assert row.score.bound == math.inf
        assert row.score.terms_status == "a class was never seen"


# Without target labels


def unlabelled_arrays(name: str, qualities: dict[str, float]) -> FeatureArrays:
    """Classes that lie further apart the larger the quality; labels are wrong, to show that nothing looks at them."""
    labels = np.arange(48) % 3

    def features(quality: float, seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        clean = quality * np.eye(3, 6)[labels] + np.random.default_rng(0).normal(size=(48, 6))
        return clean + 0.5 * generator.normal(size=clean.shape)

    tasks = {
        encoder: jaxrel.Task(features(quality, 1), np.zeros(48, int), num_classes=1)
        for encoder, quality in qualities.items()
    }
    views = {encoder: (features(quality, 2), features(quality, 3)) for encoder, quality in qualities.items()}
    return FeatureArrays(name, {encoder: (task, task) for encoder, task in tasks.items()}, views=views)


@pytest.mark.slow
def test_label_free_ranking_looks_at_views_and_at_no_label(tmp_path: Path) -> None:
    qualities = {"good": 9.0, "bad": 0.5}
    generator = np.random.default_rng(5)
    labels = np.arange(60) % 3
    task = jaxrel.Task(generator.normal(size=(60, 6)) + 3 * labels[:, None], labels)
    reference = FeatureArrays("reference", dict.fromkeys(qualities, (task, task)))
    settings = Settings(
        resamples=50, label_free=True, target_classes=3, method=jaxrel.Joint(num_steps=20, points_per_class=10)
    )
    target = unlabelled_arrays("target", qualities)
    result = study.rank([target], list(qualities), [reference], output=tmp_path, settings=settings)
    (table,) = result.tables
    assert [row.score.encoder for row in table.rows] == ["good", "bad"]
    good, bad = (row.score for row in table.rows)
    assert good.status == bad.status == "ok"
    assert good.target_labels.startswith("pseudo-labels: ViewClusters(")
    assert good.num_classes == 3
    assert good.transferability > bad.transferability
    assert good.lower <= good.transferability <= good.upper
    assert not good.resampled_bounds
    write_files(result, tmp_path, plot=True)
    document = json.loads((tmp_path / "results.json").read_text())
    assert "vacuous_level" not in document["pairs"][0]
    assert document["settings"]["label_free"]


def test_label_free_ranking_needs_views(tmp_path: Path) -> None:
    arguments: Any = ([arrays("other", 2.0)], ["mine"], [arrays("one", 1.0)])
    with pytest.raises(ValueError, match="'other' has no views of encoder 'mine': it has none"):
        study.rank(*arguments, output=tmp_path, settings=Settings(label_free=True))


@pytest.mark.usefixtures("zoo")
def test_images_get_views_which_the_store_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(samples=30, held_out=12, label_free=True)
    plan = Study(["wide"], ["squares"], ["circles"], settings=settings, store=FeatureStore(tmp_path)).plan()
    target = plan.sources["squares"]
    features = np.asarray(target.features("wide", lambda *_: None).train.features)
    told: list[str] = []
    first, second = target.views("wide", lambda what, *_: told.append(what))
    assert {"wide: squares (view 1)", "wide: squares (view 2)"} == set(told)
    assert first.shape == second.shape == features.shape
    assert not np.allclose(first, second)
    monkeypatch.setattr(fake_zoo.FakeEncoder, "forward", None)
    assert all(map(np.array_equal, target.views("wide", lambda *_: None), (first, second)))


# The log of finished records


def record(encoder: str, value: float, resamples: Any = ()) -> Record:
    numbers = {"value": value, "lower": math.nan, "upper": math.inf}
    return Record(f"{encoder} key", "transferability", encoder, None, "t", numbers=numbers, resamples=tuple(resamples))


def test_log_gives_back_what_was_put_in(tmp_path: Path) -> None:
    put = record("a", 0.1 + 0.2, [1.5, math.inf])
    with StudyLog(tmp_path / "log") as log:
        log.append(put)
    with StudyLog(tmp_path / "log") as log:
        found = log.find(put.key)
    assert found is not None
    assert repr(found) == repr(put)  # NaN is not equal to itself


def test_torn_last_line_is_cut_off_at_any_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxrel.study.records.origin_of", lambda command: {"written": "at one time"})
    path = tmp_path / "log"
    with StudyLog(path) as log:
        log.append(record("a", 1.0))
        kept = path.stat().st_size
        log.append(record("b", 2.0))
    content = path.read_bytes()
    for length in range(kept + 1, len(content)):
        caplog.clear()
        path.write_bytes(content[:length])
        with StudyLog(path) as log:
            assert repr(log.find(record("a", 1.0).key)) == repr(record("a", 1.0))
            assert log.find(record("b", 2.0).key) is None
            assert "torn" in caplog.text
            log.append(record("b", 2.0))
        assert path.read_bytes() == content


def test_unreadable_line_is_reported_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    with StudyLog(path) as log:
        log.append(record("a", 1.0))
    path.write_bytes(b"rubbish\n[]\n" + path.read_bytes())
    with StudyLog(path) as log:
        assert log.find(record("a", 1.0).key) is not None
    assert "(1, 2): their scores are computed again" in caplog.text


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with StudyLog(tmp_path / "log"), pytest.raises(BlockingIOError):
        StudyLog(tmp_path / "log")
    StudyLog(tmp_path / "log").close()


def test_line_is_written_by_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: calls.append(line) or write(descriptor, line))
    with StudyLog(tmp_path / "log") as log:
        log.append(record("a", 1.0, [1.0] * 1000))
    assert calls == [(tmp_path / "log").read_bytes()]


def test_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda descriptor, line: len(line) - 1)
    with StudyLog(tmp_path / "log") as log, pytest.raises(OSError, match="disk full"):
        log.append(record("a", 1.0))


def test_lines_say_what_made_them(tmp_path: Path) -> None:
    with StudyLog(tmp_path / "log", ["jaxrel", "rank"]) as log:
        log.append(record("a", 1.0))
    line = json.loads((tmp_path / "log").read_text())
    assert line["schema"] == 1
    assert line["command"] == ["jaxrel", "rank"]
    assert line["versions"]["jaxrel"] == jaxrel.__version__
    assert line["numbers"] == {"value": 1.0, "lower": None, "upper": "inf"}


def test_log_of_another_version_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jaxrel.study.records.SCHEMA", 0)
        with StudyLog(tmp_path / "log") as log:
            log.append(record("a", 1.0))
    with pytest.raises(ValueError, match="log has version 0 of its format, this jaxrel reads version 1"):
        StudyLog(tmp_path / "log")
    with monkeypatch.context() as patch:
        patch.setattr("jaxrel.study.records.SCHEMA", 0)
        StudyLog(tmp_path / "log").close()  # the refusal kept no lock


# Killed at any moment


def start(folder: Path, *, seconds: float) -> subprocess.Popen[bytes]:
    environment = fake_zoo.SUBPROCESS | {"JAXREL_CACHE": str(folder / "cache"), "FAKE_SECONDS": str(seconds)}
    command = [sys.executable, fake_zoo.__file__, *RANK, "--quiet", "--output", str(folder / "out")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def progress_of(folder: Path) -> int:
    log = folder / "out" / "records.jsonl"
    return len(list(folder.rglob("finished/[0-9]*"))) + (log.read_bytes().count(b"\n") if log.exists() else 0)


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_results(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole, seconds=0)
    generator = np.random.default_rng(0)
    for enough in (1, 5, 12):
        process = start(killed, seconds=0.03)
        while progress_of(killed) < enough:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.05))
        process.kill()
        process.communicate()
        finished(killed / "out") if (killed / "out").exists() else None  # every line is whole
    last = start(killed, seconds=0)
    for process in (undisturbed, last):
        errors = process.communicate()[1].decode()
        assert process.returncode == 0, errors
    assert finished(killed / "out") == finished(whole / "out")
    assert len(finished(whole / "out")) == 4 + 6
    documents = [json.loads((folder / "out" / "results.json").read_text()) for folder in (whole, killed)]
    assert without_seconds(documents[0]) == without_seconds(documents[1])


# Reports


@pytest.fixture
def result() -> study.Ranking:
    terms = dict(
        zip(("reweighted_reference_loss", "label_mismatch", "distribution_mismatch"), (0.5, 0.1, 0.4), strict=True)
    )
    common: dict[str, Any] = {"num_classes": 10, "vacuous_level": 2.2, **terms}
    noise = np.random.default_rng(0).normal(size=100)
    return make_ranking(
        [
            score("good", 0.75, 0.75 + noise, bound=1.0, target_loss=0.8, recipe="a [probe]", majority=0.2, **common),
            score("same", 0.7, 0.7 - noise, bound=0.9, target_loss=0.7, **common),
            score("bad", math.nan, status="failed: [red] why", **common),
            score("good", 0.8, 0.8 + noise, bound=1.1, **common | {"reference": "s"}),
        ],
        FAST,
    )


def test_json_has_the_tables(result: study.Ranking, tmp_path: Path) -> None:
    write_files(result, tmp_path, plot=False)
    document = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert document["ordered_by"] == "transferability, larger first"
    assert document["settings"]["samples"] == 30
    assert document["settings"]["method"]["name"] == "Joint"
    pair = document["pairs"][0]
    assert (pair["reference"], pair["target"], pair["vacuous_level"]) == ("r", "t", 2.2)
    assert pair["log_num_classes"] == pytest.approx(math.log(10))
    good, same, bad = pair["rows"]
    assert (good["encoder"], good["transferability"], good["tied_with"]) == ("good", 0.75, ["same"])
    assert (pair["recipe"], pair["majority"]) == ("a [probe]", 0.2)
    assert good["lower"] < 0.75 < good["upper"]
    assert (good["bound"], good["bound_low"], good["target_labels"]) == (1.0, None, "given")
    assert (same["tied_with_best"], same["target_loss"]) == (True, 0.7)
    assert (bad["rank"], bad["status"], bad["bound"], bad["lower"]) == (None, "failed: [red] why", None, None)
    assert [row["reference"] for row in document["summaries"][0]["rows"]] == ["s", "r", "r"]


def test_csv_has_a_line_for_each_encoder_and_pair(result: study.Ranking, tmp_path: Path) -> None:
    write_files(result, tmp_path, plot=False)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["reference"], row["encoder"], row["rank"]) for row in rows] == [
        ("r", "good", "1"),
        ("r", "same", "2"),
        ("r", "bad", ""),
        ("s", "good", "1"),
    ]
    assert float(rows[0]["bound"]) == 1.0
    assert rows[0]["tied_with"] == "same"
    assert rows[2]["bound"] == ""


def test_terminal_shows_order_ties_failures_and_level(
    result: study.Ranking, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    print_ranking(result, Console(width=40))  # too narrow: nothing is cut off all the same
    lines = capsys.readouterr().out.splitlines()[1:]
    assert "r → t" in lines[0]
    assert (
        "accuracy of a constant guess: 20.0%; losses in nats; that of a constant guess over 10 classes: 2.200"
        in lines[0]
    )
    assert lines[1] == "transferability: a [probe]"
    good, same, bad = (next(line for line in lines if f" {name} " in line) for name in ("good", "same", "bad"))
    assert good.split()[:3] == ["1", "good", "75.0%"]
    assert same.split()[:3] == ["=2", "same", "70.0%"]
    assert bad.split()[:2] == ["bad", "failed"]
    assert any(line.split() == ["good", "1.000", "0.500", "0.100"] for line in lines)
    assert "bad: failed: [red] why" in lines


def test_plot_is_written_and_replaces_the_old_one(result: study.Ranking, tmp_path: Path) -> None:
    (tmp_path / "ranking.png").write_bytes(b"old")
    paths = write_files(result, tmp_path, plot=True)
    assert [path.name for path in paths] == ["results.json", "results.csv", "ranking.png"]
    assert paths[-1].read_bytes().startswith(b"\x89PNG")


def test_plot_without_any_score_is_written(tmp_path: Path) -> None:
    write_files(make_ranking([score("bad", math.nan, status="failed")], FAST), tmp_path, plot=True)
    assert (tmp_path / "ranking.png").exists()


def test_tables_without_a_reference_have_no_terms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    bad = score("bad", math.nan, status="failed: why", reference=None)
    result = make_ranking([score("a", 0.5, [0.4, 0.5], reference=None, majority=0.25, recipe="a probe"), bad], FAST)
    print_ranking(result, Console())
    out = capsys.readouterr().out
    lines = out.splitlines()[1:]
    assert lines[0] == "t   (accuracy of a constant guess: 25.0%)"
    assert "bound" not in out
    assert "nan" not in out
    assert next(line for line in lines if " bad " in line).split() == ["bad", "failed", "0.0", "0.0", "0.0"]
    write_files(result, tmp_path, plot=True)
    document = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    (pair,) = document["pairs"]
    assert (pair["reference"], pair["recipe"], pair["majority"]) == (None, "a probe", 0.25)
    assert "bound" not in pair["rows"][0]
    assert pair["rows"][1]["transferability"] is None
    header = (tmp_path / "results.csv").read_text().splitlines()[0].split(",")
    assert "transferability" in header
    assert "bound" not in header


def test_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    names = ["x[red]", "[/x]", ":smile:", "a$b$\\frac"]
    result = make_ranking([score(name, 0.5, [0.5], target="[t]", reference="[/r]") for name in names], FAST)
    print_ranking(result, Console())
    out = capsys.readouterr().out
    assert all(name in out for name in (*names, "[/r] → [t]"))
    write_files(result, tmp_path, plot=True)


# Files of other runs


@pytest.mark.usefixtures("zoo")
def test_results_of_another_plan_are_not_replaced(tmp_path: Path) -> None:
    def written(targets: list[str], encoders: list[str], **options: Any) -> Path:
        plan = make_plan([], targets, encoders)
        check_output(plan, tmp_path, data_paths=options.get("data_paths", {}))
        write_files(study.ranking_of(study.run(plan, output=tmp_path)), tmp_path, plot=False, **options)
        return tmp_path / "results.json"

    written(["squares"], ["wide"])
    written(["squares"], ["wide"])
    content = written(["squares", "circles"], ["wide", "narrow"]).read_bytes()  # which has all of it
    for targets, encoders, options in (
        (["squares"], ["wide"], {}),
        (["crosses"], ["wide", "narrow"], {}),
        (["squares", "circles"], ["wide", "narrow"], {"data_paths": {"squares": tmp_path}}),
    ):
        with pytest.raises(ValueError, match=r"holds results of another run.*need another --output"):
            written(targets, encoders, **options)
    assert (tmp_path / "results.json").read_bytes() == content


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("name", "content"), [("results.json", "[1]"), ("results.json", "text"), ("results.csv", "a,b")]
)
def test_files_of_other_programs_are_not_replaced(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="holds results of another run"):
        check_output(make_plan([], ["squares"], ["wide"]), tmp_path, data_paths={})


def test_table_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Table("r", "t", ()).target = "x"  # type: ignore[misc]
