"""OpenAI's own files of CLIP: archives of TorchScript, whose code is not run, and vision transformers in them."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.make_hierarchical_oracles import oracle_tensors as tensors_of_resnet
from fixtures.make_openai_oracles import SIZES
from fixtures.make_vision_transformer_oracles import oracle_images, oracle_tensors
from originals import apply, relative_error
from paths import FIXTURES
from test_checkpoints import torch_zip
from test_encoders import Call, Global, Storage, tensor

from jaxrel import encoders
from jaxrel.encoders.checkpoints.torch_pickle import TorchFileError, read_tensors
from jaxrel.encoders.detection import kind_of
from jaxrel.encoders.images.vision_transformers import load_vision_transformer_network


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "openai_oracles.npz", allow_pickle=False) as file:
        return dict(file)


class Class(Global):
    """A global that a pickler takes for a class."""

    def __call__(self) -> None:
        raise AssertionError("a pickler calls none")


class Module:
    """Pickles as a module of TorchScript: an object of a class in the archive, with its attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.attributes = attributes

    def __reduce__(self) -> Any:
        return Class("__torch__.model", "Module"), (), self.attributes


def module_of(tensors: dict[str, np.ndarray]) -> tuple[Module, list[Storage]]:
    """Tensors by the places that their names say, in half precision as OpenAI has them."""
    root, storages = Module(), []
    for number, (name, values) in enumerate(tensors.items()):
        *places, last = name.split(".")
        module = root
        for place in places:
            module = module.attributes.setdefault(place, Module())
        kind, dtype = ("LongStorage", "<i8") if values.dtype.kind == "i" else ("HalfStorage", "<f2")
        storages.append(Storage(str(number), np.ascontiguousarray(values, dtype).reshape(-1), type_name=kind))
        strides = np.zeros(values.shape, np.int8).strides
        module.attributes[last] = tensor(storages[-1], 0, values.shape, strides)
    return root, storages


# Archives


def test_tensors_of_an_archive_of_torchscript(oracles, tmp_path):
    (tmp_path / "small.pt").write_bytes(oracles["archive"].tobytes())
    expected = {name.removeprefix("archive/"): value for name, value in oracles.items() if name.startswith("archive/")}
    read = read_tensors(tmp_path / "small.pt")
    shared = {name for name in expected if name.startswith("shared.")}  # which are "visual.1." as well
    assert read.keys() | shared == expected.keys()
    for name, value in read.items():
        assert value.dtype == expected[name].dtype
        np.testing.assert_array_equal(value, expected[name])


def test_what_is_no_tensor_is_left_out(tmp_path):
    storage = Storage("0", np.arange(3, dtype="<f4"))
    weights = tensor(storage, 0, (3,), (1,))
    sizes = Call(Global("torch.jit._pickle", "build_intlist"), [1, 1])
    root = Module(training=False, stride=sizes, bias=None, conv=Module(weight=weights, stride=sizes), listed=[weights])
    root.attributes["itself"] = root
    (read,) = read_tensors(torch_zip(tmp_path / "w.pt", root, [storage])).items()
    assert read[0] == "conv.weight"


def test_a_chain_of_modules_makes_no_long_names(tmp_path):
    storage = Storage("0", np.arange(3, dtype="<f4"))
    weights = tensor(storage, 0, (3,), (1,))
    module = Module(weight=weights)
    for _ in range(40):
        module = Module(weight=weights, module=module)
    with pytest.raises(TorchFileError, match=r"has an attribute 'weight' at 'module\.module\..*', which is no name"):
        read_tensors(torch_zip(tmp_path / "w.pt", module, [storage]))


def test_code_that_an_archive_names_is_not_run(tmp_path):
    trace = tmp_path / "trace"
    module = Module(a=Call(Global("posix", "system"), f"touch {trace}"))
    assert read_tensors(torch_zip(tmp_path / "w.pt", module, [])) == {}
    content = OrderedDict(a=module)
    with pytest.raises(TorchFileError, match=r"an object for which the file asks for __torch__\.model\.Module"):
        read_tensors(torch_zip(tmp_path / "w.pt", content, []))
    assert not trace.exists()


# Networks


def test_a_resnet_of_clip_is_read_from_an_archive(tmp_path):
    with np.load(FIXTURES / "hierarchical_oracles.npz", allow_pickle=False) as file:
        tensors = tensors_of_resnet(json.loads(str(file["clip-resnet/shapes"])))
    tensors |= {"input_resolution": np.array(64), "logit_scale": np.array(1.0), "positional_embedding": np.ones((7, 4))}
    root, storages = module_of(tensors)
    path = torch_zip(tmp_path / "RN50.pt", root, storages)
    np.savez(tmp_path / "plain.npz", **{name: np.float16(value) for name, value in tensors.items()})
    assert kind_of(str(path)) == "clip-resnet"
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    features, expected = (
        encoders.load(f"clip-resnet@{tmp_path / name}")(images).features for name in ("RN50.pt", "plain.npz")
    )
    np.testing.assert_array_equal(features, expected)


def tensors_of(oracles: dict[str, np.ndarray], **changes: Any) -> dict[str, np.ndarray]:
    beside = {"input_resolution": np.array(24), "logit_scale": np.array(1.0), "positional_embedding": np.ones((7, 4))}
    tensors = oracle_tensors(json.loads(str(oracles["shapes"]))) | beside | changes
    return {name: np.asarray(value) for name, value in tensors.items() if value is not None}


@pytest.fixture
def write(oracles, tmp_path):
    def written(**changes: Any) -> Path:
        np.savez(tmp_path / "ViT-B-32.npz", **tensors_of(oracles, **changes))
        return tmp_path / "ViT-B-32.npz"

    return written


@pytest.mark.parametrize(("family", "features"), [("clip", "features"), ("clip-image", "embeddings")])
def test_float64_parity_of_a_vision_transformer_with_openai(family, features, write, oracles, x64):
    network, preprocessing = load_vision_transformer_network(write(), family=family, dtype=np.float64)
    assert preprocessing.image_size == SIZES["image_size"]
    found = apply(network, oracle_images(SIZES["image_size"])).features
    assert relative_error(found, oracles[features]) < 1e-9


def test_float32_parity_of_an_archive_alone(oracles, tmp_path):
    root, storages = module_of(tensors_of(oracles))
    path = torch_zip(tmp_path / "ViT-B-32.pt", root, storages)
    assert kind_of(str(path)) == "clip"
    assert encoders.load(str(path)).feature_width == SIZES["width"]
    network, preprocessing = load_vision_transformer_network(path, family="clip")
    found = apply(network, oracle_images(SIZES["image_size"]).astype(np.float32)).features
    assert relative_error(found, oracles["features"]) < 3e-3  # weights are in half precision
    assert preprocessing.mean[0] == pytest.approx(255 * 0.48145466)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input_resolution": None}, "not one of OpenAI's own files .* 'input_resolution' and .*: pass a folder of"),
        ({"visual.proj": None}, "no tensor 'visual.proj' of 2 axes"),
        ({"visual.ln_pre.bias": None}, "no tensor 'pre_layrnorm.bias'"),
        ({"visual.extra.weight": np.ones(3)}, "lacks: visual.extra.weight"),
        ({"visual.transformer.resblocks.0.attn.in_proj_weight": np.ones((385, 128))}, "no tensor 'encoder.layers.0"),
    ],
)
def test_other_files_are_refused(changes, says, write):
    with pytest.raises(ValueError, match=says):
        encoders.load(f"clip@{write(**changes)}")
