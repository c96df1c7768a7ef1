"""Values of the implementations that authors and libraries publish, and what jaxrel finds on the same input.

`tests/fixtures/score_oracles.json` names the implementation, commit and file of each. Input is drawn again
from its seed.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.special
import sklearn.datasets
import sklearn.decomposition
import sklearn.mixture
from paths import FIXTURES

from jaxrel.metrics import METRICS, leep_score

__all__ = ["ORACLES", "Comparison", "comparison", "identifier", "oracle_input"]

ORACLES = json.loads((FIXTURES / "score_oracles.json").read_text())
# Of these, what is published is another quantity than the definition: they have tests of their own.
OTHERWISE_DEFINED = ("parc", "gbc_published", "etran_published")
# Farther than 1e-6 from the value of the original in float64, because of what the original does.
TOLERANCES = {
    "logme": 3e-6,  # stops at a relative change of 1e-2, below the maximum
    "logme_regression": 3e-6,  # likewise
    "transrate_of_unit_norm": 1e-5,  # computes in float32
    "pactran_gaussian": 1e-2,  # L-BFGS starts at random and stops up to 1 % from the minimum
}
SINGLETON_LOGME = 1e-3  # one original carries the precisions of one class over to the next


class Comparison(NamedTuple):
    """What jaxrel finds, in float64 or float32, what the original has, in our convention, and how near it must be."""

    found: np.ndarray
    expected: np.ndarray
    tolerance: float


def identifier(oracle: dict) -> str:
    return f"{oracle['metric']}-{oracle['implementation'].split('/')[0]}-{oracle['case']}"


def comparison(oracle: dict, dtype: Any) -> Comparison:
    """Of one value."""
    metric, data, options, expected, tolerance = _adapted(oracle)
    arrays = {key: array if array.dtype.kind in "iu" else array.astype(dtype) for key, array in data.items()}
    with jax.enable_x64(dtype == np.float64):
        found: Any
        if "responsibilities" in arrays:
            found = leep_score(arrays["responsibilities"], arrays["labels"])
        else:
            found = METRICS[metric].function(*(arrays[need] for need in METRICS[metric].needs), **options)
        if METRICS[metric].combine is not None:
            found = [part for key, part in vars(found).items() if key != "status"]
        else:
            found = found.value
        return Comparison(
            np.asarray(found), np.asarray(expected), max(tolerance, 1e-6 if dtype == np.float64 else 1e-3)
        )


def _adapted(oracle: dict) -> tuple[str, dict, dict, Any, float]:
    """Metric, input, options, expected value and tolerance."""
    metric, options, expected = oracle["metric"], dict(oracle["options"]), oracle["value"]
    data, tolerance = oracle_input(oracle["case"]), TOLERANCES.get(metric, 0)
    features, labels = data["features"], data.get("labels")
    match metric:
        case "logme" if oracle["case"] == "singleton":
            tolerance = SINGLETON_LOGME
        case "nce" if options.pop("swapped", False):
            data["source_labels"], data["labels"] = data["labels"], data["source_labels"]
        case "lfc":
            similarity = options.pop("similarity", None)
            if similarity == "corr":
                data["features"] = features = features - features.mean(axis=1, keepdims=True)
            if similarity is not None:
                data["features"] = features / np.linalg.norm(features, axis=1, keepdims=True)
        case "nleep":
            # No two implementations fit the same mixture: with theirs, the score is theirs.
            data["responsibilities"] = _mixture_of_original(features, options)
            options = {}
        case "transrate_of_unit_norm":
            centred = features - features.mean(axis=0)
            metric, data["features"] = "transrate", centred / np.linalg.norm(centred)
        case "sfda":
            options["shrinkage"] = _power_iterated_shrinkage(features, labels)
        case "ncti" if oracle["case"] != "digits":
            # The original takes random projections for principal components; those of its projections are the same.
            np.random.seed(0)  # noqa: NPY002 (the generator that scikit-learn draws from)
            data["features"] = sklearn.decomposition.PCA(64).fit_transform(features)
        case "pactran_dirichlet" | "pactran_gamma" | "pactran_gaussian":
            expected = -expected
            if oracle["case"] == "missing_class":
                # It divides by the five labels, here four occur.
                constant = -1 if metric == "pactran_gamma" else 0
                expected = constant + (expected - constant) * 5 / 4
    return metric, data, options, expected, tolerance


def _mixture_of_original(features: np.ndarray, options: dict) -> np.ndarray:
    options = dict(options)
    if share := options.pop("directions", None):
        features = sklearn.decomposition.PCA(share).fit_transform(features)
    mixture = sklearn.mixture.GaussianMixture(options.pop("components"), **options).fit(features)
    return mixture.predict_proba(features)


def _power_iterated_shrinkage(features: np.ndarray, labels: np.ndarray) -> float:
    """The one of the authors of SFDA: six steps of a power iteration from the row sums."""
    within = features - np.stack([features[labels == label].mean(axis=0) for label in range(labels.max() + 1)])[labels]
    covariance = within.T @ within / len(labels)
    vector = covariance.sum(axis=1)
    for _ in range(6):
        previous, vector = vector, covariance @ (vector / np.linalg.norm(vector))
    eigenvalue = (vector / np.linalg.norm(vector)) @ covariance @ (previous / np.linalg.norm(previous))
    return float(max(np.exp(-5 * eigenvalue), 1e-10))


def _gaussian_classes(seed: int, n: int, d: int, draw=lambda rng: rng.integers(0, 5, 600), separation=1.0):
    rng = np.random.default_rng(seed)
    labels = draw(rng)
    means = separation * rng.normal(size=(5, d))
    return rng, means[labels] + rng.normal(size=(n, d)), labels


def _with_singleton(rng):
    labels = rng.integers(0, 4, 600)
    labels[0] = 4
    return labels


def _regression_input(case: str) -> dict[str, np.ndarray]:
    if case == "diabetes":
        features, targets = sklearn.datasets.load_diabetes(return_X_y=True)
        return {"features": features, "targets": (targets - targets.mean()) / targets.std()}
    columns = {"regression": 3, "multilabel": 6}[case]
    rng = np.random.default_rng({"regression": 20, "multilabel": 22}[case])
    features, maps = rng.normal(size=(400, 24)), rng.normal(size=(24, columns))
    noise = rng.normal(size=(400, columns))
    targets = features @ maps + 0.5 * noise if case == "regression" else features @ maps + noise > 1
    return {"features": features, "targets": targets.astype(float)}


def oracle_input(case: str) -> dict[str, np.ndarray]:
    """Features, labels and what seven source classes say about the samples; or targets of a regression."""
    if case in ("regression", "diabetes", "multilabel"):
        return _regression_input(case)
    if case in ("iris", "digits"):
        features, labels = getattr(sklearn.datasets, f"load_{case}")(return_X_y=True)
        rng = np.random.default_rng(123)
    else:
        rng, features, labels = {
            "d_gt_n": lambda: _gaussian_classes(1, 60, 200, lambda rng: rng.integers(0, 5, 60)),
            "imbalanced": lambda: _gaussian_classes(
                2, 600, 32, lambda rng: rng.choice(5, 600, p=[0.6, 0.25, 0.1, 0.04, 0.01])
            ),
            "singleton": lambda: _gaussian_classes(3, 600, 32, _with_singleton),
            "missing_class": lambda: _gaussian_classes(5, 600, 32, lambda rng: rng.choice([0, 1, 3, 4], 600)),
            "wide": lambda: _gaussian_classes(10, 600, 96),
            "wide_weak": lambda: _gaussian_classes(11, 600, 96, separation=0.15),
        }.get(case, lambda: _gaussian_classes(0, 600, 32))()
    probabilities = scipy.special.softmax(rng.normal(size=(len(labels), 7)) + 2 * np.eye(7)[labels % 7], axis=1)
    if case == "constant_col":
        features[:, 3] = 2.5
    if case == "float32":
        features, probabilities = (array.astype(np.float32).astype(float) for array in (features, probabilities))
    features = features * (1000 if case == "scaled" else 1) + (10 if case == "shifted" else 0)
    return {
        "features": features,
        "labels": labels,
        "source_probabilities": probabilities,
        "source_labels": probabilities.argmax(axis=1),
    }
