"""Encoders of one's own in studies, beside those by name."""

from __future__ import annotations

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_networks import PREPROCESSING, TinyNet, write_halves

from jaxrel import encoders, study
from jaxrel.encoders import from_function, from_network
from jaxrel.study import Settings, Study
from jaxrel.training import FineTuning

SETTINGS = Settings(samples=60, held_out=40, resamples=50)


def means(images: Any) -> Any:
    return images.mean((1, 2))


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_halves(tmp_path / "halves.npz")
    return "./halves.npz"


def mine(name: str = "mine", **options: Any) -> encoders.Encoder:
    return from_function(means, **{"name": name, "version": "1", "image_size": 4, **options})


def test_own_encoders_are_ranked_beside_names(halves: str, tmp_path: Path) -> None:
    network = from_network(TinyNet(), PREPROCESSING, name="net")
    chosen = [mine(), "pixels", network]
    ranking = study.rank([halves], chosen, output=tmp_path / "results", settings=SETTINGS)
    assert {row.score.encoder for row in ranking.tables[0].rows} == {"mine", "pixels", "net"}
    assert not ranking.incomplete
    lines = (tmp_path / "results/records.jsonl").read_text()
    study.rank([halves], [mine(), "pixels", network], output=tmp_path / "results", settings=SETTINGS)
    assert (tmp_path / "results/records.jsonl").read_text() == lines
    changed = from_function(lambda x: means(x) ** 2, name="mine", version="1", image_size=4)
    study.rank([halves], [changed, "pixels", network], output=tmp_path / "results", settings=SETTINGS)
    assert (tmp_path / "results/records.jsonl").read_text().count("\n") == lines.count("\n") + 1


def test_own_encoders_are_verified(halves: str, tmp_path: Path) -> None:
    corner = from_function(lambda x: x[:, 0, 0, :1], name="corner", version="1", image_size=4)
    given = [corner, mine(), from_network(TinyNet(), PREPROCESSING, name="net")]
    settings = dataclasses.replace(SETTINGS, fine_tuning=FineTuning((1e-2,), epochs=1))
    ranking = study.rank([halves], given, output=tmp_path / "ranking", settings=settings)
    found = study.verify(given, scores=ranking, best=2, seeds=[0], output=tmp_path / "verified", settings=settings)
    assert {kind.kind: set(kind.encoders) for kind in found.accuracies} == {
        "probe_accuracy": {"mine", "net"},
        "fine_tuned_accuracy": {"net"},
    }


@pytest.mark.slow
def test_processes_score_own_encoders_that_pickle_and_name_those_that_do_not(halves: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        options: dict[str, Any] = {"settings": SETTINGS, "executor": executor}
        there = study.rank([halves], [mine(), "pixels"], output=tmp_path / "there", **options)
        here = study.rank([halves], [mine(), "pixels"], output=tmp_path / "here", settings=SETTINGS)
        numbers = [
            [(row.score.encoder, row.score.transferability) for row in each.tables[0].rows] for each in (there, here)
        ]
        assert numbers[0] == numbers[1]
        unknown = from_function(lambda x: means(x), name="unknown", version="1")
        with pytest.raises(study.EngineError, match=r"encoder unknown.*pickle"):
            study.rank([halves], [unknown, "pixels"], output=tmp_path / "lost", **options)


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ([mine("pixels")], {}, "own is called 'pixels', which is the name of another"),
        ([mine("pixels:random"), "mobilenet-v2"], {}, "own is called 'pixels:random'"),
        ([mine("./halves.npz")], {}, "or of a checkpoint"),
        ([mine(), mine()], {}, "encoder given twice: mine"),
        ([mine()], {"layers": [1]}, "'mine' is an encoder of your own, whose layers are not known"),
        (
            [from_function(lambda texts: np.ones((len(texts), 2)), name="t", version="1", modality="texts")],
            {"targets": ["mnist"]},
            "'t' encodes texts",
        ),
    ],
)
def test_a_study_refuses_own_encoders(halves: str, given: Any, options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Study(given, **{"targets": [halves], **options}).plan()
