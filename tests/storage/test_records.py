"""Files that are written whole or not at all, and logs that notice damage and leave other files alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrel.storage.records import (
    RecordLog,
    ReplacedError,
    check_replaceable,
    from_json_number,
    json_number,
    read_records,
    write_atomically,
)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert _files(tmp_path) == [path]


def test_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "written", b"")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Logs


class Log(RecordLog[dict[str, Any]]):
    """Records as they are."""

    def encoded(self, item: dict[str, Any]) -> dict[str, Any]:
        return item

    def decoded(self, record: dict[str, Any]) -> dict[str, Any]:
        return record


RECORDS: list[dict[str, Any]] = [
    {"key": "a", "value": 0.1},
    {"key": "b", "value": 2.5, "text": "[red] \u00e4"},
    {"key": "c", "value": None},
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with Log(tmp_path / "log") as log:
        log.extend(RECORDS)
    return tmp_path / "log"


def test_lines_are_json_with_a_checksum_first(log: Path) -> None:
    for line, record in zip(log.read_text().splitlines(), RECORDS, strict=True):
        assert line.startswith('{"jaxrel": "')
        found = json.loads(line)
        assert len(found.pop("jaxrel")) == 16
        assert found == record


def test_no_damaged_byte_changes_a_record(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = log.read_bytes()
    generator = np.random.default_rng(0)
    expected = {record["key"]: record for record in RECORDS}
    for position in range(len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= int(generator.integers(1, 256))
        log.write_bytes(damaged)
        caplog.clear()
        found = read_records(log)
        assert found.items() <= expected.items()
        if found != expected:
            assert "their scores are computed again" in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"mine", b'{"a": 1}\n{"b": 2', b'{\n  "a": 1\n}', b'{"key": "a", "value": 1}\n', b"\xff\x00\n\n", b"{", b"\n"],
)
def test_files_of_other_programs_are_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(OSError, match="is not a log of this version of jaxrel"):
        Log(path)
    assert path.read_bytes() == content


def test_links_are_not_followed(log: Path, tmp_path: Path) -> None:
    content = log.read_bytes()[:-5]
    log.write_bytes(content)
    (tmp_path / "link").symlink_to(log)
    with pytest.raises(OSError, match="link"):
        Log(tmp_path / "link")
    assert log.read_bytes() == content


def test_a_deep_line_is_passed_over(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b"[" * 200_000 + b"\n")
    with Log(log) as opened:
        assert opened.find("c") == RECORDS[2]


def test_missing_numbers_are_null() -> None:
    values = [1.5, math.nan, math.inf, -math.inf]
    written = json.loads(json.dumps([json_number(value) for value in values], allow_nan=False))
    assert written == [1.5, None, "inf", "-inf"]
    np.testing.assert_array_equal([from_json_number(value) for value in written], values)


# Files that belong to a run


def test_files_are_replaced_only_by_those_that_have_all_of_them(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "a.csv"]
    check_replaceable(paths, [], list)
    paths[0].write_text('["x", "y"]')
    check_replaceable(paths, ["x", "y"], list)
    check_replaceable(paths, ["z", "y", "x"], list)
    for rows in (["x"], []):
        with pytest.raises(ReplacedError, match=r"holds results of another run, and a.json would be replaced"):
            check_replaceable(paths, rows, list)
    paths[0].unlink()
    paths[1].write_text("mine")
    with pytest.raises(ValueError, match="holds results of another run"):
        check_replaceable(paths, ["x"], list)


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        (
            {"command": ["jaxrel", "rank", "--target", "my pictures"]},
            r"run \(jaxrel rank --target 'my pictures', today\),",
        ),
        ({"command": None}, r"run \(from Python, today\),"),
        ({"command": ["x" * 20] * 100}, r"x \.\.\., today\),"),
    ],
)
def test_what_a_folder_holds_is_said(tmp_path: Path, origin: dict[str, Any], told: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"written": "today", **origin}))
    with pytest.raises(ReplacedError, match=told) as raised:
        check_replaceable([tmp_path / "a.json"], [], list)
    assert raised.value.folder == tmp_path
    assert len(str(raised.value)) < 700
