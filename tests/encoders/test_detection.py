"""Checkpoints without the name of what they are: found out by their configuration or their tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxrel import encoders
from jaxrel.encoders.checkpoints.files import CheckpointError
from jaxrel.encoders.detection import MODEL_TYPES, kind_of
from jaxrel.encoders.images import hierarchical
from jaxrel.encoders.images.vision_transformers.families import FAMILIES
from jaxrel.encoders.registry import TEXT_TRANSFORMERS, load_network
from jaxrel.encoders.texts.bert import MODEL_TYPES as BERT_TYPES
from jaxrel.encoders.texts.families import FAMILIES as TEXT_FAMILIES

NETWORKS = ("resnet-18", "resnet-50", "mobilenet-v2", "squeezenet-1.1", "efficientnet-lite0")


def tensors_of(name: str) -> dict[str, np.ndarray]:
    """The tensors of a random network, as PyTorch has them."""
    network, _ = load_network(f"{name}:random")
    found = {}
    for layer, prefixes in network.torch_names():  # type: ignore[attr-defined]
        kernel = np.asarray(layer.kernel.get_value())
        found[f"{prefixes[0]}.weight"] = kernel.transpose((3, 2, 0, 1)) if kernel.ndim == 4 else kernel.T
        if len(prefixes) == 2:
            for ours, theirs in (("scale", "weight"), ("mean", "running_mean"), ("var", "running_var")):
                found[f"{prefixes[1]}.{theirs}"] = np.asarray(getattr(layer, ours).get_value())
        found[f"{prefixes[-1]}.bias"] = np.asarray(layer.bias.get_value())
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_without_a_name_is_what_its_tensors_are(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    np.savez(path, **{f"module.{key}": tensor for key, tensor in tensors_of(name).items()})
    assert kind_of(str(path)) == name
    if name == "resnet-18":
        images = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
        found = encoders.load(str(path), image_size=32)
        expected = encoders.load(f"{name}@{path}", image_size=32)
        assert (found.fingerprint, encoders.modality(str(path))) == (expected.fingerprint, "images")
        np.testing.assert_array_equal(found(images).features, expected(images).features)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "roberta"}, "bert"),
        ({"model_type": "dinov2_with_registers"}, "dinov2"),
        ({"architecture": "resnet50.a1_in1k"}, "resnet-50"),
    ],
)
def test_a_folder_is_what_its_configuration_says(config: dict[str, str], kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kind_of(str(tmp_path)) == kind
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match=r"has the model_type 'gpt2': read are .*bert.*resnet18"):
        kind_of(str(tmp_path))


def test_every_model_type_that_is_read_is_known() -> None:
    read = {kind: family for family, facts in FAMILIES.items() for kind in facts.model_types}
    read |= {kind: family for family, facts in hierarchical.FAMILIES.items() for kind in facts.model_types}
    texts = {kind: family for family, facts in TEXT_FAMILIES.items() for kind in facts.model_types}
    read |= texts | dict.fromkeys(BERT_TYPES, "bert")
    assert set(MODEL_TYPES) == set(read)
    assert all(MODEL_TYPES[kind] in (family, "clip") for kind, family in read.items())
    assert set(TEXT_TRANSFORMERS) == {*TEXT_FAMILIES, "bert"}


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    np.savez(path, a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(
        CheckpointError,
        match=r"cannot be determined from the tensors \(a, b, \.\.\.\) what "
        ".*net.npz is: put",
    ):
        encoders.load(str(path))
    with pytest.raises(ValueError, match="unknown encoder 'resnet18'"):
        encoders.load("resnet18")


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    for name in ("squeezenet-1.1", "mobilenet-v2"):
        np.savez(path, **tensors_of(name))
        assert kind_of(str(path)) == name
