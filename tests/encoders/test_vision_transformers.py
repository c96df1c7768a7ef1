"""Vision transformers of checkpoints: parity with `transformers`, loading, preprocessing, the contract of encoders."""

from __future__ import annotations

import importlib.util
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import originals
import pytest
import safetensors.numpy
from fixtures.make_vision_transformer_oracles import CASES, TINY, oracle_images, oracle_tensors
from flax import nnx
from originals import apply, relative_error
from paths import FIXTURES
from PIL import Image

from jaxrel import encoders
from jaxrel.encoders.images.vision_transformers import VisionTransformerConfig, load_vision_transformer_network

pytest.importorskip("jimm")

SIZES = [(case, size) for case, (*_, sizes) in CASES.items() for size in sizes]


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "vision_transformer_oracles.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def write_checkpoint(tmp_path, oracles):
    return lambda case, **changes: originals.write_checkpoint(tmp_path / case, oracles, case, oracle_tensors, **changes)


def photographs(batch: int, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


def fast(*cases: tuple[str, int]) -> list[Any]:
    """All cases and sizes, slow but for these."""
    return [pytest.param(*case, marks=[] if case in cases else pytest.mark.slow) for case in SIZES]


# Parity


@pytest.mark.parametrize(
    ("case", "size"),
    fast(("vit", 24), ("clip", 24), ("siglip", 24), ("dinov2", 40), ("dinov3", 24), ("beit", 40), ("beit-shared", 24)),
)
def test_float64_parity_with_transformers(case, size, write_checkpoint, oracles, x64):
    """Three images, or one at sizes for which positions are interpolated."""
    images = oracle_images(size)[: 3 if size == 24 else 1]
    network, _ = load_vision_transformer_network(
        write_checkpoint(case), family=CASES[case][0], image_size=size, dtype=np.float64
    )
    output = apply(network, images)
    assert output.features.dtype == np.float64
    assert relative_error(output.features, oracles[f"{case}/{size}/features"][: len(images)]) < 1e-9
    if f"{case}/{size}/logits" in oracles:
        assert relative_error(output.logits, oracles[f"{case}/{size}/logits"][: len(images)]) < 1e-9
    else:
        assert output.logits is None


@pytest.mark.parametrize(("case", "size"), fast(("siglip-vision", 24), ("dinov3-gated", 24)))
def test_float32_parity_with_transformers(case, size, write_checkpoint, oracles):
    folder = write_checkpoint(case, dtype=np.float32)
    network, _ = encoders.load_network(f"{CASES[case][0]}@{folder}", image_size=size)
    output = apply(network, oracle_images(size).astype(np.float32))
    assert output.features.dtype == np.float32
    assert relative_error(output.features, oracles[f"{case}/{size}/features"]) < 1e-4


def test_bfloat16_weights_give_float32_features_near_those_of_float32(write_checkpoint, oracles):
    folder = write_checkpoint("dinov2-gated", dtype=ml_dtypes.bfloat16)
    network, _ = load_vision_transformer_network(folder, family="dinov2", dtype=jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(network))} == {"bfloat16"}
    features = apply(network, oracle_images(24).astype(np.float32)).features
    assert features.dtype == np.float32
    assert 1e-4 < relative_error(features, oracles["dinov2-gated/24/features"]) < 0.03


def test_a_bfloat16_checkpoint_is_computed_in_float32(write_checkpoint):
    network, _ = encoders.load_network(f"dinov2@{write_checkpoint('dinov2', dtype=ml_dtypes.bfloat16)}")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(network))} == {"float32"}


# The encoder


