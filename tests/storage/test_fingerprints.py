"""Fingerprints are computed once for what is there, and again when that changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from jaxrel import data, encoders
from jaxrel.storage.fingerprints import file_states, remembered


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        (root / name / "1.txt").write_text(name)
    return root


def _rewritten(path: Path) -> None:
    """With the same size and, as an editor that hides its traces would, the same time of change of the content."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: _rewritten(root / "cats" / "1.txt"),
        lambda root: (root / "cats" / "2.txt").write_text("one more"),
        lambda root: (root / "dogs" / "1.txt").unlink(),
        lambda root: (root / "dogs" / "1.txt").rename(root / "cats" / "3.txt"),
        lambda root: (root / "birds").mkdir(),
    ],
    ids=["edited", "added", "removed", "moved", "an empty class"],
)
def test_any_change_below_a_folder_is_seen(folder, change):
    before = file_states(folder)
    assert sum(size >= 0 for _, size, *_ in before) == 2
    assert before == file_states(folder)
    change(folder)
    assert file_states(folder) != before


def test_links_are_followed_once(folder, tmp_path):
    (folder / "back").symlink_to(folder)
    (folder / "nowhere").symlink_to(tmp_path / "absent")
    (folder / "loop").symlink_to(folder / "loop")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "birds.txt").write_text("birds")
    (folder / "birds").symlink_to(linked)
    names = [Path(path).name for path, size, *_ in file_states(folder) if size >= 0]
    assert sorted(names) == ["1.txt", "1.txt", "birds.txt"]
    assert {Path(path).name for path, size, *_ in file_states(folder) if size < 0} > {"nowhere", "loop"}
    assert file_states(tmp_path / "absent") == []


def test_a_value_is_computed_once_for_each_source(tmp_path):
    calls = []

    def compute() -> list[str]:
        calls.append(1)
        return ["a", "b"]

    assert [remembered(["one", 1], compute) for _ in range(3)] == [["a", "b"]] * 3
    assert len(calls) == 1
    remembered(["two", 1], compute)
    assert len(calls) == 2
    assert [remembered(None, compute) for _ in range(2)] == [["a", "b"]] * 2  # nothing is known of it
    assert len(calls) == 4
    for file in (tmp_path / "cache" / "fingerprints").iterdir():
        file.write_text("{")
    assert remembered(["one", 1], compute) == ["a", "b"]
    assert len(calls) == 5


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "file"))
    assert remembered("source", lambda: 3) == 3


def test_states_of_data_sets(folder, tmp_path, monkeypatch):
    own = data.source_state(str(folder))
    assert own == data.source_state(str(folder))
    _rewritten(folder / "cats" / "1.txt")
    assert data.source_state(str(folder)) != own
    assert data.source_state("hf:owner/name") is None
    assert data.source_state("tfds:mnist") is None
    # A provider that comes first and has nothing yet is looked at again.
    monkeypatch.setenv("JAXREL_DATA", str(tmp_path / "data"))
    before = data.source_state("digits")
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "digits.npz", images=np.zeros((1, 8, 8), np.uint8), labels=np.zeros(1, int))
    assert data.source_state("digits") != before


def test_states_of_encoders(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    name = f"resnet-18@{weights}"
    state = encoders.source_state(name)
    assert state == encoders.source_state(name, seed=5)  # no weight is drawn
    _rewritten(weights)
    assert encoders.source_state(name) != state
    state = encoders.source_state(name)
    (tmp_path / "config.json").write_text("{}")  # beside it, where some look for it
    assert encoders.source_state(name) != state
    assert encoders.source_state("resnet-18@owner/name") is None
    random = [encoders.source_state("mobilenet-v2:random", seed=seed) for seed in (0, 0, 1)]
    assert random[0] == random[1] != random[2]
    assert encoders.source_state("mobilenet-v2") != encoders.source_state("mobilenet-v2", image_size=96)
