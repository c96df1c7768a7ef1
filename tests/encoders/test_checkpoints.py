"""Checkpoints: round trips, damage of each kind, folders, indices, repositories; PyTorch's zip files; ONNX models."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import safetensors.numpy
from fixtures.make_text_oracles import stored_arrays
from onnx import TensorProto, helper, numpy_helper
from paths import FIXTURES
from test_encoders import Call, Global, Storage, TorchPickler, tensor

from jaxrel.encoders.checkpoints.files import (
    CheckpointError,
    import_extra,
    locate_checkpoint,
    read_checkpoint,
    read_json,
)
from jaxrel.encoders.checkpoints.onnx_file import read_initialisers
from jaxrel.encoders.checkpoints.tensors import as_weights
from jaxrel.encoders.checkpoints.torch_pickle import TorchFileError, read_tensors
from jaxrel.encoders.images.weights import state_of

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "brain": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "half": np.linspace(-2, 2, 5, dtype=np.float16),
    "double": np.array(np.pi),
    "counts": np.array([2**40, -3]),
    "empty": np.zeros((0, 3), np.float32),
}


def assert_same(read: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "text_oracles.npz", allow_pickle=False) as file:
        return dict(file)


# Files


def test_safetensors_come_back(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "model.safetensors")
    assert_same(read_checkpoint(tmp_path / "model.safetensors"), ARRAYS)


def test_npz_comes_back(tmp_path):
    arrays = {name: array for name, array in ARRAYS.items() if name != "brain"}  # which .npy has no name for
    np.savez_compressed(tmp_path / "weights.npz", **arrays)
    assert_same(read_checkpoint(tmp_path / "weights.npz"), arrays)


@pytest.mark.parametrize("kind", ["torch_zip", "torch_legacy"])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_files_of_pytorch_are_read(kind, suffix, tmp_path, oracles):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(oracles[kind].tobytes())
    expected = stored_arrays()
    assert_same(read_checkpoint(path), expected | {"brain": expected["brain"].astype(ml_dtypes.bfloat16)})


@pytest.mark.parametrize("name", ["model.safetensors", "weights.npz", "weights.pt"])
def test_truncated_files_are_refused(name, tmp_path, oracles):
    path = tmp_path / name
    if path.suffix == ".npz":
        np.savez(path, **{"matrix": ARRAYS["matrix"]})
    elif path.suffix == ".pt":
        path.write_bytes(oracles["torch_zip"].tobytes())
    else:
        safetensors.numpy.save_file(ARRAYS, path)
    whole = path.read_bytes()
    for length in (0, 3, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"damaged|truncated"):
            read_checkpoint(path)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.array([print], object))
    with pytest.raises(CheckpointError, match="plain arrays"):
        read_checkpoint(tmp_path / "weights.npz")
    np.save(tmp_path / "array.npy", np.zeros(2))
    (tmp_path / "array.npy").rename(tmp_path / "weights.npz")
    with pytest.raises(CheckpointError, match=r"not an \.npz file"):
        read_checkpoint(tmp_path / "weights.npz")


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file .*absent\.npz"):
        read_checkpoint(tmp_path / "absent.npz")
    (tmp_path / "model.h5").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"not a supported checkpoint file: .*\.safetensors, \.npz"):
        read_checkpoint(tmp_path / "model.h5")
    with pytest.raises(CheckpointError, match=r"none of model\.safetensors, "):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(("content", "says"), [("[1]", "holds a list"), ("{", "not JSON"), (b"\xff{}", "not JSON")])
def test_json_of_other_kinds_is_refused(content, says, tmp_path):
    (tmp_path / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=says):
        read_json(tmp_path / "config.json")


def test_a_missing_package_names_its_extra():
    with pytest.raises(ImportError, match=r"pip install 'jaxrel\[text\]'"):
        import_extra("no_such_package_anywhere", extra="text")


# Folders and indices


def sharded(folder: Path, **changes: str | None) -> Path:
    """Two files of a tensor each, and their index with changed entries."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(2)}, folder / first)
    safetensors.numpy.save_file({"b": np.ones(3)}, folder / second)
    places = {"a": first, "b": second} | changes
    index = {"metadata": {"total_size": 40}, "weight_map": {name: at for name, at in places.items() if at is not None}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_sharded_tensors_come_back(tmp_path):
    expected = {"a": np.zeros(2), "b": np.ones(3)}
    assert_same(read_checkpoint(sharded(tmp_path)), expected)
    assert_same(read_checkpoint(tmp_path / "model.safetensors.index.json"), expected)
    safetensors.numpy.save_file({"whole": np.ones(1)}, tmp_path / "model.safetensors")
    assert list(read_checkpoint(tmp_path)) == ["whole"]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "..",
        "",
        "C:\\x.safetensors",
        "sub/x.safetensors",
        "x\n.bin",
        "i.index.json",
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(name, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    safetensors.numpy.save_file({"c": np.zeros(2)}, tmp_path / "outside.safetensors")
    with pytest.raises(CheckpointError, match="not the plain name of a file"):
        read_checkpoint(sharded(folder, c=name))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"c": "model-00001-of-00002.safetensors"}, "promises 'c'"),
        ({"a": "model-00002-of-00002.safetensors"}, "promises 'a'"),
        ({"b": "model-00001-of-00002.safetensors"}, "promises 'b'"),
        ({"c": "model-00003-of-00002.safetensors"}, "no file .*model-00003"),
        ({"a": 3}, "no weight_map"),
    ],
)
def test_an_index_that_differs_from_its_files_is_refused(changes, says, tmp_path):
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(sharded(tmp_path, **changes))


