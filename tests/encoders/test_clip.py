"""Both towers of CLIP in their joint space: parity with `transformers`, encoders of a checkpoint, what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fixtures.make_clip_oracles import CASES, oracle_tokens
from fixtures.make_vision_transformer_oracles import oracle_images
from originals import relative_error
from paths import FIXTURES
from tiny_clip import tiny_clip_tokenizer, write_tiny_clip

from jaxrel import encoders
from jaxrel.encoders.images.vision_transformers import load_vision_transformer_network
from jaxrel.encoders.texts.clip import ClipTextConfig, load_clip_text_encoder

pytest.importorskip("jimm")


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "clip_oracles.npz", allow_pickle=False) as file:
        return dict(file)


def texts_of(case: str) -> list[str]:
    """The words between the first and the last token of each text."""
    ids, mask = oracle_tokens(case)
    return [" ".join(map(str, row[shown][1:-1])) for row, shown in zip(ids, mask, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_float64_parity_of_texts_with_transformers(case, oracles, tmp_path, x64):
    folder = write_tiny_clip(tmp_path / case, oracles, case, dtype=np.float64)
    features = load_clip_text_encoder(folder, dtype=np.float64)(texts_of(case)).features
    assert features.dtype == np.float64
    assert relative_error(features, oracles[f"{case}/texts"]) < 1e-9


@pytest.mark.parametrize("case", ["quick", pytest.param("gelu", marks=pytest.mark.slow)])
def test_float64_parity_of_images_with_transformers(case, oracles, tmp_path, x64):
    folder = write_tiny_clip(tmp_path / case, oracles, case, dtype=np.float64)
    network, _ = load_vision_transformer_network(folder, family="clip-image", dtype=np.float64)
    assert relative_error(network(oracle_images(24)).features, oracles[f"{case}/images"]) < 1e-9


def test_both_towers_of_a_folder_are_encoders_of_one_space(oracles, tmp_path):
    folder = write_tiny_clip(tmp_path / "clip", oracles)
    texts, images = (encoders.load(f"clip-{tower}@{folder}") for tower in ("text", "image"))
    assert (texts.modality, images.modality) == ("texts", "images")
    assert texts.feature_width == images.feature_width == 12
    output = texts(texts_of("quick"))
    assert relative_error(output.features, oracles["quick/texts"]) < 1e-4
    assert output.features.dtype == np.float32
    assert output.logits is None
    plain = encoders.load(f"clip@{folder}")
    assert plain.feature_width == 24
    assert plain.fingerprint != images.fingerprint


def test_long_texts_are_cut_off_and_keep_their_end(oracles, tmp_path):
    encoder = load_clip_text_encoder(write_tiny_clip(tmp_path / "clip", oracles, "gelu"))
    words = " ".join(str(number) for number in range(21, 39))
    np.testing.assert_array_equal(encoder([words]).features, encoder([" ".join(words.split()[:10])]).features)


def test_pairs_are_refused_as_only_the_first_text_would_count(oracles, tmp_path):
    encoder = load_clip_text_encoder(write_tiny_clip(tmp_path / "clip", oracles), name="clip")
    with pytest.raises(ValueError, match="samples of clip are pairs of texts, which it does not take"):
        encoder([("5 6", "7")])


def test_texts_do_not_depend_on_what_they_are_padded_with(oracles, tmp_path):
    """Beside longer ones, and by tokens that are larger than that of the end."""
    folder = write_tiny_clip(tmp_path / "clip", oracles)
    tiny_clip_tokenizer(30).save(str(folder / "tokenizer.json"))
    encoder = load_clip_text_encoder(folder)
    words = ["5 6 7 8 9", "3"]
    together, alone = encoder(words).features, [encoder([text]).features[0] for text in words]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5, atol=1e-6)
    batch = encoder.prepare(words)
    harmed = batch._replace(ids=np.where(batch.mask, batch.ids, 39).astype(np.int32))
    np.testing.assert_array_equal(encoder.forward(harmed).features, encoder.forward(batch).features)


def test_fingerprints_tell_settings_of_the_text_tower_apart(oracles, tmp_path):
    folder = write_tiny_clip(tmp_path / "clip", oracles)
    first = load_clip_text_encoder(folder, name="x").fingerprint
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(config))
    assert load_clip_text_encoder(folder, name="x").fingerprint != first


def test_what_a_configuration_leaves_out_is_that_of_clip():
    config = ClipTextConfig.from_hugging_face({"model_type": "clip", "text_config": {"eos_token_id": 2}})
    assert (config.num_positions, config.projection_width, config.activation) == (77, 512, "quick_gelu")
    assert config.end_token is None
    assert ClipTextConfig.from_hugging_face({"model_type": "clip_text_model"}).end_token == 49407


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "siglip"}, "model_type is 'siglip': clip-text is clip or clip_text_model"),
        ({"text_config": {"num_attention_heads": 5}}, "the heads must divide the width"),
        ({"text_config": {"num_hidden_layers": 0}}, "num_layers is 0"),
        ({"text_config": {"hidden_act": "relu6"}}, "activation is 'relu6'"),
        ({"text_config": {"layer_norm_eps": 0}}, "epsilon is 0"),
        ({"projection_dim": "wide"}, "projection_width is 'wide'"),
    ],
)
def test_settings_of_another_text_tower_are_refused(changes: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        ClipTextConfig.from_hugging_face({"model_type": "clip"} | changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text_projection.weight": None}, r"no tensor 'text_projection\.weight'"),
        ({"text_projection.weight": np.ones((12, 16))}, r"has shape \(16, 12\) .* expected \(32, 12\)"),
        ({"text_model.encoder.layers.2.mlp.fc1.bias": np.ones(3)}, r"lacks: text_model\.encoder\.layers\.2"),
        ({"text_model.final_layer_norm.bias": np.full(32, np.nan)}, "holds nan"),
    ],
)
def test_tensors_of_another_text_tower_are_refused(changes, says, oracles, tmp_path):
    with pytest.raises(ValueError, match=says):
        load_clip_text_encoder(write_tiny_clip(tmp_path / "clip", oracles, **changes))


def test_a_projection_that_is_missing_or_no_number_is_named(oracles, tmp_path):
    folder = write_tiny_clip(tmp_path / "clip", oracles, **{"visual_projection.weight": None})
    with pytest.raises(ValueError, match=r"no tensor 'visual_projection\.weight'"):
        encoders.load(f"clip-image@{folder}")
    (folder / "config.json").write_text(json.dumps(json.loads(str(oracles["quick/config"])) | {"projection_dim": 0}))
    with pytest.raises(ValueError, match="projection_width is 0"):
        encoders.load(f"clip-image@{folder}")


@pytest.mark.parametrize(
    ("end", "ends", "says"), [(39, True, r"by \[39\], where the network looks for 20"), (20, False, r"by \[0\], where")]
)
def test_a_tokenizer_that_ends_texts_otherwise_is_refused(end, ends, says, oracles, tmp_path):
    folder = write_tiny_clip(tmp_path / "clip", oracles, "gelu")
    tiny_clip_tokenizer(end, ends=ends).save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match=says):
        load_clip_text_encoder(folder)


def test_names_of_the_towers():
    assert {"clip-text", "clip-image"} < set(encoders.names())
    for name in ("clip-text", "clip-text:random", "clip-image"):
        with pytest.raises(ValueError, match=r"choose from clip-(text|image)@CHECKPOINT"):
            encoders.check_name(name)
    with pytest.raises(ValueError, match="have features of layers"):
        encoders.check_name("clip-text@folder#3")
