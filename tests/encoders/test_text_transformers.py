"""Families of transformers of texts: parity with transformers, layers, padding, configurations, tensors."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.make_text_oracles import oracle_tensors
from fixtures.make_transformer_oracles import CONFIGS, DISTANCES, oracle_tokens
from flax import nnx
from originals import relative_error
from paths import FIXTURES

from jaxrel.encoders import texts
from jaxrel.encoders.texts.encoder import apply
from jaxrel.encoders.texts.families import FAMILIES, Family
from jaxrel.encoders.texts.layers import distance_buckets
from jaxrel.encoders.texts.pooling import POOLINGS, pool
from jaxrel.encoders.texts.transformer import Transformer
from jaxrel.encoders.texts.transformer_checkpoints import load_transformer_tensors

NAMES = tuple(CONFIGS)


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "transformer_oracles.npz", allow_pickle=False) as file:
        return dict(file)


def family_of(name: str) -> Family:
    return next(family for family in FAMILIES.values() if CONFIGS[name]["model_type"] in family.model_types)


def tensors_of(name: str, oracles: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return oracle_tensors(json.loads(str(oracles[f"{name}/shapes"])))


def network_of(name: str, oracles: dict[str, np.ndarray], *, dtype: Any = np.float32, **options: Any) -> Transformer:
    network = Transformer(family_of(name).configured(CONFIGS[name]), **options)
    load_transformer_tensors(network, tensors_of(name, oracles), family_of(name), dtype=dtype)
    return network


def features_of(network: nnx.Module, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.asarray(apply(*nnx.split(network), texts.TokenBatch(ids, mask)).features)


@pytest.mark.parametrize("name", NAMES)
def test_float64_parity_with_transformers_after_every_layer(name, oracles, x64):
    means, tokens = oracles[f"{name}/means"], oracle_tokens(name)
    network = network_of(name, oracles, dtype=np.float64)
    in_one_pass = network.features_of_layers(*tokens, layers=range(len(means)))
    for features, expected in zip(in_one_pass, means, strict=True):
        assert features.dtype == np.float64
        assert relative_error(features, expected) < 1e-9
    np.testing.assert_allclose(features_of(network.stopped_after(1), *tokens), means[1], atol=1e-9)
    last = features_of(network_of(name, oracles, dtype=np.float64, pooling="lasttoken"), *tokens)
    assert relative_error(last, oracles[f"{name}/last"]) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_bfloat16_parity_with_transformers(name, oracles):
    expected = oracles[f"{name}/means"][-1]
    assert relative_error(features_of(network_of(name, oracles), *oracle_tokens(name)), expected) < 1e-5
    coarse = features_of(network_of(name, oracles, dtype=jnp.bfloat16), *oracle_tokens(name))
    assert coarse.dtype == np.float32
    assert 1e-5 < relative_error(coarse, expected) < 0.05


@pytest.mark.parametrize(("name", "buckets", "farthest"), [("usual", 32, 128), ("few", 12, 128), ("many", 64, 40)])
def test_buckets_of_relative_positions_are_those_of_t5(name, buckets, farthest, oracles):
    np.testing.assert_array_equal(distance_buckets(DISTANCES, buckets, farthest), oracles[f"buckets/{name}"])


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_influence(name, oracles, x64):
    network = network_of(name, oracles, dtype=np.float64)
    ids, mask = oracle_tokens(name)
    features = features_of(network, ids, mask)
    others = np.where(mask, ids, np.random.default_rng(0).integers(0, 40, ids.shape)).astype(np.int32)
    np.testing.assert_array_equal(features_of(network, others, mask), features)
    np.testing.assert_allclose(features_of(network, ids[1:2, :7], mask[1:2, :7])[0], features[1], atol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_without_tokens_has_features_of_0(pooling, oracles):
    network = network_of("qwen3", oracles, pooling=pooling, normalise=True)
    features = features_of(network, np.zeros((2, 4), np.int32), np.array([[True] * 4, [False] * 4]))
    np.testing.assert_array_equal(features[1], 0)
    assert np.linalg.norm(features[0]) == pytest.approx(1, abs=1e-6)


def test_poolings_by_their_definitions():
    states = np.random.default_rng(0).normal(size=(2, 5, 3))
    mask = np.array([[False, True, True, True, False], [True, True, False, False, False]])
    kept = [states[0, 1:4], states[1, :2]]
    weights = [np.array([2, 3, 4]), np.array([1, 2])]
    expected = {
        "mean": [each.mean(0) for each in kept],
        "cls": [each[0] for each in kept],
        "max": [each.max(0) for each in kept],
        "lasttoken": [each[-1] for each in kept],
        "mean_sqrt_len_tokens": [each.sum(0) / len(each) ** 0.5 for each in kept],
        "weightedmean": [np.average(each, axis=0, weights=w) for each, w in zip(kept, weights, strict=True)],
    }
    assert expected.keys() == POOLINGS.keys()
    for pooling, features in expected.items():
        found = pool(jnp.asarray(states), jnp.asarray(mask), pooling)
        np.testing.assert_allclose(found, features, rtol=1e-5, atol=1e-6)


def test_a_token_sees_none_after_it_in_a_decoder_and_all_in_an_encoder(oracles):
    ids, mask = oracle_tokens("qwen3")
    changed = ids.copy()
    changed[0, -1] = 3 if ids[0, -1] != 3 else 4
    for name, sees in (("qwen3", False), ("llama-biased", True), ("mpnet", True)):
        network = network_of(name, oracles, pooling="cls")
        difference = np.abs(features_of(network, changed, mask) - features_of(network, ids, mask))
        assert (difference[0].max() > 1e-4) == sees


def test_texts_longer_than_the_table_of_positions_are_refused(oracles):
    ids = np.ones((1, 65), np.int32)
    with pytest.raises(ValueError, match="65 tokens are too many: this network takes 64"):
        network_of("bart", oracles)(ids, ids)
    assert np.isfinite(features_of(network_of("qwen3", oracles), ids, ids.astype(bool))).all()


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64: only .* 32 are read"),
        ("mpnet", {"num_attention_heads": 3}, "the heads must divide the width"),
        ("mpnet", {"hidden_act": "swish9"}, "activation is 'swish9'"),
        ("bart", {"normalize_before": True}, "normalize_before is True: .*from_transformers"),
        ("bart", {"d_model": None}, "width is None"),
        ("t5", {"feed_forward_proj": "double-gelu"}, "feed_forward_proj is 'double-gelu'"),
        ("t5", {"relative_attention_num_buckets": 2}, "at least 4 buckets"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "'yarn'.*: only .* default and llama3"),
        ("qwen3", {"num_key_value_heads": 3}, "num_heads is 4: pass a multiple of num_key_heads, 3"),
        ("qwen3", {"head_dim": 7}, "head_width is 7: .* pass an even number"),
        ("qwen3", {"rms_norm_eps": 0}, "epsilon is 0"),
        ("modernbert", {"mlp_bias": "no"}, "hidden_bias is 'no'"),
    ],
)
def test_other_configurations_are_refused(name, changes, says):
    with pytest.raises(ValueError, match=says):
        family_of(name).configured(CONFIGS[name] | changes)


def test_a_configuration_without_a_size_is_refused():
    with pytest.raises(ValueError, match="configuration of a qwen2 lacks vocab_size, hidden_size"):
        family_of("qwen2").configured({"model_type": "qwen2", "num_hidden_layers": 2})


def test_settings_of_before_are_those_of_today():
    """ModernBERT's and Llama's configurations as their authors published them."""
    modern = {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "global_attn_every_n_layers": 3}
    assert FAMILIES["modernbert"].configured(CONFIGS["modernbert"] | modern) == FAMILIES["modernbert"].configured(
        CONFIGS["modernbert"]
    )
    scaling = dict(CONFIGS["llama"]["rope_parameters"])
    before = {"rope_parameters": None, "rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    configured = FAMILIES["llama"].configured
    assert configured(CONFIGS["llama"] | before) == configured(CONFIGS["llama"])
    assert configured(CONFIGS["llama"] | before | {"rope_theta": 600.0}) != configured(CONFIGS["llama"])


@pytest.mark.parametrize(
    ("name", "prefix", "head"),
    [
        ("modernbert", "model.", "head.dense.weight"),
        ("mpnet", "mpnet.", "lm_head.bias"),
        ("t5", "", "decoder.block.0.layer.0.SelfAttention.q.weight"),
        ("bart", "model.", "model.decoder.layers.0.fc1.weight"),
        ("qwen3", "module.model.", "lm_head.weight"),
    ],
)
def test_prefixes_and_heads_change_nothing(name, prefix, head, oracles):
    tensors = {f"{prefix}{key}": tensor for key, tensor in tensors_of(name, oracles).items()} | {head: np.zeros(3)}
    network = Transformer(family_of(name).configured(CONFIGS[name]))
    load_transformer_tensors(network, tensors, family_of(name))
    tokens = oracle_tokens(name)
    np.testing.assert_array_equal(features_of(network, *tokens), features_of(network_of(name, oracles), *tokens))


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("qwen3", {"layers.1.self_attn.q_norm.weight": None}, "no tensor 'layers.1.self_attn.q_norm.weight'"),
        ("qwen3", {"layers.2.mlp.up_proj.weight": np.zeros((24, 16))}, "lacks: layers.2.mlp.up_proj.weight"),
        ("llama", {"layers.0.self_attn.q_proj.bias": np.zeros(16)}, "lacks: layers.0.self_attn.q_proj.bias"),
        ("modernbert", {"layers.0.attn.Wqkv.weight": np.zeros((47, 16))}, "no tensor 'layers.0.attn.key.weight'"),
        ("t5", {"shared.weight": np.full((40, 16), np.nan)}, "'encoder.embed_tokens.weight' holds nan"),
    ],
)
def test_tensors_of_another_architecture_are_refused(name, changes, says, oracles):
    tensors = {key: value for key, value in (tensors_of(name, oracles) | changes).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        load_transformer_tensors(Transformer(family_of(name).configured(CONFIGS[name])), tensors, family_of(name))


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="layer is 3: this network has layers 1 to 2"):
        Transformer(family_of("qwen3").configured(CONFIGS["qwen3"]), layer=3)
