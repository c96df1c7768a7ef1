"""Metrics of class probabilities and source labels: other computations of the definition, ends of the range."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.covariance
import sklearn.datasets
import sklearn.decomposition
import sklearn.discriminant_analysis
import sklearn.linear_model
import sklearn.metrics
import sklearn.mixture
import sklearn.neighbors
from score_problems import NUM_CLASSES, NUM_SOURCE_CLASSES, problem, score, value

from jaxrel.metrics import (
    ScoreStatus,
    cka_score,
    information_maximisation_score,
    leep_score,
    maximum_probability_score,
    nce_score,
    negative_entropy_score,
    nleep_score,
    pactran_dirichlet_score,
    pactran_gamma_score,
)


def test_confidence():
    sure, unsure = np.eye(4)[np.arange(24) % 4], np.full((24, 4), 0.25)
    for function, best, worst in (
        (maximum_probability_score, 1, 0.25),
        (negative_entropy_score, 0, -np.log(4)),
        (information_maximisation_score, np.log(4), 0),
    ):
        assert float(function(sure)) == pytest.approx(best, abs=1e-6)
        assert float(function(unsure)) == pytest.approx(worst, abs=1e-6)
        with pytest.raises(ValueError, match=r"softmax"):
            function(unsure * 2)
        with pytest.raises(ValueError, match=r"softmax"):
            function(np.tile([2.0, -1.0, 0, 0], (24, 1)))
    assert float(information_maximisation_score(np.tile(sure[:1], (24, 1)))) == 0
    rows = problem()["source_probabilities"].astype(float)
    expected = scipy.stats.entropy(rows.mean(axis=0)) - scipy.stats.entropy(rows, axis=1).mean()
    assert float(information_maximisation_score(rows)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("function", [leep_score, lambda p, y, **rest: nleep_score(p, y, responsibilities=p, **rest)])
def test_rows_that_are_no_distributions_inside_jit(function):
    data = problem()
    result = jax.jit(lambda rows: function(rows, data["labels"], num_classes=NUM_CLASSES))(
        data["source_probabilities"] * 2
    )
    assert int(result.status) == ScoreStatus.INVALID_INPUT


def test_bad_source_labels_are_named():
    data = problem()
    for bad, message in (
        (data["source_labels"] + 1, r"source_labels\[\d+\] is 5, outside 0 \.\. 4 \(\d+ such labels\)"),
        (data["source_labels"] - 1, r"is -1, outside"),
        (data["source_labels"] + 2**32, r"is 4294967\d+, outside"),
        (data["source_labels"] / 2, r"source_labels\[\d+\] is \d\.5, which is no class"),
        (data["source_probabilities"], r"argmax"),
    ):
        with pytest.raises(ValueError, match=message):
            score("nce", data | {"source_labels": bad})
    with pytest.raises(ValueError, match=r"labels must have shape \(5,\)"):
        nce_score(data["source_labels"][:5], data["labels"])
    with pytest.raises(ValueError, match="n >= 1"):
        nce_score([], [])
    with pytest.raises(ValueError, match="num_source_classes must be given"):
        jax.eval_shape(lambda source: nce_score(source, data["labels"], num_classes=4), data["source_labels"])
    for number in (0, 1.5):
        with pytest.raises(ValueError, match="num_source_classes must be"):
            score("nce", data, num_source_classes=number)


def test_bad_distributions_and_options_are_named():
    data = problem()
    rows, labels = data["features"], data["labels"]
    for call, message in (
        (lambda: leep_score(data["source_probabilities"] * 2, labels), "softmax"),
        (lambda: nleep_score(rows, labels, responsibilities=data["source_probabilities"] * 2), "softmax"),
        (lambda: nleep_score(rows, labels, responsibilities=data["source_probabilities"][1:]), r"shape \(24, k\)"),
        (lambda: nleep_score(rows, labels, num_components=0), "num_components must be at least 1"),
        (lambda: nleep_score(rows, labels, max_directions=1.5), "max_directions must be an integer"),
        (lambda: nleep_score(rows, labels, explained_variance=0), "explained_variance"),
        (lambda: nleep_score(rows, labels, explained_variance=80), "explained_variance"),
        (lambda: nleep_score(rows, labels, key=0.5), "key must be a key of jax.random or an integer"),
        (lambda: cka_score(rows, rows[1:]), "features have 24 rows, aligned_features 23"),
        (lambda: cka_score(rows, rows[:, 0]), "must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.usefixtures("x64")
def test_leep_and_nce_by_hand():
    data = problem(dtype=np.float64)
    probabilities, labels = data["source_probabilities"], data["labels"]
    joint = np.zeros((NUM_SOURCE_CLASSES, NUM_CLASSES))
    for row, label in zip(probabilities, labels, strict=True):
        joint[:, label] += row
    conditional = joint / np.where(joint.sum(axis=1) > 0, joint.sum(axis=1), 1)[:, None]
    predicted = [row @ conditional[:, label] for row, label in zip(probabilities, labels, strict=True)]
    assert value("leep", data) == pytest.approx(np.mean(np.log(predicted)), rel=1e-12)

    source = data["source_labels"]
    information = sklearn.metrics.mutual_info_score(source, labels)
    entropy = scipy.stats.entropy(np.bincount(labels))
    assert value("nce", data) == pytest.approx(information - entropy, rel=1e-12)
    one_hot = data | {"source_probabilities": np.eye(NUM_SOURCE_CLASSES)[source]}
    assert value("leep", one_hot) == pytest.approx(value("nce", data), rel=1e-12)


def test_leep_and_nce_at_their_ends():
    labels = np.arange(24) % 4
    assert float(leep_score(np.eye(6)[labels + 2], labels)) == 0
    assert float(nce_score(labels + 2, labels)) == 0
    assert float(leep_score(np.full((24, 3), 1 / 3), labels)) == pytest.approx(-np.log(4))
    assert float(nce_score(np.full(24, 7), labels)) == pytest.approx(-np.log(4))
    tiny = np.column_stack([np.full(24, 1 - 1e-30), np.full(24, 1e-30)])
    assert float(leep_score(tiny, labels)) == pytest.approx(-np.log(4))


def updated_bounds(source, labels, concentration) -> tuple[float, float]:
    """PACTran with a Dirichlet and a gamma prior, with loops."""
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    num_samples, num_source = source.shape
    prior = concentration * sizes / num_samples
    bounds = []
    for dirichlet in (True, False):
        responsibilities = source
        for _ in range(10):
            posterior = np.tile(prior[:, None], num_source)
            for sample in range(num_samples):
                posterior[index[sample]] += responsibilities[sample]
            terms = scipy.special.digamma(posterior)[index]
            if dirichlet:
                terms = terms - scipy.special.digamma(posterior.sum(axis=0))
            responsibilities = source * np.exp(terms)
            responsibilities = responsibilities / responsibilities.sum(axis=1, keepdims=True)
        divergence = scipy.special.rel_entr(responsibilities, source).sum()
        gain = np.sum(scipy.special.gammaln(posterior) - scipy.special.gammaln(prior)[:, None])
        if dirichlet:
            gain -= np.sum(scipy.special.gammaln(posterior.sum(axis=0)) - scipy.special.gammaln(prior.sum()))
            bounds.append((gain - divergence) / (num_samples * len(sizes)))
        else:
            gain -= np.sum(np.log(source @ posterior.sum(axis=0)))
            bounds.append((gain - divergence) / (num_samples * len(sizes)) - (1 - 1 / len(sizes)))
    return bounds[0], bounds[1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("concentration", [0.5, 3.0])
def test_pactran_of_probabilities_that_may_be_0(concentration):
    data = problem(dtype=np.float64)
    data["source_probabilities"][:12] = np.eye(5)[np.arange(12) % 3]
    expected = updated_bounds(data["source_probabilities"], data["labels"], concentration)
    names = ("pactran_dirichlet", "pactran_gamma")
    found = [float(value(name, data, concentration=concentration)) for name in names]
    assert found == pytest.approx(expected, rel=1e-9)
    for name in names:
        with pytest.raises(ValueError, match="softmax"):
            value(name, data | {"source_probabilities": 2 * data["source_probabilities"]})


def test_pactran_prefers_a_source_that_knows_the_classes():
    labels = np.arange(60) % 3
    sure, blind = np.eye(3)[labels], np.full((60, 3), 1 / 3)
    for function in (pactran_dirichlet_score, pactran_gamma_score):
        assert (
            float(function(sure, labels))
            > float(function(0.5 * sure + 0.5 * blind, labels))
            > float(function(blind, labels))
        )
    assert float(pactran_dirichlet_score(blind, np.zeros(60, int))) == pytest.approx(0, abs=1e-6)
