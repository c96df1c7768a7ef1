"""Labels that are numbers to predict: read from every kind of set, split and drawn with their samples, ranked by."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrel.data
from jaxrel import cli, encoders, study
from jaxrel.data import DataError
from jaxrel.metrics import logme_regression_score, ridge_regression_score

PRICES = {f"a flat of {i} rooms": (i - 20) * 0.25 for i in range(60)}


def rooms_of(text: str) -> float:
    return float("0" + "".join(filter(str.isdecimal, text)))


def write(path: Path) -> Any:
    rows = [{"text": text, "price": price} for text, price in PRICES.items()]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text", "price"], *([*row.values()] for row in rows)])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(rows).to_parquet(path)
    else:
        return pytest.importorskip("datasets").Dataset.from_list(rows)
    return str(path)


@pytest.mark.parametrize("name", ["toy.csv", "toy.jsonl", "toy.parquet", "datasets"])
def test_numbers_stay_with_their_samples(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / name)
    parts = jaxrel.data.load_splits(source, label_column="price", regression=True)
    found: dict[Any, float] = {}
    for part in filter(None, parts):
        assert part.targets is not None
        assert (part.num_classes, set(part.labels.tolist()), part.targets.flags.writeable) == (0, {-1}, False)
        found |= dict(zip(part.samples, part.targets.tolist(), strict=True))
    assert found == PRICES
    drawn = jaxrel.data.load(source, label_column="price", regression=True, limit=9)
    assert drawn.targets is not None
    assert [PRICES[str(text)] for text in drawn.samples] == drawn.targets.tolist()
    with pytest.raises(DataError, match=r"labels are numbers such as .*, which are not classes: .* regression=True"):
        jaxrel.data.load(source, label_column="price")


def test_the_fingerprint_is_of_the_numbers_too(tmp_path: Path) -> None:
    prints = []
    for shift in (0, 1):
        np.savez(
            tmp_path / "toy.npz", images=np.arange(48, dtype=np.uint8).reshape(12, 2, 2), labels=np.arange(12.0) + shift
        )
        prints.append(jaxrel.data.load(str(tmp_path / "toy.npz"), regression=True).fingerprint)
    assert prints[0] != prints[1]
    with pytest.raises(DataError, match=r"type float64, expected .*; to predict numbers pass regression=True"):
        jaxrel.data.load(str(tmp_path / "toy.npz"))


@pytest.mark.parametrize(("price", "shown"), [("", "''"), ("1,5", "'1,5'"), ("nan", "'nan'"), ("cheap", "'cheap'")])
def test_what_is_no_number_is_refused(price: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "toy.csv").write_text(f'text,label\none,1\ntwo,"{price}"\nthree,3e2\n')
    with pytest.raises(
        DataError, match=f"sample 1 has {shown} for its number to predict .1 such samples.: remove these"
    ):
        jaxrel.data.load(str(tmp_path / "toy.csv"), regression=True)


def test_known_sets_have_classes() -> None:
    with pytest.raises(ValueError, match=r"mnist has classes, and no regression targets: leave out regression"):
        jaxrel.data.load("mnist", regression=True)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[encoders.Encoder]:
    """The number of rooms among others, and what says nothing of it."""
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))

    def rooms(texts: list[str]) -> list[list[float]]:
        return [[rooms_of(text), len(text) % 3] for text in texts]

    def noise(texts: list[str]) -> list[list[float]]:
        return [[rooms_of(text) * 7919 % 13, rooms_of(text) % 2] for text in texts]

    return [
        encoders.from_function(function, name=function.__name__, version="1", modality="texts")
        for function in (noise, rooms)
    ]


def test_encoders_are_ranked_by_numbers(own: list[encoders.Encoder], tmp_path: Path) -> None:
    target = write(tmp_path / "toy.csv")
    settings = study.Settings(label_column="price", samples=50)
    board = study.rank_regression(target, own, output=tmp_path / "results", settings=settings)
    assert board.encoders == ("rooms", "noise")
    assert board.metrics == ("ridge_regression", "logme_regression")
    data = jaxrel.data.load_splits(target, train_limit=50, test_limit=0, label_column="price", regression=True)[0]
    features = np.array([[rooms_of(text), len(text) % 3] for text in data.samples])
    for column, function in enumerate((ridge_regression_score, logme_regression_score)):
        assert board.values[0, column] == pytest.approx(float(function(features, data.targets)), rel=1e-4)
    again = study.rank_regression(target, own, output=tmp_path / "results", settings=settings)
    np.testing.assert_array_equal(again.values, board.values)
    for metric in ("transferability", "bound", "probe_accuracy", "logme", "task_relatedness"):
        used = study.Settings(regression=True, label_column="price")
        with pytest.raises(ValueError, match=f"{metric} is about classes and not defined for regression targets"):
            study.Study(own, [target], metrics=[metric], settings=used).plan()
    with pytest.raises(ValueError, match="references and drawn samples are for classes"):
        study.Study(own, [target], samples=[10], settings=used).plan()
    with pytest.raises(ValueError, match="regression is about numbers, label_free and class_names about classes"):
        study.Settings(regression=True, label_free=True)
    arrays = study.FeatureArrays("bare", {"rooms": jaxrel.Task(features)})
    bare = study.rank_regression(arrays, ["rooms"], output=tmp_path / "bare")
    assert "'bare' has no regression targets" in bare.messages["rooms", "ridge_regression"][0]


def test_rank_with_regression_says_what_is_not_defined(
    own: list[encoders.Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "toy.csv")
    monkeypatch.chdir(tmp_path)
    known = {encoder.name: encoder for encoder in own}
    monkeypatch.setattr(encoders, "load", lambda name, **_: known[name])
    monkeypatch.setattr(encoders, "modality", lambda name: "texts")
    monkeypatch.setattr(encoders, "source_state", lambda name, **_: None)
    words = ["rank", "--target", "toy.csv", "--label-column", "price", "--encoder", "noise", "rooms", "--no-plot"]
    assert cli.main([*words, "--regression"]) == 0
    shown = capsys.readouterr()
    assert shown.out.index("rooms") < shown.out.index("noise")
    assert "Transferability, task-relatedness and the metrics of classes are not defined here." in " ".join(
        shown.err.split()
    )
    scores = json.loads(Path("jaxrel-results/scores.json").read_text())["scores"]
    assert [(score["encoder"], score["metric"]) for score in scores[:2]] == [
        ("rooms", "ridge_regression"),
        ("rooms", "logme_regression"),
    ]
    for wrong in (["--label-free"], ["--reference", "toy.csv"], ["--target", "toy.csv", "other.csv"]):
        assert cli.main([*words, "--regression", *wrong]) == 2
        assert "--regression is for one target" in capsys.readouterr().err
    shutil.rmtree("jaxrel-results")
    assert cli.main(words) == 1
    assert "to predict numbers pass regression=True (--regression)" in " ".join("".join(capsys.readouterr()).split())
