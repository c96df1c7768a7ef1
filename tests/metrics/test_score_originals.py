"""Values of the implementations that authors and libraries publish."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.preprocessing
from original_values import ORACLES, OTHERWISE_DEFINED, comparison, identifier, oracle_input

from jaxrel.metrics import gbc_score, parc_score

# Each is compiled for alone.
OWN_SHAPE = ("digits", "iris", "diabetes", "missing_class", "wide", "wide_weak")


def those(*metrics):
    return [
        pytest.param(oracle, id=identifier(oracle), marks=[pytest.mark.slow] if oracle["case"] in OWN_SHAPE else [])
        for oracle in ORACLES
        if oracle["metric"] in metrics
    ]


@pytest.mark.parametrize("oracle", those(*{oracle["metric"] for oracle in ORACLES} - set(OTHERWISE_DEFINED)))
def test_original_implementations(oracle):
    """What originals add to probabilities is up to 1e-8 of an N-LEEP near 0."""
    for dtype in (np.float64, np.float32):
        found, expected, tolerance = comparison(oracle, dtype)
        assert found == pytest.approx(expected, rel=tolerance, abs=1e-8 if dtype == np.float64 else 1e-6)


def spearman_of_dissimilarities(features, labels, order_of_tied_classes=None):
    """By the definition; optionally with pairs within some classes ranked below pairs within others."""
    lower = np.tril_indices(len(labels), -1)
    # A constant feature is 0 after standardisation.
    dissimilarities = 1 - np.corrcoef(sklearn.preprocessing.StandardScaler().fit_transform(features))[lower]
    between = 2.0 * (labels[:, None] != labels)[lower]
    if order_of_tied_classes is not None:
        between += np.asarray(order_of_tied_classes)[labels[lower[0]]] * (between == 0)
    return scipy.stats.spearmanr(dissimilarities, between).statistic


@pytest.mark.parametrize("oracle", those("parc"))
@pytest.mark.slow
def test_parc_of_original_implementation_but_for_rounding_in_its_ties(oracle):
    """The original ranks label dissimilarities of 0 and 1e-16, so that pairs within some classes rank below pairs
    within others. The first assertion finds which, and so checks all else; the second is the definition."""
    data = oracle_input(oracle["case"])
    features, labels = data["features"], data["labels"]
    if oracle["case"] == "digits":  # Not 2^10 classifications of 1.6 million pairs.
        assert float(parc_score(features, labels)) == pytest.approx(oracle["value"], abs=0.03)
        return
    orders = itertools.product((0, 1), repeat=labels.max() + 1)
    nearest = min(abs(spearman_of_dissimilarities(features, labels, order) - oracle["value"]) for order in orders)
    # In the remainder of a vectorised loop some pairs within a class are rounded differently from the others.
    assert nearest < (2e-4 if oracle["case"] == "d_gt_n" else 1e-6)
    expected = spearman_of_dissimilarities(features, labels)
    assert expected == pytest.approx(oracle["value"], abs=0.03)
    with jax.enable_x64(True):
        assert float(parc_score(features, labels)) == pytest.approx(expected, rel=1e-6)
    assert float(parc_score(features.astype(np.float32), labels)) == pytest.approx(expected, rel=1e-3)


def overlaps(features, labels, covariance, power) -> float:
    """All ordered pairs; `power` is that of the variance in the determinant of a spherical covariance."""
    total = 0.0
    present = np.unique(labels)
    means = {label: features[labels == label].mean(axis=0) for label in present}
    variances = {label: np.maximum(features[labels == label].var(axis=0), 1e-4) for label in present}
    for a in present:
        for b in present[present != a]:
            v_a, v_b = variances[a], variances[b]
            if covariance == "spherical":
                v_a, v_b = v_a.mean(keepdims=True), v_b.mean(keepdims=True)
            middle = (v_a + v_b) / 2
            distance = np.sum((means[a] - means[b]) ** 2 / middle) / 8
            distance += np.sum(np.log(middle / np.sqrt(v_a * v_b))) / 2 * (power if covariance == "spherical" else 1)
            total += np.exp(-distance)
    return -total


@pytest.mark.parametrize("oracle", those("gbc_published"))
def test_gbc_has_the_whole_determinant(oracle):
    """The original is what the reference says with v for the determinant; ours what it says with v^d."""
    data = oracle_input(oracle["case"])
    features, labels = data["features"], data["labels"]
    assert overlaps(features, labels, "spherical", 1) == pytest.approx(oracle["value"], rel=1e-6)
    with jax.enable_x64(True):
        found = float(gbc_score(features, labels))
    assert found == pytest.approx(overlaps(features, labels, "spherical", features.shape[1]), rel=1e-9)
    assert float(gbc_score(features.astype(np.float32), labels)) == pytest.approx(found, rel=1e-3)


def test_gbc_of_wide_features_needs_the_logarithm():
    """Encoders tie at 0 in float32; their logarithms tell them apart and are those of float64."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    means, noise = rng.normal(size=(3, 1000)), rng.normal(size=(60, 1000))
    near, far = ((factor * means[labels] + noise).astype(np.float32) for factor in (1, 2))
    assert float(gbc_score(near, labels)) == float(gbc_score(far, labels)) == 0
    logarithms = [float(gbc_score(features, labels, logarithm=True)) for features in (near, far)]
    assert logarithms[0] < logarithms[1]
    expected = -np.log(-overlaps(near.astype(float), labels, "spherical", 1000))
    with jax.enable_x64(True):
        assert logarithms[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("oracle", those("etran_published"))
def test_classification_part_of_the_authors_of_etran(oracle):
    """Their eigenvectors of a matrix that is not symmetric cancel: it is the analysis with covariance I."""
    data = oracle_input(oracle["case"])
    features, labels = data["features"], data["labels"]
    means = np.stack([features[labels == label].mean(axis=0) for label in np.unique(labels)])
    logits = features @ means.T - np.sum(means**2, axis=1) / 2 + np.log(np.bincount(labels) / len(labels))
    probabilities = scipy.special.softmax(logits, axis=1)[np.arange(len(labels)), labels]
    assert oracle["value"] == pytest.approx(probabilities.mean(), rel=1e-6)
