"""What goes to stdout and to stderr, to a terminal and to a file."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import fake_zoo
import pytest

from jaxrel import cli
from jaxrel.cli import console

SMALL = ["--encoder", "narrow", "wide", "--samples", "30", "--no-plot"]
RANK = ["rank", "--target", "squares", "--resamples", "20", *SMALL]
FILES = {
    "results.json": RANK,
    "scores.json": ["score", "--target", "squares", "--metric", "gbc", *SMALL],
    "study.json": ["study", "--target", "squares", "--metric", "gbc", "--encoder", "wide", "--no-plot"],
    "verification.json": ["verify", "--target", "squares", "--epochs", "1", "--seed", "0", "--resamples", "20", *SMALL],
}
PRINTED = {
    "tables": ["extract", "--encoder", "wide", "--data", "squares", "--samples", "30"],
    "metrics": ["metrics"],
    "units": ["study", "--plan", "--target", "squares", "--metric", "gbc", "--encoder", "wide"],
}


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    fake_zoo.install(monkeypatch.setattr)


def show_in_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both streams be those of a terminal; called by a test itself, which captures by streams of its own."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)


def main(*words: str) -> None:
    """Run a command, which may say that something is missing."""
    assert cli.main(words) in (0, 1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "verification.json" else name for name in FILES],
)
def test_json_is_what_the_file_holds(name, capsys):
    main(*FILES[name], "--output", "out", "--json")
    out = capsys.readouterr().out
    assert out == Path("out", name).read_text()
    assert json.loads(out)["schema"] == 1


@pytest.mark.parametrize("name", PRINTED)
def test_json_of_what_has_no_file_is_one_document(name, capsys):
    main(*PRINTED[name], "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document[name]


def test_reports_are_json_by_either_option(capsys):
    main(*RANK)
    capsys.readouterr()
    documents = []
    for words in (["--json"], ["--format", "json"]):
        main("report", "jaxrel-results", *words)
        captured = capsys.readouterr()
        assert captured.err == ""
        documents.append(json.loads(captured.out))
    assert documents[0] == documents[1]
    assert documents[0]["schema"] == 1
    assert len(documents[0]["results"]) == 2


def test_a_table_is_alone_on_stdout(capsys):
    main(*RANK, "--quiet")
    quiet = capsys.readouterr()
    main(*RANK)
    told = capsys.readouterr()
    assert told.out == quiet.out
    assert quiet.err == ""
    assert all(word in told.err for word in ("2 of 2 scores are in", "What to trust", "results.json"))


def is_coloured(text: str) -> bool:
    return re.search(r"\x1b\[[\d;]*3\dm", text) is not None


ONE_FAILURE = [*RANK, "--encoder", "broken", "wide"]  # whose line in the table is red


def test_no_colours_and_no_moving_line_in_a_file(capsys):
    main(*ONE_FAILURE)
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\r" not in captured.err


def test_colours_are_forced_but_nothing_moves(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(*ONE_FAILURE)
    captured = capsys.readouterr()
    assert is_coloured(captured.out)
    assert not re.search(r"\x1b\[[\d;]*[A-LhlK]|\r", captured.err)  # cursors and lines


def test_colours_on_a_terminal_unless_they_are_refused(monkeypatch, capsys):
    show_in_terminal(monkeypatch)
    main(*ONE_FAILURE)
    assert is_coloured(capsys.readouterr().out)
    monkeypatch.setenv("NO_COLOR", "1")
    main(*ONE_FAILURE)
    assert not is_coloured(capsys.readouterr().out)


# Progress


def lines(error: str) -> list[str]:
    return [line for line in error.splitlines() if line.strip()]


def test_progress_in_a_file_is_a_line_now_and_then(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr("jaxrel.cli.console.time.monotonic", lambda: now)
    with console.narrator(quiet=False) as progress:
        for done in range(31):
            now = 100.0 + done
            progress("scoring", done, 30)
            progress("wide: squares", 1, 2)
    told = lines(capsys.readouterr().err)
    assert [line.partition(",")[0] for line in told] == [f"scoring: {done} of 30" for done in (10, 20, 30)]


def test_a_part_is_told_with_what_it_is_a_part_of(monkeypatch, capsys):
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0)
    with console.narrator(quiet=False) as progress:
        progress("scoring", 3, 12)
        progress("wide: squares", 1, 2)
        progress("wide: squares", 2, 2)
        progress("wide: circles", 1, 2)
        progress("scoring", 4, 12)
        progress("narrow: squares", 0, 2)
    told = [line.partition(",")[0] for line in lines(capsys.readouterr().err)]
    assert told == [
        "scoring: 3 of 12",
        "scoring 3/12 · wide: squares: 1 of 2",
        "scoring 3/12 · wide: squares: 2 of 2",
        "scoring 3/12 · wide: circles: 1 of 2",
        "scoring: 4 of 12",
        "scoring 4/12 · narrow: squares: 0 of 2",
    ]


def test_progress_on_a_terminal_is_one_line(monkeypatch, capsys):
    show_in_terminal(monkeypatch)
    with console.narrator(quiet=False) as progress:
        progress("scoring", 3, 12)
        progress("wide: squares", 14, 20)
        shown: Any = progress
        visible = [task.description for task in shown._shown.tasks if task.visible]
        assert visible == ["scoring 3/12 · wide: squares"]
        shown._shown.refresh()
        logging.getLogger("jaxrel").warning("a warning")
        progress("wide: squares", 20, 20)
        assert [task.description for task in shown._shown.tasks if task.visible] == ["scoring"]
    error = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "\r", capsys.readouterr().err)
    before, warned, _ = error.partition("a warning")
    assert warned
    assert re.search(r"scoring 3/12 · wide: squares +\r.*\D14/20", before)
    assert "\n" not in before  # one line, not several


def test_quiet_shows_no_progress(monkeypatch, capsys):
    show_in_terminal(monkeypatch)
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0)
    with console.narrator(quiet=True) as progress:
        progress("scoring", 3, 12)
    assert capsys.readouterr().err == ""
