"""Texts from a folder to a ranking: the command line with an encoder and data sets of one's own."""

from __future__ import annotations

import json
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fake_zoo
import numpy as np
import pytest
from tiny_texts import TOPICS, write_text_study

import jaxrel
from jaxrel import cli, encoders, study
from jaxrel.storage.features import FeatureStore

NUMBERS = ["--samples", "60", "--held-out", "12", "--resamples", "5", "--batch-size", "8", "--quiet", "--no-plot"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders of texts and a small encoder with random weights, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    write_text_study(tmp_path)


def ranked(*options: str) -> dict[str, Any]:
    words = ["rank", "--reference", "./notes", "--target", "./letters", "--encoder", "bert@tiny", *NUMBERS, *options]
    assert cli.main(words) == 0
    ((row,),) = [table.rows for table in study.Ranking.load("jaxrel-results").tables]
    return vars(row.score)


def test_texts_of_ones_own_reach_the_score(monkeypatch):
    seen = []

    def record(reference, target, **options):
        seen.append((reference, target))
        return fake_zoo.task_relatedness(reference, target, **options)

    monkeypatch.setattr(jaxrel, "task_relatedness", record)
    monkeypatch.setattr(jaxrel.relatedness, "bound_resamples", fake_zoo.bound_resamples)
    monkeypatch.setattr(jaxrel.relatedness, "explain", fake_zoo.explain)
    assert ranked()["status"] == "ok"
    ((reference, target),) = seen
    assert reference.features.shape == target.features.shape
    assert target.features.shape[0] == 60
    assert target.class_names == ("sand", "sea", "sky")


@pytest.mark.slow
def test_texts_of_ones_own_are_ranked():
    score = ranked()
    assert (score["reference"], score["target"], score["encoder"]) == ("./notes", "./letters", "bert@tiny")
    assert score["status"] == "ok"
    assert score["num_classes"] == 3
    assert score["transferability"] > 0.6
    assert score["target_loss"] <= score["bound"]


@pytest.mark.slow
def test_views_of_texts_serve_without_labels():
    assert np.isfinite(float(ranked("--label-free", "--target-classes", "3")["transferability"]))


def test_a_table_with_few_labels_is_ranked(capsys):
    rng = np.random.default_rng(0)
    rows = ["said,about"]
    for number in range(90):
        topic, said = list(TOPICS.items())[number % 3]
        rows.append(f"{' '.join(rng.choice(said.split(), 6))} {number},{topic if number < 30 else ''}")
    Path("letters.csv").write_text("\n".join(rows))
    table = ["rank", "--target", "letters.csv", "--text-column", "said", "--label-column", "about"]
    assert cli.main([*table, "--encoder", "bert@tiny", "bert@tiny#1", *NUMBERS]) == 0
    shown = capsys.readouterr()
    assert "letters: 60 of 90 samples have no label" in shown.err
    (found,) = study.Ranking.load("jaxrel-results").tables
    (recipe,) = found.recipes
    assert recipe.endswith("cross-view probe on all (30 labels of 60 samples, 55% of the value)")
    assert {row.score.status for row in found.rows} == {"ok"}


@pytest.mark.parametrize("names", ["123", ["-1", "1"], ["2", "7", "x"]])
def test_classes_may_be_called_by_numbers(names):
    rng = np.random.default_rng(0)
    said = [list(TOPICS.values())[number % len(names)].split() for number in range(60)]
    rows = [
        f"{' '.join(rng.choice(words, 6))} {number},{names[number % len(names)]}" for number, words in enumerate(said)
    ]
    Path("stars.csv").write_text("\n".join(["text,label", *rows]))
    assert cli.main(["rank", "--target", "stars.csv", "--encoder", "bert@tiny", *NUMBERS]) == 0


def test_one_checkpoint_that_is_unknown_ends_no_other(capsys):
    Path("other").mkdir()
    Path("other/config.json").write_text('{"model_type": "gpt2"}')
    np.savez("scalar.npz", **{"features.18.0.weight": np.float32(1)})
    command = ["rank", "--target", "./notes", "--encoder", "./other", "scalar.npz", "./tiny", *NUMBERS]
    assert cli.main(command) == 1
    (table,) = study.Ranking.load("jaxrel-results").tables
    assert {row.score.encoder: row.score.status == "ok" for row in table.rows} == {
        "./tiny": True,
        "./other": False,
        "scalar.npz": False,
    }
    assert "model_type 'gpt2'" in capsys.readouterr().out


def test_texts_without_labels_are_ranked_by_views():
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice(words.split(), 6)) for words in TOPICS.values() for _ in range(30)]
    Path("letters.csv").write_text("\n".join(["text", *(f"{text} {number}" for number, text in enumerate(said))]))
    command = ["rank", "--target", "letters.csv", "--encoder", "bert@tiny", "tiny", *NUMBERS]
    assert cli.main([*command, "--output", "found"]) == 0
    assert cli.main([*command, "--output", "asked", "--label-free"]) == 0
    (found,), (asked,) = (study.Ranking.load(folder).tables for folder in ("found", "asked"))
    values = [[row.score.transferability for row in table.rows] for table in (found, asked)]
    assert values[0] == values[1]
    assert found.recipes == asked.recipes
    assert {row.score.encoder for row in found.rows} == {"bert@tiny", "tiny"}  # the same, which its folder tells
    assert values[0][0] == values[0][1]
    assert cli.main([*command, "--output", "other", "--reference", "./notes"]) == 1