def test_a_tensor_that_the_index_does_not_have_is_refused(tmp_path):
    sharded(tmp_path)
    safetensors.numpy.save_file({"b": np.ones(3), "stray": np.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="holds 'stray'"):
        read_checkpoint(tmp_path)


# PyTorch's zip files


def torch_zip(
    path: Path, content: Any, storages: list[Storage], *, compression: int = zipfile.ZIP_STORED, **members: bytes
) -> Path:
    pickled = io.BytesIO()
    ZipPickler(pickled, 2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        for name, value in members.items():
            archive.writestr(f"archive/{name}", value)
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
    return path


class ZipPickler(TorchPickler):
    """As the pickles of legacy files, but for the last of the facts about a storage."""

    def persistent_id(self, obj: Any) -> Any:
        facts = super().persistent_id(obj)
        return None if facts is None else facts[:-1]


def test_strides_and_offsets_of_zip_files_are_respected(tmp_path):
    values = np.arange(12, dtype="<f4")
    storage = Storage("0", values)
    content = OrderedDict(whole=tensor(storage, 0, (3, 4), (4, 1)), part=tensor(storage, 5, (2, 2), (4, 2)))
    read = read_tensors(torch_zip(tmp_path / "w.pt", content, [storage], byteorder=b"little", version=b"3\n"))
    assert_same(read, {"whole": values.reshape(3, 4), "part": np.array([[5, 7], [9, 11]], np.float32)})


@pytest.mark.parametrize(("module", "name"), [("posix", "system"), ("builtins", "eval"), ("torch", "load")])
def test_malicious_zip_files_are_refused(module, name, tmp_path):
    trace = tmp_path / "trace"
    attack = Call(Global(module, name), f"touch {trace}")
    with pytest.raises(TorchFileError, match=rf"asks for {module}\.{name}"):
        read_tensors(torch_zip(tmp_path / "w.pt", OrderedDict(a=attack), []))
    assert not trace.exists()


def test_damaged_zip_files_are_refused(tmp_path):
    storage = Storage("0", np.arange(12, dtype="<f4"))
    content, path = OrderedDict(a=tensor(storage, 0, (12,), (1,))), tmp_path / "w.pt"
    with pytest.raises(TorchFileError, match=r"damaged .*data/0"):
        read_tensors(torch_zip(path, content, []))
    shorter = Storage("0", np.arange(11, dtype="<f4"))
    with pytest.raises(TorchFileError, match="storage 0 has 44 bytes, its 12 elements take 48"):
        read_tensors(torch_zip(path, content, [shorter]))
    with pytest.raises(TorchFileError, match="is compressed"):
        read_tensors(torch_zip(path, content, [storage], compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(TorchFileError, match="big-endian"):
        read_tensors(torch_zip(path, content, [storage], byteorder=b"big"))
    with pytest.raises(TorchFileError, match="reaches to element 12"):
        read_tensors(torch_zip(path, OrderedDict(a=tensor(storage, 1, (12,), (1,))), [storage]))
    with pytest.raises(TorchFileError, match="'epoch' is a int"):
        read_tensors(torch_zip(path, OrderedDict(epoch=3), []))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(TorchFileError, match=r"0 members named data\.pkl"):
        read_tensors(path)


def test_a_zip_file_with_a_changed_byte_is_refused(tmp_path):
    storage = Storage("0", np.full(12, 7, "<f4"))
    path = torch_zip(tmp_path / "w.pt", OrderedDict(a=tensor(storage, 0, (12,), (1,))), [storage])
    content = path.read_bytes()
    path.write_bytes(content.replace(storage.values.tobytes(), np.full(12, 8, "<f4").tobytes()))
    with pytest.raises(TorchFileError, match="damaged"):
        read_tensors(path)


# Checkpoints of one's own


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {"epoch": 3, "model_state_dict": state},
        lambda state: {"model": state, "args": Call(Global("argparse", "Namespace"))},
        lambda state: {"ema": state, "model": Call(Global("torchvision.models", "ResNet"))},
        lambda state: {"model": {"state_dict": state}, "metrics": [1.5, None]},
        lambda state: {"model": state, "ema": {"a": 1}},
    ],
)
@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_the_state_inside_of_a_training_state_is_read(wrap, suffix, tmp_path):
    storage = Storage("0", np.arange(3, dtype="<f4"))
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), tensor(storage, 0, (3,), (1,)), True, OrderedDict())
    path = torch_zip(tmp_path / f"w{suffix}", wrap(OrderedDict(a=parameter)), [storage])
    assert_same(read_checkpoint(path), {"a": storage.values})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            Call(Global("torchvision.models", "ResNet")),
            r"asks for torchvision\.models\.ResNet; save the state_dict\(\)",
        ),
        ({"model": {"model": {"model": {"model": {}}}}}, "entry 'model' is a dict"),
        ({"weights": {"a": 1}}, "entry 'weights' is a dict"),
        ([1], "holds a list"),
    ],
)
def test_files_without_a_state_are_refused(content, says, tmp_path):
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(torch_zip(tmp_path / "w.pt", content, []))


