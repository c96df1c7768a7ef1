"""Studies with axes: what is drawn and kept, curves and tables, the command, the estimate."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import fake_zoo
import numpy as np
import pytest

import jaxrel
from jaxrel import Joint, Task, cli, study
from jaxrel.relatedness import restricted_to_classes, select_reference_classes
from jaxrel.study import FeatureArrays, Results, Settings, Study, run
from jaxrel.study.draws import DrawnSamples, KeptClasses, ReferenceClasses
from jaxrel.study.merge import merged_results

ENCODERS = ("sharp", "blurred")
FAST = Joint(num_steps=5, points_per_class=8)


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def task(seed: int, *, noise: float = 1.0, num_samples: int = 60, num_classes: int = 3) -> Task:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_samples) % num_classes)
    centres = 3 * np.random.default_rng(num_classes).normal(size=(num_classes, 5))
    names = [f"class {number}" for number in range(num_classes)]
    return Task(centres[labels] + noise * rng.normal(size=(num_samples, 5)), labels, class_names=names)


def source(name: str, seed: int, **options: Any) -> FeatureArrays:
    noises = {"sharp": 0.5, "blurred": 3.0}
    tasks = {
        encoder: (task(seed, noise=noise, **options), task(seed + 50, noise=noise, **options))
        for encoder, noise in noises.items()
    }
    return FeatureArrays(name, tasks)


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


# What is drawn, and what is kept


def test_draws_are_nested_and_keep_the_shares_of_classes() -> None:
    weights = np.ones(90)
    weights[:10] = 0
    labels = np.sort(np.arange(90) % 10 // 7)  # 63 and 27
    whole = Task(np.arange(90.0)[:, None], labels, weights=weights)
    target = FeatureArrays("target", {"e": (whole, whole)})
    drawn = {n: DrawnSamples(target, n, 3, labels_looked_at=True).features("e", silent) for n in (8, 40, 80)}
    rows = {n: set(np.asarray(split.train.features)[:, 0].tolist()) for n, split in drawn.items()}
    assert rows[8] < rows[40] < rows[80] == set(np.arange(10.0, 90))
    share = np.mean(labels[10:])
    for n, split in drawn.items():
        assert len(rows[n]) == split.train.num_samples == n
        assert abs(np.sum(np.asarray(split.train.labels)) - share * n) <= 1
        assert split.held_out is whole
        assert split.train.num_classes == 2
    other = DrawnSamples(target, 8, 4, labels_looked_at=True).features("e", silent).train
    assert set(np.asarray(other.features)[:, 0].tolist()) != rows[8]
    fingerprints = {DrawnSamples(target, n, seed, looked).fingerprint("e") for n, seed, looked in [
        (8, 3, True), (8, 4, True), (9, 3, True), (8, 3, False)]}  # fmt: skip
    assert len(fingerprints) == 4
    with pytest.raises(ValueError, match="'target' has 80 training samples, so 81"):
        DrawnSamples(target, 81, 0, labels_looked_at=True).features("e", silent)


def test_draws_leave_labels_alone_where_they_are_not_to_be_looked_at() -> None:
    features = np.arange(30.0)[:, None]
    views = (features + 100, features + 200)
    found = []
    for labels in (np.arange(30) % 3, np.zeros(30, int)):
        given = FeatureArrays("t", {"e": Task(features, labels)}, views={"e": views})
        drawn = DrawnSamples(given, 7, 0, labels_looked_at=False)
        rows = np.asarray(drawn.features("e", silent).train.features)
        found.append(rows)
        np.testing.assert_array_equal(drawn.views("e", silent)[1], rows + 200)
    np.testing.assert_array_equal(*found)


def test_kept_classes_are_those_of_the_rule() -> None:
    reference, target = source("reference", 0, num_classes=4), source("target", 1)
    train = reference.features("sharp", silent).train
    expected = {
        "nearest:2": select_reference_classes(train, target.features("sharp", silent).train, num_classes=2),
        "random:2": select_reference_classes(train, train, num_classes=2, rule="random", key=7),
        "class 3, class 1": (3, 1),
    }
    for text, classes in expected.items():
        kept = KeptClasses(reference, target, ReferenceClasses.parsed(text), 7).features("sharp", silent)
        for part, whole in zip(kept, reference.features("sharp", silent), strict=True):
            assert part is not None
            assert whole is not None
            same = restricted_to_classes(whole, classes)
            np.testing.assert_array_equal(part.features, same.features)
            assert part.class_names == same.class_names
    with pytest.raises(ValueError, match="the reference has no class cat: it has class 0, class 1"):
        KeptClasses(reference, target, ReferenceClasses.parsed("cat"), 0).features("sharp", silent)


@pytest.mark.parametrize("text", ["nearest:", "random:x", "learned:0", "a,,b", ""])
def test_odd_choices_of_classes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="reference classes"):
        Study(["sharp"], [source("t", 1)], [source("r", 0)], reference_classes=[text]).plan()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": [0]}, r"samples has 0: pass integers of at least 1"),
        ({"samples": [5, 5]}, "number in samples given twice: 5"),
        ({"seeds": [-1]}, "seeds has -1"),
        ({"seeds": [True]}, "seeds has True"),
        ({"seeds": [2**32]}, "seeds has 4294967296"),
        ({"reference_classes": []}, "no choice of reference classes was passed"),
        ({"metrics": ["tau"]}, "unknown metric 'tau'"),
        ({"metrics": ["logme"], "settings": Settings(label_free=True)}, "logme needs labels, which label_free ignores"),
        ({"reference_classes": ["nearest:2"], "settings": Settings(label_free=True)}, "use target labels"),
        ({"encoders": "sharp"}, r"encoders are 'sharp': pass a list, such as \['sharp'\]"),
        ({"targets": "mnist"}, "targets are 'mnist': pass a list"),
    ],
)
def test_odd_axes_are_refused(options: dict[str, Any], message: str) -> None:
    given = {"encoders": ["sharp"], "targets": [source("t", 1)], "references": [source("r", 0)]} | options
    with pytest.raises(ValueError, match=message):
        Study(**given).plan()


# What is computed


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """Everything is varied."""
    folder = tmp_path_factory.mktemp("varied")
    asked = Study(
        ENCODERS,
        [source("target", 1)],
        [source("reference", 0, num_classes=4)],
        ["transferability", "bound", "h_score"],
        samples=[30, 60],
        seeds=[0, 1],
        reference_classes=["random:2", "all"],
        settings=Settings(resamples=10, method=FAST),
    )
    return run(asked.plan(), output=folder), folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")
def test_every_number_is_that_of_the_function_on_what_was_drawn(varied: tuple[Results, Path]) -> None:
    results, _ = varied
    assert len(results.entries) == 2 * 2 * 2 * (1 + 2 + 1)
    assert not results.incomplete
    reference, target = source("reference", 0, num_classes=4), source("target", 1)
    for record in results.entries:
        drawn = DrawnSamples(target, record.samples or 0, record.seed, labels_looked_at=True)
        own, held_out = drawn.features(record.encoder, silent)
        if record.metric == "transferability":
            score = jaxrel.transferability_score(own, key=record.seed, num_resamples=10)
            assert record.value == float(score.value)
            assert (record.numbers["lower"], record.numbers["upper"]) == (float(score.lower), float(score.upper))
        elif record.metric == "h_score":
            np.testing.assert_allclose(record.value, jaxrel.metrics.h_score(own.features, own.labels).value, rtol=1e-4)
        else:
            known, aside = reference.features(record.encoder, silent)
            assert aside is not None
            if record.reference_classes != "all":
                kept = ReferenceClasses.parsed(record.reference_classes)
                classes = kept.chosen_from(known, own, seed=record.seed)
                known, aside = (restricted_to_classes(part, classes) for part in (known, aside))
            bound = jaxrel.task_relatedness(known, own, evaluate_on=(aside, held_out), method=FAST, key=record.seed)
            np.testing.assert_allclose(record.value, bound.bound, rtol=1e-5)
            assert record.numbers["num_reference_classes"] == known.num_classes


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_more_seeds_only_theirs(varied: tuple[Results, Path]) -> None:
    results, folder = varied
    seeds = {}
    for count in (2, 3):
        asked = Study(
            ENCODERS, [source("target", 1)], metrics=["h_score", "transferability"], samples=[30, 60],
            seeds=list(range(count)), settings=Settings(resamples=10, method=FAST),
        )  # fmt: skip
        seeds[count] = run(asked.plan(), output=folder)
    assert seeds[2].timings.num_scores == 0
    assert seeds[3].timings.num_scores == 2 * 2 * 2
    known = {(r.metric, r.encoder, r.samples, r.seed): r.value for r in results.entries if r.metric != "bound"}
    assert {(r.metric, r.encoder, r.samples, r.seed): r.value for r in seeds[2].entries} == known


@pytest.mark.slow
def test_results_come_back_from_their_file(varied: tuple[Results, Path], tmp_path: Path) -> None:
    results, _ = varied
    results.save(tmp_path)
    assert Results.load(tmp_path) == Results.load(tmp_path / "study.json") == results
    (tmp_path / "study.json").write_text((tmp_path / "study.json").read_text().replace('"schema": 1', '"schema": 9'))
    with pytest.raises(ValueError, match=r"study.json has version 9"):
        Results.load(tmp_path)


@pytest.mark.slow
def test_curves_have_a_point_for_each_place_and_a_line_for_each_encoder(varied: tuple[Results, Path]) -> None:
    results, _ = varied
    (axis,) = results.plot_curves("samples", "transferability").axes
    assert {line.get_label() for line in axis.get_lines()} == set(ENCODERS)
    for line in axis.get_lines():
        expected = [
            np.mean([r.value for r in results.entries if (r.metric, r.encoder, r.samples) == (
                "transferability", line.get_label(), n)])
            for n in (30, 60)
        ]  # fmt: skip
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)
    (axis,) = results.plot(x="reference_classes").axes
    assert axis.get_ylabel() == "bound"
    assert sorted({tuple(np.asarray(line.get_xdata()).tolist()) for line in axis.get_lines()}) == [(2.0, 4.0)]
    assert len(axis.get_lines()) == 2 * 2  # encoders and samples
    assert results.plot(y="target_loss").axes[0].get_ylabel() == "target loss"
    assert len(results.plot_terms().axes[0].get_yticklabels()) == 2 * 2 * 2 * 2
    assert len(results.plot_heat_map("samples", "seed", "h_score").axes) == 2  # with its colours
    for call, message in (
        (lambda: results.plot(x="target"), "x is 'target': pass"),
        (lambda: results.plot(y="nothing"), "no record has 'nothing': there are transferability"),
        (lambda: results.plot_heat_map("colour"), "'colour' is not an axis"),
        (lambda: results.values, "are varied"),
        (lambda: study.ranking_of(results), "are varied"),
        (lambda: study.scoreboard_of(results), "are varied"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.slow
def test_tables_have_means_over_seeds(varied: tuple[Results, Path]) -> None:
    results, _ = varied
    section = next(section for section in results.sections() if section.title == "bound")
    assert [row["encoder"] for row in section.rows] == ["sharp"] * 4 + ["blurred"] * 4
    assert {row["reference classes"] for row in section.rows} == {"random:2", "all"}
    assert all(row["target"].count("±") == 1 for row in section.rows)
    frame = results.to_pandas()
    assert len(frame) == len(results.entries)
    assert repr(results) == "Results(3 metrics, 2 encoders, 2 samples, 2 seeds, 2 reference classes)"


def test_choices_whose_number_of_classes_is_not_known_lie_side_by_side() -> None:
    choices = ["nearest:2", "class 0,class 1", "all"]
    asked = Study(["sharp"], [source("t", 1)], [source("r", 0, num_classes=4)], ["mmd"], reference_classes=choices)
    results = run(asked.plan())
    (axis,) = results.plot().axes
    assert [label.get_text() for label in axis.get_xticklabels()] == choices
    np.testing.assert_array_equal(axis.get_lines()[0].get_ydata(), [record.value for record in results.entries])


def test_one_number_is_called_transferability() -> None:
    """With its interval, in a program of many units, and by the function."""
    values = []
    for resamples in (0, 10):
        asked = Study(["sharp"], [source("target", 1)], settings=Settings(resamples=resamples))
        (record,) = run(asked.plan()).entries
        values.append(record.value)
        assert ("lower" in record.numbers) == (resamples > 0)
    expected = jaxrel.transferability_score(source("target", 1).features("sharp", silent).train).value
    np.testing.assert_allclose(values, float(expected), rtol=1e-6)


def test_seeds_reach_metrics_that_draw() -> None:
    targets = [source("target", 1)]
    asked = Study(["blurred"], targets, metrics=["transferability"], seeds=[0, 1, 2], settings=Settings(resamples=0))
    results = run(asked.plan())
    own = targets[0].features("blurred", silent).train
    expected = [float(jaxrel.transferability_score(own, key=seed).value) for seed in (0, 1, 2)]
    np.testing.assert_allclose([record.value for record in results.entries], expected, rtol=1e-6)
    assert results.timings.num_compilations == 1


def test_too_few_samples_are_a_status_and_keep_no_other_from_numbers() -> None:
    asked = Study(["sharp"], [source("target", 1)], metrics=["h_score"], samples=[30, 61])
    fine, short = run(asked.plan()).entries
    assert fine.status == "ok"
    assert "has 60 training samples, so 61" in short.status
    assert math.isnan(short.value)


def test_an_estimate_says_what_there_is_to_do(tmp_path: Path) -> None:
    targets = [source("target", 1), source("other", 2, num_samples=100)]
    asked = Study(ENCODERS, targets, metrics=["h_score", "gbc"])
    before = study.estimate(asked.plan(), output=tmp_path)
    assert (before.units, before.finished, before.programs) == (8, 0, 4)
    assert before.row_bytes == 2 * 2 * (64 + 128) * 5 * 4
    assert math.isnan(before.seconds)
    assert "unknown until some are finished" in str(before)
    run(Study(ENCODERS[:1], targets, metrics=["h_score", "gbc"]).plan(), output=tmp_path)
    after = study.estimate(asked.plan(), output=tmp_path)
    assert (after.finished, after.programs) == (4, 4)
    assert after.seconds > 0


def test_results_of_folders_are_put_together() -> None:
    targets = [source("target", 1)]
    parts = {
        Path(name): run(Study([name], targets, metrics=["h_score", "etran"], samples=[30]).plan()) for name in ENCODERS
    }
    whole = run(Study(ENCODERS, targets, metrics=["h_score"], samples=[30]).plan())
    merged = merged_results(parts)
    assert [(r.key, r.value) for r in merged.entries] == [(r.key, r.value) for r in whole.entries]
    assert (merged.encoders, merged.metrics) == (ENCODERS, ("h_score",))
    other = run(Study(["sharp"], [source("target", 9)], metrics=["h_score"], samples=[30]).plan())
    with pytest.raises(ValueError, match="have different numbers of h_score of sharp on target"):
        merged_results(parts | {Path("other"): other})
    unlike = run(Study(["sharp"], targets, metrics=["h_score"], settings=Settings(batch_size=7)).plan())
    with pytest.raises(ValueError, match="batch_size: 32 and 7"):
        merged_results(parts | {Path("unlike"): unlike})


# The command


def test_command_writes_tables_pictures_and_records(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_zoo.install(monkeypatch.setattr)
    words = ["study", "--target", "squares", "--encoder", "wide", "narrow", "--resamples", "20"]
    varied = [*words, "--samples", "20", "40", "--seed", "0", "1", "--output", "out"]
    assert cli.main([*varied, "--plan"]) == 0
    assert "numbers: 8, of which 0 are finished" in capsys.readouterr().out
    for _ in range(2):
        assert cli.main(varied) == 0
        captured = capsys.readouterr()
        assert "means and standard deviations over 2 seeds" in captured.out
    assert "8 of 8 scores are in out" in captured.err
    files = {path.name for path in Path("out").iterdir()}
    assert files == {"study.json", "study.csv", "study.png", "report.html", "records.jsonl"}
    with Path("out/study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["encoder"], row["samples"], row["seed"]) for row in rows][:3] == [
        ("wide", "20", "0"),
        ("wide", "20", "1"),
        ("wide", "40", "0"),
    ]
    document = json.loads(Path("out/study.json").read_text(), parse_constant=pytest.fail)
    assert document["command"][:2] == ["jaxrel", "study"]
    assert set(document["entries"][0]["origin"]) == {"fingerprints", "options"}
    assert cli.main([*words, "--samples", "20", "--output", "out"]) == 2
    assert "holds results of another run" in capsys.readouterr().err
    assert cli.main(["report", "out", "--format", "markdown"]) == 0
    assert "| wide " in capsys.readouterr().out
    assert cli.main(["report", "out", "--output", "again", "--no-plot"]) == 0
    assert json.loads(Path("again/study.json").read_text())["entries"] == document["entries"]


def test_command_draws_what_it_is_told_to(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake_zoo.install(monkeypatch.setattr)
    words = ["study", "--target", "squares", "circles", "--reference", "circles", "crosses", "--encoder", "wide"]
    words += ["--resamples", "10", "--held-out", "12", "--quiet"]
    assert cli.main([*words, "--heat-map", "reference", "target", "--y", "bound", "--plot-format", "svg"]) == 0
    assert Path("jaxrel-study/study.svg").exists()
    assert "bound" in capsys.readouterr().out
    assert cli.main([*words, "--y", "nonsense", "--output", "other"]) == 2
    assert "no record has 'nonsense'" in capsys.readouterr().err
    assert Path("other/study.json").exists()  # what was computed is kept all the same
    assert cli.main([*words[:-1], "--encoder", "broken", "--metric", "bound", "--output", "failed"]) == 1
    assert "3 of 3 numbers failed" in capsys.readouterr().err
    assert Path("failed/study.png").exists()


def test_failed_numbers_are_said_in_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_zoo.install(monkeypatch.setattr)
    assert cli.main(["study", "--target", "squares", "--encoder", "broken", "wide", "--resamples", "10"]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 numbers failed" in captured.err
    assert "broken on squares: failed: broken gives features" in captured.out