def test_kinds_of_samples_must_fit(capsys):
    command = ["rank", "--reference", "mnist", "--target", "./letters", "--encoder", "bert@tiny", *NUMBERS]
    assert cli.main(command) == 2
    assert "'bert@tiny' encodes texts, 'mnist' has images: pass an encoder of images" in capsys.readouterr().err


def test_layers_are_encoders_of_their_own():
    settings = study.Settings(samples=20, resamples=0, strict=True)
    asked = study.Study(["bert@tiny"], ["./notes"], metrics=["logme"], layers=[0, 1, 2], settings=settings)
    results = study.run(asked.plan())
    assert results.encoders == ("bert@tiny#0", "bert@tiny#1", "bert@tiny#2")
    assert len({record.value for record in results.entries}) == 3
    (axis,) = results.plot().axes
    (line,) = axis.get_lines()
    assert (line.get_label(), axis.get_xlabel()) == ("bert@tiny", "layer of the encoder")
    np.testing.assert_array_equal(line.get_ydata(), [record.value for record in results.entries])
    last = study.run(study.Study(["bert@tiny"], ["./notes"], metrics=["logme"], settings=settings).plan())
    assert last.entries[0].value == pytest.approx(results.entries[-1].value, rel=1e-5)
    beyond = study.Study(["bert@tiny"], ["./notes"], metrics=["h_score"], layers=[3], settings=settings)
    with pytest.raises(ValueError, match="layer is 3: this network has layers 1 to 2"):
        study.run(beyond.plan())


@pytest.mark.parametrize("workers", [0, 2])
def test_layers_of_a_network_are_extracted_in_one_pass(workers, tmp_path, monkeypatch):
    passes = []
    forward = encoders.encoder.Layers.forward
    monkeypatch.setattr(
        encoders.encoder.Layers, "forward", lambda self, layers: passes.append(list(layers)) or forward(self, layers)
    )

    def ranked_layers(layers: list[int], store: FeatureStore, executor: Executor | None = None) -> study.Results:
        settings = study.Settings(samples=20, resamples=2)
        asked = study.Study(
            ["bert@tiny"], ["./notes"], metrics=["transferability"], layers=layers, settings=settings, store=store
        )
        return study.run(asked.plan(), executor=executor)

    together, apart = FeatureStore(tmp_path / "together"), FeatureStore(tmp_path / "apart")
    with ThreadPoolExecutor(workers) if workers else nullcontext() as executor:
        found = ranked_layers([1, 2, 3], together, executor).entries
    assert passes[0] == [1, 2]
    assert not any(passes[1:])  # nothing is missing any more
    assert ["layer is 3" in record.status for record in found] == [False, False, True]
    if not workers:
        assert [record.numbers["extracted_samples"] for record in found[:2]] == [20, 0]
    for layer, record in enumerate(found[:2], start=1):
        (alone,) = ranked_layers([layer], apart).entries
        assert alone.value == pytest.approx(record.value, rel=1e-5)
        assert alone.key == record.key
    keys = [sorted(table.key["encoder"] for table in store.tables()) for store in (together, apart)]
    assert keys[0] == keys[1]


def test_views_are_those_of_the_kind():
    settings = study.Settings(samples=20, held_out=5)
    sources = study.named_sources(["./notes"], settings=settings, store=study.feature_store())
    first, second = sources["./notes"].views("bert@tiny", lambda *_: None)
    split = sources["./notes"].features("bert@tiny", lambda *_: None)
    assert first.shape == second.shape == split.train.features.shape
    assert np.abs(first - second).max() > 1e-3
    assert set(encoders.VIEWS) == {"images", "texts"}