def resnet_names(*, classes: int | None, prefix: str = "", **more: np.ndarray) -> dict[str, np.ndarray]:
    """A few tensors of a ResNet."""
    tensors: dict[str, np.ndarray] = {
        "conv1.weight": np.ones((2, 3, 1, 1)),
        "layer1.0.conv1.weight": np.ones((2, 2, 1, 1)),
    }
    if classes is not None:
        tensors |= {"fc.weight": np.ones((classes, 2)), "fc.bias": np.ones(classes)}
    return {f"{prefix}{name}": value for name, value in tensors.items()} | more


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "_orig_mod.", "model.module.net."])
@pytest.mark.parametrize("classes", [None, 7])
def test_a_network_is_found_after_any_prefix(prefix, classes):
    tensors = resnet_names(classes=classes, prefix=prefix, **({"loss.weight": np.ones(3)} if prefix else {}))
    state, found = state_of(tensors, anchor="conv1.weight", classifier="fc")
    assert found == classes
    assert state.keys() == resnet_names(classes=classes).keys()


def test_a_head_that_is_no_linear_classifier_is_left_out():
    tensors = resnet_names(classes=None, **{"fc.0.weight": np.ones((4, 2)), "projector.weight": np.ones((4, 2))})
    state, classes = state_of(tensors, anchor="conv1.weight", classifier="fc")
    assert classes is None
    assert state.keys() == resnet_names(classes=None).keys()
    without_bias = resnet_names(classes=None, **{"fc.weight": np.ones((4, 2))})
    state, classes = state_of(without_bias, anchor="conv1.weight", classifier="fc")
    assert (state.keys(), classes) == (resnet_names(classes=None).keys(), None)
    # What belongs to another architecture is left for the network to refuse.
    state, _ = state_of(tensors | {"layer1.0.se.weight": np.ones(1)}, anchor="conv1.weight", classifier="fc")
    assert "layer1.0.se.weight" in state


def test_two_networks_in_a_checkpoint_are_refused():
    both = resnet_names(classes=None, prefix="online.") | resnet_names(classes=None, prefix="target.")
    with pytest.raises(CheckpointError, match=r"'conv1\.weight' after each of online\., target\.: save one"):
        state_of(both, anchor="conv1.weight", classifier="fc")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_tensor_that_is_not_finite_is_refused_by_name(number, dtype):
    values = np.ones((2, 3), dtype)
    np.testing.assert_array_equal(as_weights("a", values, np.float32), np.ones((2, 3), np.float32))
    values[1, 2] = number
    with pytest.raises(
        CheckpointError, match=rf"tensor 'layer\.weight' holds {number} at \(1, 2\), which is no finite"
    ):
        as_weights("layer.weight", values, np.float32)


