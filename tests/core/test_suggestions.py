"""What is asked of a user whose name is unknown."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrel import data, encoders, metrics
from jaxrel._core.suggestions import suggestion


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet50", "resnet-50"),
        ("ResNet_50", "resnet-50"),
        ("mobilenet_v2", "mobilenet-v2"),
        ("MobileNetV2", "mobilenet-v2"),
        ("mobilnet-v2", "mobilenet-v2"),
        ("efficientnet_lite1", "efficientnet-lite1"),
        ("minilm", "all-minilm-l6-v2"),
        ("CLIP", "clip"),
        ("dinov2-small", "dinov2"),
        ("quantum", None),
    ],
)
def test_encoders(name, meant):
    with pytest.raises(ValueError, match="unknown encoder") as caught:
        encoders.check_name(name)
    assert_asks_for(meant, str(caught.value))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LogME", "logme"),
        ("logme_score", "logme"),
        ("nce_score", "nce"),
        ("H-Score", "h_score"),
        ("transferabilty", "transferability"),
        ("energy_distanc", "energy_distance"),
        ("xyz", None),
    ],
)
def test_metrics(name, meant):
    with pytest.raises(ValueError, match="unknown metric") as caught:
        metrics.score_encoders([np.eye(4, 2)], np.arange(4) % 2, metrics=[name])
    assert_asks_for(meant, str(caught.value))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mnist_", "mnist"),
        ("MNIST", "mnist"),
        ("FashionMNIST", "fashion-mnist"),
        ("20newsgroups", "20-newsgroups"),
        ("amazon", "amazon-5"),
        ("digit", "digits"),
        ("imagenet", None),
    ],
)
def test_data_sets(name, meant):
    with pytest.raises(ValueError, match="unknown data set") as caught:
        data.check_name(name)
    assert_asks_for(meant, str(caught.value))


@pytest.mark.parametrize(("name", "meant"), [("@image_small", "images-small"), ("@TextsStrong", "texts-strong")])
def test_lists_of_encoders(name, meant):
    with pytest.raises(ValueError, match="there is no list") as caught:
        encoders.expanded([name])
    assert_asks_for(meant, str(caught.value))


def test_no_letters_and_no_names():
    assert suggestion("", ["abc"]) == suggestion("anything", []) == ""


def assert_asks_for(meant, message):
    assert ("did you mean" in message) == (meant is not None)
    assert meant is None or f"(did you mean {meant!r}?)" in message