def test_an_encoder_of_a_checkpoint(write_checkpoint, oracles):
    folder = write_checkpoint("vit", dtype=np.float32)
    encoder = encoders.load(f"vit@{folder}")
    assert (encoder.modality, encoder.image_size, encoder.feature_width, encoder.num_logits) == ("images", 24, 24, 5)
    shapes = json.loads(str(oracles["vit/shapes"])).values()
    assert encoder.num_parameters == sum(math.prod(shape) for shape in shapes)
    network, preprocessing = encoders.load_network(f"vit@{folder}")
    expected = apply(network, np.asarray(preprocessing(photographs(3))))
    output = encoder(photographs(3))
    np.testing.assert_allclose(output.features, expected.features, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(encoder(photographs(3)).features, output.features)
    on_four = encoders.extract_features(encoder, photographs(3), batch_size=4, mesh=jax.make_mesh((4,), ("samples",)))
    np.testing.assert_allclose(on_four, output.features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["vit", "siglip-vision"])
def test_a_layer_is_the_end_of_a_network_without_the_rest(case, write_checkpoint, oracles):
    whole, images = write_checkpoint(case), oracle_images(24)
    options = {"family": CASES[case][0], "image_size": 24}
    cut, _ = load_vision_transformer_network(whole, layer=2, **options)
    last, _ = load_vision_transformer_network(whole, layer=3, **options)
    features = [np.asarray(apply(network, images).features) for network in (cut, last)]
    np.testing.assert_allclose(features[1], oracles[f"{case}/24/features"], rtol=1e-4, atol=1e-4)
    assert apply(cut, images).logits is None
    for layer in (0, 4):
        with pytest.raises(ValueError, match=f"layer is {layer}: the network has 3 blocks"):
            load_vision_transformer_network(whole, layer=layer, **options)
    block = "layers.2." if case == "siglip-vision" else "layer.2."
    names = [name for name in json.loads(str(oracles[f"{case}/shapes"])) if block in name or "classifier" in name]
    shorter = write_checkpoint(case, tensors=dict.fromkeys(names), num_hidden_layers=2)
    expected = apply(load_vision_transformer_network(shorter, **options)[0], images).features
    np.testing.assert_array_equal(features[0], expected)


@pytest.mark.parametrize("case", ["vit", "siglip-vision"])
def test_one_pass_gives_the_features_of_all_layers(case, write_checkpoint):
    name = f"{CASES[case][0]}@{write_checkpoint(case)}"
    encoder = encoders.load(name)
    assert encoder.layers is not None
    found = encoders.extract_layers(encoder, (1, 3), photographs(3))
    for layer, features in zip((1, 3), found, strict=True):
        alone, stopped = encoders.load(f"{name}#{layer}"), encoder.layers.at(layer)
        np.testing.assert_allclose(features, alone(photographs(3)).features, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(stopped(photographs(3)).features, features, rtol=1e-4, atol=1e-4)
        assert stopped.fingerprint == alone.fingerprint
        assert (stopped.num_parameters, stopped.num_logits) == (alone.num_parameters, alone.num_logits)


def test_fingerprints_tell_settings_and_weights_apart(write_checkpoint):
    def fingerprint(**changes: Any) -> str:
        return encoders.load(f"dinov3@{write_checkpoint('dinov3', **changes)}").fingerprint

    same, heads, epsilon = fingerprint(), fingerprint(num_attention_heads=2), fingerprint(layer_norm_eps=1e-3)
    changed = fingerprint(tensors={"norm.bias": np.zeros(24)})
    assert fingerprint() == same
    assert len({same, heads, epsilon, changed}) == 4


def test_encoders_of_one_architecture_share_what_is_compiled(write_checkpoint):
    def graph(**changes: Any) -> Any:
        network, _ = load_vision_transformer_network(write_checkpoint("clip", **changes), family="clip")
        return nnx.split(network)[0]

    first = graph()
    assert first == graph(tensors={"vision_model.post_layernorm.bias": np.ones(24)})
    assert first != graph(vision_config=TINY | {"num_attention_heads": 6})


@pytest.mark.slow
def test_a_network_under_vmap_and_grad(write_checkpoint, oracles, x64):
    network, _ = load_vision_transformer_network(write_checkpoint("dinov3"), family="dinov3", dtype=np.float64)
    graph, state = nnx.split(network)
    one = jax.jit(jax.vmap(lambda image: nnx.merge(graph, state)(image[None]).features[0]))
    assert relative_error(one(oracle_images(24)), oracles["dinov3/24/features"]) < 1e-9
    gradient = jax.jit(jax.grad(lambda state: nnx.merge(graph, state)(oracle_images(24)).features[0, 0]))(state)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


# Preprocessing

CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def loaded(name: str, **options: Any) -> tuple[Any, Any]:
    """With what only these networks and their preprocessing have."""
    return encoders.load_network(name, **options)


def test_preprocessing_is_that_of_the_checkpoint(write_checkpoint):
    """Against Pillow, which rounds to whole grey levels after each direction."""
    folder = write_checkpoint("dinov2", dtype=np.float32)
    settings = {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "resample": 3}
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    (folder / "preprocessor_config.json").write_text(
        json.dumps(settings | {"image_mean": mean, "image_std": std, "do_center_crop": True, "rescale_factor": 1 / 255})
    )
    network, preprocessing = loaded(f"dinov2@{folder}")
    assert (preprocessing.image_size, network.config.grid) == (16, 2)
    image = photographs(1, 40, 40)[0]
    resized = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC), np.float64)
    expected = (resized[2:18, 2:18] / 255 - mean) / std
    levels = 255 * np.abs(np.asarray(preprocessing(image[None]))[0] - expected) * std
    assert levels.max() < 1.6
    assert levels.mean() < 0.4
    linear = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR), np.float64)[2:18, 2:18]
    assert np.abs(linear - resized[2:18, 2:18]).mean() > 4  # so another interpolation would show


