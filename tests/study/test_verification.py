"""Verification: accuracies after training as columns of a study, and how well scores agree with them."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_networks
from scipy import stats
from tiny_networks import halves, write_halves

import jaxrel
from jaxrel import Task, cli, evaluation, study, training
from jaxrel.study import Column, FeatureArrays, Ranking, Results, Settings, Study, Verification, run
from jaxrel.study.documents import as_data, settings_as_data, settings_from_data
from jaxrel.study.draws import DrawnSamples
from jaxrel.study.keys import keyed
from jaxrel.study.ranking.table import make_ranking
from jaxrel.study.scoring import trained
from jaxrel.study.sources import silent
from jaxrel.study.verification.agreement import Accuracies, agreements
from jaxrel.study.verification.columns import columns_of
from jaxrel.training import FineTuning

ENCODERS = ["tiny", "wide", "pixels"]
SETTINGS = Settings(samples=60, held_out=40, resamples=50, fine_tuning=FineTuning((1e-2,), epochs=2))
SMALL = ["--samples", "60", "--held-out", "40", "--resamples", "50", "--epochs", "2", "--learning-rate", "1e-2"]
VERIFY = ["verify", "--target", "./halves.npz", "--encoder", *ENCODERS, *SMALL, "--seed", "0", "1"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny_networks.install(monkeypatch.setitem)
    write_halves(tmp_path / "halves.npz")


def arrays(name: str = "arrays", num_samples: int = 60) -> FeatureArrays:
    """Features of three encoders, of less and less noise."""
    rng = np.random.default_rng(0)
    tasks: dict[str, Any] = {}
    for encoder, noise in (("bad", 4.0), ("fair", 1.0), ("good", 0.2)):
        labels = [np.arange(count) % 2 for count in (num_samples, 80)]
        tasks[encoder] = tuple(Task(y[:, None] + noise * rng.normal(size=(len(y), 3)), y) for y in labels)
    return FeatureArrays(name, tasks)


def accuracies(by_seed: Any, *, kind: str = "probe_accuracy", num_test: int = 100, seed: int = 0) -> Accuracies:
    """Of encoders a, b, ...; the test samples are right independently."""
    by_seed = np.asarray(by_seed, float)
    means = by_seed.mean(axis=0)
    resampled = np.random.default_rng(seed).binomial(num_test, means[:, None], (means.size, 400)) / num_test
    covariance = np.cov(resampled, bias=True).reshape(means.size, means.size)
    return Accuracies(kind, tuple("abcdefgh"[: means.size]), by_seed, covariance, num_test, 0.9)


def column(*values: float, **options: Any) -> Column:
    return Column("score", dict(zip("abcdefgh", values, strict=False)), **options)


# Accuracies in a study


def test_accuracies_are_columns_of_a_study() -> None:
    plan = Study(
        ENCODERS, ["./halves.npz"], metrics=["fine_tuned_accuracy", "probe_accuracy"], seeds=[0, 1], settings=SETTINGS
    ).plan()
    results = run(plan, output="results")
    found = {(r.metric, r.encoder): r for r in results.entries if r.seed == 1}
    assert (
        found["fine_tuned_accuracy", "pixels"].status == "has no parameters that could be tuned: only its "
        "linear probe is available"
    )
    for encoder in ("tiny", "wide"):
        tuned, probe = (found[f"{kind}_accuracy", encoder] for kind in ("fine_tuned", "probe"))
        assert (tuned.numbers["train_samples"], tuned.numbers["validation_samples"]) == (48, 12)
        assert tuned.numbers["test_samples"] == 40
        assert tuned.numbers["learning_rate"] == 1e-2 or tuned.numbers["epoch"] == 0
        assert tuned.numbers["validation_accuracy"] >= probe.numbers["validation_accuracy"]
        assert abs(np.mean(tuned.resamples) - tuned.value) < 0.03
    results.save("results")
    assert Results.load("results").entries == results.entries
    again = run(plan, output="results")
    assert again.timings.num_scores == 0
    assert again.entries == results.entries


def test_accuracies_are_those_of_the_functions() -> None:
    results = run(
        Study(["tiny"], ["./halves.npz"], metrics=["probe_accuracy", "fine_tuned_accuracy"], settings=SETTINGS).plan()
    )
    probe_record, tuned_record = results.entries
    train, test = jaxrel.data.load_splits("./halves.npz", train_limit=60, test_limit=40)
    encoder = tiny_networks.tiny_encoder(5, "tiny")
    partition = training.stratified_partition(train.labels, seed=0)
    features = np.asarray(encoder(train.samples).features)
    probe = training.fit_linear_probe(features, train.labels, partition, num_classes=2)
    network = training.fine_tune(
        encoder, train.samples, train.labels, partition, probe=probe, settings=SETTINGS.tuning(), seed=0
    )
    for record, logits in (
        (probe_record, probe(encoder(test.samples).features)),
        (tuned_record, network(test.samples)),
    ):
        hits = np.asarray(logits).argmax(axis=1) == test.labels
        assert record.value == pytest.approx(hits.mean())
        balanced = np.mean([hits[test.labels == one].mean() for one in (0, 1)])
        assert record.numbers["balanced_accuracy"] == pytest.approx(balanced)


def test_workers_find_the_same_accuracies() -> None:
    plan = Study(["tiny", "wide"], ["./halves.npz"], metrics=["fine_tuned_accuracy"], settings=SETTINGS).plan()
    with ThreadPoolExecutor(1) as executor:
        found = run(plan, executor=executor)
    assert [r.value for r in found.entries] == [r.value for r in run(plan).entries]
    assert [r.resamples for r in found.entries] == [r.resamples for r in run(plan).entries]


def test_resampled_test_samples_are_the_same_whatever_was_right() -> None:
    hits = np.random.default_rng(1).uniform(size=300) < 0.7
    right, wrong = (np.array(trained._resampled(one, SETTINGS)) for one in (hits, ~hits))
    np.testing.assert_allclose(right + wrong, 1, atol=2e-6)
    assert right.std() == pytest.approx(math.sqrt(0.21 / 300), rel=0.3)


def test_resampled_test_samples_are_those_of_every_seed() -> None:
    rng, labels = np.random.default_rng(0), np.arange(60) % 2
    features = np.eye(2)[labels] + 0.01 * rng.normal(size=(60, 2))
    wrong = np.where(np.arange(60) < 15, 1 - labels, labels)  # whatever was drawn to train on
    target = FeatureArrays("t", {"e": (Task(features, labels), Task(features, wrong))})
    one, other = run(Study(["e"], [target], metrics=["probe_accuracy"], seeds=[3, 4], settings=SETTINGS).plan()).entries
    assert one.value == other.value == 0.75
    assert one.resamples == other.resamples
    assert len(set(one.resamples)) > 5


def test_how_a_network_is_tuned_is_part_of_its_key() -> None:
    found = []
    for tuning in (None, FineTuning(), FineTuning(epochs=3)):
        settings = dataclasses.replace(SETTINGS, fine_tuning=tuning)
        metrics = ["probe_accuracy", "fine_tuned_accuracy"]
        plan = Study(["tiny"], ["./halves.npz"], metrics=metrics, settings=settings).plan()
        found.append([unit.key for unit, _ in keyed(plan, silent)])
    default, spelt_out, other = found
    assert default == spelt_out
    assert default[0] == other[0]
    assert default[1] != other[1]


def test_inputs_of_drawn_samples_are_those_of_their_features() -> None:
    plan = Study(["tiny"], ["./halves.npz"], metrics=["probe_accuracy"], samples=[50, 20], settings=SETTINGS).plan()
    (drawn,) = (s for s in plan.sources.values() if isinstance(s, DrawnSamples) and s.num_samples == 20)
    train, held_out = drawn.inputs("tiny", silent)
    split = drawn.features("tiny", silent)
    encoder = tiny_networks.tiny_encoder(5, "tiny")
    np.testing.assert_allclose(encoder(train).features, split.train.features, atol=1e-5)
    np.testing.assert_allclose(encoder(held_out).features, split.held_out.features, atol=1e-5)


def test_samples_of_weight_0_do_not_exist() -> None:
    train, test = cast("tuple[Task, Task]", arrays()._splits["fair"])
    rng = np.random.default_rng(1)
    odd = Task(
        np.concatenate([100 * rng.normal(size=(3, 3)), train.features]),
        [0, 1, 1, *np.asarray(train.labels)],
        weights=[0] * 3 + [1] * 60,
    )
    odd_test = Task(
        np.concatenate([rng.normal(size=(2, 3)), test.features]),
        [0, 1, *np.asarray(test.labels)],
        weights=[0] * 2 + [1] * 80,
    )
    both = FeatureArrays("t", {"plain": (train, test), "padded": (odd, odd_test), "heavy": (train, Task(
        test.features, test.labels, weights=[2] + [1] * 79))})  # fmt: skip
    plain, padded, heavy = run(
        Study(["plain", "padded", "heavy"], [both], metrics=["probe_accuracy"], settings=SETTINGS).plan()
    ).entries
    assert padded.resamples == plain.resamples
    assert padded.numbers["test_samples"] == 80
    assert "pass weights 0 and 1, because training weights samples equally" in heavy.status


def test_settings_of_fine_tuning_reach_a_file_and_come_back() -> None:
    data = json.loads(json.dumps(settings_as_data(SETTINGS)))
    assert settings_from_data(data) == SETTINGS
    plain = json.loads(json.dumps(settings_as_data(Settings())))
    assert "fine_tuning" not in plain
    assert settings_from_data(plain) == Settings()


# Agreement


def test_pairs_are_counted_with_and_without_noise() -> None:
    truth = accuracies([[0.50, 0.51, 0.70, 0.90], [0.52, 0.52, 0.72, 0.90]])
    (found,) = agreements([column(0.1, 0.3, 0.2, 0.3)], truth, seed=0, num_resamples=50)
    assert (found.pairs, found.clear_pairs) == (6, 5)  # a and b are not told apart
    assert (found.held, found.clear_held) == (4, 3)  # ab, ac, ad, cd; equal scores order no pair
    assert found.first == "b"
    assert found.regret == pytest.approx(0.385)
    assert "held for 4 of 6 pairs by probe accuracy, for 3 of the 5 that differ by more than noise" in str(found)
    assert "With 4 encoders a correlation means little" in str(found)
    assert "2 seeds and 100 test samples" in str(found)


def test_statistics_are_those_of_the_package() -> None:
    by_seed = np.random.default_rng(0).uniform(0.4, 0.9, (3, 4))
    scores = np.array([0.3, 0.1, 0.2, 0.4])
    (found,) = agreements([column(*scores)], accuracies(by_seed), seed=1, num_resamples=50)
    for name, numbers in found.statistics.items():
        wanted = evaluation.STATISTICS[name](scores, by_seed.mean(axis=0))
        assert numbers["estimate"] == pytest.approx(float(wanted), abs=1e-5)
    for name in ("kendall_tau", "top_1_regret"):
        ceiling = evaluation.ceiling(
            by_seed[:, :, None], statistic=name, num_test=100, confidence=0.9, num_draws=50, key=1
        )
        assert found.perfect[name]["estimate"] == pytest.approx(float(ceiling.mean.estimate))


def test_smaller_may_be_better_and_missing_scores_are_the_worst() -> None:
    truth = accuracies([[0.5, 0.6, 0.7, 0.8]] * 2)
    lower = column(4.0, 3.0, 2.0, 1.0, higher_is_better=False)
    missing = dataclasses.replace(column(math.nan, 1.0, 2.0), name="missing")
    one, other = agreements([lower, missing], truth, seed=0, num_resamples=50)
    assert (one.held, one.first, one.regret) == (6, "d", 0)
    assert "is the best" in str(one)
    assert other.held == 3  # ab, ac, bc; d is as bad as a
    assert other.first == "c"
    assert other.statistics["pearson"]["estimate"] is None


def test_noise_is_that_of_simulated_differences() -> None:
    """Encoders of one accuracy on shared test samples: differences exceed the noise as often as 1 - confidence."""
    rng, num_test, seeds, exceeded, trials = np.random.default_rng(0), 60, 3, 0, 300
    counts = rng.multinomial(num_test, np.full(num_test, 1 / num_test), 100)
    for _ in range(trials):
        hard = rng.uniform(0.2, 1, num_test)  # how often each test sample is right, under both
        hits = rng.uniform(size=(2, seeds, num_test)) < hard
        resampled = (hits @ counts.T / num_test).mean(axis=1)
        truth = Accuracies("probe_accuracy", ("a", "b"), hits.mean(2).T, np.cov(resampled, bias=True), num_test, 0.9)
        exceeded += abs(truth.means[0] - truth.means[1]) > truth.noise(0, 1)
    assert exceeded / trials < 0.1
    alike = dataclasses.replace(truth, by_seed=np.ones((3, 2)), covariance=np.full((2, 2), truth.covariance[0, 0]))
    assert 0 < alike.noise(0, 1) < truth.noise(0, 1)
    one_seed = dataclasses.replace(truth, by_seed=truth.by_seed[:1])
    assert one_seed.noise(0, 1) < truth.noise(0, 1)


@pytest.mark.parametrize("right", [0, 1, 20, 43, 44])
def test_the_interval_of_one_seed_is_that_of_agresti_and_coull(right: int) -> None:
    share = right / 44
    truth = Accuracies("k", ("a",), np.array([[share]]), np.array([[share * (1 - share) / 44]]), 44, 0.9)
    lower, upper = truth.intervals[0]
    z = stats.norm.ppf(0.95)
    centre = (right + z**2 / 2) / (44 + z**2)
    half_width = z * math.sqrt(centre * (1 - centre) / (44 + z**2))
    assert [lower, upper] == pytest.approx([max(0, centre - half_width), min(1, centre + half_width)])
    wilson = stats.binomtest(right, 44).proportion_ci(0.9, "wilson")
    assert lower <= wilson.low + 1e-9
    assert upper >= wilson.high - 1e-9
    assert upper - lower < wilson.high - wilson.low + 0.03


def test_the_noise_of_right_answers_alone_is_not_0() -> None:
    """Encoders of accuracy 0.97, which are often right on all 44 test samples: their differences rarely exceed it."""
    rng, exceeded, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        hits = rng.uniform(size=(2, 44)) < 0.97
        truth = Accuracies("k", ("a", "b"), hits.mean(1)[None], np.cov(hits, bias=True) / 44, 44, 0.9)
        exceeded += abs(truth.means[0] - truth.means[1]) > truth.noise(0, 1)
    assert exceeded / trials < 0.1
    perfect = Accuracies("k", ("a", "b"), np.ones((3, 2)), np.zeros((2, 2)), 44, 0.9)
    assert 1 / 44 < perfect.noise(0, 1) < 3 / 44
    opposite = dataclasses.replace(perfect, by_seed=np.array([[1.0, 0.0]]))
    assert opposite.noise(0, 1) > perfect.noise(0, 1)


def test_equal_accuracies_are_no_disagreement() -> None:
    everything = Accuracies("probe_accuracy", ("a", "b"), np.ones((1, 2)), np.zeros((2, 2)), 44, 0.9)
    (found,) = agreements([column(1.0, 2.0)], everything, seed=0, num_resamples=50)
    (_, cells) = Verification("t", ("a", "b"), (everything,), (column(1.0, 2.0),), (found,), SETTINGS).sections()
    assert not any("-0.00" in cell for cell in cells.rows[0].values())
    assert (found.pairs, found.held, found.clear_pairs) == (0, 0, 0)
    assert str(found).startswith(
        "The order by score is not tested: the encoders have the same probe accuracy. Differences below about 0.0"
    )
    # Means over seeds that are equal but for rounding.
    truth = accuracies([[0.1, 0.7, 0.5], [0.7, 0.4, 0.6], [0.4, 0.1, 0.7]])
    assert truth.means[0] != truth.means[1]
    (found,) = agreements([column(1.0, 2.0, 3.0)], truth, seed=0, num_resamples=50)
    assert (found.pairs, found.held) == (2, 2)
    assert "held for 2 of 2 pairs" in str(found)
    assert "The accuracies of 1 other pair are equal." in str(found)
    close = accuracies([[0.5, 0.51]])
    (found,) = agreements([column(2.0, 1.0)], close, seed=0, num_resamples=50)
    assert "held for 0 of 1 pair by probe accuracy; as none differs by more than noise, this neither" in str(found)


@pytest.mark.slow
def test_columns_have_the_axes_of_a_study_in_their_names() -> None:
    target, reference = arrays("target"), arrays("reference")
    asked = Study(
        ["bad", "good"], [target], [reference], ["logme", "otdd", "probe_accuracy"], samples=[20, 40],
        seeds=[0, 1], settings=dataclasses.replace(SETTINGS, resamples=0),
    )  # fmt: skip
    results = run(asked.plan())
    found = {one.name: one for one in columns_of(results, "target")}
    assert list(found) == [
        "logme (20 samples)",
        "logme (40 samples)",
        "otdd (reference, 20 samples)",
        "otdd (reference, 40 samples)",
    ]
    values = [r.value for r in results.entries if (r.metric, r.samples, r.encoder) == ("logme", 20, "bad")]
    assert found["logme (20 samples)"].values["bad"] == pytest.approx(np.mean(values))
    assert found["logme (20 samples)"].higher_is_better
    assert not found["otdd (reference, 20 samples)"].higher_is_better


# The whole


def test_verify_in_python_computes_transferability_beside_the_accuracies() -> None:
    found = study.verify(["bad", "fair", "good"], arrays(), seeds=[0, 1], output="out", settings=SETTINGS)
    assert found.encoders == ("good", "fair", "bad")
    assert [kind.kind for kind in found.accuracies] == ["probe_accuracy"]
    assert found.accuracies[0].by_seed.shape == (2, 3)
    (agreement,) = found.agreements
    assert (agreement.score, agreement.held, agreement.pairs) == ("transferability", 3, 3)
    assert "there are only features" in " ".join(found.notes).lower()
    assert found.complaints == ()
    assert str(agreement) in str(found)


def test_the_command_writes_tables_and_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(VERIFY) == 0
    captured = capsys.readouterr()
    assert "held for" in captured.out
    assert "No parameters to tune, so only the probe is available: pixels." in captured.out
    folder = Path("jaxrel-verify")
    files = {"records.jsonl", "report.html", *(f"verification.{kind}" for kind in ("json", "csv", "md", "png"))}
    assert {path.name for path in folder.iterdir()} == files
    document = json.loads((folder / "verification.json").read_text())
    back = Verification.load(folder)
    assert as_data(back.records()) == document["encoders"]
    assert as_data(back.agreements) == document["agreements"]
    rows = {row["encoder"]: row for row in document["encoders"]}
    assert rows["pixels"]["fine_tuned_accuracy"] is None
    assert rows["tiny"]["fine_tuned_accuracy_lower"] < rows["tiny"]["fine_tuned_accuracy"]
    assert {(one["score"], one["accuracy"], one["num_encoders"]) for one in document["agreements"]} == {
        ("transferability", "probe_accuracy", 3),
        ("transferability", "fine_tuned_accuracy", 2),
    }
    with (folder / "verification.csv").open() as file:
        assert [row["encoder"] for row in csv.DictReader(file)] == [row["encoder"] for row in document["encoders"]]
    assert document["sentences"][0] in (folder / "verification.md").read_text()


def test_a_ranking_is_verified_by_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--target", "./halves.npz", "--encoder", *ENCODERS, "--samples", "60", "--resamples", "50", "--no-plot"]
    assert cli.main(["rank", *words]) == 0
    ranked = Ranking.load("jaxrel-results").tables[0].rows
    more = ["--best", "2", "--seed", "5", "--held-out", "30", "--epochs", "1", "--no-plot", "--quiet"]
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    assert cli.main(["verify", "--results", "../jaxrel-results", *more]) == 0
    document = json.loads(Path("jaxrel-verify/verification.json").read_text())
    assert document["settings"]["samples"] == 60
    assert document["settings"]["held_out"] == 30
    values = {row["encoder"]: row["transferability"] for row in document["encoders"]}
    assert values == {row.score.encoder: row.score.transferability for row in ranked[:2]}
    assert "One seed says nothing about the noise of training" in capsys.readouterr().out


def test_every_score_of_a_study_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--target", "./halves.npz", "--encoder", *ENCODERS, "--samples", "60", "--resamples", "0", "--no-plot"]
    assert cli.main(["study", *words, "--metric", "logme", "rankme"]) == 0
    more = [*SMALL[2:], "--seed", "0", "1", "--no-plot", "--quiet"]
    assert cli.main(["verify", "--results", "jaxrel-study", *more]) == 0
    document = json.loads(Path("jaxrel-verify/verification.json").read_text())
    assert {one["score"] for one in document["agreements"]} == {"logme", "rankme"}
    assert cli.main(["verify", "--results", "jaxrel-study", *more, "--samples", "50"]) == 2
    assert "would be replaced. Nothing was overwritten" in capsys.readouterr().err


def test_scores_that_may_have_looked_at_test_samples_are_said() -> None:
    options: dict[str, Any] = {"target": "./halves.npz", "output": "out", "settings": SETTINGS, "seeds": [0]}
    many = dataclasses.replace(SETTINGS, samples=500)
    scores = run(Study(["tiny", "wide"], ["./halves.npz"], settings=many).plan())
    said = study.verify(scores=scores, **(options | {"settings": many}))
    assert "may include test samples" in " ".join(said.notes)
    assert "may include" not in " ".join(study.verify(["tiny", "wide"], **options).notes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "./halves.npz"], "0 encoders given: pass at least 2"),
        (["--target", "./halves.npz", "--encoder", "tiny"], "1 encoder given: pass at least 2"),
        (["--encoder", "tiny", "wide"], "no target was passed"),
        (["--target", "./halves.npz", "--encoder", "tiny", "tinny"], "unknown encoder 'tinny'"),
        (["--target", "./halves.npz", "--encoder", "tiny", "wide", "--best", "2"], "best is 2, of no scores"),
        (["--target", "./halves.npz", "--encoder", "tiny", "wide", "--held-out", "0"], "held_out is 0"),
        (["--target", "./halves.npz", "--encoder", "tiny", "wide", "--resamples", "0"], "resamples is 0"),
        (["--target", "./halves.npz", "--encoder", "tiny", "wide", "--epochs", "-1"], "epochs is -1"),
        (["--target", "./rare.npz", "--encoder", "tiny", "wide"], "class '7' has 1 labelled sample"),
        (["--target", "./unseen.npz", "--encoder", "tiny", "wide"], "class '7' has test samples and none to train on"),
        (["--target", "./same.npz", "--encoder", "tiny", "wide"], "samples of 1 class"),
        (["--results", "nowhere"], "nowhere has neither results.json nor study.json"),
        (["--results", "ranked", "--best", "1"], "best is 1: pass at least 2"),
        (["--results", "ranked", "--encoder", "tiny", "other"], "there is no score of other"),
        (["--results", "ranked", "--target", "mnist"], "there are no scores on 'mnist': pass one of ./halves.npz"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = halves(40)
    np.savez("rare.npz", images=images, labels=np.where(np.arange(40) == 4, 7, labels))
    np.savez("unseen.npz", images=images, labels=np.where(np.arange(40) == 3, 7, labels))
    np.savez("same.npz", images=images, labels=np.zeros(40, int))
    if "ranked" in words:
        score = study.Score("key", None, "./halves.npz", "tiny", transferability=0.5)
        others = dataclasses.replace(score, encoder="wide", key="other")
        Path("ranked").mkdir()
        make_ranking([score, others], SETTINGS).save("ranked")
    monkeypatch.setattr("jaxrel.cli.verify.run_plan", None)
    assert cli.main(["verify", *words, "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("jaxrel-verify").exists()


def test_targets_without_labels_are_refused() -> None:
    tasks = {name: tuple(Task(task.features) for task in split) for name, split in arrays()._splits.items()}
    with pytest.raises(ValueError, match=r"no encoder has an accuracy: failed: .* no labels"):
        study.verify(["bad", "good"], FeatureArrays("t", tasks), output="out", settings=SETTINGS)


def test_features_alone_cannot_be_fine_tuned() -> None:
    with pytest.raises(ValueError, match="arrays: there are only features and no network to tune"):
        Study(["bad"], [arrays()], metrics=["fine_tuned_accuracy"], settings=SETTINGS).plan()


def test_an_encoder_that_fails_is_named_and_the_others_go_on() -> None:
    given = arrays()
    given._splits["bad"] = study.Split(given._splits["bad"].train, Task(np.zeros((4, 2)), [0, 1, 0, 1]))
    found = study.verify(["bad", "fair", "good"], given, seeds=[0], output="out", settings=SETTINGS)
    assert found.accuracies[0].encoders == ("fair", "good")
    assert found.encoders[-1] == "bad"
    assert any(complaint.startswith("bad, probe_accuracy: failed") for complaint in found.complaints)


def test_an_encoder_that_fails_for_one_seed_has_no_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    fine_tune = training.fine_tune

    def failing(encoder: Any, *arguments: Any, **options: Any) -> Any:
        if (encoder.name, options["seed"]) == ("wide", 1):
            raise RuntimeError("no memory")
        return fine_tune(encoder, *arguments, **options)

    monkeypatch.setattr(training, "fine_tune", failing)
    found = study.verify(["tiny", "wide"], "./halves.npz", seeds=[0, 1], output="out", settings=SETTINGS)
    probe, tuned = found.accuracies
    assert (probe.encoders, tuned.encoders) == (("tiny", "wide"), ("tiny",))
    assert found.complaints == ("wide, fine_tuned_accuracy: failed: RuntimeError: no memory",)
    assert {agreement.accuracy for agreement in found.agreements} == {"probe_accuracy"}
    assert "Only one encoder has a fine-tuned accuracy, so there is no pair to order: tiny." in found.notes


def test_the_picture_has_a_panel_for_each_score_and_accuracy() -> None:
    truth = accuracies([[0.5, 0.6, 0.7]] * 2)
    tuned = dataclasses.replace(truth, kind="fine_tuned_accuracy", encoders=("a", "b", "z"))
    columns = (column(1.0, math.nan, 2.0), dataclasses.replace(column(1, 2, 3), name="cost", higher_is_better=False))
    found = Verification("target", ("a", "b", "c"), (truth, tuned), columns, (), SETTINGS)
    axes = found.plot().axes
    assert [axis.get_xlabel() for axis in axes[::2]] == ["score", "cost, smaller is better"]
    assert [axis.get_ylabel() for axis in axes[:2]] == ["probe accuracy", "fine-tuned accuracy"]
    assert axes[2].xaxis_inverted()
    assert len(axes[0].containers) == 2  # b has no score
    assert as_data(found.records())[2]["fine_tuned_accuracy"] is None


# What a kill leaves


def test_an_interrupt_leaves_what_is_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(options["seed"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fine_tune(*arguments, **options)

    fine_tune = training.fine_tune
    monkeypatch.setattr(training, "fine_tune", interrupted)
    assert cli.main(VERIFY) == 130
    assert "interrupted. What is finished is in jaxrel-verify/records.jsonl" in capsys.readouterr().err
    kept = [json.loads(line) for line in Path("jaxrel-verify/records.jsonl").read_text().splitlines()]
    assert [(record["metric"], record["seed"]) for record in kept] == [
        ("transferability", 0),
        ("probe_accuracy", 0),
        ("probe_accuracy", 1),
        ("fine_tuned_accuracy", 0),
    ]
    assert cli.main([*VERIFY, "--no-plot"]) == 0
    assert calls == [0, 1, 1, 0, 1]
    assert "4 of 15 scores are in" in capsys.readouterr().err


@pytest.mark.slow
def test_a_kill_leaves_what_is_finished_and_the_end_is_the_same(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(Path(jaxrel.__file__).parents[1]),
        "JAXREL_CACHE": str(tmp_path / "cache"),
    }
    words = [sys.executable, tiny_networks.__file__, *VERIFY, "--no-plot", "--quiet"]

    def accuracies_in(folder: str) -> Any:
        return json.loads((tmp_path / folder / "verification.json").read_text())["accuracies"]

    whole = subprocess.run([*words, "--output", "whole"], env=environment, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.Popen([*words, "--output", "killed"], env=environment, stdout=subprocess.DEVNULL)
    log = tmp_path / "killed" / "records.jsonl"
    while killed.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    finished = log.read_bytes().count(b"\n")
    assert 2 <= finished < 15
    again = subprocess.run([*words, "--output", "killed"], env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert accuracies_in("killed") == accuracies_in("whole")
