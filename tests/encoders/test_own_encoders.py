"""Encoders of functions and Linen modules of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.sharding import Mesh

from jaxrel import encoders
from jaxrel.encoders import Preprocessing, extract_features, from_function, from_linen, from_network
from jaxrel.encoders.encoder import fingerprint
from jaxrel.storage.features import FeatureStore

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 20, 24, 3), np.uint8)
TEXTS = ["one", "another text", "a", "the longest text of all of them", "two"]
PREPROCESSING = Preprocessing(8, (127.5,) * 3, (127.5,) * 3)


def means(images: Any) -> Any:
    """Of JAX and of NumPy alike."""
    return images.mean((1, 2))


def histograms(images: np.ndarray) -> np.ndarray:
    """Of NumPy alone, which writes into what it is given."""
    images //= 2
    return np.stack([np.histogram(image, bins=5, range=(0, 128))[0] for image in images])


def spelled(texts: list[str]) -> np.ndarray:
    assert type(texts) is list
    return np.array([[len(text), text.count("t")] for text in texts])


# Functions


def test_a_function_of_jax_is_compiled_once_for_each_shape() -> None:
    traces = []

    def function(images: jax.Array) -> jax.Array:
        assert not isinstance(images, np.ndarray)
        traces.append((images.shape, images.dtype))
        return means(images)

    encoder = from_function(function, name="means", version="1", image_size=8)
    assert (encoder.feature_width, encoder.image_size, encoder.num_logits) == (3, 8, None)
    del traces[:]
    features = extract_features(encoder, IMAGES, batch_size=4)
    assert traces == [((4, 8, 8, 3), np.uint8)]
    squares = np.asarray(jnp.round(PREPROCESSING.resize(jnp.asarray(IMAGES))))
    np.testing.assert_allclose(features, squares.mean((1, 2)), rtol=1e-6)


def test_any_other_function_is_called_with_arrays_that_may_be_written_to() -> None:
    encoder = from_function(histograms, name="histograms", version="1")
    given = IMAGES.copy()
    features = encoder(given).features
    np.testing.assert_array_equal(features, histograms(IMAGES.copy()))
    assert (features.dtype, encoder.image_size) == (np.float32, None)
    np.testing.assert_array_equal(given, IMAGES)


@pytest.mark.parametrize("image_size", [None, 8])
def test_grey_images_have_three_channels(image_size: int | None) -> None:
    encoder = from_function(means, name="means", version="1", image_size=image_size)
    features = np.asarray(encoder(IMAGES[..., :1]).features)
    np.testing.assert_array_equal(features, features[:, :1].repeat(3, axis=1))


def test_a_preprocessing_is_that_of_the_function() -> None:
    encoder = from_function(means, name="means", version="1", preprocessing=PREPROCESSING)
    np.testing.assert_allclose(encoder(IMAGES).features, np.mean(PREPROCESSING(IMAGES), (1, 2)), atol=1e-6)
    assert (encoder.image_size, encoder.preprocessing) == (8, repr(PREPROCESSING))


def test_a_function_of_texts_takes_a_list() -> None:
    encoder = from_function(spelled, name="spelled", version="1", modality="texts")
    np.testing.assert_array_equal(extract_features(encoder, TEXTS, batch_size=2), spelled(TEXTS))


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (lambda x: (means(x), 1), r"are a tuple: pass a function that gives one array .* batch: network\(batch\)\[0\]"),
        (lambda x: {"a": 1, "b": 2}, "are a dict of a, b: .*from_transformers makes an encoder"),
        (lambda x: x, r"have shape \(2, 224, 224, 3\), expected \(2, d\): take the mean over further axes"),
        (lambda x: means(x)[:1], r"have shape \(1, 3\), expected \(2, d\)"),
        (lambda x: means(x) > 3, "must be real numbers, got dtype bool"),
        (lambda x: 1 / 0, "fails with an example of two images of shape .*: division by zero"),
    ],
)
def test_what_gives_no_features_is_refused(gives: Any, says: str) -> None:
    with pytest.raises(ValueError, match=f"odd.*{says}"):
        from_function(gives, name="odd", version="1")


def test_features_of_another_width_than_those_of_the_example_are_refused() -> None:
    encoder = from_function(lambda x: np.array(x)[:, 0, :, 0], name="wide", version="1")
    assert encoder.feature_width == 224
    with pytest.raises(ValueError, match=r"wide have shape \(2, 24\), expected \(2, 224\): .*pass image_size"):
        encoder(IMAGES[:2])


def test_features_that_are_not_finite_are_refused_where_they_are_extracted() -> None:
    encoder = from_function(lambda x: jnp.log(means(x)), name="log", version="1")
    with pytest.raises(ValueError, match="features of sample 1 that are NaN or infinite"):
        extract_features(encoder, np.stack([IMAGES[0], np.zeros_like(IMAGES[0])]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"version": ""}, "version is empty"),
        ({"modality": "sounds"}, "modality is 'sounds': choose from images, texts"),
        ({"modality": "texts", "image_size": 8}, "leave them out for texts"),
        ({"image_size": 8, "preprocessing": PREPROCESSING}, "pass one of them"),
    ],
)
def test_wrong_options_are_refused(options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_function(means, **{"name": "odd", "version": "1", **options})


def test_a_changed_function_is_noticed_even_under_the_same_version(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    calls = []

    def function(images: np.ndarray, factor: float = 1) -> np.ndarray:
        calls.append(len(images))
        return factor * np.array(images).mean((1, 2))

    def made(factor: float = 1, **options: Any) -> encoders.Encoder:
        options = {"name": "means", "version": "1"} | options
        return from_function(lambda images: function(images, factor), **options)

    features = np.asarray(extract_features(made(), IMAGES, store=store))
    again = made()
    del calls[:]
    np.testing.assert_array_equal(extract_features(again, IMAGES, store=store), features)
    assert not calls
    np.testing.assert_allclose(extract_features(made(2), IMAGES, store=store), 2 * features, rtol=1e-6)
    prints = [
        made(**each).fingerprint for each in ({}, {"factor": 2}, {"version": "2"}, {"name": "a"}, {"image_size": 224})
    ]
    assert len(set(prints)) == 5


def test_only_programs_of_jax_share_devices() -> None:
    mesh = Mesh(jax.devices()[:2], "x")
    encoder = from_function(means, name="means", version="1", image_size=8)
    alone, shared = (extract_features(encoder, IMAGES, batch_size=4, mesh=each) for each in (None, mesh))
    np.testing.assert_array_equal(alone, shared)
    for function, modality in ((histograms, "images"), (spelled, "texts")):
        encoder = from_function(function, name="mine", version="1", modality=modality)
        with pytest.raises(ValueError, match=r"mine is no program of JAX, .*leave out mesh"):
            extract_features(encoder, TEXTS if modality == "texts" else IMAGES, batch_size=4, mesh=mesh)


# Linen modules


class Linen(linen.Module):
    """Features of images; dropout unless told otherwise."""

    width: int = 5
    activation: Any = linen.relu

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = self.activation(linen.BatchNorm(use_running_average=not train)(linen.Conv(self.width, (3, 3))(x)))
        return linen.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))


LINEN = Linen()


def variables(seed: int = 0) -> Any:
    return LINEN.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)), train=False)


def test_a_linen_module_is_an_encoder() -> None:
    encoder = from_linen(LINEN, variables(), PREPROCESSING, name="linen", train=False)
    expected = LINEN.apply(variables(), PREPROCESSING(IMAGES), train=False)
    np.testing.assert_allclose(extract_features(encoder, IMAGES, batch_size=4), expected, rtol=1e-5, atol=1e-6)
    assert encoder.num_parameters == 3 * 3 * 3 * 5 + 5 + 2 * 5
    mesh = Mesh(jax.devices()[:2], "x")
    np.testing.assert_allclose(
        extract_features(encoder, IMAGES, batch_size=4, mesh=mesh), expected, rtol=1e-5, atol=1e-6
    )


def test_the_fingerprint_of_a_linen_module_is_of_all_that_decides_its_features() -> None:
    def printed(module: Any = LINEN, given: Any = None, **options: Any) -> str:
        return from_linen(
            module, given or variables(), PREPROCESSING, **{"name": "n", "train": False} | options
        ).fingerprint

    first = variables()
    other = jax.tree.map(lambda x: x, first)
    other["batch_stats"] = jax.tree.map(lambda x: x + 1, other["batch_stats"])
    assert printed() == printed()
    assert (
        len({printed(), printed(given=variables(1)), printed(given=other), printed(Linen(activation=linen.tanh))}) == 4
    )
    assert printed() != printed(name="other")
    assert fingerprint("<function f at 0x7f01>", {}) == fingerprint("<function f at 0x8e02>", {})
    twice, thrice = (lambda x, factor=factor: factor * x for factor in (2.0, 3.0))
    assert printed(Linen(activation=twice)) != printed(Linen(activation=thrice))


def test_linen_variables_are_taken_as_they_are_now() -> None:
    given = jax.tree.map(np.array, variables())
    encoder = from_linen(LINEN, given, PREPROCESSING, name="linen", train=False)
    before = np.asarray(encoder(IMAGES).features)
    given["params"]["Conv_0"]["kernel"][:] = 0
    np.testing.assert_array_equal(encoder(IMAGES).features, before)
    given["params"]["Conv_0"]["kernel"][:] = np.nan
    with pytest.raises(ValueError, match=r"variable \['params'\]\['Conv_0'\]\['kernel'\] of the network holds NaN"):
        from_linen(LINEN, given, PREPROCESSING, name="linen", train=False)


def test_networks_of_other_libraries_are_sent_elsewhere() -> None:
    with pytest.raises(
        ValueError, match=r"of test_own_encoders.Linen, not of Flax NNX: pass a Linen module to from_linen"
    ):
        from_network(LINEN, PREPROCESSING, name="linen")