@pytest.mark.parametrize(
    ("case", "method", "black", "std"),
    [
        ("vit", "linear", -1, 0.5),
        ("clip", "cubic", -0.48145466 / CLIP_STD[0], CLIP_STD),
        ("siglip", "cubic", -1, 0.5),
        ("dinov2", "cubic", -0.485 / 0.229, [0.229, 0.224, 0.225]),
        ("dinov3", "linear", -0.485 / 0.229, [0.229, 0.224, 0.225]),
        ("data2vec", "cubic", -1, 0.5),
    ],
)
def test_without_a_file_preprocessing_is_that_of_the_family(case, method, black, std, write_checkpoint):
    _, preprocessing = loaded(f"{CASES[case][0]}@{write_checkpoint(case)}")
    assert (preprocessing.image_size, preprocessing.resized, preprocessing.method) == (24, 24, method)
    values = np.asarray(preprocessing(np.zeros((1, 5, 7, 1), np.uint8)))
    np.testing.assert_allclose(values[..., 0], black, rtol=1e-5)
    np.testing.assert_allclose(preprocessing.std, 255 * np.broadcast_to(std, 3), rtol=1e-12)


def test_older_files_of_preprocessing_and_another_image_size(write_checkpoint):
    folder = write_checkpoint("clip")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32, "crop_size": 24, "do_normalize": False}))
    _, preprocessing = loaded(f"clip@{folder}")
    assert (preprocessing.resized, preprocessing.image_size, preprocessing.std) == (32, 24, (255.0,) * 3)
    _, preprocessing = loaded(f"clip@{folder}", image_size=48)
    assert (preprocessing.resized, preprocessing.image_size) == (64, 48)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": {"height": 24, "width": 32}}, "is not a square"),
        ({"size": {"longest_edge": 24}}, "is not a square"),
        ({"size": 16, "crop_size": 24}, "crop_size 24 is more than the size 16"),
        ({"resample": 0}, "resample is 0"),
        ({"image_mean": [0.5]}, "do not scale RGB"),
        ({"image_mean": 0.5}, "preprocessor_config.json"),
    ],
)
def test_a_preprocessing_that_is_not_known_is_refused(settings, says, write_checkpoint):
    folder = write_checkpoint("vit")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=says):
        encoders.load(f"vit@{folder}")


# What is refused


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"vit.encoder.layer.1.output.dense.bias": None}, "no tensor 'encoder.layer.1.output.dense.bias'"),
        ({"vit.embeddings.cls_token": None}, "no tensor 'embeddings.cls_token'"),
        (
            {"vit.encoder.layer.1.output.dense.weight": np.zeros((40, 24))},
            r"has shape \(24, 40\) .* expected \(40, 24\)",
        ),
        ({"vit.embeddings.position_embeddings": np.zeros((1, 12, 24))}, r"expected \(1, 10, 24\)"),
        ({"vit.encoder.layer.3.output.dense.bias": np.zeros(24)}, "lacks: encoder.layer.3.output.dense.bias"),
    ],
)
def test_tensors_of_another_network_are_refused(tensors, says, write_checkpoint):
    with pytest.raises(ValueError, match=says):
        encoders.load(f"vit@{write_checkpoint('vit', tensors=tensors)}")


