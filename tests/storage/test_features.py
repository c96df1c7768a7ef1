"""The feature store: finished and intact shards or none, whatever happens to the files."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tensorstore

from jaxrel.storage import features as feature_store
from jaxrel.storage.features import FeatureStore, StoreError, Table
from jaxrel.storage.records import write_atomically

KEY: dict[str, str | int] = {"encoder": "e", "data": "d", "batch_size": 4}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


def rows_of(n: int, width: int = 3, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, width)).astype(dtype)


def filled(store: FeatureStore, rows: np.ndarray, *, shard_size: int = 4, key: Any = KEY) -> Table:
    table = store.table(key, shape=rows.shape, dtype=rows.dtype.name, shard_size=shard_size)
    for shard in table.missing():
        table.write(shard, rows[table.span(shard)])
    return table


def again(table: Table) -> Table:
    """The same table, opened by someone who has checked nothing yet."""
    return FeatureStore(table.folder.parents[1]).table(
        table.key, shape=table.shape, dtype=table.dtype.name, shard_size=table.shard_size
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Rows


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("n", [1, 4, 8, 11])
def test_what_was_written_is_read(store, dtype, n):
    rows = rows_of(n, dtype=dtype)
    rows[0] = [np.nan, np.inf, -0.0]
    table = again(filled(store, rows))
    assert table.complete
    assert (table.shape, table.dtype, table.ndim, len(table)) == (rows.shape, rows.dtype, 2, n)
    assert table.nbytes == rows.nbytes
    found = np.asarray(table)
    assert found.dtype == rows.dtype
    assert found.tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    "chosen",
    [
        *[slice(start, stop) for start in (0, 3, 4, 9, -2) for stop in (None, 0, 4, 5, 8, -1, 99)],
        *[slice(None, None, -1), slice(1, 10, 3), slice(9, 2, -2)],
        *[0, 7, -1, np.int64(10)],
        *[np.array([3, 3, 10, 0]), np.array([], int), np.array([[1, 2], [-1, 4]]), np.arange(11) % 3 == 0],
    ],
    ids=str,
)
def test_rows_are_chosen_as_of_an_array(store, chosen):
    rows = rows_of(11)
    found = filled(store, rows)[chosen]
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(found, rows[chosen])


def test_rows_that_are_not_there_are_refused(store):
    table = filled(store, rows_of(11))
    for row in (11, -12, np.array([3, 11])):
        with pytest.raises(IndexError):
            table[row]


def test_rows_of_a_shard_are_the_mapped_file_and_not_a_copy(store):
    found = filled(store, rows_of(11))[5:7]
    assert not found.flags.owndata
    assert not found.flags.writeable
    base: Any = found
    while not isinstance(base, np.memmap):
        base = base.base
    assert Path(str(base.filename)).parts[-3:] == ("c", "1", "0")


def test_arrays_of_a_table(store):
    rows = rows_of(11)
    table = filled(store, rows)
    np.testing.assert_array_equal(jnp.asarray(table), rows)
    assert np.asarray(table, np.float64).dtype == np.float64
    copy = np.array(table)
    copy[:] = 0
    np.testing.assert_array_equal(table[:], rows)
    with pytest.raises(ValueError, match="copy=False"):
        np.array(table, copy=False)


def test_a_shard_of_zeros_is_a_shard(store):
    table = filled(store, np.zeros((8, 3), np.float32))
    assert again(table).complete


# The format


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_tensorstore_reads_the_rows_and_numpy_the_files(store, dtype):
    rows = rows_of(11, dtype=dtype)
    table = filled(store, rows)
    opened = tensorstore.open({"driver": "zarr3", "kvstore": f"file://{table.folder}/"}).result()
    assert opened.chunk_layout.read_chunk.shape == (4, 3)
    assert opened.read().result().tobytes() == rows.tobytes()
    assert np.fromfile(table.folder / "c" / "1" / "0", dtype).tobytes() == rows[4:8].tobytes()


def test_metadata_says_where_the_rows_come_from(store):
    provenance = {"encoder": "net", "split": "train", "image_size": None}
    table = store.table(KEY, shape=(5, 2), shard_size=4, provenance=provenance)
    attributes = json.loads((table.folder / "zarr.json").read_text())["attributes"]["jaxrel"]
    assert attributes["provenance"] == table.provenance == provenance
    assert attributes["key"] == KEY
    assert attributes["schema_version"] == feature_store.SCHEMA_VERSION
    assert store.table(KEY, shape=(5, 2), shard_size=4, provenance={"other": 1}).provenance == provenance


def test_tables_are_listed(store):
    assert store.tables() == []
    filled(store, rows_of(5))
    damaged = filled(store, rows_of(5), key=KEY | {"encoder": "f"})
    unfinished = store.table(KEY | {"data": "g"}, shape=(9, 7), dtype="bfloat16", shard_size=2)
    (damaged.folder / "zarr.json").write_bytes(b"rubbish")
    found = {table.key["data"]: table for table in store.tables()}
    assert set(found) == {"d", "g"}
    assert found["d"].complete
    assert repr(found["g"]) == repr(unfinished)
    assert (found["g"].missing(), found["g"].nbytes) == ([0, 1, 2, 3, 4], 126)


@pytest.mark.parametrize(
    "change",
    [
        {"key": KEY | {"encoder": "f"}},
        {"key": KEY | {"batch_size": 5}},
        {"shape": (9, 3)},
        {"shape": (8, 4)},
        {"dtype": "bfloat16"},
        {"shard_size": 8},
    ],
    ids=str,
)
def test_whatever_the_rows_depend_on_makes_another_table(store, change):
    table = filled(store, rows_of(8))
    options = {"key": KEY, "shape": (8, 3), "shard_size": 4} | change
    other = store.table(options.pop("key"), **options)
    assert other.folder != table.folder
    assert not other.complete


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "..", "nul\0", "é" * 500, "", '"}'])
def test_no_key_leads_out_of_the_store(store, tmp_path, name):
    table = filled(store, rows_of(4), key={name: name})
    assert again(table).complete
    assert all(path.is_relative_to(store.root) for path in tmp_path.rglob("*") if path.is_file())
    assert [found.key for found in store.tables()] == [{name: name}]


# Damage


def damages(path: Path) -> Any:
    """The file with any one of its bytes changed, cut at any length, longer, empty, gone."""
    content = path.read_bytes()
    for position in range(len(content)):
        yield f"byte {position}", content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        yield f"length {position}", content[:position]
    yield "longer", content + b"\n"
    yield "gone", None


@pytest.mark.parametrize("file", ["c/1/0", "finished/1", "c/2/0", "finished/2"])  # the last one is not full
def test_every_damage_of_a_shard_is_noticed_and_mended(store, file):
    shard = int(file.split("/")[1])
    rows = rows_of(11)
    table = filled(store, rows)
    path = table.folder / file
    before = contents(table.folder)
    for what, content in damages(path):
        path.unlink() if content is None else path.write_bytes(content)
        found = again(table)
        assert found.missing() == [shard], what
        with pytest.raises(StoreError, match=rf"shard {shard} of .* is missing or damaged"):
            np.asarray(found)
        np.testing.assert_array_equal(found[:4], rows[:4])
        if what in ("byte 0", "length 0", "length 7", "longer", "gone"):
            found.write(shard, rows[table.span(shard)])
            assert again(table).complete
            assert contents(table.folder) == before
        path.write_bytes(before[file])


def test_damage_is_noticed_by_reading_alone(store):
    table = filled(store, rows_of(11))
    path = table.folder / "c" / "2" / "0"
    path.write_bytes(bytes(path.stat().st_size))
    fresh = again(table)
    fresh[:8]
    with pytest.raises(StoreError):
        fresh[-1]


def test_every_damage_of_the_metadata_is_mended_and_costs_no_shard(store, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which a thousand times over takes long
    table = filled(store, rows_of(5))
    path = table.folder / "zarr.json"
    before = path.read_bytes()
    for what, content in damages(path):
        path.unlink() if content is None else path.write_bytes(content)
        assert again(table).complete, what
        assert path.read_bytes() == before, what


def test_a_table_in_the_folder_of_another_is_not_taken_for_it(store, caplog):
    one = filled(store, rows_of(11))
    other = store.table(KEY | {"data": "other"}, shape=(11, 3), shard_size=4)
    shutil.rmtree(other.folder)
    shutil.copytree(one.folder, other.folder)
    found = again(other)
    assert found.key["data"] == "other"
    assert found.missing() == [0, 1, 2]
    assert "of another table" in caplog.text
    assert one.complete


def test_a_shard_in_the_place_of_another_is_not_taken_for_it(store):
    table = filled(store, rows_of(11))
    for folder in ("c", "finished"):
        source, target = (table.folder / folder / number for number in "01")
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)
    assert again(table).missing() == [1]


def test_newer_schema_is_refused(store, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(feature_store, "SCHEMA_VERSION", 2)
        filled(store, rows_of(5))
    for read in (store.tables, lambda: filled(store, rows_of(5))):
        with pytest.raises(StoreError, match=r"newer jaxrel \(schema 2; this one reads up to 1\): upgrade"):
            read()


# What stops in the middle


def test_a_shard_is_finished_only_when_its_record_is(store, monkeypatch):
    table = filled(store, rows_of(4))
    bigger = store.table(KEY | {"data": "g"}, shape=(11, 3), shard_size=4)

    def killed(path: Path, content: bytes) -> None:
        if path.parent.name == "finished":
            raise KeyboardInterrupt
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(feature_store, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            bigger.write(1, rows_of(4))
    assert (bigger.folder / "c" / "1" / "0").exists()
    assert again(bigger).missing() == [0, 1, 2]
    bigger.write(1, rows_of(4))
    assert again(bigger).missing() == [0, 2]
    assert table.complete


def test_full_disk_is_one_clear_error(store, monkeypatch):
    table = store.table(KEY, shape=(5, 3), shard_size=4)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_store, "write_atomically", full)
    with pytest.raises(StoreError, match=r"shard 1 of .* cannot be written: .*No space left.*start again"):
        table.write(1, rows_of(1))
    assert table.missing() == [0, 1]


def test_a_folder_that_cannot_be_written_to_is_said_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"no features can be kept in .*file.*Choose a folder"):
        FeatureStore(tmp_path / "file").table(KEY, shape=(5, 3), shard_size=4)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_without_permission_is_said_at_once(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        FeatureStore(tmp_path / "closed").table(KEY, shape=(5, 3), shard_size=4)


def test_bad_arguments_are_refused(store):
    with pytest.raises(ValueError, match=r"shape \(0, 3\) in shards of 4 rows: pass sizes of at least 1"):
        store.table(KEY, shape=(0, 3), shard_size=4)
    with pytest.raises(ValueError, match="shards of 0 rows"):
        store.table(KEY, shape=(5, 3), shard_size=0)
    with pytest.raises(ValueError, match="unknown type of features 'float16': there are float32, bfloat16"):
        store.table(KEY, shape=(5, 3), shard_size=4, dtype="float16")
    assert not store.root.exists()
    table = store.table(KEY, shape=(5, 3), shard_size=4)
    with pytest.raises(ValueError, match=r"rows of shape \(4, 3\): shard 1 holds \(1, 3\)"):
        table.write(1, rows_of(4))
    with pytest.raises(ValueError, match="no shard 2: the table has shards 0 to 1"):
        table.write(2, rows_of(4))


# Two processes


def write_often(root: Path, rounds: int) -> None:
    rows = rows_of(40, 64)
    table = FeatureStore(root).table(KEY, shape=rows.shape, shard_size=8)
    for _ in range(rounds):
        for shard in range(table.num_shards):
            table.write(shard, rows[table.span(shard)])


def test_two_writers_at_once_leave_what_one_does(store, tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(store.root, 6)) for _ in range(2)]
    for writer in writers:
        writer.start()
    write_often(tmp_path / "alone", 1)
    alone = FeatureStore(tmp_path / "alone").tables()[0]
    finished: set[int] = set()
    while any(writer.is_alive() for writer in writers):
        for table in store.tables():
            now = set(range(table.num_shards)) - set(table.missing())
            assert finished <= now  # what has been finished stays so while it is replaced
            finished = now
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert contents(store.root) == contents(tmp_path / "alone")
    np.testing.assert_array_equal(alone, rows_of(40, 64))
