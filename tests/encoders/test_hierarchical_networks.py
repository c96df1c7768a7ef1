"""ConvNeXt, Swin and CLIP's ResNets of checkpoints: parity with their originals, loading, what is refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import originals
import pytest
import safetensors.numpy
from fixtures.make_hierarchical_oracles import CASES, oracle_images, oracle_tensors
from flax import nnx
from originals import apply, relative_error
from paths import FIXTURES

from jaxrel import encoders
from jaxrel.encoders.detection import kind_of
from jaxrel.encoders.images.hierarchical import load_hierarchical_network

SIZES = [(case, size) for case, (*_, sizes) in CASES.items() for size in sizes]


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "hierarchical_oracles.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def write_checkpoint(tmp_path, oracles):
    return lambda case, **changes: originals.write_checkpoint(tmp_path / case, oracles, case, oracle_tensors, **changes)


# Parity


SLOW = {("convnext", 44), ("convnext-timm", 32), ("convnextv2", 32), ("swin-timm", 24)}


@pytest.mark.parametrize(
    ("case", "size"), [pytest.param(*each, marks=[pytest.mark.slow] if each in SLOW else []) for each in SIZES]
)
def test_float64_parity_with_the_original(case, size, write_checkpoint, oracles, x64):
    options = {"family": CASES[case][0], "image_size": size, "dtype": np.float64}
    network, _ = load_hierarchical_network(write_checkpoint(case), **options)
    output = apply(network, oracle_images(size))
    assert output.features.dtype == np.float64
    assert relative_error(output.features, oracles[f"{case}/{size}/features"]) < 1e-9
    if f"{case}/{size}/logits" in oracles:
        assert relative_error(output.logits, oracles[f"{case}/{size}/logits"]) < 1e-9
    else:
        assert output.logits is None


@pytest.mark.parametrize(
    ("case", "size"), [pytest.param("convnextv2", 44, marks=pytest.mark.slow), ("swin", 28), ("clip-resnet", 96)]
)
def test_float32_parity_and_earlier_stages(case, size, write_checkpoint, oracles):
    folder = write_checkpoint(case, dtype=np.float32)
    images = oracle_images(size).astype(np.float32)
    whole, _ = load_hierarchical_network(folder, family=CASES[case][0], image_size=size)
    in_one_pass = whole.features_of_layers(images, layers=(1, len(whole.stages)))
    for features, kind in zip(in_one_pass, ("stage1", "features"), strict=True):
        assert relative_error(features, oracles[f"{case}/{size}/{kind}"]) < 1e-4
    for layer, kind in (("", "features"), ("#1", "stage1")):
        network, _ = encoders.load_network(f"{CASES[case][0]}@{folder}{layer}", image_size=size)
        output = apply(network, images)
        assert output.features.dtype == np.float32
        assert relative_error(output.features, oracles[f"{case}/{size}/{kind}"]) < 1e-4
    assert output.logits is None


@pytest.mark.parametrize(
    ("case", "size"), [pytest.param("convnextv2", 32, marks=pytest.mark.slow), ("swin", 24), ("clip-resnet", 64)]
)
def test_bfloat16_weights_give_float32_features_near_those_of_float32(case, size, write_checkpoint, oracles):
    folder = write_checkpoint(case, dtype=ml_dtypes.bfloat16)
    network, _ = load_hierarchical_network(folder, family=CASES[case][0], image_size=size, dtype=jnp.bfloat16)
    assert "bfloat16" in {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(network))}
    features = apply(network, oracle_images(size).astype(np.float32)).features
    assert features.dtype == np.float32
    assert 1e-4 < relative_error(features, oracles[f"{case}/{size}/features"]) < 0.05


def test_an_image_smaller_than_a_window_takes_the_biases_of_its_places(write_checkpoint):
    """As a network with windows of that size does."""
    name = "swin.encoder.layers.1.blocks.{}.attention.self.relative_position_bias_table"
    whole, _ = encoders.load_network(f"swin@{write_checkpoint('swin')}", image_size=8)
    tables = {name.format(i): np.random.default_rng(i).normal(size=(25, 4)) for i in (0, 1)}
    whole, _ = encoders.load_network(f"swin@{write_checkpoint('swin', tensors=tables)}", image_size=8)
    cropped = {key: table.reshape(5, 5, 4)[1:4, 1:4].reshape(9, 4) for key, table in tables.items()}
    small, _ = encoders.load_network(f"swin@{write_checkpoint('swin', tensors=cropped)}", image_size=8)
    images = oracle_images(8)
    np.testing.assert_allclose(apply(whole, images).features, apply(small, images).features, rtol=1e-5, atol=1e-6)


# Encoders


@pytest.mark.parametrize("case", ["convnext", "swin", "clip-resnet"])
def test_an_encoder_of_a_folder_alone(case, write_checkpoint, oracles):
    folder = write_checkpoint(case, dtype=np.float32)
    if case == "clip-resnet":
        (folder / "config.json").unlink()
    encoder = encoders.load(str(folder), image_size=CASES[case][-1][0])
    expected = oracles[f"{case}/{encoder.image_size}/features"]
    assert (encoder.modality, encoder.feature_width) == ("images", expected.shape[1])
    assert encoder.num_logits == (None if case == "clip-resnet" else 5)
    shapes = json.loads(str(oracles[f"{case}/shapes"]))
    trained = [shape for name, shape in shapes.items() if "running" not in name and "num_batches" not in name]
    assert encoder.num_parameters == sum(math.prod(shape) for shape in trained)
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
    network, preprocessing = encoders.load_network(str(folder), image_size=encoder.image_size)
    features = apply(network, np.asarray(preprocessing(images))).features
    np.testing.assert_allclose(encoder(images).features, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("case", "kind"), [(case, family) for case, (family, *_) in CASES.items()])
def test_a_file_alone_is_told_by_its_tensors(case, kind, write_checkpoint):
    folder = write_checkpoint(case)
    (folder / "config.json").unlink()
    assert kind_of(str(folder / "model.safetensors")) == kind


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("convnext_tiny.fb_in22k_ft_in1k", "convnext"),
        ("convnextv2_atto.fcmae", "convnext"),
        ("swin_base_patch4_window12_384.ms_in22k", "swin"),
    ],
)
def test_architectures_of_timm(architecture, kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    assert kind_of(str(tmp_path)) == kind


def test_fingerprints_tell_settings_and_weights_apart(write_checkpoint):
    def fingerprint(**changes: Any) -> str:
        return encoders.load(f"convnext@{write_checkpoint('convnext', **changes)}").fingerprint

    same, activation, epsilon = fingerprint(), fingerprint(hidden_act="silu"), fingerprint(layer_norm_eps=1e-3)
    changed = fingerprint(tensors={"convnext.layernorm.bias": np.zeros(16)})
    assert fingerprint() == same
    assert len({same, activation, epsilon, changed}) == 4


def test_wrapped_and_older_layouts_are_read(write_checkpoint):
    """Swin as its authors saved it: tokens are merged at the end of a stage, with buffers; and after a prefix."""
    folder = write_checkpoint("swin-timm")
    expected, _ = encoders.load_network(f"swin@{folder}", image_size=24)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    authors = {
        re.sub(r"layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name): tensor
        for name, tensor in tensors.items()
    }
    authors = {f"module.{name.replace('head.fc.', 'head.')}": tensor for name, tensor in authors.items()}
    authors["module.layers.0.blocks.1.attn_mask"] = np.zeros((4, 9, 9))
    authors["module.layers.0.blocks.1.attn.relative_position_index"] = np.zeros((9, 9), np.int64)
    safetensors.numpy.save_file(authors | {"loss.weight": np.ones(3)}, folder / "model.safetensors")
    found, _ = encoders.load_network(f"swin@{folder}", image_size=24)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(found), nnx.state(expected))


def test_the_text_tower_beside_a_resnet_of_clip_is_left_out(write_checkpoint):
    folder = write_checkpoint(
        "clip-resnet", tensors={"positional_embedding": np.ones((7, 4)), "logit_scale": np.ones(1)}
    )
    network, _ = encoders.load_network(f"clip-resnet@{folder}")
    assert network.pool.positions.shape == (5, 512)  # type: ignore[attr-defined]


# Preprocessing


def preprocessing_of(name: str, **options: Any) -> Any:
    return encoders.load_network(name, **options)[1]


def test_small_images_of_convnext_are_cropped_and_large_ones_are_not(write_checkpoint):
    folder = write_checkpoint("convnext")
    for size, resized in ((224, 256), (384, 384)):
        settings = {
            "size": {"shortest_edge": size},
            "crop_pct": 0.875,
            "image_mean": [0.5] * 3,
            "image_std": [0.25] * 3,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        preprocessing = preprocessing_of(f"convnext@{folder}")
        assert (preprocessing.image_size, preprocessing.resized) == (size, resized)
        assert (preprocessing.mean, preprocessing.std) == ((127.5,) * 3, (63.75,) * 3)
    assert preprocessing_of(f"convnext@{folder}", image_size=64).resized == 64


def test_preprocessing_of_timm_is_in_its_configuration(write_checkpoint):
    facts = {
        "input_size": [3, 24, 24],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "mean": [0.1] * 3,
        "std": [1.0] * 3,
    }
    preprocessing = preprocessing_of(f"swin@{write_checkpoint('swin-timm', pretrained_cfg=facts)}")
    assert (preprocessing.image_size, preprocessing.resized, preprocessing.method) == (24, 26, "linear")
    np.testing.assert_allclose(preprocessing.mean, [25.5] * 3)
    with pytest.raises(ValueError, match=r"config\.json: resample is 'random'"):
        preprocessing_of(f"swin@{write_checkpoint('swin-timm', pretrained_cfg=facts | {'interpolation': 'random'})}")


@pytest.mark.parametrize(("case", "mean"), [("swin", 0.485), ("convnext", 0.485), ("clip-resnet", 0.48145466)])
def test_without_a_file_preprocessing_is_that_of_the_family(case, mean, write_checkpoint):
    preprocessing = preprocessing_of(f"{CASES[case][0]}@{write_checkpoint(case)}")
    assert (preprocessing.image_size, preprocessing.method) == (CASES[case][-1][0], "cubic")
    np.testing.assert_allclose(preprocessing.mean[0], 255 * mean)


# What is refused


@pytest.mark.parametrize(
    ("case", "tensors", "says"),
    [
        (
            "convnext",
            {"convnext.encoder.stages.1.layers.1.pwconv1.bias": None},
            "no tensor 'stages.1.blocks.1.expand.bias'",
        ),
        ("convnext", {"convnext.embeddings.patch_embeddings.weight": None}, "no tensor 'patches.weight' of 4 axes"),
        (
            "convnext",
            {"convnext.encoder.stages.1.layers.0.se.weight": np.ones(3)},
            "lacks: stages.1.blocks.0.se.weight",
        ),
        ("convnext", {"convnext.layernorm.weight": np.full(16, np.nan)}, "'norm.weight' holds nan at"),
        ("convnext", {"convnext.head.norm.weight": np.ones(16)}, "two tensors 'norm.weight'"),
        ("swin", {"swin.encoder.layers.0.blocks.1.attention.self.query.bias": None}, "lacks: .*attention.key.bias"),
        (
            "swin",
            {"swin.embeddings.position_embeddings": np.ones((1, 144, 8))},
            "lacks: embeddings.position_embeddings",
        ),
        (
            "swin",
            {"swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table": np.ones((25, 3))},
            "biases 3 heads: the heads must divide the width",
        ),
        ("clip-resnet", {"visual.attnpool.k_proj.weight": None}, "no tensor 'attnpool.k_proj.weight'"),
        ("clip-resnet", {"visual.attnpool.positional_embedding": None}, "no tensor 'attnpool.positional_embedding'"),
        ("clip-resnet", {"visual.layer2.0.bn1.running_var": -np.ones(32)}, "of variances, holds -1"),
    ],
)
def test_tensors_of_another_network_are_refused(case, tensors, says, write_checkpoint):
    with pytest.raises(ValueError, match=says):
        encoders.load(f"{CASES[case][0]}@{write_checkpoint(case, tensors=tensors)}")


@pytest.mark.parametrize(
    ("case", "settings", "says"),
    [
        ("convnext", {"model_type": "swin"}, "model_type is 'swin', expected convnext or convnextv2"),
        ("convnext", {"hidden_act": "relu6"}, "hidden_act is 'relu6'"),
        ("swin", {"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ("swin", {"image_size": [24, 32]}, r"the size \[24, 32\] is not a square"),
    ],
)
def test_settings_of_another_network_are_refused(case, settings, says, write_checkpoint):
    with pytest.raises(ValueError, match=rf"config\.json: .*{says}"):
        encoders.load(f"{CASES[case][0]}@{write_checkpoint(case, **settings)}")


@pytest.mark.parametrize(("case", "size"), [("convnext", 12), ("convnext", 34), ("swin", 25), ("clip-resnet", 48)])
def test_image_sizes_that_do_not_fit_are_refused(case, size, write_checkpoint):
    with pytest.raises(ValueError, match=f"image_size is {size}: pass a multiple of"):
        encoders.load_network(f"{CASES[case][0]}@{write_checkpoint(case)}", image_size=size)


@pytest.mark.parametrize(("case", "stages"), [("convnext", 3), ("swin", 2), ("clip-resnet", 4)])
def test_layers_that_are_not_there_are_refused(case, stages, write_checkpoint):
    with pytest.raises(ValueError, match=f"layer must be one of 1 to {stages}, got 5"):
        encoders.load_network(f"{CASES[case][0]}@{write_checkpoint(case)}#5")


def test_names_of_families():
    with pytest.raises(ValueError, match="choose from swin@CHECKPOINT"):
        encoders.check_name("swin:random")
    with pytest.raises(ValueError, match="no family 'resnext'"):
        load_hierarchical_network("nothing", family="resnext")
