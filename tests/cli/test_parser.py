"""How command lines are read, explained, completed and refused, without JAX."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_zoo
import pytest

from jaxrel import cli, data, encoders
from jaxrel.cli import commands, names
from jaxrel.cli.parser import parser
from jaxrel.metrics.registry import METRICS
from jaxrel.relatedness.ground_costs import cost_names
from jaxrel.study import Settings, named_classes
from jaxrel.study.drawing import FORMATS
from jaxrel.study.plan import OF_STUDIES
from jaxrel.study.records import LOG

COMMANDS = ("rank", "score", "study", "verify", "report", "extract", "metrics", "completion")
GROUPS = ("data", "encoders", "scoring", "output", "running")
COMPUTING = ("rank", "score", "study", "verify", "extract")


def command(name: str) -> Any:
    """The parser of one command."""
    (subparsers,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return subparsers.choices[name]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message, more = captured.err.splitlines()
    assert more.startswith("Try: jaxrel")
    return message


def test_what_the_parser_says_is_what_the_library_has():
    assert tuple(data.names()) == names.DATA_SETS
    assert encoders.names() == names.ENCODERS
    assert tuple(f"@{name}" for name in encoders.PRESETS) == names.LISTS
    assert tuple(METRICS) == names.METRICS
    assert names.TRAINED == OF_STUDIES
    assert cost_names("prediction", "feature") == names.COSTS
    assert (names.TEACHER, names.PICTURES, names.LOG) == (named_classes.TEACHER, FORMATS, LOG)


@pytest.mark.parametrize("name", COMPUTING)
def test_defaults_are_those_of_the_settings(name):
    defaults = {field.name: getattr(Settings(), field.name) for field in dataclasses.fields(Settings)}
    own = {"rank": ("class_names",), "study": ("samples", "seed"), "verify": ("seed",), "extract": ("samples",)}.get(
        name, ()
    )
    options = [action for action in command(name)._actions if action.dest in defaults and action.dest not in own]
    assert len(options) >= 5
    for action in options:
        default, kept = defaults[action.dest], name == "verify" and action.dest in commands.VERIFIED
        assert action.default == (None if kept else default), action.dest
        if default and not isinstance(default, str):
            assert f"(default: {default})" in action.help, action.dest


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_sentences_in_groups_with_examples_that_are_read(name, capsys):
    text = shown(capsys, name, "--help")
    own = command(name)
    for action in own._actions[1:]:  # but --help
        assert re.fullmatch(r"[A-Z].*[^.]\.", action.help % vars(action)), action.dest
    groups = [group.title for group in own._action_groups if group._group_actions]
    assert groups == ["options", *(group for group in GROUPS if group in groups)]
    assert [action.dest for action in own._action_groups[1]._group_actions] == ["help"]
    examples = re.findall(r"^  (jaxrel .*)", text, re.MULTILINE)
    assert examples
    for example in examples:
        options = parser().parse_args(shlex.split(example.partition(">")[0])[1:])
        assert options.module == f"jaxrel.cli.{name}"


def test_names_in_help_are_in_one_piece(capsys):
    text = shown(capsys, "rank", "--help")
    words = (*names.DATA_SETS, *names.ENCODERS, *names.LISTS, "hf:NAME", "tfds:NAME", "NAME@CHECKPOINT", "NAME:random")
    assert not [name for name in words if name not in text]


def test_exit_statuses_are_told_as_on_the_page(capsys):
    told = re.findall(r"^  (\d+)  ", shown(capsys, "--help"), re.MULTILINE)
    page = Path(__file__).parents[2] / "docs" / "command_line.md"
    assert told == ["0", "1", "2", "130"] == re.findall(r"^\| (\d+)", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnak"], "'rnak' (did you mean 'rank'?)"),
        (["Extract"], "(did you mean 'extract'?)"),
        (["qqq"], "invalid choice: 'qqq': choose from rank,"),
        (["rank", "--targt", "x"], "unrecognized arguments: --targt (did you mean '--target'?)"),
        (["rank", "--encoders=x"], "--encoders=x (did you mean '--encoder'?)"),
        (["rank", "--imagesize", "9"], "(did you mean '--image-size'?)"),
        (["rank", "--target", "a", "--encoder", "b", "--space", "features"], "(did you mean 'feature'?)"),
        (["score", "--cost", "margin"], "unrecognized arguments: --cost"),
        (["metrics", "extra"], "unrecognized arguments: extra"),
        (["rank", "--target", "a", "--encoder", "@image_small"], "(did you mean 'images-small'?)"),
        (["completion", "bsh"], "(did you mean 'bash'?)"),
        (["rank", "--\x1b[31m"], "\\x1b[31m"),
    ],
)
def test_what_is_misspelled_is_asked_about(words, message, capsys):
    assert message in refused(capsys, *words)


def test_words_after_a_double_dash_are_no_options():
    assert parser().parse_args(["score", "--", "--mine.npz"]).files == [Path("--mine.npz")]


# Completion


def completed(line: str) -> list[str]:
    """What the command prints where a shell asks it to complete a line."""
    reading, writing = os.pipe()
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    script = f"import os; os.dup2({writing}, 8); import runpy; runpy.run_module('jaxrel', run_name='__main__')"
    subprocess.run(
        [sys.executable, "-c", script],
        env=fake_zoo.SUBPROCESS | asked,
        pass_fds=[writing],
        stderr=subprocess.PIPE,
        check=True,
    )
    os.close(writing)
    with os.fdopen(reading) as answer:
        return answer.read().split("\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("jaxrel re", ["report"]),
        ("jaxrel rank --encoder pixels mobile", ["mobilenet-v2"]),
        ("jaxrel rank --encoder @texts", ["@texts-small", "@texts-strong"]),
        ("jaxrel rank --reference mnist --target fa", ["fashion-mnist"]),
        ("jaxrel study --metric logme_", ["logme_regression"]),
        ("jaxrel study --metric pro", ["probe_accuracy"]),
    ],
)
def test_names_are_completed(line, expected):
    assert [word.strip() for word in completed(line)] == expected


@pytest.mark.parametrize("shell", commands.SHELLS)
def test_completion_prints_a_script_for_each_shell(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "jaxrel" in script
    assert {"bash": "COMPREPLY", "zsh": "compdef", "fish": "commandline"}[shell] in script


@pytest.mark.parametrize(
    "words", [["--help"], ["rank", "--help"], ["completion", "bash"], ["rank", "--encoder", "x"], ["rnak"]]
)
def test_jax_is_not_imported_to_explain_or_to_refuse(words):
    command = [sys.executable, "-X", "importtime", "-m", "jaxrel", *words]
    done = subprocess.run(command, env=fake_zoo.SUBPROCESS, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "jaxrel.cli.parser" in imported
    assert not {"jax", "numpy", "rich"} & imported