def test_a_wrapped_checkpoint_is_read(write_checkpoint):
    folder = write_checkpoint("vit")
    plain, _ = encoders.load_network(f"vit@{folder}")
    path = folder / "model.safetensors"
    wrapped = {f"module.{name}": value for name, value in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(wrapped | {"loss.weight": np.ones(3)}, path)
    found, _ = encoders.load_network(f"vit@{folder}")
    jax.tree.map(np.testing.assert_array_equal, nnx.state(found), nnx.state(plain))


def test_a_beit_before_fine_tuning_has_the_normalisation_of_its_head(write_checkpoint):
    """With the buffers that published files have, and the head that predicts visual words."""
    folder = write_checkpoint("beit")
    expected, _ = encoders.load_network(f"beit@{folder}")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    norm = {f"layernorm.{kind}": tensors[f"beit.pooler.layernorm.{kind}"] for kind in ("weight", "bias")}
    index = "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"
    head = norm | {index: np.zeros((10, 10), np.int64), "lm_head.weight": np.ones((7, 24)), "lm_head.bias": np.ones(7)}
    kept = {name: value for name, value in tensors.items() if not name.startswith(("beit.pooler.", "classifier."))}
    safetensors.numpy.save_file(kept | head, folder / "model.safetensors")
    network, _ = encoders.load_network(f"beit@{folder}")
    images = oracle_images(24)
    np.testing.assert_array_equal(apply(network, images).features, apply(expected, images).features)
    safetensors.numpy.save_file(tensors | norm, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"two tensors 'layernorm\.(weight|bias)'"):
        encoders.load_network(f"beit@{folder}")


def test_features_of_the_mean_and_of_the_class_have_other_fingerprints(write_checkpoint):
    mean, token = (
        encoders.load(f"beit@{write_checkpoint('beit', use_mean_pooling=mean)}").fingerprint for mean in (True, False)
    )
    assert mean != token


def test_a_checkpoint_that_is_not_finite_is_refused(write_checkpoint):
    folder = write_checkpoint("vit", tensors={"vit.embeddings.cls_token": np.full((1, 1, 24), np.inf)})
    with pytest.raises(ValueError, match=r"'embeddings\.cls_token' holds inf at \(0, 0, 0\)"):
        encoders.load_network(f"vit@{folder}")


def test_sizes_that_no_checkpoint_has_are_refused(write_checkpoint):
    with pytest.raises(ValueError, match=r"more than [0-9,]+ numbers, but the checkpoint has"):
        encoders.load_network(f"vit@{write_checkpoint('vit', num_hidden_layers=100_000)}")
    with pytest.raises(ValueError, match="images of 80000 pixels: at most 4096"):
        encoders.load_network(f"vit@{write_checkpoint('vit', image_size=80_000)}")


@pytest.mark.parametrize(
    ("case", "settings", "says"),
    [
        ("vit", {"model_type": "deit"}, "model_type is 'deit': vit is vit"),
        ("dinov2", {"model_type": "dinov3_vit"}, "dinov2 is dinov2 or dinov2_with_registers"),
        ("vit", {"num_attention_heads": 5}, "the heads must divide the width"),
        ("vit", {"num_hidden_layers": 0}, "num_layers is 0"),
        ("vit", {"hidden_act": "relu6"}, "activation is 'relu6'"),
        ("vit", {"layer_norm_eps": 0}, "epsilon is 0"),
        ("vit", {"num_channels": 1}, "num_channels is 1"),
        ("vit", {"image_size": [24, 24]}, "image_size is"),
        ("beit", {"use_absolute_position_embeddings": True}, "positions are not those of BEiT"),
        ("beit", {"use_relative_position_bias": False}, "positions are not those of BEiT"),
        ("dinov3", {"num_attention_heads": 4}, "rotary positions need a multiple of 4"),
        ("siglip-vision", {"vision_use_head": False}, "vision_use_head is false"),
    ],
)
def test_settings_of_another_network_are_refused(case, settings, says, write_checkpoint):
    with pytest.raises(ValueError, match=rf"config\.json: .*{says}"):
        encoders.load(f"{CASES[case][0]}@{write_checkpoint(case, **settings)}")


def test_settings_that_a_checkpoint_leaves_out_are_the_published_ones():
    config = VisionTransformerConfig.from_hugging_face(
        {"model_type": "siglip", "vision_config": {"image_size": 256}}, family="siglip"
    )
    assert (config.width, config.num_heads, config.patch_size, config.grid) == (768, 12, 16, 16)
    giant = {"model_type": "dinov2", "hidden_size": 1536, "num_attention_heads": 24, "use_swiglu_ffn": True}
    config = VisionTransformerConfig.from_hugging_face(giant, family="dinov2")
    assert (config.hidden_width, config.activation) == (4096, "silu")
    with pytest.raises(ValueError, match="no family 'deit'"):
        VisionTransformerConfig.from_hugging_face({}, family="deit")


def test_an_image_size_between_patches_is_refused(write_checkpoint):
    with pytest.raises(ValueError, match="image_size is 30: pass a multiple of the 8 pixels"):
        encoders.load(f"dinov3@{write_checkpoint('dinov3')}", image_size=30)


# Names


def test_names_of_families():
    families = ("vit", "clip", "siglip", "dinov2", "dinov3", "beit")
    assert set(families) < set(encoders.names())
    assert {encoders.modality(f"{family}@owner/name") for family in families} == {"images"}
    for name in ("siglip", "siglip:random"):
        with pytest.raises(ValueError, match="choose from siglip@CHECKPOINT"):
            encoders.check_name(name)


def test_a_missing_package_is_named_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'clip@owner/name' needs .* pip install 'jaxrel\[vit\]'"):
        encoders.check_name("clip@owner/name")
    encoders.check_name("bert@owner/name")
