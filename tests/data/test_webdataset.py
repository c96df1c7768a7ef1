"""Shards of WebDataset: pictures and labels by key, read where they lie in the archive."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxrel.data
from jaxrel.data import DataError, StreamedImages, Word
from jaxrel.data.readers import read_path
from jaxrel.data.readers.text_columns import Columns
from jaxrel.data.readers.webdataset import expanded


def png(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5), index, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, members: Mapping[str, bytes], *special: tarfile.TarInfo, kind: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, kind) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in special:
            archive.addfile(entry)
    return path


def labelled(path: str | Path, columns: Columns = Columns()) -> dict[int, str]:  # noqa: B008
    """The label of each picture by its grey value."""
    found = read_path(Path(path), columns)
    assert isinstance(found.samples, np.ndarray)
    return {int(image[0, 0, 0]): str(label) for image, label in zip(found.samples, found.labels, strict=True)}


def test_shards_are_a_file_a_folder_or_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in range(3):
        rows = range(10 * shard, 10 * shard + 10)
        members = {f"a/{i:03}.{e}": c for i in rows for e, c in (("png", png(i)), ("cls", b"%d\n" % (i % 12)))}
        write_shard(tmp_path / f"train-{shard:02}.tar", members)
    wanted = {i: str(i % 12) for i in range(30)}
    assert labelled(tmp_path) == labelled(tmp_path / "train-{00..02}.tar") == wanted
    assert list(labelled(tmp_path / "train-{02,00}.tar")) == [*range(20, 30), *range(10)]  # in the order of the shards
    assert labelled(tmp_path / "train-01.tar") == {i: wanted[i] for i in range(10, 20)}
    monkeypatch.chdir(tmp_path)
    data = jaxrel.data.load_splits("train-{00..02}.tar", test_limit=0)[0]
    assert (len(data), data.class_names) == (30, tuple(map(str, range(12))))  # by value
    for path in ("train-{00..03}.tar", "absent.tar"):
        with pytest.raises(
            ValueError, match=r"the path given for the data set .*, (train-03|absent).tar, does not exist"
        ):
            jaxrel.data.check_name(path)
    before = jaxrel.data.source_state("train-{00..02}.tar")
    os.utime("train-01.tar", ns=(1, 1))
    assert before != jaxrel.data.source_state("train-{00..02}.tar")


def test_patterns_are_expanded() -> None:
    assert list(map(str, expanded(Path("{a,b}-{8..10}.tar")))) == [f"{x}-{n}.tar" for x in "ab" for n in (8, 9, 10)]
    assert expanded(Path("a.tar")) == [Path("a.tar")]


@pytest.mark.parametrize(
    ("labels", "columns", "wanted"),
    [
        ({"txt": b" owl\n"}, Columns(), "owl"),
        ({"txt": b"a bird", "cls": b"7"}, Columns(), "7"),
        ({"json": b'{"width": 3, "label": "moth"}'}, Columns(), "moth"),
        ({"json": b"3"}, Columns(), "3"),
        ({"json": b'{"label": 1, "species": 4}', "cls": b"2"}, Columns(label="species"), "4"),
        ({"CLS": b"2"}, Columns(label=""), ""),
        ({"depth.png": png(9)}, Columns(), ""),
    ],
)
def test_labels_are_those_of_the_member_that_has_them(
    labels: dict[str, bytes], columns: Columns, wanted: str, tmp_path: Path
) -> None:
    members = {f"x.{ending}": content for ending, content in labels.items()} | {"x.PNG": png(5), "._x.png": b""}
    assert labelled(write_shard(tmp_path / "toy.tar", members), columns) == {5: wanted}


def test_a_sample_without_its_label_is_of_unknown_class(tmp_path: Path) -> None:
    members = {"x.png": png(1), "x.cls": b"0", "y.png": png(2), "y.txt": b"a caption"}
    assert labelled(write_shard(tmp_path / "toy.tar", members)) == {1: "0", 2: ""}


def test_broken_pictures_are_named_by_shard_and_member(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {f"{i}.{e}": c for i in range(8) for e, c in (("png", png(i)), ("cls", b"0"))}
    shard = write_shard(tmp_path / "toy.tar", members | {"../3.png": b"no picture", "../3.cls": b"1", "4x.cls": b"1"})
    message = rf"^\.\./3\.png of {shard} cannot be read as a picture: .* \(1 more of toy cannot be read\): repair"
    with pytest.raises(DataError, match=message):
        jaxrel.data.load(str(shard))
    data = jaxrel.data.load_splits(str(shard), test_limit=0, skip_broken=True)[0]
    assert len(data) == 8
    assert [name for name, _ in data.skipped] == [f"../3.png of {shard}", f"4x.cls of {shard}"]
    assert data.skipped[1][1] == "there is no picture beside it"
    assert f"toy: 4x.cls of {shard} is left out: there is no picture beside it" in caplog.messages
    assert list(tmp_path.iterdir()) == [shard]
    assert not (tmp_path.parent / "3.png").exists()


def test_pictures_of_more_than_a_gibibyte_stay_in_their_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"{i}.{e}": c for i in range(16) for e, c in (("png", png(i)), ("cls", b"%d" % (i % 2)))}
    shard = write_shard(tmp_path / "toy.tar", members)
    monkeypatch.setattr("jaxrel.data.readers.pictures._LARGEST_STACK", 1)
    data = jaxrel.data.load_splits(str(shard), test_limit=0)[0]
    assert isinstance(data, StreamedImages)
    found = data.samples[:]
    assert found.shape == (16, 224, 224, 3)
    assert {(int(image[0, 0, 0]), int(label)) for image, label in zip(found, data.labels, strict=True)} == {
        (i, i % 2) for i in range(16)
    }


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


@pytest.mark.parametrize(
    ("members", "special", "message"),
    [
        ({}, [link("x.png", "/etc/passwd")], "x.png of .*toy.tar is not a plain file: remove it"),
        (
            {"x.png": png(1), "x.jpg": png(2)},
            [],
            "x.png of .*toy.tar has another picture beside it, x.jpg: remove one",
        ),
        ({"x.cls": b"1"}, [], r"toy.tar has neither pictures \(.*\) nor texts \(.txt, .json\)"),
        ({"x.png": png(1), "x.PNG": png(2)}, [], "toy.tar has x.PNG twice"),
        ({"x.png": png(1), "x.cls": b"\xff"}, [], "x.cls of .*toy.tar is not UTF-8"),
        ({"x.png": png(1), "x.json": b"{"}, [], "x.json of .*toy.tar is not JSON"),
        ({"x.png": png(1), "x.json": b'{"a": 1, "b": 2}'}, [], r"keys a, b: pass .* label_column \(--label-column\)"),
        (
            {"x.png": png(1), "x.json": b'{"label": [1, 2]}'},
            [],
            "x.json of .* has .1, 2. for 'label': a sample must have one",
        ),
        ({"x.png": b"no picture"}, [], "none of 1 pictures can be read: x.png of"),
    ],
)
def test_shards_that_are_no_set_are_refused(
    members: dict[str, bytes], special: list[tarfile.TarInfo], message: str, tmp_path: Path
) -> None:
    shard = write_shard(tmp_path / "toy.tar", members, *special)
    with pytest.raises(DataError, match=message):
        jaxrel.data.load(str(shard))


def test_damaged_and_packed_shards_are_refused(tmp_path: Path) -> None:
    packed = write_shard(tmp_path / "packed.tar", {"x.png": png(1)}, kind="w:gz")
    cut = write_shard(tmp_path / "cut.tar", {"x.png": png(1), "y.png": os.urandom(2000)})
    cut.write_bytes(cut.read_bytes()[:2500])
    for shard in (packed, cut):
        with pytest.raises(DataError, match=f"{shard} is not a tar archive, or damaged: .*; decompress"):
            jaxrel.data.load(str(shard))
    with pytest.raises(DataError, match=r"no sample has a member \.json to hold the label under the key 'age'"):
        jaxrel.data.load(str(write_shard(tmp_path / "toy.tar", {"x.png": png(1)})), label_column="age")


def test_what_is_beside_shards_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shard(tmp_path / "toy.tar", {"x.png": png(1), "x.cls": b"0"})
    (tmp_path / "sizes.json").write_text(json.dumps({}))
    assert labelled(tmp_path) == {1: "0"}
    assert caplog.messages == [f"{tmp_path}: an entry beside the shards is left out: sizes.json"]


def texts_of(path: Path, columns: Columns = Columns()) -> dict[Any, str]:  # noqa: B008
    """The label of each text."""
    found = read_path(path, columns)
    return {sample: str(label) for sample, label in zip(found.samples, found.labels, strict=True)}


@pytest.mark.parametrize(
    ("members", "columns", "wanted"),
    [
        ({"x.txt": b"an owl\n", "x.cls": b"0\n", "y.txt": b"a moth"}, Columns(), {"an owl\n": "0", "a moth": ""}),
        ({"x.txt": b"an owl"}, Columns(), {"an owl": ""}),
        ({"x.txt": b"\xef\xbb\xbfan owl", "x.cls": b"\xef\xbb\xbf0"}, Columns(), {"an owl": "0"}),
        ({"x.json": b'\xef\xbb\xbf{"text": "an owl", "label": 3}'}, Columns(), {"an owl": "3"}),
        ({"x.txt": b"an owl", "x.json": b'{"label": "bird", "text": "no"}'}, Columns(), {"an owl": "bird"}),
        ({"x.json": b'{"text": "an owl"}', "x.cls": b"7"}, Columns(), {"an owl": "7"}),
        ({"x.json": b'{"text": "an owl", "label": 3}'}, Columns(), {"an owl": "3"}),
        ({"x.png": png(1), "x.txt": b"an owl", "x.cls": b"1"}, Columns(("txt",)), {"an owl": "1"}),
        (
            {"x.txt": b"no", "x.json": b'{"a": "an owl", "b": "flies", "c": 2}'},
            Columns(("a", "b"), "c", pair=True),
            {("an owl", "flies"): "2"},
        ),
        (
            {"x.json": b'{"tokens": ["an", "owl"], "tags": [0, 1]}'},
            Columns(),
            {Word(("an", "owl"), 0): "0", Word(("an", "owl"), 1): "1"},
        ),
    ],
)
def test_shards_without_pictures_are_of_texts(
    members: dict[str, bytes], columns: Columns, wanted: dict[Any, str], tmp_path: Path
) -> None:
    assert texts_of(write_shard(tmp_path / "toy.tar", members), columns) == wanted


def test_texts_that_cannot_be_read_are_named_by_shard_and_member(tmp_path: Path) -> None:
    members = {"x.txt": b"an owl", "y.txt": b"\xff", "z.cls": b"1", "j.txt": b"a moth", "j.json": b"3"}
    shard = write_shard(tmp_path / "toy.tar", members)
    with pytest.raises(DataError, match=r"y.txt of .*toy.tar is not UTF-8.*\(2 more of toy cannot be read\): repair"):
        jaxrel.data.load(str(shard))
    data = jaxrel.data.load_splits(str(shard), test_limit=0, skip_broken=True)[0]
    assert data.samples == ("an owl",)
    assert data.skipped == (
        (f"y.txt of {shard}", data.skipped[0][1]),
        (f"z.cls of {shard}", "there is no text 'txt' beside it"),
        (f"j.txt of {shard}", f"j.json of {shard} is not a JSON object, but 3"),
    )
    with pytest.raises(DataError, match="none of 1 texts can be read: there is no text 'a' beside it"):
        jaxrel.data.load(str(write_shard(tmp_path / "none.tar", {"x.txt": b"an owl"})), text_column="a")
