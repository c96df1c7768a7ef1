"""Metrics, encoders and data sets of other packages, by entry points."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import ROOT

from jaxrel._core import plugins
from jaxrel._core.plugins import Registry
from jaxrel.encoders import EncoderPlugin

PLUGIN = ROOT / "examples" / "plugin"


@dataclass(frozen=True)
class Entry:
    name: str


FIRST, SECOND, CLAIMS_OURS, CLAIMS_FIRST = Entry("first"), Entry("second"), Entry("ours"), Entry("first")
NOT_AN_ENTRY = "text"


def registry(monkeypatch: pytest.MonkeyPatch, objects: Iterable[str], looks: list[str]) -> Registry[Entry]:
    """One of "ours" whose plugins are objects of this module, in an order of their own; notes each look for plugins."""
    points = [
        importlib.metadata.EntryPoint(f"{number}", value if ":" in value else f"{__name__}:{value}", "tests")
        for number, value in enumerate(objects)
    ]

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        looks.append(group)
        return points

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return Registry("tests", Entry, [Entry("ours")], reserved=["reserved"])


def test_plugins_are_loaded_at_the_first_look(monkeypatch):
    looks: list[str] = []
    found = registry(monkeypatch, ["SECOND", "FIRST"], looks)
    assert looks == []
    assert list(found) == ["ours", "second", "first"]
    assert found["first"] is FIRST
    assert "absent" not in found
    assert looks == ["tests"]


def test_what_cannot_be_loaded_is_named_and_the_others_are_there(monkeypatch, caplog):
    broken = ["no_such_module:ENTRY", "ABSENT", "NOT_AN_ENTRY", "CLAIMS_OURS", "FIRST", "CLAIMS_FIRST", "SECOND"]
    assert list(registry(monkeypatch, broken, [])) == ["ours", "first", "second"]
    warnings = [record.getMessage() for record in caplog.records]
    reasons = [
        ("no_such_module:ENTRY", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("ABSENT", "has no attribute 'ABSENT'"),
        ("NOT_AN_ENTRY", "TypeError: it is a str, expected a Entry"),
        ("CLAIMS_OURS", "ValueError: the name 'ours' is taken"),
        ("CLAIMS_FIRST", "ValueError: the name 'first' is taken"),
    ]
    assert len(warnings) == len(reasons)
    for warning, (value, reason) in zip(warnings, reasons, strict=True):
        assert value in warning
        assert "not in the group tests" in warning
        assert reason in warning


@pytest.mark.parametrize("name", ["", "own:random", "own@file"])
def test_names_of_encoders_are_plain(name):
    with pytest.raises(ValueError, match="without ':' and '@'"):
        EncoderPlugin(name, "images", load=lambda **_: None)


def install(site: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    """What pip would write of a package."""
    folder = site / f"{name.replace('-', '_')}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in of.items()) for group, of in groups.items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which the example is installed, and a package that is broken."""
    site = tmp_path / "site"
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["entry-points"])
    install(site, "broken", {group: {"broken": "broken_module:ENTRY"} for group in project["entry-points"]})
    paths = os.pathsep.join(map(str, (site, PLUGIN, ROOT)))
    return os.environ | {"PYTHONPATH": paths, "JAXREL_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}


def jaxrel(environment: dict[str, str], *arguments: str) -> tuple[str, str]:
    """What the command prints on stdout and stderr."""
    command = [sys.executable, "-m", "jaxrel", *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, finished.stderr


@pytest.mark.slow
def test_commands_know_the_plugins_of_the_example(environment, tmp_path):
    out, err = jaxrel(environment, "metrics", "--json")
    metrics = {record["name"]: record for record in json.loads(out)["metrics"]}
    assert metrics["correlation_ratio"]["source"] == "Fisher, 1925"
    assert "logme" in metrics
    assert "broken_module:ENTRY of broken is not in the group jaxrel.metrics: ModuleNotFoundError" in err

    source = ["--target", "stripes", "--encoder", "grid", "pixels", "--samples", "60", "--quiet", "--no-plot"]
    out, _ = jaxrel(environment, "rank", *source, "--resamples", "10", "--output", str(tmp_path / "ranking"))
    assert "grid" in out
    (pair,) = json.loads((tmp_path / "ranking" / "results.json").read_text())["pairs"]
    assert {row["encoder"] for row in pair["rows"]} == {"grid", "pixels"}

    jaxrel(environment, "score", *source, "--metric", "correlation_ratio", "--output", str(tmp_path / "scores"))
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["scores"]
    assert all(0 < score["value"] < 1 for score in scores)
    assert len(scores) == 2
