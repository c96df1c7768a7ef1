"""Pictures that are read from their files where they are encoded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxrel.data
from jaxrel.data.readers import read_pictures
from jaxrel.encoders import extract_features, load
from jaxrel.feature_store import FeatureStore

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
        expected = read_pictures(files[row : row + 1], side=32)[0]
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


def test_the_first_of_a_split_are_its_beginning(folder):
    whole, some = jaxrel.data.stream(folder), jaxrel.data.stream(folder, limit=5)
    assert whole.pictures.files[:5] == some.pictures.files
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


def test_a_damaged_picture_is_named(folder, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    file = jaxrel.data.stream(damaged).pictures.files[7]
    file.write_bytes(file.read_bytes()[:100])
    data = jaxrel.data.stream(damaged, split="train" if file in jaxrel.data.stream(damaged).pictures.files else "test")
    with pytest.raises(ValueError, match=f"{file.name} cannot be read as a picture"):
        data.samples[:]


def test_misuse_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for options, message in (
        ({"folder": tmp_path / "absent"}, "is no folder"),
        ({"folder": tmp_path / "empty"}, "has no subfolders"),
        ({"split": "validation"}, "unknown split"),
        ({"side": 0}, "side is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": 61}, "limit is 61"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxrel.data.stream(**{"folder": folder} | options)
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "b.txt").write_text("moth")
    with pytest.raises(ValueError, match="is no picture"):
        jaxrel.data.stream(tmp_path / "texts")
