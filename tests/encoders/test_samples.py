"""Samples of other libraries: tensors, series, columns, lists of pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrel.encoders import extract_features, load
from jaxrel.encoders.samples import as_samples
from jaxrel.encoders.texts import check_texts

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 30, 30, 3), dtype=np.uint8)
TEXTS = ["one", "two", ""]


def tensor_of(array: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(array)


def objects(items: list[Any]) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def column_of_pictures() -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    return datasets.Dataset.from_dict({"image": list(map(Image.fromarray, IMAGES))}, features=features)["image"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: IMAGES,
        lambda: tensor_of(IMAGES),
        lambda: tensor_of(np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1),
        lambda: list(IMAGES),
        lambda: tuple(map(tensor_of, IMAGES)),
        lambda: list(map(Image.fromarray, IMAGES)),
        lambda: objects(list(map(Image.fromarray, IMAGES))),
        lambda: objects(list(IMAGES)),
        lambda: pytest.importorskip("pandas").Series(list(map(Image.fromarray, IMAGES))),
        column_of_pictures,
    ],
)
def test_images_of_any_library_give_the_features_of_the_array(make: Callable[[], Any]) -> None:
    given = make()
    np.testing.assert_array_equal(as_samples(given), IMAGES)
    encoder = load("pixels")
    np.testing.assert_array_equal(extract_features(encoder, given), extract_features(encoder, IMAGES))
    np.testing.assert_array_equal(encoder(given).features, encoder(IMAGES).features)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tuple(TEXTS),
        lambda: np.array(TEXTS),
        lambda: objects(TEXTS),
        lambda: pytest.importorskip("pandas").Series(TEXTS),
        lambda: pytest.importorskip("polars").Series(TEXTS),
        lambda: pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS})["text"],
    ],
)
def test_texts_of_any_library_are_strings(make: Callable[[], Any]) -> None:
    assert check_texts(as_samples(make())) == TEXTS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tensor_of(IMAGES / 255), r"must be uint8 .* np\.round\(255 \* np\.asarray\(images\)\)"),
        (lambda: tensor_of(IMAGES).bfloat16(), "must be uint8 with values 0..255, got float32"),
        (lambda: tensor_of(IMAGES.transpose(0, 3, 1, 2)), r"np\.asarray\(images\)\.transpose\(0, 2, 3, 1\)"),
        (lambda: tensor_of(IMAGES[..., 0]), r"np\.asarray\(images\)\[\.\.\., None\]"),
        (
            lambda: [IMAGES[0], IMAGES[1, :20]],
            r"images have the shapes .20, 30, 3., .30, 30, 3.: resize them to one size",
        ),
        (lambda: [Image.new("I;16", (4, 4))], "a picture has mode I;16"),
        (lambda: [Image.new("L", (4, 4)), None], "picture 1 cannot be read"),
        (lambda: {"train": IMAGES, "test": IMAGES}, "samples is a dict of train, test: pass one of these"),
        (
            lambda: pytest.importorskip("pandas").DataFrame({"text": TEXTS, "label": [0, 1, 0]}),
            r"a DataFrame with the columns text, label: pass the one .* such as samples\['text'\]",
        ),
        (
            lambda: pytest.importorskip("polars").DataFrame({"text": TEXTS}),
            r"a DataFrame with the columns text: pass the one",
        ),
        (
            lambda: pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS}),
            r"a Dataset with the columns text: pass the one",
        ),
        (
            lambda: pytest.importorskip("datasets").DatasetDict(
                train=pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS})
            ),
            "a DatasetDict of train: pass one of these",
        ),
    ],
)
def test_other_samples_are_refused_with_advice(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract_features(load("pixels"), make())


def test_pictures_of_several_sizes_become_central_squares() -> None:
    pictures = [Image.new("L", (40, 20), 7), Image.new("L", (10, 30), 9)]
    found = as_samples(pictures)
    assert found.shape == (2, 224, 224, 1)
    assert [image.max() for image in found] == [7, 9]


def test_texts_that_are_missing_are_named() -> None:
    for missing in (None, float("nan")):
        with pytest.raises(ValueError, match=r"got \w+ at position 1; convert it by str, or leave out samples that"):
            check_texts(as_samples(["a", missing]))
