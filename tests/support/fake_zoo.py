"""A zoo that costs nothing, so that the ranking can be run, killed and resumed: `python fake_zoo.py rank ...`."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import jaxrel
import jaxrel.relatedness
from jaxrel import data, encoders
from jaxrel.data import ImageData
from jaxrel.encoders import EncoderOutput

DATA_SETS = ("circles", "crosses", "squares")
ENCODERS = ("broken", "narrow", "wide")
NUM_CLASSES = 3


SUBPROCESS = os.environ | {"PYTHONPATH": str(Path(jaxrel.__file__).parents[1])}
"""Environment in which this file runs as a script, jaxrel installed or not."""


def _take_time() -> None:
    """The seconds of FAKE_SECONDS, once there is something in the file of FAKE_SLOW_AFTER, if one is named."""
    after = os.environ.get("FAKE_SLOW_AFTER")
    if after is None or (Path(after).exists() and Path(after).stat().st_size):
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))


def _generator(*words: object) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big"))


def check_data_name(name: str, *, path: object = None) -> None:
    if name not in DATA_SETS:
        raise ValueError(f"unknown data set {name!r}: there are {', '.join(DATA_SETS)}.")


def modality(name: str) -> str:
    if name.removesuffix(":random") not in ENCODERS:
        raise ValueError(f"unknown encoder {name.removesuffix(':random')!r}: there are {', '.join(ENCODERS)}.")
    return "images"


def load_data(name: str, *, split: str, limit: int, **_: object) -> ImageData:
    limit = min(limit, 100)
    generator = _generator(name, split)
    labels = (np.arange(limit) % NUM_CLASSES).astype(np.int32)
    images = generator.integers(0, 50, (limit, 4, 4, 1)).astype(np.uint8) + labels[:, None, None, None].astype(np.uint8)
    return ImageData(name, split, images, labels, ("a", "b", "c"), "none", "made up")


def load_splits(name: str, *, train_limit: int, test_limit: int, **options: Any) -> tuple[Any, Any]:
    # By its place in the package, where tests may put something else.
    return (
        data.load(name, split="train", limit=train_limit, **options),
        data.load(name, split="test", limit=test_limit, **options) if test_limit else None,
    )


class FakeEncoder:
    """A random linear map; "broken" gives NaN."""

    modality = "images"
    lengths = None
    num_parameters = 80
    pretraining = licence = weights_sha256 = preprocessing = "none"

    def __init__(self, name: str, *, seed: int, image_size: int | None, **_: None) -> None:
        self.name = name
        self.feature_width = 5
        self.image_size = image_size
        if not name.endswith(":random"):
            seed = 0
        self.fingerprint = f"{name}/{seed}/{image_size}"
        self._map = _generator(self.fingerprint).normal(size=(16, 5))

    def prepare(self, images: np.ndarray) -> np.ndarray:
        return images

    def forward(self, images: np.ndarray) -> EncoderOutput:
        _take_time()
        features = images.reshape(len(images), -1) @ self._map
        return EncoderOutput(features * np.nan if self.name == "broken" else features, None)


def task_relatedness(
    reference: Any,
    target: Any,
    *,
    method: Any,
    key: int,
    evaluate_on: Any = (),
    pseudo_labels: Any = None,
    views: Any = (),
) -> SimpleNamespace:
    """Numbers that depend on everything the real ones depend on."""
    _take_time()
    tasks = [np.asarray(task.features, np.float64) for task in (reference, target, *evaluate_on)]
    arrays = [*tasks, *map(np.asarray, views)]
    terms = [float(abs(np.sin(array.sum() + key))) for array in arrays[:3]]
    return SimpleNamespace(
        bound=sum(terms),
        tight_bound=sum(terms),
        reweighted_reference_loss=terms[0],
        label_mismatch=terms[1],
        distribution_mismatch=terms[2],
        distribution_mismatch_lower=terms[2] / 2,
        transformed_reference_loss=terms[0],
        target_loss=terms[0] / 2,
        target_accuracy=0.5,
        messages=(),
        pseudo_labels=pseudo_labels and SimpleNamespace(sizes=np.full(NUM_CLASSES, 1 / NUM_CLASSES)),
        computed_with=SimpleNamespace(target_labels=f"pseudo-labels: {pseudo_labels}" if pseudo_labels else "given"),
    )


def transferability_score(
    target: Any, *, views: Any, confidence: float, num_resamples: int, key: int
) -> SimpleNamespace:
    """A share that depends on everything the real one depends on."""
    _take_time()
    features = np.asarray(target.features, np.float64)
    if np.isnan(features).any():
        raise ValueError("features[0, 0] is nan: pass finite features.")
    value = 0.2 + 0.6 * float(abs(np.sin(features.sum() + key)))
    return SimpleNamespace(
        value=value,
        lower=value - 0.1 * confidence,
        upper=value + 0.1 * confidence,
        accuracy=value + 0.05 if views is None else np.nan,
        majority=1 / NUM_CLASSES if views is None else np.nan,
        resamples=value + 0.05 * np.random.default_rng(key).normal(size=num_resamples),
        recipe="made up" if views is None else "made up, from views",
        messages=(),
    )


def bound_resamples(result: Any, reference: Any, target: Any, *, num_resamples: int, key: int) -> np.ndarray:
    return result.bound + np.random.default_rng(key).normal(size=num_resamples)


def explain(result: Any, *, reference_names: Any, target_names: Any) -> SimpleNamespace:
    """All classes of the target alike."""
    names = target_names or tuple(map(str, range(NUM_CLASSES)))
    terms = ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch", "bound", "target_loss")
    shares = {term: getattr(result, term) / len(names) for term in terms}
    leaning = [[name, 1.0] for name in (reference_names or names)[:1]]
    records = [
        {"class": name, "prior": 1 / len(names), "class_bound": result.bound, **shares, "leans_on": leaning}
        for name in names
    ]
    return SimpleNamespace(class_records=lambda: records)


def install(replace: Callable[[object, str, object], None]) -> None:
    """Put the fakes in the place of the real data, encoders and scoring."""
    replace(data, "names", lambda: DATA_SETS)
    replace(data, "check_name", check_data_name)
    replace(data, "describe", lambda name: SimpleNamespace(modality="images"))
    replace(data, "load", load_data)
    replace(data, "load_splits", load_splits)
    replace(data, "source_state", lambda name, *, path=None: None)
    replace(encoders, "names", lambda: ENCODERS)
    replace(encoders, "check_name", modality)
    replace(encoders, "modality", modality)
    replace(encoders, "load", FakeEncoder)
    replace(encoders, "source_state", lambda name, **options: None)
    if os.environ.get("REAL_METHOD"):
        return
    replace(jaxrel, "task_relatedness", task_relatedness)
    replace(jaxrel, "transferability_score", transferability_score)
    replace(jaxrel.relatedness, "bound_resamples", bound_resamples)
    replace(jaxrel.relatedness, "explain", explain)


if __name__ == "__main__":
    from jaxrel.__main__ import command

    install(setattr)
    command()
