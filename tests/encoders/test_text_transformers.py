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
from paths import FIXTURES

from jaxrel.encoders import texts
from jaxrel.encoders.texts.encoder import apply
from jaxrel.encoders.texts.families import FAMILIES, Family
from jaxrel.encoders.texts.layers import distance_buckets
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


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(value, np.float64) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", NAMES)
def test_float64_parity_with_transformers_after_every_layer(name, oracles, x64):
    means, tokens = oracles[f"{name}/means"], oracle_tokens(name)
    for layer, expected in enumerate(means):
        features = features_of(network_of(name, oracles, dtype=np.float64, layer=layer), *tokens)
        assert features.dtype == np.float64
        assert relative_error(features, expected) < 1e-9
    last = features_of(network_of(name, oracles, dtype=np.float64, pooling="lasttoken"), *tokens)
    assert relative_error(last, oracles[f"{name}/last"]) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_bfloat16_parity_with_transformers(name, oracles):
    expected = oracles[f"{name}/means"][-1]
    assert relative_error(features_of(network_of(name, oracles), *oracle_tokens(name)), expected) < 1e-5
    coarse = features_of(network_of(name, oracles, dtype=jnp.bfloat16), *oracle_tokens(name))
    assert coarse.dtype == np.float32
    assert 1e-5 < relative_error(coarse, expected) < 0.05
