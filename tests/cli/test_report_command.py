"""`jaxrel report`: tables and pictures from the files of earlier runs."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_zoo
import numpy as np
import pytest
from score_problems import problem

from jaxrel import cli
from jaxrel.study import Ranking

RANK = ["rank", "--target", "squares", "--reference", "circles", "--samples", "30", "--held-out", "12"]
RANK += ["--resamples", "50", "--no-plot", "--quiet"]


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    fake_zoo.install(monkeypatch.setattr)


@pytest.fixture
def folders(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """One encoder in each of two folders; both in a third."""
    for folder, encoders in (("one", ["narrow"]), ("two", ["wide"]), ("both", ["narrow", "wide"])):
        assert cli.main([*RANK, "--encoder", *encoders, "--output", folder]) == 0
    capsys.readouterr()
    return ["one", "two"]


def rewrite(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def test_folders_put_together_are_one_run_of_all(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", *folders, "--output", "again"]) == 0
    captured = capsys.readouterr()
    assert "circles → squares" in captured.out
    assert all(name in captured.out for name in ("narrow", "wide"))
    assert all(name in captured.err for name in ("ranking.png", "cost.png", "results.csv"))
    merged, whole = Ranking.load("again"), Ranking.load("both")

    def essence(ranking: Ranking) -> Any:
        timed = ("seconds", "samples_per_second")
        return [
            {name: value for name, value in record.items() if not name.endswith(timed)} for record in ranking.records()
        ]

    assert essence(merged) == essence(whole)
    assert json.loads(Path("again/results.json").read_text())["command"][:2] == ["jaxrel", "report"]


def test_ties_are_those_of_the_file_where_no_log_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RANK, "--encoder", "narrow", "wide", "--output", "out"]) == 0
    with_log = Ranking.load("out")
    Path("out/records.jsonl").unlink()
    assert Ranking.load("out") == with_log


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "json"])
def test_every_format_has_every_encoder(form: str, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", *folders, "--format", form]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("narrow") >= 1 <= captured.out.count("wide")
    if form == "json":
        assert {row["encoder"] for row in json.loads(captured.out)["results"]} == {"narrow", "wide"}
    if form == "csv":
        assert {row["encoder"] for row in csv.DictReader(io.StringIO(captured.out.strip()))} == {"narrow", "wide"}
    assert not Path("jaxrel-results").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"samples": 30', '"samples": 31', "two has other settings than one (samples: 30 and 31)"),
        ('"encoder": "wide"', '"encoder": "narrow"', "one and two have different scores of narrow on squares"),
        ('"data_paths": {}', '"data_paths": []', "two/results.json is damaged"),
        ('"schema": 1', '"schema": 7', "two/results.json has version 7"),
    ],
)
def test_what_cannot_be_put_together_is_one_line(
    old: str, new: str, message: str, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite("two/results.json", old, new)
    assert cli.main(["report", *folders]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_folders_without_results_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    for folder in ("empty", "nowhere"):
        assert cli.main(["report", folder]) == 2
        assert f"{folder} has neither results.json nor scores.json" in capsys.readouterr().err
    Path("empty/results.json").write_bytes(b"\xff\xfe{")
    assert cli.main(["report", "empty"]) == 2
    assert "empty/results.json is damaged" in capsys.readouterr().err


def test_names_in_files_are_no_paths_and_no_commands(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rewrite("one/results.json", '"encoder": "narrow"', '"encoder": "../../\\u001b[31mevil"')
    before = set(Path().rglob("*"))
    assert cli.main(["report", "one", "--output", "again"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert {path.parts[0] for path in set(Path().rglob("*")) - before} == {"again"}


def test_results_of_another_run_are_not_replaced(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    content = Path("two/results.json").read_bytes()
    assert cli.main(["report", "one", "--output", "two"]) == 2
    assert "two holds results of another run" in capsys.readouterr().err
    assert Path("two/results.json").read_bytes() == content
    assert cli.main(["report", "one", "two", "--output", "two"]) == 0


# Scores by metrics


@pytest.fixture
def boards(capsys: pytest.CaptureFixture[str]) -> list[str]:
    labels = problem()["labels"]
    for number, folder in enumerate(("left", "right")):
        np.savez(f"encoder-{number}.npz", features=problem(number, d=6)["features"], labels=labels)
        words = ["score", f"encoder-{number}.npz", "--metric", "gbc", "rankme", "etran", "--no-plot", "--quiet"]
        assert cli.main([*words, "--output", folder]) == 0
    capsys.readouterr()
    return ["left", "right"]


def test_scores_of_several_folders(boards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "left"]) == 0
    assert "etran" in capsys.readouterr().out
    assert cli.main(["report", *boards, "--output", "again"]) == 0
    captured = capsys.readouterr()
    assert "left out, as they depend on all encoders together: etran" in captured.err.replace("\n", " ")
    records = json.loads(Path("again/scores.json").read_text())["scores"]
    assert [(record["encoder"], record["metric"]) for record in records] == [
        (f"encoder-{number}", metric) for number in range(2) for metric in ("gbc", "rankme")
    ]
    assert sorted(record["rank"] for record in records) == [1, 1, 2, 2]
    for folder, record in zip(boards, records[::2], strict=True):
        assert record["value"] == json.loads(Path(folder, "scores.json").read_text())["scores"][0]["value"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"encoder": "encoder-1"', '"encoder": "encoder-0"', "right and another folder have different scores"),
        ('"metric": "gbc"', '"metric": "unknown"', "right/scores.json is damaged"),
        ('"name": "gbc"', '"name": "unknown"', "right/scores.json is damaged"),
    ],
)
def test_damaged_scores_are_one_line(
    old: str, new: str, message: str, boards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite("right/scores.json", old, new)
    assert cli.main(["report", *boards]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("folder", "file"), [("two", "results.json"), ("right", "scores.json")])
def test_encoders_on_other_samples_are_not_put_together(
    folder: str, file: str, folders: list[str], boards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path(folder, file).read_text()
    Path(folder, file).write_text(re.sub(r'"target_samples": "[0-9a-f]+"', '"target_samples": "0"', whole))
    assert cli.main(["report", *(folders if folder in folders else boards)]) == 2
    assert "one by one" in capsys.readouterr().err


def test_a_folder_may_have_both(folders: list[str], boards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("left/scores.json", "one/scores.json")
    assert cli.main(["report", "one", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"schema", "results", "scores"}


def test_options_of_scores_are_data_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "--target", "squares", "--samples", "30", "--metric", "rankme", "--no-plot", "--quiet"]
    for folder, encoder in (("left", "narrow"), ("right", "wide")):
        for _ in range(2):  # the second time over its own files
            assert cli.main([*words, "--encoder", encoder, "--output", folder]) == 0
    origin = json.loads(Path("left/scores.json").read_text())["scores"][0]["origin"]
    assert (origin["target"], origin["samples"]) == ("squares", 30)
    assert cli.main(["report", "left", "right", "--output", "again"]) == 0
    assert [record["origin"] for record in json.loads(Path("again/scores.json").read_text())["scores"]] == [origin] * 2
    rewrite("right/scores.json", '"samples": 30', '"samples": 31')
    assert cli.main(["report", "left", "right"]) == 2
    assert "left, right have scores on other data sets or by other options" in capsys.readouterr().err


def test_a_terminal_that_knows_ascii_alone_shows_a_table(folders: list[str]) -> None:
    environment = fake_zoo.SUBPROCESS | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "jaxrel", "report", *folders]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "circles ? squares" in done.stdout
    assert "narrow" in done.stdout