def test_a_tensor_that_its_network_cannot_hold_is_refused():
    with pytest.raises(CheckpointError, match=r"'a' holds 1e\+300 at \(0,\), which is no finite float32"):
        as_weights("a", np.array([1e300]), np.float32)
    with pytest.raises(CheckpointError, match=r"'a' holds -3\.0.*e\+38 at \(1,\), which .* or has no finite square"):
        as_weights("a", np.array([1e18, -3e38], np.float32), np.float32)
    with pytest.raises(CheckpointError, match="'a' has type int8, expected floating-point numbers"):
        as_weights("a", np.array([1], np.int8), np.float32)


# Repositories of the hub, in a cache laid out as the hub's


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache with the repository "owner/model" at its main branch."""
    repository = tmp_path / "hub" / "models--owner--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    safetensors.numpy.save_file({"a": np.zeros(2)}, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text("{}")
    return snapshot


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1 and HF_HUB_CACHE, which are read once, when the package is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_repository_is_found_in_the_cache(hub, offline):
    assert locate_checkpoint("owner/model") == hub
    assert list(read_checkpoint(locate_checkpoint("owner/model", revision="main"))) == ["a"]


def test_the_environment_of_the_hub_holds(hub, tmp_path):
    code = "from jaxrel.encoders.checkpoints.files import locate_checkpoint; print(locate_checkpoint('owner/model'))"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(hub)


def test_a_local_path_comes_first(hub, offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = Path("owner") / "model"
    local.mkdir(parents=True)
    assert locate_checkpoint("owner/model") == local
    assert locate_checkpoint(hub / "model.safetensors") == hub / "model.safetensors"


@pytest.mark.parametrize("name", ["owner/absent", "absent", "owner/two--dashes"])
def test_a_repository_that_cannot_be_had_is_refused(name, hub, offline):
    with pytest.raises(
        CheckpointError, match=rf"no local file or folder '{name}', and the repository .* cannot be obtained"
    ):
        locate_checkpoint(name)
    with pytest.raises(CheckpointError, match="at revision 'v2' cannot be obtained"):
        locate_checkpoint("owner/model", revision="v2")


def test_a_repository_without_weights_is_refused(hub, offline):
    (hub / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"'owner/model' has none of model\.safetensors"):
        locate_checkpoint("owner/model")


@pytest.mark.parametrize("source", ["/no/such/folder", "../x", "a/b/c", "https://host/x", "", Path("owner/model")])
def test_what_is_neither_a_path_nor_a_name_is_refused(source, hub, offline):
    shutil.rmtree(hub)
    with pytest.raises(CheckpointError, match="no file or folder"):
        locate_checkpoint(source)


# ONNX models

RNG = np.random.default_rng(0)
KERNELS = {name: RNG.normal(size=(3, 3)).astype(np.float32) for name in ("onnx::MatMul_9", "onnx::MatMul_4")}


def onnx_model(path: Path, *, bias_first: bool = False, layers: tuple[str, str] = ("layer.query", "layer.key")) -> Path:
    """Two linear maps in a row, their weights anonymous and not in the order of use, and a product of the results."""
    nodes, source = [], "x"
    for layer, kernel in zip(layers, KERNELS, strict=True):
        nodes.append(helper.make_node("MatMul", [source, kernel], [f"product_{kernel}"]))
        summands = [f"{layer}.bias", f"product_{kernel}"]
        nodes.append(helper.make_node("Add", summands if bias_first else summands[::-1], [f"out_{kernel}"]))
        source = f"out_{kernel}"
    nodes.append(helper.make_node("MatMul", [source, source], ["y"]))
    arrays = dict(reversed(KERNELS.items())) | {f"{layer}.bias": np.zeros(3, np.float32) for layer in layers}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 3])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize("bias_first", [True, False])
def test_anonymous_weights_get_the_name_of_their_bias(bias_first, tmp_path):
    first, second = KERNELS.values()
    zeros = np.zeros(3, np.float32)
    expected = {
        "layer.query.weight": first.T,
        "layer.query.bias": zeros,
        "layer.key.weight": second.T,
        "layer.key.bias": zeros,
    }
    read = read_initialisers(onnx_model(tmp_path / "model.onnx", bias_first=bias_first))
    assert_same(dict(sorted(read.items())), dict(sorted(expected.items())))


def test_onnx_models_that_cannot_be_read_are_refused(tmp_path):
    path = onnx_model(tmp_path / "model.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_initialisers(path)
    with pytest.raises(CheckpointError, match="two weights of the linear map 'same'"):
        read_initialisers(onnx_model(path, layers=("same", "same")))
    model = onnx.load(onnx_model(path))
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    with pytest.raises(CheckpointError, match=r"keeps .* in another file"):
        read_initialisers(path)