@pytest.mark.slow
def test_networks_of_texts_are_fine_tuned():
    words = ["verify", "--target", "./letters", "--encoder", "bert@tiny", "bert@tiny#1", *NUMBERS, "--seed", "0"]
    assert cli.main([*words, "--held-out", "30", "--epochs", "10", "--learning-rate", "3e-3"]) == 0
    records = [json.loads(line) for line in Path("jaxrel-verify/records.jsonl").read_text().splitlines()]
    found = {(record["metric"], record["encoder"]): record["numbers"] for record in records}
    for encoder in ("bert@tiny", "bert@tiny#1"):
        probe, tuned = (found[f"{kind}_accuracy", encoder] for kind in ("probe", "fine_tuned"))
        assert tuned["value"] > probe["value"] + 0.1


def write_json_lines(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("\n".join(map(json.dumps, rows)))


def test_pairs_are_ranked_and_extracted_beside_their_joined_texts(capsys):
    rng = np.random.default_rng(0)
    topics = list(TOPICS.values())
    rows = [
        {"first": f"{' '.join(rng.choice(topics[k].split(), 4))} {k}", "second": topics[(k + same) % 3], "same": same}
        for k, same in zip(rng.integers(0, 3, 80), [0, 1] * 40, strict=True)
    ]
    write_json_lines("pairs.jsonl", [row | {"first": f"{row['first']} {i}"} for i, row in enumerate(rows)])
    columns = ["--text-column", "first", "second", "--label-column", "same"]
    table = ["rank", "--target", "pairs.jsonl", *columns, "--encoder", "bert@tiny", *NUMBERS]
    values, keys = [], set()
    for output, options in (("pairs", ["--pair"]), ("joined", [])):
        assert cli.main([*table, *options, "--output", output]) == 0
        ((row,),) = [table.rows for table in study.Ranking.load(output).tables]
        assert row.score.status == "ok"
        values.append(row.score.transferability)
        keys.add(row.score.key)
    assert values[0] != values[1]
    assert len(keys) == 2
    capsys.readouterr()
    extract = ["extract", "--data", "pairs.jsonl", *columns, "--encoder", "bert@tiny", "--split", "train", "--json"]
    folders = set()
    for options in (["--pair"], []):
        assert cli.main([*extract, *options, "--output", "features"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["tables"]
        folders.add(found["folder"])
    assert len(folders) == 2


def test_columns_of_verified_samples_are_those_of_the_ranking_or_passed(monkeypatch):
    rows = [{"a": f"w{i % 9} {i}", "b": f"w{i % 7}", "same": i % 2} for i in range(60)]
    write_json_lines("pairs.jsonl", rows)
    columns = ["--text-column", "a", "b", "--pair", "--label-column", "same"]
    passed = ["--target", "pairs.jsonl", *columns, "--encoder", "bert@tiny", "bert@tiny#1", *NUMBERS]
    assert cli.main(["rank", *passed]) == 0
    found = []

    def stop(plan: study.Plan, *_: Any) -> None:
        found.append(plan.settings)
        raise ValueError("stopped")

    monkeypatch.setattr("jaxrel.cli.verify.run_plan", stop)
    for options in (passed, ["--results", "jaxrel-results", "--quiet"]):
        assert cli.main(["verify", *options]) == 2
        assert (found[-1].text_column, found[-1].label_column, found[-1].pair) == (("a", "b"), "same", True)
    assert len(found) == 2


def test_an_encoder_that_takes_no_words_ends_no_other():
    write_json_lines(
        "tags.jsonl",
        [
            {"tokens": [f"w{1 + i % 4}", f"w{5 + i % 4}", f"w{9 + i % 4}", f"w{12 + i}"], "tags": [0, 1, 2, None]}
            for i in range(16)
        ],
    )
    counts = encoders.from_function(
        lambda texts: [[len(text), text.count("w")] for text in texts], name="counts", version="1", modality="texts"
    )
    settings = study.Settings(samples=40, held_out=0, resamples=5)
    result = study.rank(["./tags.jsonl"], ["bert@tiny", counts], output="ranked", settings=settings)
    found = {row.score.encoder: row.score for table in result.tables for row in table.rows}
    assert found["bert@tiny"].status == "ok"
    assert "the samples of counts are words in sentences" in found["counts"].status
