"""ResNet-50s by the names of tensors that their authors published: what is read of each file, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from test_checkpoints import Storage, tensor, torch_zip
from test_detection import tensors_of

from jaxrel.encoders import load_network
from jaxrel.encoders.checkpoints.files import read_checkpoint
from jaxrel.encoders.detection import kind_of
from jaxrel.encoders.images.resnet import DEPTHS
from jaxrel.encoders.images.weights import state_of

Tensors = dict[str, np.ndarray]


def backbone() -> Tensors:
    """Tensors of torchvision's names without the classifier, each of one number of its own."""
    layers = [("conv1", "bn1")]
    for stage, blocks in enumerate(DEPTHS[50], start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            layers += [(f"{name}.conv{i}", f"{name}.bn{i}") for i in (1, 2, 3)]
            if block == 0:
                layers.append((f"{name}.downsample.0", f"{name}.downsample.1"))
    names = [f"{convolution}.weight" for convolution, _ in layers]
    names += [f"{norm}.{kind}" for _, norm in layers for kind in ("weight", "bias", "running_mean", "running_var")]
    return {name: np.full((1,) * (4 if "bn" not in name else 1), i, np.float32) for i, name in enumerate(names)}


def after(prefix: str, tensors: Mapping[str, np.ndarray]) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def ones(*names: str) -> Tensors:
    return {name: np.ones((2, 2) if name.endswith("weight") else 2, np.float32) for name in names}


FC = ones("fc.weight", "fc.bias")
MLP = ones("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias")
AVERAGE = {name: value + 0.5 for name, value in backbone().items()}

# Name of the file, what it holds of a network, and the number of its classes.
LAYOUTS: dict[str, tuple[str, Callable[[Tensors], Any], int | None]] = {
    "torchvision": ("resnet50-0676ba61.pth", lambda net: net | FC, 2),
    "timm": ("pytorch_model.bin", lambda net: net | FC, 2),
    "MoCo v2": (
        "moco_v2_800ep_pretrain.pth.tar",
        lambda net: {
            "epoch": 800,
            "arch": "resnet50",
            "state_dict": after("module.encoder_k.", AVERAGE | MLP)
            | after("module.encoder_q.", net | MLP)
            | ones("module.queue", "module.queue_ptr"),
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
        },
        None,
    ),
    "SwAV": (
        "swav_800ep_pretrain.pth.tar",
        lambda net: after(
            "module.",
            net | ones("projection_head.0.weight", "projection_head.1.running_mean", "prototypes.weight"),
        ),
        None,
    ),
    "SimCLR, backbone": ("checkpoint_0100.pth.tar", lambda net: {"state_dict": after("backbone.", net | MLP)}, None),
    "SimCLR, encoder": (
        "simclr.ckpt",
        lambda net: {"state_dict": after("encoder.", net) | ones("projector.0.weight"), "global_step": 7},
        None,
    ),
    "SimCLR, convnet": ("simclr.pt", lambda net: after("convnet.", net) | ones("projection.0.weight"), None),
    "DINO": ("dino_resnet50_pretrain.pth", lambda net: net, None),
    "DINO, in training": (
        "dino_resnet50_pretrain_full_checkpoint.pth",
        lambda net: {
            "student": after("module.backbone.", AVERAGE) | ones("module.head.mlp.0.weight"),
            "teacher": after("backbone.", net) | ones("head.mlp.0.weight", "head.last_layer.weight_g"),
            "epoch": 800,
        },
        None,
    ),
    "Barlow Twins": ("resnet50.pth", lambda net: net, None),
    "Barlow Twins, in training": (
        "checkpoint.pth",
        lambda net: {"epoch": 9, "model": after("module.backbone.", net) | ones("module.projector.0.weight")},
        None,
    ),
    "robustness": (
        "imagenet_l2_3_0.pt",
        lambda net: {
            "model": after("module.model.", net | FC)
            | after("module.attacker.model.", net | FC)
            | ones("module.normalizer.new_mean", "module.attacker.normalize.new_std"),
            "epoch": 90,
        },
        2,
    ),
    "robustness, without module": ("robust.pt", lambda net: after("model.", net | FC) | ones("normalizer.new_mean"), 2),
    "an average of weights": ("ema.pth", lambda net: {"state_dict_ema": net | FC, "args": None}, 2),
}


def write_torch(path: Path, content: Any) -> Path:
    """A file of PyTorch with arrays as tensors."""
    storages: list[Storage] = []

    def as_stored(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: as_stored(each) for key, each in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        storages.append(Storage(str(len(storages)), value.reshape(-1)))
        strides = [int(np.prod(value.shape[i + 1 :])) for i in range(value.ndim)]
        return tensor(storages[-1], 0, value.shape, tuple(strides))

    return torch_zip(path, as_stored(content), storages)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_is_read(layout: str, tmp_path: Path) -> None:
    """The very numbers of the network that is meant, and no others."""
    file, content, classes = LAYOUTS[layout]
    path = write_torch(tmp_path / file, content(backbone()))
    assert kind_of(str(path)) == "resnet-50"
    state, found = state_of(read_checkpoint(path), anchor="conv1.weight", classifier="fc")
    assert found == classes
    expected = backbone() | (FC if classes else {})
    assert state.keys() == expected.keys()
    assert all(np.array_equal(state[name], value) for name, value in expected.items())


def test_the_names_are_those_of_the_network() -> None:
    assert tensors_of("resnet-50").keys() - FC.keys() == backbone().keys()


@pytest.mark.parametrize("kind", ["sharded", "half", "bfloat16", "MoCo v2"])
def test_a_whole_network_is_the_same_from_any_file(kind: str, tmp_path: Path) -> None:
    plain = {name: value for name, value in tensors_of("resnet-18").items() if not name.startswith("fc.")}
    dtype = {"half": np.float16, "bfloat16": ml_dtypes.bfloat16}.get(kind, np.float32)
    plain = {name: np.ascontiguousarray(value, dtype) for name, value in plain.items()}
    safetensors.numpy.save_file(plain, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    if kind == "sharded":
        path = tmp_path / "shards"
        path.mkdir()
        names = sorted(plain)
        places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
        for file in set(places.values()):
            safetensors.numpy.save_file({name: plain[name] for name in names if places[name] == file}, path / file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    if kind == "MoCo v2":
        path = write_torch(tmp_path / "moco.pth.tar", {"state_dict": after("module.encoder_q.", plain | MLP)})
    found, _ = load_network(str(path))
    expected = {name: np.asarray(value, np.float32) for name, value in plain.items()}
    for layer, (name, *_) in found.torch_names():  # type: ignore[attr-defined]
        kernel = np.asarray(layer.kernel[...])
        np.testing.assert_array_equal(kernel, expected[f"{name}.weight"].transpose(2, 3, 1, 0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(found))} == {"float32"}


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_network_that_is_not_finite_is_refused_by_name(number: float, tmp_path: Path) -> None:
    tensors = tensors_of("resnet-18")
    tensors["layer2.0.bn1.running_var"] = np.full(128, number, np.float32)
    path = write_torch(tmp_path / "diverged.ckpt", {"state_dict": after("model.", tensors)})
    with pytest.raises(ValueError, match=rf"'layer2\.0\.bn1\.running_var' holds {number} at \(0,\)"):
        load_network(str(path))
