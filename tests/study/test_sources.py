"""Data sets of a study by name: what of them is read, and when."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrel import cli, data, encoders, study
from jaxrel.study import Settings
from jaxrel.study.documents import settings_as_data, settings_from_data
from jaxrel.study.sources import NamedSource, encoder_options

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("grain")

SETTINGS = study.Settings(samples=24, resamples=10, skip_broken=True)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of twenty pictures, of which one file is damaged."""
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(level - 60, level + 60, (30, 30 + number, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "pictures" / "dark" / "damaged.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded, by kind."""
    loaded: list[str] = []

    def counted(module: Any, name: str) -> None:
        load = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **options: loaded.append(name) or load(*given, **options))

    counted(data, "load_splits")
    counted(encoders, "load")
    return loaded


def rank(pictures: Path, output: Path, **settings: Any) -> study.Ranking:
    """The raw pixels, on the pictures."""
    used = study.Settings(**{"samples": 24, "resamples": 10, "skip_broken": True} | settings)
    return study.rank([str(pictures)], ["pixels"], output=output, settings=used)


def test_a_finished_ranking_loads_neither_data_nor_encoders(pictures, loads, tmp_path):
    first = rank(pictures, tmp_path / "results")
    assert sorted(set(loads)) == ["load", "load_splits"]
    loads.clear()
    assert rank(pictures, tmp_path / "results") == first
    assert loads == []


def test_files_that_were_left_out_are_remembered(pictures, tmp_path):
    for _ in range(2):
        (source,) = study.named_sources([str(pictures)], settings=SETTINGS, store=study.feature_store()).values()
        assert isinstance(source, NamedSource)
        source.fingerprint("pixels")
        ((name, reason),) = source.skipped
        assert name == str(pictures / "dark" / "damaged.png")
        assert "cannot identify" in reason


def test_a_broken_picture_is_an_error_unless_it_is_to_be_left_out(pictures, tmp_path):
    damaged = str(pictures / "dark" / "damaged.png")
    (row,) = rank(pictures, tmp_path / "results", skip_broken=False).tables[0].rows
    assert row.score.status.startswith(f"failed: {damaged} cannot be read as a picture")
    assert "pass skip_broken=True (--skip-broken)" in row.score.status
    assert not (tmp_path / "results" / "left_out.json").exists()
    (row,) = rank(pictures, tmp_path / "results").tables[0].rows  # the same folder goes on
    assert row.score.status == "ok"
    left_out = json.loads((tmp_path / "results" / "left_out.json").read_text())["left_out"]
    assert [name for name, _ in left_out[str(pictures)]] == [damaged]


def test_folders_of_one_name_are_not_replaced_by_each_other(pictures, tmp_path, monkeypatch, capsys):
    shutil.copytree(pictures, tmp_path / "elsewhere" / "pictures")
    words = ["rank", "--target", "./pictures", "--encoder", "pixels", "--quiet", "--no-plot", "--samples", "24"]
    words += ["--output", str(tmp_path / "results")]
    (pictures / "dark" / "damaged.png").unlink()
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(words) == 2
    assert "holds results of another run" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["edited", "removed", "settings"])
def test_what_has_changed_is_loaded_again(pictures, loads, tmp_path, change):
    first = rank(pictures, tmp_path / "results").tables[0].rows[0].score
    loads.clear()
    settings = {}
    if change == "edited":
        for file in (pictures / "dark").glob("*1*.png"):
            Image.new("RGB", (31, 31), "white").save(file)
    elif change == "removed":
        for number in range(10):
            (pictures / "dark" / f"{number}.png").unlink()
    else:
        settings["samples"] = 20
    again = rank(pictures, tmp_path / "results", **settings).tables[0].rows[0].score
    assert "load_splits" in loads
    assert again.key != first.key


def test_streamed_pictures_have_the_scores_of_those_in_memory(pictures, tmp_path, monkeypatch):
    (pictures / "dark" / "damaged.png").unlink()
    monkeypatch.setattr("jaxrel.data.readers.pictures._LARGEST_STACK", 1)
    source = study.named_sources([str(pictures)], settings=SETTINGS, store=study.feature_store())[str(pictures)]
    task = source.features("pixels", study.silent).train
    streamed = data.load(str(pictures), limit=24)
    assert isinstance(streamed, data.StreamedImages)
    encoder = encoders.load("pixels")
    np.testing.assert_array_equal(task.features, encoders.extract_features(encoder, streamed.samples[:]))
    np.testing.assert_array_equal(task.labels, streamed.labels)
    (row,) = rank(pictures, tmp_path / "results").tables[0].rows
    assert row.score.status == "ok"
    assert row.score.transferability > 0.9


def test_encoders_of_a_study_are_loaded_by_its_prompt_and_width() -> None:
    settings = Settings(prompt="query", width=8)
    assert encoder_options(settings) == {"seed": 0, "image_size": None, "prompt": "query", "width": 8}
    assert settings_from_data(settings_as_data(settings)) == settings
    assert not {"prompt", "width"} & settings_as_data(Settings()).keys()
    with pytest.raises(ValueError, match="width is 0: pass an integer of at least 1"):
        Settings(width=0)
