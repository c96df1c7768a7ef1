"""Features of several layers of a network, of one pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_texts import TOPICS, write_text_study

from jaxrel import encoders
from jaxrel.encoders import Encoder, extract_features, extract_layers
from jaxrel.encoders.texts import load_text_encoder
from jaxrel.storage.features import FeatureStore

TEXTS = [
    " ".join(words.split()[: 1 + number % 4]) + f" w{number % 7 + 13}"
    for number in range(7)
    for words in TOPICS.values()
]
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small encoder of texts."""
    monkeypatch.chdir(tmp_path)
    write_text_study(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


def counted(encoder: Encoder) -> tuple[Encoder, list[tuple[int, ...]]]:
    """The encoder, and the layers of each batch that goes through its network."""
    passes: list[tuple[int, ...]] = []
    assert encoder.layers is not None
    features = encoder.layers.features

    def count(layers: tuple[int, ...], state: Any, arrays: Any) -> Any:
        passes.append(layers)
        return features(layers, state, arrays)

    return dataclasses.replace(encoder, layers=dataclasses.replace(encoder.layers, features=count)), passes


@pytest.mark.parametrize(
    ("name", "layers", "samples"), [("bert@tiny", (2, 0, 1), TEXTS), ("resnet-18:random", (2, 1), IMAGES)]
)
def test_they_are_those_of_the_encoders_that_stop_there(name, layers, samples):
    encoder, passes = counted(encoders.load(name, image_size=32 if name.startswith("resnet") else None))
    found = extract_layers(encoder, layers, samples, batch_size=4)
    assert passes == [layers] * -(-len(samples) // 4)
    for layer, features in zip(layers, found, strict=True):
        alone = encoders.load(f"{name}#{layer}", image_size=encoder.image_size)
        np.testing.assert_allclose(features, extract_features(alone, samples, batch_size=4), rtol=1e-4, atol=1e-5)
        assert encoder.layers is not None
        stopped = encoder.layers.at(layer)
        np.testing.assert_allclose(stopped(samples[:4]).features, alone(samples[:4]).features, rtol=1e-4, atol=1e-5)
        facts = ("name", "fingerprint", "weights_sha256", "feature_width", "num_logits", "num_parameters", "layers")
        assert [getattr(stopped, fact) for fact in facts] == [getattr(alone, fact) for fact in facts]


def test_a_store_has_them_where_single_layers_have_theirs(store):
    alone = extract_features(encoders.load("bert@tiny#1"), TEXTS, batch_size=4, store=store)
    encoder, passes = counted(encoders.load("bert@tiny"))
    first, second = extract_layers(encoder, (1, 2), TEXTS, batch_size=4, store=store)
    assert set(passes) == {(2,)}
    assert first.folder == alone.folder
    told = []
    again = extract_features(
        encoders.load("bert@tiny#2"), TEXTS, batch_size=4, store=store, progress=lambda done, n: told.append(done)
    )
    assert told == [len(TEXTS)]
    assert (again.folder, again.key, again.provenance) == (second.folder, second.key, second.provenance)


def test_a_pass_that_was_stopped_goes_on(store, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrel.encoders.extraction.SHARD_SIZE", 4)

    def stop(done: int, _: int) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    encoder, passes = counted(encoders.load("bert@tiny"))
    with pytest.raises(KeyboardInterrupt):
        extract_layers(encoder, (1, 2), TEXTS, batch_size=4, store=store, progress=stop)
    passes.clear()
    found = extract_layers(encoder, (1, 2), TEXTS, batch_size=4, store=store)
    assert passes == [(1, 2)] * 3  # of 6, 3 were finished
    whole = extract_layers(encoder, (1, 2), TEXTS, batch_size=4, store=FeatureStore(tmp_path / "whole"))
    for features, expected in zip(found, whole, strict=True):
        np.testing.assert_array_equal(features, expected)


def test_a_layer_that_fails_keeps_no_other_from_being_finished(store):
    cls = load_text_encoder("tiny", name="cls", pooling="cls")  # whose embedding is that of one token in all texts
    with pytest.raises(ValueError, match="cls#0 gives the same features of all samples"):
        extract_layers(cls, (0, 1, 2), TEXTS, store=store)
    assert {table.provenance["encoder"]: table.complete for table in store.tables()} == {
        "cls#0": False,
        "cls#1": True,
        "cls#2": True,
    }


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("pixels", (1,), "pixels has no layers to choose from"),
        ("bert@tiny#1", (1,), "bert@tiny#1 has no layers to choose from"),
        ("bert@tiny", (1, 3), "layer is 3: this network has layers 1 to 2"),
        ("bert@tiny", (1, 1), r"layers are \[1, 1\]: pass at least one, and each once"),
        ("bert@tiny", (), "pass at least one"),
    ],
)
def test_layers_that_there_are_not(name, layers, message):
    with pytest.raises(ValueError, match=message):
        extract_layers(encoders.load(name), layers, TEXTS)
