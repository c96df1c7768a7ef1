"""The feature store: whole arrays or none, whatever happens to the files."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from jaxrel.store import FeatureStore, write_atomically


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
def test_what_was_written_is_read(store: FeatureStore, dtype: type) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    store.write("key", array)
    found = store.read("key")
    assert found is not None
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_absent_key_reads_as_none(store: FeatureStore) -> None:
    assert store.read("key") is None


def test_shard_is_a_npy_file(store: FeatureStore) -> None:
    store.write("key", np.arange(3.0))
    np.testing.assert_array_equal(np.load(_files(store.root)[0], allow_pickle=False), np.arange(3.0))


@pytest.mark.parametrize("key", ["../../escaped", "/etc/passwd", "a/b", "..", "nul\0", "é" * 500, ""])
def test_no_key_leads_out_of_the_store(store: FeatureStore, tmp_path: Path, key: str) -> None:
    store.write(key, np.ones(2))
    assert store.read(key) is not None
    (written,) = _files(tmp_path)
    assert written.is_relative_to(store.root)


def test_every_damage_is_noticed(store: FeatureStore) -> None:
    store.write("key", np.arange(4.0))
    (path,) = _files(store.root)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        assert store.read("key") is None, f"byte {position} was flipped"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert store.read("key") is None, f"only {length} bytes are left"
    store.write("key", np.arange(4.0))
    assert store.read("key") is not None


def test_shard_under_another_name_is_refused(store: FeatureStore) -> None:
    store.write("one", np.zeros(2))
    (first,) = _files(store.root)
    store.write("two", np.ones(2))
    (second,) = set(_files(store.root)) - {first}
    second.write_bytes(first.read_bytes())
    assert store.read("two") is None


def test_python_objects_are_refused(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        store.write("key", np.array([object()]))
    assert _files(store.root) == []


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


def _write_often(root: Path, value: float) -> None:
    for _ in range(100):
        FeatureStore(root).write("key", np.full(1000, value))


def test_two_writers_never_show_a_mixture(store: FeatureStore) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(store.root, value)) for value in (1.0, 2.0)]
    store.write("key", np.full(1000, 0.0))
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        found = store.read("key")
        assert found is not None
        assert len(np.unique(found)) == 1
        seen.add(float(found[0]))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(seen) > 1
