"""A small problem with everything that metrics need, and how they are called on it."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import numpy as np

from jaxrel.metrics import METRICS, NEEDS, Score

NUM_CLASSES, NUM_REFERENCE_CLASSES, NUM_SOURCE_CLASSES = 4, 3, 5
NAMES = sorted(METRICS)
SLOW = {"task_relatedness", "cross_view", "f_otce", "jc_otce", "ot_nce", "otdd"}
PROBABILITY_BASED = [name for name in NAMES if "source_probabilities" in METRICS[name].needs]
FEATURE_BASED = [name for name in NAMES if "features" in METRICS[name].needs]
LABELLED = [name for name in NAMES if "labels" in METRICS[name].needs]
REAL = ("features", "reference_features", "aligned_features", "first_view", "second_view")
ROW_ALIGNED = (
    "features",
    "labels",
    "targets",
    "source_probabilities",
    "source_labels",
    "aligned_features",
    "first_view",
    "second_view",
    "folds",
    "weights",
)
OPTIONS = {
    "num_classes": NUM_CLASSES,
    "reference_num_classes": NUM_REFERENCE_CLASSES,
    "num_source_classes": NUM_SOURCE_CLASSES,
    "block_sizes": (16, 32),
    "num_components": 3,
}


def problem(seed: int = 0, n: int = 24, d: int = 6, dtype=np.float32) -> dict[str, np.ndarray]:
    """Class 2 never occurs, class 3 once; nor do source class 3 and reference class 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[5] = 3
    features = rng.normal(size=(n, d)) + rng.normal(size=(NUM_CLASSES, d))[labels]
    probabilities = rng.dirichlet(np.full(NUM_SOURCE_CLASSES, 0.5), n)
    probabilities[:, 3] = 0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    data = {
        "features": features,
        "reference_features": rng.normal(size=(10, d)) + 0.3,
        "aligned_features": np.tanh(features @ rng.normal(size=(d, 9))) + 0.3 * rng.normal(size=(n, 9)),
        "first_view": features + 0.1 * rng.normal(size=(n, d)),
        "second_view": features + 0.1 * rng.normal(size=(n, d)),
        "source_probabilities": probabilities,
        "targets": features[:, :2] ** 2 + rng.normal(size=(n, 2)),
        "weights": np.ones(n),
    }
    assert set(data) <= set(NEEDS) | {"weights"}
    integers = {
        "labels": labels,
        "source_labels": probabilities.argmax(axis=1),
        "reference_labels": 2 * (np.arange(10) % 2),
        "folds": np.arange(n) % 3,
    }
    return {name: value.astype(dtype) for name, value in data.items()} | integers


def taken(data: dict, rows) -> dict:
    """The problem with these target samples."""
    return {name: value[rows] if name in ROW_ALIGNED else value for name, value in data.items()}


def score(name: str, data: dict, **options) -> Score:
    """What a metric returns; parts of a hub score are a last axis."""
    metric = METRICS[name]
    accepted = inspect.signature(metric.function).parameters
    if name == "ncti":
        options.setdefault("num_components", 64)
    options = {key: value for key, value in OPTIONS.items() if key in accepted} | options
    if name in ("ridge_probe", "ridge_regression"):
        options |= {"folds": data["folds"], "num_folds": 3}
    result = metric.function(*(data[need] for need in metric.needs), weights=data["weights"], **options)
    if metric.combine is None:
        return result
    parts = {key: part for key, part in vars(result).items() if key != "status"}
    return Score(jnp.stack(list(parts.values()), axis=-1), result.status)


def value(name: str, data: dict, **options) -> np.ndarray:
    """The number of a metric where all is well."""
    result = score(name, data, **options)
    assert result.messages == ()
    return np.asarray(result.value)
