"""Pictures that are read from their files where they are encoded."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxrel.data
from jaxrel.data.readers import read_pictures
from jaxrel.data.splitting import draw
from jaxrel.encoders import extract_features, load
from jaxrel.storage.features import FeatureStore

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("grain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 pictures of several sizes and modes."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in ("moth", "bat", "owl"):
        (folder / name).mkdir()
        for i in range(20):
            shape = (30 + i, 40, 3) if i % 2 else (40, 30 + i)
            Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


def test_slices_are_the_pictures(folder):
    data = jaxrel.data.stream(folder, side=32)
    assert data.class_names == ("bat", "moth", "owl")
    files = data.pictures.files
    assert [data.class_names[label] for label in data.labels] == [file.parent.name for file in files]
    whole = data.samples[:]
    assert whole.shape == (len(data), 32, 32, 3)
    for row in range(len(files)):
        expected = read_pictures(files[row : row + 1], side=32).pixels[0]
        np.testing.assert_array_equal(whole[row], np.broadcast_to(expected, (32, 32, 3)))
    np.testing.assert_array_equal(data.samples[3:9], whole[3:9])


def test_splits_share_no_file_and_no_copy(folder, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    for file in sorted((copied / "owl").iterdir()):
        shutil.copy(file, copied / "bat" / f"copy-{file.name}")
    parts = [jaxrel.data.stream(copied, split=split) for split in ("train", "test")]
    contents = [[file.read_bytes() for file in part.pictures.files] for part in parts]
    assert sum(map(len, contents)) == 80
    assert not set(contents[0]) & set(contents[1])
    assert 0.5 < len(parts[0]) / 80 < 0.95


def test_a_limit_draws_by_class(folder):
    whole, some = jaxrel.data.stream(folder), jaxrel.data.stream(folder, limit=5)
    assert tuple(whole.pictures.files[place] for place in draw(whole.labels, 5)) == some.pictures.files
    assert set(some.labels) == {0, 1, 2}
    assert len(jaxrel.data.stream(folder, limit=1_000)) == len(whole)
    assert whole.fingerprint != some.fingerprint != jaxrel.data.stream(folder, limit=5, side=64).fingerprint


def test_fingerprints_tell_contents_and_not_places(folder, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    before = jaxrel.data.stream(folder).fingerprint
    assert jaxrel.data.stream(moved).fingerprint == before
    file = jaxrel.data.stream(moved).pictures.files[0]
    Image.new("RGB", (9, 9)).save(file)
    found = [jaxrel.data.stream(moved, split=split).fingerprint for split in ("train", "test")]
    assert before not in found


def test_features_of_a_stream_are_those_of_its_images(folder, tmp_path):
    data, encoder = jaxrel.data.stream(folder, side=32), load("pixels", image_size=32)
    table = extract_features(
        encoder, data.samples, batch_size=8, store=FeatureStore(tmp_path), data_fingerprint=data.fingerprint
    )
    np.testing.assert_array_equal(np.asarray(table), extract_features(encoder, data.samples[:], batch_size=8))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_that_is_cut_short_is_left_out_by_name(folder, suffix, tmp_path):
    shutil.copytree(folder, tmp_path / "some")
    whole = tmp_path / "some" / "owl" / "03.png"
    cut = whole.with_suffix(f".{suffix}")
    content = io.BytesIO()
    Image.open(whole).resize((64, 64)).save(content, "PNG" if suffix == "png" else "JPEG")
    whole.unlink()
    cut.write_bytes(content.getvalue()[:-200])
    parts = [jaxrel.data.stream(tmp_path / "some", split=split, skip_broken=True) for split in ("train", "test")]
    assert sum(map(len, parts)) == 59
    assert {name for part in parts for name, _ in part.skipped} == {str(cut)}
    with pytest.raises(ValueError, match=rf"{cut.name} cannot be read.* pass skip_broken=True"):
        jaxrel.data.stream(tmp_path / "some")


def test_a_picture_that_changes_while_it_is_streamed_is_refused(folder, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(folder, edited)
    data, encoder, store = (
        jaxrel.data.stream(edited, side=8),
        load("pixels", image_size=28),
        FeatureStore(tmp_path / "s"),
    )
    file = data.pictures.files[30]
    before = file.stat()
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for place in (30, 29):
        with pytest.raises(ValueError, match=f"{file.name} has changed since it was listed: start again"):
            data.samples[place : place + 3]
    with pytest.raises(ValueError, match="has changed"):
        extract_features(encoder, data.samples, batch_size=16, store=store, data_fingerprint=data.fingerprint)
    assert not any(table.complete for table in store.tables())
    file.unlink()
    with pytest.raises(ValueError, match=f"{file.name} cannot be read: "):
        data.samples[30:31]


def test_a_file_that_is_no_picture_is_left_out_by_name(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "some")
    bad = tmp_path / "some" / "owl" / "03.png"
    bad.write_text("no picture")
    parts = [jaxrel.data.stream(tmp_path / "some", split=split, skip_broken=True) for split in ("train", "test")]
    assert sum(map(len, parts)) == 59
    for part in parts:
        ((name, reason),) = part.skipped
        assert name == str(bad)
        assert "cannot identify" in reason
    with pytest.raises(ValueError, match=r"owl/03\.png cannot be read"):
        jaxrel.data.stream(tmp_path / "some")


def test_misuse_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for options, message in (
        ({"folder": tmp_path / "absent"}, "is not a folder"),
        ({"folder": tmp_path / "empty"}, "has no subfolders"),
        ({"split": "validation"}, "unknown split"),
        ({"side": 0}, "side is 0"),
        ({"limit": 0}, "limit is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxrel.data.stream(**{"folder": folder} | options)
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "b.txt").write_text("moth")
    with pytest.raises(ValueError, match="is not a picture"):
        jaxrel.data.stream(tmp_path / "texts")


def test_more_than_a_gibibyte_of_pictures_stays_in_its_files(folder, monkeypatch):
    in_memory, _ = jaxrel.data.load_splits(str(folder))
    monkeypatch.setattr("jaxrel.data.readers.pictures._LARGEST_STACK", 10**6)
    train, test = jaxrel.data.load_splits(str(folder), train_limit=30, test_limit=6)
    assert isinstance(train, jaxrel.data.StreamedImages)
    assert isinstance(test, jaxrel.data.StreamedImages)
    assert (len(train), len(test)) == (30, 6)
    assert train.class_names == in_memory.class_names
    assert not set(train.pictures.files) & set(test.pictures.files)
    assert [train.class_names[label] for label in train.labels] == [file.parent.name for file in train.pictures.files]
    whole, none = jaxrel.data.load_splits(str(folder), test_limit=0)
    assert (len(whole), none) == (60, None)
    assert jaxrel.data.load(str(folder), limit=30).fingerprint == train.fingerprint
    with pytest.raises(jaxrel.data.DataError, match="more than a gibibyte of pictures"):
        jaxrel.data.load("digits", path=folder)


@pytest.mark.parametrize(("sizes", "fit"), [([(9, 9)] * 8, True), ([(9, 9)] * 7 + [(9, 8)], False)])
def test_small_pictures_of_one_size_stay_in_memory(tmp_path, monkeypatch, sizes, fit):
    monkeypatch.setattr("jaxrel.data.readers.pictures._LARGEST_STACK", 8 * 9 * 9 * 3)
    for number, size in enumerate(sizes):
        (tmp_path / str(number % 2)).mkdir(exist_ok=True)
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / str(number % 2) / f"{number}.png")
    assert isinstance(jaxrel.data.load(str(tmp_path)), jaxrel.data.ImageData) == fit
