"""The `jaxrel` command: what it prints, writes and refuses."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from pathlib import Path

import fake_zoo
import pytest

import jaxrel
from jaxrel import cli, data
from jaxrel.assets import AssetError
from jaxrel.ranking.execute import ScoreLog

RANK = ["rank", "--reference", "circles", "--target", "squares", "--encoder", "narrow", "wide"]
SMALL = ["--samples", "30", "--held-out", "12", "--resamples", "50"]


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    fake_zoo.install(monkeypatch.setattr)


def test_rank_prints_the_table_and_writes_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RANK, *SMALL]) == 0
    captured = capsys.readouterr()
    assert "circles → squares" in captured.out
    assert "What to trust" in captured.out
    folder = tmp_path / "jaxrel-results"
    assert {path.name for path in folder.iterdir()} == {"results.json", "results.csv", "results.jsonl", "ranking.png"}
    assert all(str(Path("jaxrel-results") / name) in captured.out for name in ("results.json", "ranking.png"))


def test_quiet_prints_the_tables_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RANK, *SMALL, "--quiet", "--no-plot"]) == 0
    captured = capsys.readouterr()
    assert "circles → squares" in captured.out
    assert "What to trust" not in captured.out
    assert captured.err == ""
    assert not Path("jaxrel-results/ranking.png").exists()


def test_second_run_says_what_it_skips(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*RANK, *SMALL])
    capsys.readouterr()
    assert cli.main([*RANK, *SMALL]) == 0
    assert "2 of 2 scores are in" in capsys.readouterr().err


def test_lines_are_not_written_again_by_a_handler_of_another_library(caplog: pytest.LogCaptureFixture) -> None:
    assert cli.main([*RANK, *SMALL]) == 0  # caplog has a handler at the root
    assert not caplog.records
    logging.getLogger("jaxrel").warning("after the command")
    assert "after the command" in caplog.text


def test_options_reach_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(*tasks: object, **options: object) -> object:
        seen.append((options["method"], options["seed"]))
        return fake_zoo.task_relatedness(*tasks, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(jaxrel, "task_relatedness", record)
    assert cli.main([*RANK, *SMALL, "--cost", "range", "--fixed-head", "--seed", "7"]) == 0
    assert seen == [(jaxrel.Joint(cost="range", learn_head=False), 7)] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--encoder", "tall"], "unknown encoder 'tall': there are broken, narrow, wide."),
        (["--target", "ovals"], "unknown data set 'ovals': there are circles, crosses, squares."),
        (["--target", "circles"], "not compared with itself"),
        (["--samples", "0"], "samples is 0"),
        (["--samples", "101"], "limit=101, but the train split of circles has 1 to 100 images"),
        (["--samples", "many"], "invalid int value: 'many'"),
        (["--space", "outer"], "invalid choice: 'outer'"),
        (["--space", "feature", "--cost", "margin"], "cost must be one of"),
        (["--data-path", "circles"], "'circles' is not NAME=PATH"),
        (["--data-path", "circles=/no/where"], "does not exist"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_wrong_use_is_one_message_and_status_2(
    change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = cli.main([*RANK, *SMALL, *change])
    except SystemExit as stop:  # argparse's own way
        status = int(stop.code or 0)
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert "Traceback" not in error
    assert not Path("jaxrel-results/results.json").exists()


@pytest.mark.parametrize("error", [AssetError("no network"), data.DataError("no provider")])
def test_missing_files_are_one_message_and_status_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(data, "load", fail)
    assert cli.main([*RANK, *SMALL]) == 1
    assert f"jaxrel: error: {error}" in capsys.readouterr().err


def test_output_in_use_is_one_message_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with ScoreLog(Path("busy/results.jsonl")):
        assert cli.main([*RANK, *SMALL, "--output", "busy"]) == 1
    assert "another process is writing into busy" in capsys.readouterr().err


def test_interrupt_keeps_what_is_done_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = 0

    def interrupted(*tasks: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return fake_zoo.task_relatedness(*tasks, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(jaxrel, "task_relatedness", interrupted)
    words = [*RANK, *SMALL, "--output", "a folder"]
    assert cli.main(words) == 130
    error = capsys.readouterr().err
    assert shlex.join(["jaxrel", *words]) in error
    (line,) = Path("a folder/results.jsonl").read_text().splitlines()
    assert json.loads(line)["encoder"] == "narrow"
    assert cli.main(words) == 0
    assert "1 of 2 scores are in" in capsys.readouterr().err


def test_missing_matplotlib_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main([*RANK, *SMALL]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not Path("jaxrel-results/ranking.png").exists()


def test_help_names_data_sets_and_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["rank", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*fake_zoo.DATA_SETS, *fake_zoo.ENCODERS))


@pytest.mark.slow
def test_two_processes_with_one_seed_give_identical_numbers(tmp_path: Path) -> None:
    """The real method on made-up images, each time from nothing."""
    lines = []
    shared = {"REAL_METHOD": "1", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    for name in ("one", "two"):
        environment = fake_zoo.SUBPROCESS | shared | {"JAXREL_CACHE": str(tmp_path / name / "cache")}
        command = [sys.executable, fake_zoo.__file__, *RANK, *SMALL, "--no-plot", "--quiet", "--output", name]
        run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        records = [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
        assert [record["status"] for record in records] == ["ok", "ok"]
        lines.append([{key: value for key, value in record.items() if "seconds" not in key} for record in records])
    assert lines[0] == lines[1]
