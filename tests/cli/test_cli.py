"""The `jaxrel` command: what it prints, writes and refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_zoo
import numpy as np
import pytest

import jaxrel
from jaxrel import cli, data
from jaxrel.cli.console import narrator
from jaxrel.storage.assets import AssetError
from jaxrel.storage.records import write_atomically
from jaxrel.study.records import StudyLog

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
    assert "What to trust" in captured.err
    assert "What to trust" not in captured.out
    folder = tmp_path / "jaxrel-results"
    assert {path.name for path in folder.iterdir()} == {
        "results.json",
        "results.csv",
        "records.jsonl",
        "ranking.png",
        "cost.png",
        "report.html",
    }
    assert all(str(Path("jaxrel-results") / name) in captured.err for name in ("results.json", "ranking.png"))


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
    assert "4 of 4 scores are in" in capsys.readouterr().err


def test_large_encoders_are_left_out_before_anything_is_extracted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = fake_zoo.FakeEncoder

    def load(name: str, **options: Any) -> fake_zoo.FakeEncoder:
        encoder = make(name, **options)
        encoder.num_parameters = 5000 if name == "wide" else 80
        if name == "wide":
            monkeypatch.setattr(encoder, "forward", None)
        return encoder

    monkeypatch.setattr("jaxrel.encoders.load", load)
    words = ["rank", "--target", "squares", "--encoder", "narrow", "wide", *SMALL, "--no-plot", "--quiet"]
    assert cli.main([*words, "--max-parameters", "100"]) == 0
    captured = capsys.readouterr()
    assert "wide is left out: 5,000 parameters, more than 100" in captured.err
    assert "wide" not in captured.out
    document = json.loads(Path("jaxrel-results/results.json").read_text())
    (row,) = document["pairs"][0]["rows"]
    assert (row["encoder"], row["num_parameters"], row["feature_width"]) == ("narrow", 80, 5)
    assert row["samples_per_second"] > 0
    assert document["command"] == ["jaxrel", *words, "--max-parameters", "100"]
    assert cli.main([*words, "--max-width", "4", "--output", "none"]) == 2
    assert "every encoder is larger than the limits" in capsys.readouterr().err
    assert not Path("none/results.json").exists()


def test_lines_are_not_written_again_by_a_handler_of_another_library(caplog: pytest.LogCaptureFixture) -> None:
    assert cli.main([*RANK, *SMALL]) == 0  # caplog has a handler at the root
    assert not caplog.records
    logging.getLogger("jaxrel").warning("after the command")
    assert "after the command" in caplog.text


def test_options_reach_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(*tasks: object, **options: object) -> object:
        seen.append((options["method"], options["key"]))
        return fake_zoo.task_relatedness(*tasks, **options)

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
        (["--held-out", "0"], "held_out is 0: with references, pass at least 1"),
        (["--target", ""], "the name of a data set is empty"),
        (["--reference", ""], "the name of a data set is empty"),
        (["--output", "~nouser/out"], "'~nouser/out' cannot be a path"),
        (["--output", ""], "the path is empty"),
        (["--data-path", "circles=~nouser/x"], "'~nouser/x' cannot be a path"),
        (["--samples", "many"], "invalid int value: 'many'"),
        (["--space", "outer"], "invalid choice: 'outer'"),
        (["--space", "feature", "--cost", "margin"], "cost must be one of"),
        (["--data-path", "circles"], "'circles' is not NAME=PATH"),
        (["--data-path", "circles=/no/where"], "does not exist"),
        (["--colour", "red"], "unrecognized arguments: --colour"),
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
def test_missing_files_are_named_and_status_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(data, "load", fail)
    assert cli.main([*RANK, *SMALL]) == 1
    captured = capsys.readouterr()
    assert "2 of 2 scores failed (narrow on squares, wide on squares)" in captured.err
    assert f"narrow, wide: failed: {error}" in captured.out
    assert cli.main([*RANK, *SMALL, "--strict"]) == 1
    assert f"jaxrel: error: {error}" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--label-free"]])
def test_rank_without_a_reference(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rank", "--target", "squares", "--encoder", "narrow", "wide", *SMALL, *options]) == 0
    out = capsys.readouterr().out
    assert "transferability: made up" in out
    assert "bound" not in out
    document = json.loads(Path("jaxrel-results/results.json").read_text())
    assert [pair["reference"] for pair in document["pairs"]] == [None]
    assert Path("jaxrel-results/ranking.png").exists()


def test_one_failing_encoder_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rank", "--target", "squares", "--encoder", "broken", "wide", *SMALL]
    for _ in range(2):  # the second time from the log
        assert cli.main(words) == 1
        captured = capsys.readouterr()
        assert "jaxrel: error: 1 of 2 scores failed (broken on squares), see the lines below the tables" in captured.err
        assert "broken: failed: broken gives features of sample 0" in captured.out
        assert "nan-nan" not in captured.out
    document = json.loads(Path("jaxrel-results/results.json").read_text())
    wide, broken = document["pairs"][0]["rows"]
    assert (broken["transferability"], broken["lower"]) == (None, None)
    assert isinstance(wide["transferability"], float)


def test_samples_left_out_are_counted_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = fake_zoo.load_data

    def load_some(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(load(*arguments, **options), skipped=(("a.png", "no picture"),))

    monkeypatch.setattr(data, "load", load_some)
    words = ["rank", "--target", "squares", "--encoder", "wide", *SMALL, "--quiet", "--skip-broken"]
    for _ in range(2):
        assert cli.main(words) == 0
        told = capsys.readouterr().err.replace("\n", " ")
        assert "squares: samples that cannot be read and are left out: 1, named in left_out.json" in " ".join(
            told.split()
        )
    document = json.loads(Path("jaxrel-results/left_out.json").read_text())
    assert document["left_out"] == {"squares": [["a.png", "no picture"]]}
    monkeypatch.setattr(data, "load", load)
    assert cli.main(words) == 0
    assert not Path("jaxrel-results/left_out.json").exists()


def test_results_of_another_command_are_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rank", "--target", "squares", "--encoder", "wide", *SMALL, "--no-plot"]) == 0
    content = Path("jaxrel-results/results.json").read_bytes()
    other = ["rank", "--target", "circles", "--encoder", "wide", *SMALL, "--no-plot"]
    assert cli.main(other) == 2
    told = capsys.readouterr().err
    assert "jaxrel-results holds results of another run (jaxrel rank --target squares --encoder wide" in told
    assert "Nothing was overwritten" in told
    assert Path("jaxrel-results/results.json").read_bytes() == content
    again = told.splitlines()[-1].split()
    assert again == ["jaxrel", *other, "--output", "jaxrel-results-2"]
    assert cli.main(again[1:]) == 0
    words = ["rank", "--output", "jaxrel-results", *other[1:]]
    assert cli.main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1].split() == ["jaxrel", *other, "--output", "jaxrel-results-3"]
    assert cli.main(["rank", "--target", "squares", "--encoder", "wide", "narrow", *SMALL, "--no-plot"]) == 0


@pytest.mark.parametrize("kind", ["file", "below a file", "long", "foreign log", "link", "device"])
def test_outputs_that_cannot_be_are_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    log = tmp_path / "folder" / "records.jsonl"
    output = {"file": "file", "below a file": "file/folder", "long": "x" * 300}.get(kind, "folder")
    if kind == "foreign log":
        log.write_text('{"a": 1}\n{"b": 2')
    elif kind == "link":
        log.symlink_to(tmp_path / "file")
    elif kind == "device":
        os.mkfifo(log)
    assert cli.main(["rank", "--target", "squares", "--encoder", "wide", *SMALL, "--output", output]) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("jaxrel: error: ")
    assert output in line
    assert (tmp_path / "file").read_text() == "mine"
    if kind == "foreign log":
        assert log.read_text() == '{"a": 1}\n{"b": 2'


def test_a_full_or_read_only_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rank", "--target", "squares", "--encoder", "wide", *SMALL]

    def refuse(number: int) -> Any:
        def call(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        return call

    with monkeypatch.context() as patch:
        patch.setattr("jaxrel.storage.records.os.write", refuse(errno.ENOSPC))
        assert cli.main([*words, "--quiet"]) == 1
    assert capsys.readouterr().err == "jaxrel: error: jaxrel-results/records.jsonl: No space left on device.\n"
    with monkeypatch.context() as patch:
        patch.setattr("jaxrel.storage.records.os.open", refuse(errno.EROFS))
        assert cli.main([*words, "--quiet"]) == 1
    assert capsys.readouterr().err == "jaxrel: error: jaxrel-results/records.jsonl: Read-only file system.\n"
    with monkeypatch.context() as patch:
        patch.setattr("jaxrel.storage.records.os.fsync", refuse(errno.ENOSPC))
        with pytest.raises(OSError, match=r"No space left on device: 'results.json'"):
            write_atomically(Path("results.json"), b"")


def test_a_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home(*_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    for name in ("JAXREL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cli.main(["rank", "--target", "squares", "--encoder", "wide", *SMALL]) == 1
    assert "set JAXREL_CACHE" in capsys.readouterr().err
    assert cli.main(["metrics"]) == 0  # which keeps nothing


def test_long_names_of_data_sets_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "check_name", lambda name, *, path=None: Path(name).stat())
    assert cli.main(["rank", "--target", "x" * 5000, "--encoder", "wide", *SMALL]) == 1
    assert capsys.readouterr().err.endswith("x: File name too long.\n")


def test_names_in_progress_and_log_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jaxrel.cli.console._SECONDS_BETWEEN_LINES", 0)
    with narrator(quiet=False) as progress:
        progress("[/x]: :smile: [red]", 1, 2)
        logging.getLogger("jaxrel").warning("[/y] %s", "[blue]")
        logging.getLogger("jaxrel").warning("\x1b[31m%s", "\x9b2J")
    error = capsys.readouterr().err
    assert "\\x1b[31m\\x9b2J" in error
    assert "[/x]: :smile: [red]" in error
    assert "[/y] [blue]" in error


def test_something_is_shown_before_the_first_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []

    @contextlib.contextmanager
    def narrator(*, quiet: bool) -> Iterator[Any]:
        yield lambda *step: told.append(step)

    monkeypatch.setattr("jaxrel.cli.console.narrator", narrator)
    cli.main([*RANK, *SMALL])
    assert told[0] == ("loading", 0, 4)


@pytest.mark.parametrize("words", [["extract", "--list"], ["rank", "--help"], ["completion", "zsh"]])
def test_a_closed_pipe_ends_the_command_without_a_word(words: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, fake_zoo.__file__, *words],
        env=fake_zoo.SUBPROCESS | {"JAXREL_CACHE": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate()[1] == ""


# Signals


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    words = ["rank", "--target", "squares", "circles", "--reference", "crosses", "--encoder", "narrow", "wide"]
    words += ["--samples", "60", "--held-out", "20", "--no-plot", "--output", str(folder / "out")]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a script runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, fake_zoo.__file__, *words],
        env=fake_zoo.SUBPROCESS | {"JAXREL_CACHE": str(folder / "cache"), "PYTHONFAULTHANDLER": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_ends_cleanly(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number, error
    assert "jaxrel: error: interrupted." in error
    for word in ("Traceback", "Fatal Python error", "Segmentation"):
        assert word not in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_command_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "out" / "records.jsonl"
    # From the first score on slower than a busy machine may keep this process waiting.
    process = start(tmp_path, FAKE_SECONDS="2", FAKE_SLOW_AFTER=str(log))
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    assert_ends_cleanly(process, number)
    finished = [json.loads(line) for line in log.read_text().splitlines()]
    assert 1 <= len(finished) < 4
    assert not list((tmp_path / "out").glob(".writing-*"))


@pytest.mark.slow
def test_twenty_interrupts_of_the_real_method_end_cleanly(tmp_path: Path) -> None:
    """Threads of XLA compile and compute when the signal comes, at any moment after the first program."""
    generator = np.random.default_rng(0)
    interrupted = 0
    for attempt in range(20):
        busy = {"REAL_METHOD": "1", "JAX_ENABLE_COMPILATION_CACHE": "0", "JAX_LOG_COMPILES": "1"}
        with start(tmp_path / str(attempt), **busy) as process:
            assert process.stderr is not None
            process.stderr.readline()
            time.sleep(generator.uniform(0, 4))
            if process.poll() is None:
                assert_ends_cleanly(process, (signal.SIGINT, signal.SIGTERM)[attempt % 4 == 3])
                interrupted += 1
    assert interrupted == 20


def test_output_in_use_is_one_message_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with StudyLog(Path("busy/records.jsonl")):
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
        return fake_zoo.task_relatedness(*tasks, **options)

    monkeypatch.setattr(jaxrel, "task_relatedness", interrupted)
    words = [*RANK, *SMALL, "--output", "a folder"]
    assert cli.main(words) == 130
    error = capsys.readouterr().err
    assert shlex.join(["jaxrel", *words]) in error
    kept = [json.loads(line) for line in Path("a folder/records.jsonl").read_text().splitlines()]
    assert [(record["encoder"], record["metric"]) for record in kept] == [
        ("narrow", "transferability"),
        ("narrow", "bound"),
        ("wide", "transferability"),
    ]
    assert cli.main(words) == 0
    assert "3 of 4 scores are in" in capsys.readouterr().err


def test_missing_matplotlib_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main([*RANK, *SMALL]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not Path("jaxrel-results/ranking.png").exists()


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
        records = [json.loads(line) for line in (tmp_path / name / "records.jsonl").read_text().splitlines()]
        assert [record["status"] for record in records] == ["ok"] * 4
        costs = ("extraction_seconds", "compilation_seconds", "scoring_seconds")
        numbers = [{key: value for key, value in record["numbers"].items() if key not in costs} for record in records]
        lines.append([(record["key"], numbers, record["resamples"]) for record in records])
    assert lines[0] == lines[1]
