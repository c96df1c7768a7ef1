"""`jaxrel extract`: what it prints, keeps and refuses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_zoo
import numpy as np
import pytest

from jaxrel import data, encoders, study
from jaxrel.cli import extract as command
from jaxrel.cli.parser import parser
from jaxrel.storage.features import FeatureStore, StoreError

EXTRACT = ["extract", "--encoder", "narrow", "wide", "--data", "circles", "--samples", "30"]


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    fake_zoo.install(monkeypatch.setattr)


@pytest.fixture
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture
def extract(told: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch) -> Any:
    @contextlib.contextmanager
    def narrator(*, quiet: bool) -> Iterator[study.Progress]:
        yield lambda *step: told.append(step)

    monkeypatch.setattr("jaxrel.cli.console.narrator", narrator)

    def run(*words: str) -> str:
        complaint: str = command.run(parser().parse_args(words))
        return complaint

    return run


def test_table_and_progress(extract, told, capsys):
    extract(*EXTRACT, "--split", "train", "test", "--batch-size", "8")
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    assert lines[0] == ["encoder", "data", "split", "of", "rows", "width", "MB", "seconds", "per", "second"]
    assert [line[:6] for line in lines[1:5]] == [
        [encoder, "circles", split, "samples", "30", "5"]
        for encoder in ("narrow", "wide")
        for split in ("train", "test")
    ]
    assert captured.err == f"\nThe features are in {study.feature_store().root}.\n"
    assert told[:3] == [("extracting", 0, 2), ("narrow: loading", 0, 1), ("narrow: loading", 1, 1)]
    assert told[3:8] == [("narrow: circles (train, samples)", done, 30) for done in (0, 8, 16, 24, 30)]
    assert len(study.feature_store().tables()) == 4


def test_json_says_what_was_extracted_and_what_was_kept(extract, capsys):
    for extracted in (30, 0):
        extract(*EXTRACT, "--dtype", "bfloat16", "--json")
        records = json.loads(capsys.readouterr().out)["tables"]
        assert [record["encoder"] for record in records] == ["narrow", "wide"]
        assert [record["rows_extracted"] for record in records] == [extracted] * 2
        assert records[0]["megabytes"] == 30 * 5 * 2 / 1e6
        assert records[0]["dtype"] == "bfloat16"
        assert Path(records[0]["folder"], "zarr.json").exists()
    extract(*EXTRACT, "--dtype", "bfloat16")
    assert "kept" in capsys.readouterr().out


def test_views_differ_from_the_samples(extract, capsys, tmp_path):
    extract(*EXTRACT, "--views", "--json", "--output", str(tmp_path / "mine"))
    records = json.loads(capsys.readouterr().out)["tables"]
    assert [record["of"] for record in records] == ["samples", "view 1", "view 2"] * 2
    tables = {str(table.folder): np.asarray(table) for table in FeatureStore(tmp_path / "mine").tables()}
    first, second, third = (tables[record["folder"]] for record in records[:3])
    assert not any(np.allclose(a, b) for a, b in ((first, second), (first, third), (second, third)))
    assert not study.feature_store().root.exists()


def test_ranking_finds_the_features_and_views(extract, monkeypatch):
    extract(*EXTRACT, "--split", "train", "test", "--views")
    settings = study.Settings(samples=30, held_out=30)
    sources = study.named_sources(["circles"], settings=settings, store=study.feature_store())
    monkeypatch.setattr(fake_zoo.FakeEncoder, "forward", None)
    assert sources["circles"].features("wide", lambda *_: None).train.features.shape == (30, 5)
    assert sources["circles"].views("wide", lambda *_: None)[1].shape == (30, 5)


def test_unknown_encoders_are_refused_before_any_work(extract):
    with pytest.raises(ValueError, match="unknown encoder 'tall': there are broken, narrow, wide"):
        extract("extract", "--encoder", "wide", "tall", "--data", "circles", "--samples", "30")
    assert not study.feature_store().root.exists()


def test_one_failing_encoder_is_named_and_the_others_go_on(extract, monkeypatch, capsys, caplog):
    def load(name: str, **options: Any) -> Any:
        if name == "narrow":
            raise OSError("no disk")
        return fake_zoo.FakeEncoder(name, **options)

    monkeypatch.setattr("jaxrel.encoders.load", load)
    assert extract(*EXTRACT) == "narrow failed, as said above"
    assert "narrow: no disk" in caplog.text
    assert "wide" in capsys.readouterr().out
    with pytest.raises(OSError, match="no disk"):
        extract(*EXTRACT, "--strict")


def test_more_samples_than_there_are_and_other_folders(extract, tmp_path, capsys):
    assert extract(*EXTRACT, "--samples", "101", "--json") == ""
    assert {record["rows"] for record in json.loads(capsys.readouterr().out)["tables"]} == {100}
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="Choose a folder"):
        extract(*EXTRACT, "--output", str(tmp_path / "file"))


def test_missing_data_is_said(extract, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise data.DataError("no provider")

    monkeypatch.setattr(data, "load", fail)
    with pytest.raises(data.DataError):
        extract(*EXTRACT)


def test_prompts_and_widths_reach_the_encoders(extract, monkeypatch):
    asked, load = list[dict[str, Any]](), encoders.load

    def loaded(name: str, **options: Any) -> encoders.Encoder:
        asked.append(options)
        return load(name, **options)

    monkeypatch.setattr(encoders, "load", loaded)
    extract(*EXTRACT, "--prompt", "query: ", "--width", "3")
    assert asked == [{"seed": 0, "image_size": None, "prompt": "query: ", "width": 3}] * 2
