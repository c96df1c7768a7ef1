"""Metrics of features and labels: closed forms, other computations of the definition, ends of the range."""

from __future__ import annotations

import jax
import jax.numpy as jnp
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
from original_values import oracle_input
from score_problems import NUM_CLASSES, problem, score, taken, value

from jaxrel.metrics import (
    EtranComponents,
    NctiComponents,
    ScoreStatus,
    discriminant_score,
    etran_combine,
    etran_components,
    gbc_score,
    h_score,
    leep_score,
    logme_regression_score,
    logme_score,
    ncti_combine,
    ncti_components,
    nearest_neighbours_score,
    nleep_score,
    pactran_gaussian_score,
    parc_score,
    regularised_h_score,
    ridge_probe_score,
    ridge_regression_score,
    sfda_score,
    silhouette_score,
)


def evidence(features, indicator) -> float:
    """Maximum of the Gaussian density of the indicator, over many starts."""
    n = len(indicator)
    values, vectors = np.linalg.eigh(features @ features.T)
    energies = (vectors.T @ indicator) ** 2

    def loss(precisions):
        variances = np.exp(-precisions[1]) + np.maximum(values, 0) * np.exp(-precisions[0])
        return (np.sum(np.log(2 * np.pi * variances)) + np.sum(energies / variances)) / (2 * n)

    starts = [(alpha, beta) for alpha in (-4, 0, 4, 8) for beta in (0, 3, 6)]
    options = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000}
    return -min(scipy.optimize.minimize(loss, start, method="Nelder-Mead", options=options).fun for start in starts)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [6, 30])
def test_logme_is_the_maximum_of_the_evidence(d):
    data = problem(7, 24, d, np.float64)
    expected = np.mean([evidence(data["features"], data["labels"] == label) for label in (0, 1, 3)])
    assert value("logme", data) == pytest.approx(expected, rel=1e-6)
    wider = data | {"features": np.pad(data["features"], ((0, 0), (0, 30 - d)))}
    assert value("logme", wider) == pytest.approx(expected, rel=1e-6)


def test_logme_of_an_exact_fit_is_unbounded():
    labels = np.arange(24) % 3
    result = logme_score(np.eye(6)[labels], labels, num_classes=NUM_CLASSES)
    assert int(result.status) == ScoreStatus.UNBOUNDED
    assert "exactly" in result.messages[0]
    # The evidence at the least noise that float32 resolves, by its formula.
    noise = (8 * np.finfo(np.float32).eps) ** 2 * 8
    log_t = np.linspace(-40, 20, 20001)[:, None]
    variance = np.exp(log_t) / (8 + np.exp(log_t)) * 8 / 24
    level = np.maximum(variance, noise)
    volume = 3 * np.log1p(8 / np.exp(log_t)) / 24
    assert float(result) == pytest.approx(
        np.max(-(np.log(2 * np.pi * level) + variance / level + volume) / 2), rel=1e-5
    )


def test_logme_orders_encoders_that_all_fit_the_labels_exactly():
    """Fewer directions and larger margins first; an encoder that fits with noise after all of them."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    centres, noise = np.linalg.qr(rng.normal(size=(200, 200)))[0][:3], rng.normal(size=(60, 200))
    spreads = rng.normal(size=(20, 200)) / np.sqrt(200)

    def of(features):
        result = logme_score(features.astype(np.float32), labels)
        return float(result), int(result.status)

    nested = [centres[labels] + rng.normal(size=(60, k)) @ spreads[:k] for k in (2, 8, 20)]
    margins = [of(margin * centres[labels] + nested[1] - centres[labels])[0] for margin in (4, 1, 0.25)]
    scores, statuses = zip(*map(of, nested), strict=True)
    assert set(statuses) == {ScoreStatus.UNBOUNDED}
    assert list(scores) == sorted(scores, reverse=True)
    assert margins == sorted(margins, reverse=True)
    fitted, status = of(centres[labels] + 0.1 * noise)
    assert status == ScoreStatus.OK
    assert of(noise)[0] < fitted < scores[-1] < np.inf


@pytest.mark.usefixtures("x64")
def test_shrinkage_is_that_of_ledoit_and_wolf():
    data = problem(3, dtype=np.float64)
    features, labels = data["features"], data["labels"]
    estimate = sklearn.covariance.LedoitWolf().fit(features)
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    between = (1 - estimate.shrinkage_) * np.cov(means, rowvar=False)
    expected = np.trace(np.linalg.solve(estimate.covariance_, between))
    assert value("regularised_h_score", data) == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("x64")
def test_h_score_is_affine_invariant_and_bounded():
    data = problem(dtype=np.float64)
    mixing = np.random.default_rng(0).normal(size=(6, 6)) * np.logspace(-6, 6, 6)
    assert value("h_score", data | {"features": data["features"] @ mixing + 1}) == pytest.approx(value("h_score", data))
    assert float(h_score(np.eye(6)[np.arange(24) % 4], np.arange(24) % 4)) == pytest.approx(3)


@pytest.mark.parametrize("num_neighbours", [1, 3, 30])
def test_nearest_neighbours_against_leave_one_out(num_neighbours):
    data = problem(9)
    features, labels = data["features"], data["labels"]
    count = min(num_neighbours, 23)
    hits = []
    for held_out in range(24):
        rest = np.arange(24) != held_out
        model = sklearn.neighbors.KNeighborsClassifier(count).fit(features[rest], labels[rest])
        hits.append(model.predict(features[[held_out]])[0] == labels[held_out])
    assert value("nearest_neighbours", data, num_neighbours=num_neighbours) == pytest.approx(np.mean(hits))


def test_nearest_neighbours_ties():
    """The two neighbours of the sample in the middle share its vote, and the smaller label takes it."""
    features = np.array([[-1.0], [0.0], [1.0]])
    assert float(nearest_neighbours_score(features, [1, 0, 0])) == pytest.approx(2 / 3)
    assert float(nearest_neighbours_score(features, [0, 1, 1])) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="at least 1"):
        nearest_neighbours_score(features, [1, 0, 0], num_neighbours=0)
    with pytest.raises(ValueError, match="integer"):
        nearest_neighbours_score(features, [1, 0, 0], num_neighbours=1.5)


@pytest.mark.usefixtures("x64")
def test_ridge_probe_against_scikit_learn():
    data = problem(dtype=np.float64)
    features, labels, folds = data["features"], data["labels"], data["folds"]
    standardised = (features - features.mean(axis=0)) / features.std(axis=0)
    targets = np.eye(NUM_CLASSES)[labels]
    errors, accuracies = [], []
    ridges = [1e-3, 1e-2, 1e-1, 1.0, 10.0]
    for ridge in ridges:
        predicted = np.zeros_like(targets)
        for fold in range(3):
            train = folds != fold
            model = sklearn.linear_model.Ridge(alpha=ridge * train.sum()).fit(standardised[train], targets[train])
            predicted[~train] = model.predict(standardised[~train])
        errors.append(np.sum((predicted - targets) ** 2))
        accuracies.append(np.mean(predicted.argmax(axis=1) == labels))
    for chosen, expected in zip([[r] for r in ridges], accuracies, strict=True):
        assert value("ridge_probe", data, ridges=np.array(chosen)) == pytest.approx(expected)
    assert value("ridge_probe", data, ridges=np.array(ridges)) == pytest.approx(accuracies[int(np.argmin(errors))])


def test_ridge_regression_against_scikit_learn():
    data = problem(n=40, d=6, dtype=np.float64)
    ridges, folds = np.array([1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3]), np.arange(40) % 5
    x = (data["features"] - data["features"].mean(axis=0)) / data["features"].std(axis=0)
    y = np.stack([data["features"][:, 0] ** 2, 1000 + 50 * data["targets"][:, 1]], axis=1)
    predicted = np.zeros((len(ridges), *y.shape))
    for fold in range(5):
        train = folds != fold
        for row, ridge in zip(predicted, ridges, strict=True):
            row[~train] = sklearn.linear_model.Ridge(ridge * train.sum()).fit(x[train], y[train]).predict(x[~train])
    explained = 1 - np.sum((predicted - y) ** 2, axis=1) / np.sum((y - y.mean(axis=0)) ** 2, axis=0)
    found = ridge_regression_score(data["features"], y)
    assert float(found) == pytest.approx(np.mean(explained.max(axis=0)), abs=1e-5)
    assert float(ridge_regression_score(data["features"], y[:, 1])) == pytest.approx(explained[:, 1].max(), abs=1e-5)
    assert float(ridge_regression_score(data["features"], y, folds=folds)) == pytest.approx(float(found), abs=1e-6)
    scaled = ridge_regression_score(-3 * data["features"] + 7, 1e-20 * y[:, 0])
    assert float(scaled) == pytest.approx(explained[:, 0].max(), abs=1e-5)
    noise = np.random.default_rng(1).normal(size=40)
    assert float(ridge_regression_score(data["features"], noise)) < 0.2


def test_ridge_regression_of_what_cannot_be_explained():
    data = problem(n=20)
    for targets, folds in ((np.full(20, 3.7), None), (np.arange(20.0), np.zeros(20, int))):
        assert ScoreStatus.UNDEFINED in ScoreStatus(
            int(ridge_regression_score(data["features"], targets, folds=folds).status)
        )
    weights = np.where(np.arange(20) < 15, 1, 0)
    holed = np.where(weights > 0, np.arange(20.0) ** 2, np.nan)
    expected = ridge_regression_score(data["features"][:15], np.arange(15.0) ** 2)
    found = ridge_regression_score(data["features"], holed, weights=weights)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for options, message in (
        ({"num_folds": 1}, "num_folds must be at least 2"),
        ({"ridges": [0]}, "ridges must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            ridge_regression_score(data["features"], np.arange(20.0), **options)
    with pytest.raises(ValueError, match=r"targets\[17\] is nan"):
        ridge_regression_score(data["features"], np.where(np.arange(20) == 17, np.nan, 1.0))


def test_ridge_probe_folds():
    """Without folds every class is spread over all of them, and padding changes nothing."""
    data = problem()
    padded = {"features": np.pad(data["features"], ((3, 0), (0, 0))), "labels": np.pad(data["labels"], (3, 0))}
    weights = np.pad(data["weights"], (3, 0))
    expected = ridge_probe_score(data["features"], data["labels"], num_folds=3)
    assert float(ridge_probe_score(*padded.values(), num_folds=3, weights=weights)) == pytest.approx(float(expected))
    for options, message in (
        ({"num_folds": 1}, "at least 2"),
        ({"folds": np.zeros(3, int)}, "integers"),
        ({"folds": np.full(24, 9)}, r"folds\[0\] is 9"),
        ({"ridges": [0.0]}, "positive"),
        ({"ridges": []}, "g >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ridge_probe_score(data["features"], data["labels"], **options)


def test_regularised_h_score_of_collapsed_features():
    """Centring leaves no rounding that could be scaled up."""
    row = np.random.default_rng(5).normal(size=6)
    assert float(regularised_h_score(np.tile(row, (24, 1)), np.arange(24) % 3)) == 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [2, 3, 40])
def test_parc_against_scipy(d):
    """Two features have correlations of 1 and -1 only: exact ties, in which rounding must not show."""
    data = problem(2, 80, d, np.float64)
    features, labels = data["features"], data["labels"]
    standardised = (features - features.mean(axis=0)) / features.std(axis=0)
    lower = np.tril_indices(80, -1)
    dissimilarities = np.round(1 - np.corrcoef(standardised)[lower], 12)
    expected = scipy.stats.spearmanr(dissimilarities, (labels[:, None] != labels)[lower]).statistic
    assert value("parc", data) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_parc_of_many_blocks_is_that_of_one():
    """700 samples are not a multiple of a block, and 4 copies of 175 have the score of weights 4."""
    data = problem(4, 175)
    repeated = taken(data, np.tile(np.arange(175), 4))
    for name in ("parc", "silhouette"):
        weighted = data | {"weights": np.full(175, 4, np.float32)}
        assert value(name, repeated) == pytest.approx(value(name, weighted), rel=1e-5)


def test_parc_where_labels_all_differ_or_agree():
    rows = problem()["features"]
    assert int(parc_score(rows, np.arange(24)).status) == ScoreStatus.UNDEFINED
    assert float(parc_score(np.eye(4)[np.arange(24) % 4], np.arange(24) % 4)) == pytest.approx(1)
    assert float(parc_score(rows[:, :1], np.arange(24) % 4)) == 0
    assert float(parc_score(np.repeat(rows[:, :1], 7, axis=1), np.arange(24) % 4)) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_nleep_finds_the_mixture_that_scikit_learn_finds():
    """Well separated components have one good maximum; both stop at a change of 1e-3 of the log-likelihood."""
    rng = np.random.default_rng(0)
    component = rng.integers(0, 6, 400)
    centres = 4 * rng.normal(size=(6, 8)) * np.asarray([3, 2, 1, 1, 0.1, 0.1, 0.1, 0.1])
    features = centres[component] + rng.normal(size=(400, 8)) * rng.uniform(0.5, 2, 8)
    labels = np.where(rng.uniform(size=400) < 0.8, component % 3, rng.integers(0, 3, 400))
    points = sklearn.decomposition.PCA(0.9).fit_transform(features)
    assert points.shape[1] < 8
    mixture = sklearn.mixture.GaussianMixture(
        6, covariance_type="diag", reg_covar=1e-3 * points.var(axis=0).mean(), n_init=3, random_state=0
    ).fit(points)
    expected = float(leep_score(mixture.predict_proba(points), labels))
    options = {"num_components": 6, "explained_variance": 0.9}
    truncated = nleep_score(features, labels, max_directions=points.shape[1], **options)
    single = nleep_score(features.astype(np.float32), labels, **options)
    assert float(truncated) == pytest.approx(expected, rel=2e-3)
    assert float(single) == pytest.approx(expected, rel=2e-3)
    # Another number of directions is another score.
    assert abs(float(nleep_score(features, labels, max_directions=1, **options)) - expected) > 0.01


@pytest.mark.slow
def test_nleep_keeps_the_fewest_directions_that_hold_the_share():
    rng = np.random.default_rng(4)
    raw = rng.normal(size=(120, 4))
    orthogonal = np.linalg.qr(raw - raw.mean(axis=0))[0]  # columns stay centred
    features = orthogonal * np.sqrt([50, 30, 15, 5]) @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    labels = (orthogonal[:, 0] > 0) + 2 * (orthogonal[:, 1] > 0)
    options = {"num_classes": 4, "num_components": 6}
    held = [float(nleep_score(features, labels, explained_variance=share, **options)) for share in (0.45, 0.75, 0.9)]
    leading = [
        float(nleep_score(features, labels, explained_variance=1, max_directions=most, **options)) for most in (1, 2, 3)
    ]
    np.testing.assert_allclose(held, leading, rtol=1e-4)
    assert len(np.unique(np.round(leading, 2))) == 3


@pytest.mark.slow
def test_nleep_options():
    data = problem(2)
    first_of_all = value("nleep", data, explained_variance=1e-3)
    assert value("nleep", data, explained_variance=1, max_directions=1) == pytest.approx(first_of_all, rel=1e-5)
    assert abs(value("nleep", data, explained_variance=1) - first_of_all) > 1e-3
    features, labels = data["features"], data["labels"]
    default = nleep_score(features, labels, num_classes=4)
    assert float(default) == float(nleep_score(features, labels, num_classes=4, num_components=20))
    entropy = scipy.stats.entropy(np.bincount(labels))
    assert value("nleep", data, num_components=1) == pytest.approx(-entropy, rel=1e-6)
    assert -entropy < value("nleep", data) < float(default) <= 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shift", [0, 1, 100])
def test_lfc_is_the_correlation_over_all_pairs(shift):
    data = problem(dtype=np.float64)
    features, labels = data["features"] + shift, data["labels"]
    agreement = np.where(labels[:, None] == labels, 1, -1)
    expected = np.corrcoef((features @ features.T).ravel(), agreement.ravel())[0, 1]
    assert value("lfc", data | {"features": features}) == pytest.approx(expected, rel=1e-8)
    single = data | {"features": features.astype(np.float32)}
    assert value("lfc", single) == pytest.approx(expected, rel=1e-3)


@pytest.mark.usefixtures("x64")
def test_silhouette_against_scikit_learn():
    data = problem(3, 60, dtype=np.float64)
    features, labels = data["features"], data["labels"]
    assert value("silhouette", data) == pytest.approx(sklearn.metrics.silhouette_score(features, labels), rel=1e-9)
    far = data | {"features": features + 1e6}
    assert value("silhouette", far) == pytest.approx(value("silhouette", data), rel=1e-6)
    distances = sklearn.metrics.silhouette_score(features[:, :1], labels)
    assert value("silhouette", data | {"features": features[:, :1]}) == pytest.approx(distances, rel=1e-9)


def test_silhouette_at_its_ends():
    labels = np.arange(24) % 4
    assert float(silhouette_score(np.eye(4)[labels] * 3 + 5, labels)) == pytest.approx(1)
    assert float(silhouette_score(problem()["features"], np.arange(24))) == 0
    pairs = silhouette_score(np.asarray([[0.0], [1.0], [0.0], [1.0]]), [0, 0, 1, 1])
    assert float(pairs) == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("name", "option", "bad", "message"),
    [
        ("transrate", "eps", 0.0, "positive"),
        ("gbc", "covariance", "full", "spherical, diagonal"),
        ("gbc", "variance_floor", -1.0, "positive"),
        ("sfda", "shrinkage", 1.5, "at most 1"),
        ("discriminant", "shrinkage", np.nan, "finite"),
        ("energy", "fraction", 2, "at most 1"),
        ("pactran_dirichlet", "concentration", [1.0, 2.0], "one positive"),
        ("pactran_gamma", "concentration", "many", "number"),
        ("pactran_gaussian", "inverse_ridge", np.inf, "finite"),
        ("pactran_gaussian", "prior_variance", 0, "positive"),
        ("ncti", "num_components", 0, "at least 1"),
    ],
)
def test_bad_options_are_named(name, option, bad, message):
    with pytest.raises(ValueError, match=rf"{option} must be.*{message}"):
        score(name, problem(), **{option: bad})


def log_determinant_rate(features, eps) -> float:
    return np.linalg.slogdet(np.eye(features.shape[1]) + features.T @ features / (len(features) * eps))[1] / 2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [6, 40])
def test_transrate_is_a_difference_of_coding_rates(d):
    data = problem(3, d=d, dtype=np.float64)
    features, labels = data["features"] - data["features"].mean(axis=0), data["labels"]
    rates = np.array([log_determinant_rate(features[labels == label], 0.01) for label in (0, 1, 3)])
    shares = np.bincount(labels)[[0, 1, 3]] / 24
    whole = log_determinant_rate(features, 0.01)
    assert value("transrate", data, eps=0.01) == pytest.approx(whole - shares @ rates, rel=1e-9)
    assert value("transrate", data, eps=0.01, equal_classes=True) == pytest.approx(whole - rates.mean(), rel=1e-9)
    wider = data | {"features": np.pad(data["features"], ((0, 0), (0, 3)), constant_values=7.0)}
    assert value("transrate", wider, eps=0.01) == pytest.approx(whole - shares @ rates, rel=1e-9)
    assert value("transrate", data | {"features": 10 * data["features"]}, eps=1.0) == pytest.approx(
        value("transrate", data, eps=0.01), rel=1e-9
    )


def test_gbc_at_its_ends():
    features = problem()["features"]
    twice = np.concatenate([features] * 3)
    labels = np.repeat([0, 1, 4], 24)
    for covariance in ("spherical", "diagonal"):
        assert float(gbc_score(twice, labels, covariance=covariance)) == pytest.approx(-6)
        assert float(gbc_score(twice, labels, covariance=covariance, logarithm=True)) == pytest.approx(-np.log(6))
    one_class = np.zeros(24, int)
    assert float(gbc_score(features, one_class)) == 0
    undefined = gbc_score(features, one_class, logarithm=True)
    assert int(undefined.status) == ScoreStatus.UNDEFINED | ScoreStatus.SINGLE_CLASS


def posterior(features, labels, shrinkage):
    """Of each present class in turn, by a solve; and lambda."""
    present, index = np.unique(labels, return_inverse=True)
    means = np.stack([features[labels == label].mean(axis=0) for label in present])
    within = features - means[index]
    covariance = within.T @ within / len(labels)
    if shrinkage is None:
        shrinkage = max(np.exp(-5 * np.linalg.eigvalsh(covariance)[-1]), 1e-10)
    dimension = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / dimension * np.eye(dimension)
    coefficients = np.linalg.solve(shrunk, means.T)
    logits = (
        features @ coefficients - np.sum(means.T * coefficients, axis=0) / 2 + np.log(np.bincount(index) / len(index))
    )
    return scipy.special.softmax(logits, axis=1), means, index, shrinkage


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [6, 40])
@pytest.mark.parametrize("shrinkage", [None, 0.3, 1.0])
def test_sfda_and_its_first_analysis(d, shrinkage):
    data = problem(4, d=d, dtype=np.float64)
    data["features"] *= 0.4
    features, labels = data["features"], data["labels"]
    probabilities, means, index, used = posterior(features, labels, shrinkage)
    rows = np.arange(24)
    options = {} if shrinkage is None else {"shrinkage": shrinkage}
    assert value("discriminant", data, **options) == pytest.approx(probabilities[rows, index].mean(), rel=1e-9)
    confidence = scipy.special.softmax(probabilities, axis=1)[rows, index][:, None]
    others = ((means.sum(axis=0) - means) / (len(means) - 1))[index]
    probabilities, *_ = posterior(confidence * features + (1 - confidence) * others, labels, used)
    assert value("sfda", data, **options) == pytest.approx(probabilities[rows, index].mean(), rel=1e-9)


@pytest.mark.usefixtures("x64")
def test_discriminant_against_scikit_learn():
    data = problem(4, dtype=np.float64)
    data["labels"][5:8] = 3
    model = sklearn.discriminant_analysis.LinearDiscriminantAnalysis("lsqr", shrinkage=0.2)
    fitted = model.fit(data["features"], data["labels"]).predict_proba(data["features"])
    expected = fitted[np.arange(24), np.searchsorted([0, 1, 3], data["labels"])].mean()
    assert value("discriminant", data, shrinkage=0.2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("function", [sfda_score, discriminant_score])
def test_analyses_without_variance_within_classes(function):
    """Points are told apart if they differ, however many features there are; one class is always right."""
    labels = np.arange(24) % 3
    for width in (3, 40):
        points = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
        assert float(function(points[labels], labels)) == 1
        points[1] = points[0]
        merged = float(function(points[labels] + 5, labels))
        assert merged == pytest.approx((0.5 + 0.5 + 1) / 3, rel=1e-5)
    assert float(function(points[labels], labels, num_classes=3, weights=labels == 0)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 400])
def test_analyses_of_features_that_depend_linearly(width):
    """In float32, the rounding of directions without variance must not tell classes apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    features = 3 * (rng.normal(size=(200, 8)) + 0.7 * rng.normal(size=(4, 8))[labels]) @ rng.normal(size=(8, width))
    for function in (sfda_score, discriminant_score):
        with jax.enable_x64(True):
            expected = float(function(features, labels))
        assert expected < 0.9
        assert float(function(features.astype(np.float32), labels)) == pytest.approx(expected, rel=1e-3)


def nuclear_norm(matrix) -> float:
    return np.linalg.svd(matrix, compute_uv=False).sum()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_components", [5, 64])
@pytest.mark.parametrize("scale", [0.3, 1.0, 30.0])
def test_ncti_against_scikit_learn(scale, num_components):
    """The analysis is shrunk for small features only."""
    data = problem(5, n=90, d=7, dtype=np.float64)
    data["labels"] = np.random.default_rng(5).integers(0, 4, 90)
    data["features"] = scale * (data["features"] + 0.5 * np.random.default_rng(6).normal(size=(4, 7))[data["labels"]])
    labels = data["labels"]
    kept = min(num_components, 7)
    components = sklearn.decomposition.PCA(kept, svd_solver="full").fit_transform(data["features"])
    shrinkage = np.exp(-components.var(axis=0, ddof=1)[: max(1, min(kept, num_components // 2))].sum())
    options = ("svd",) if shrinkage < 1e-10 else ("eigen", shrinkage)
    assert (scale > 1) == (len(options) == 1)
    model = sklearn.discriminant_analysis.LinearDiscriminantAnalysis(*options)
    discriminants = model.fit_transform(components, labels)
    probabilities = model.predict_proba(components)
    expected = (
        nuclear_norm(discriminants - discriminants.mean(axis=0)),
        probabilities[np.arange(90), labels].mean(),
        np.log(sum(nuclear_norm(probabilities[labels == label]) for label in range(4))),
    )
    assert value("ncti", data, num_components=num_components) == pytest.approx(expected, rel=1e-9)


def test_ncti_of_collapsed_classes_is_high():
    labels = np.arange(24) % 3
    points = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    noisy = points[labels] + np.random.default_rng(1).normal(size=(24, 6)).astype(np.float32)
    hub = [ncti_components(features, labels) for features in (30 * points[labels], 30 * noisy, points[labels], noisy)]
    assert float(hub[0].nearest_centre) == float(hub[2].nearest_centre) == pytest.approx(1)
    assert [int(parts.status) for parts in hub] == [ScoreStatus.UNBOUNDED, 0, ScoreStatus.UNBOUNDED, 0]
    scores = ncti_combine(hub).value
    assert min(scores[0], scores[2]) > max(scores[1], scores[3])


def test_ncti_needs_two_classes_and_more_samples():
    features = problem()["features"]
    for labels in (np.zeros(24, int), np.arange(24)):
        parts = ncti_components(features, labels)
        assert int(parts.status) == ScoreStatus.UNDEFINED | (0 if labels[1] else ScoreStatus.SINGLE_CLASS)
        assert np.isnan([parts.simplex, parts.nearest_centre, parts.variability]).all()


def scaled(values):
    return (values - values.min()) / (values.max() - values.min())


def test_scores_of_a_hub():
    simplex, centre, variability = np.random.default_rng(0).normal(size=(3, 5))
    status = np.zeros(5, np.int32)
    expected = scaled(simplex) + scaled(centre) - scaled(variability)
    hub = NctiComponents(*(jnp.asarray(part) for part in (simplex, centre, variability, status)))
    np.testing.assert_allclose(ncti_combine(hub).value, expected, rtol=1e-5)
    models = [jax.tree.map(lambda part: part[model], hub) for model in range(5)]  # noqa: B023 (used at once)
    np.testing.assert_allclose(jax.jit(ncti_combine)(models).value, expected, rtol=1e-5)
    parts = EtranComponents(hub.simplex, hub.variability, hub.status)
    weighted = 0.15 * scaled(simplex) + 0.85 * scaled(variability)
    np.testing.assert_allclose(etran_combine(parts).value, weighted, rtol=1e-5)
    halves = (scaled(simplex) + scaled(variability)) / 2
    np.testing.assert_allclose(etran_combine(parts, energy_weight=0.5).value, halves, rtol=1e-5)


def test_a_hub_with_models_that_have_no_score_or_do_not_differ():
    energy, classification = jnp.array([1.0, jnp.nan, 2.0, 4.0]), jnp.array([0.7, 0.1, 0.7, 0.7 * (1 + 2e-7)])
    result = etran_combine(EtranComponents(energy, classification, jnp.array([0, ScoreStatus.INVALID_INPUT, 0, 0])))
    np.testing.assert_allclose(result.value, [0, np.nan, 0.05, 0.15], rtol=1e-6)
    np.testing.assert_array_equal(result.status, [0, ScoreStatus.INVALID_INPUT, 0, 0])
    one = etran_components(problem()["features"], problem()["labels"])
    alone = etran_combine([one])
    assert float(alone.value[0]) == 0
    assert int(alone.status[0]) == ScoreStatus.SINGLE_ENCODER
    alone = ncti_combine([ncti_components(problem()["features"], problem()["labels"])])
    assert float(alone.value[0]) == 0
    assert int(alone.status[0]) == ScoreStatus.SINGLE_ENCODER
    for bad, message in (
        (one, "leading axis of models"),
        ([], "got list"),
        ([1, 2], "a sequence of EtranC"),
        (np.ones(3), "ndarray"),
    ):
        with pytest.raises(ValueError, match=message):
            etran_combine(bad)
    with pytest.raises(ValueError, match="energy_weight"):
        etran_combine([one], energy_weight=2)


def test_components_of_etran_are_its_scores():
    data = problem()
    parts = etran_components(data["features"], data["labels"], fraction=0.2, weights=data["weights"])
    assert float(parts.energy) == value("energy", data, fraction=0.2)
    assert float(parts.classification) == value("discriminant", data)
    batch = jax.vmap(lambda features: etran_components(features, data["labels"]))(
        jnp.stack([data["features"], jnp.full_like(data["features"], jnp.nan)])
    )
    np.testing.assert_array_equal(batch.status, [0, ScoreStatus.INVALID_INPUT])


def gaussian_bound(features, labels, inverse_ridge, prior_variance) -> float:
    features = features - features.mean(axis=0)
    num_samples, width = features.shape
    indicators = (labels[:, None] == np.unique(labels)).astype(float)
    num_classes = indicators.shape[1]
    scale = inverse_ridge * num_samples

    def loss(flat):
        parameters = flat.reshape(width + 1, num_classes)
        logs = scipy.special.log_softmax(features @ parameters[:-1] + parameters[-1], axis=1)
        residuals = (np.exp(logs) - indicators) / num_samples
        gradient = np.vstack([features.T @ residuals + parameters[:-1] / scale, residuals.sum(axis=0)])
        return -np.sum(indicators * logs) / num_samples + np.sum(parameters[:-1] ** 2) / (2 * scale), gradient.ravel()

    options = {"maxiter": 20000, "maxfun": 40000, "maxcor": 50, "ftol": 1e-16, "gtol": 1e-11}
    start = np.zeros((width + 1) * num_classes)
    solution = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    parameters = solution.x.reshape(width + 1, num_classes)
    probabilities = scipy.special.softmax(features @ parameters[:-1] + parameters[-1], axis=1)
    curvature = np.sum((np.sum(features**2, axis=1) + 1) @ (probabilities * (1 - probabilities)))
    volume = np.log(1 + scale * curvature / (num_classes * width))
    return -solution.fun - num_classes * prior_variance / (2 * scale) * volume


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [6, 40])
@pytest.mark.parametrize("options", [(1.0, 10.0), (0.1, 1.0), (10.0, 1000.0)])
def test_pactran_gaussian_is_at_the_minimum(d, options):
    data = problem(6, d=d, dtype=np.float64)
    expected = gaussian_bound(data["features"], data["labels"], *options)
    found = value("pactran_gaussian", data, inverse_ridge=options[0], prior_variance=options[1])
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_pactran_gaussian_of_separable_features_in_float32():
    """The minimum is 1e-6 and probabilities are 1 up to rounding, and yet it is found."""
    data = oracle_input("scaled")
    features, labels = data["features"], data["labels"]
    for inverse_ridge in (0.1, 10.0):
        options = {"inverse_ridge": inverse_ridge, "prior_variance": 1e-9}
        with jax.enable_x64(True):
            expected = float(pactran_gaussian_score(features, labels, **options))
        assert -1e-5 < expected < 0
        assert float(pactran_gaussian_score(features.astype(np.float32), labels, **options)) == pytest.approx(
            expected, 1e-4
        )


def test_pactran_gaussian_of_features_that_say_nothing():
    """The bias alone: the loss is the entropy of the classes."""
    labels = np.array([0, 0, 0, 1])
    with jax.enable_x64(True):
        found = float(pactran_gaussian_score(np.ones((4, 2)), labels))
    curvature = 4 * 2 * 0.75 * 0.25
    expected = -(0.75 * np.log(4 / 3) + 0.25 * np.log(4)) - 2 * 10 / (2 * 4) * np.log(1 + 4 * curvature / (2 * 2))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [6, 30])
def test_logme_regression_is_the_maximum_of_the_evidence(d):
    data = problem(7, 24, d, np.float64)
    expected = [evidence(data["features"], target) for target in data["targets"].T]
    assert value("logme_regression", data) == pytest.approx(np.mean(expected), rel=1e-6)
    first = data | {"targets": data["targets"][:, 0]}
    assert value("logme_regression", first) == pytest.approx(expected[0], rel=1e-6)
    for factor in (1e-6, 1e100):
        larger = first | {"targets": factor * first["targets"]}
        assert value("logme_regression", larger) == pytest.approx(expected[0] - np.log(factor), rel=1e-6)


@pytest.mark.parametrize("weight", [1e-3, 1e-15, 1e-31])
def test_logme_of_little_weight_in_all_is_that_of_noise_alone(weight):
    """The volume then counts for more than any fit."""
    data = problem()
    y = np.eye(NUM_CLASSES)[data["labels"]][:, [0, 1, 3]]
    noise = np.mean(np.log(2 * np.pi * y.mean(axis=0)) + 1) / -2
    weights = np.full(24, weight, np.float32)
    found = logme_score(data["features"], data["labels"], weights=weights, num_classes=NUM_CLASSES)
    assert float(found) == pytest.approx(noise, rel=1e-5)


@pytest.mark.usefixtures("x64")
def test_logme_of_a_peak_between_points_of_the_grid_and_a_plateau_of_nearly_its_height():
    energies = np.array([5.37e-5, 0.180644, 0.480882, 0.982543, 0.119516, 0.00682388, 0.158066, 7.647e-4, 0.0707063])
    deviations = np.array([4.64508, 3.613319, 2.246896, 1.582927, 1.265373, 0.75147, 0.369432, 0.0582528])
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0]
    features, target = axes[:, :8] * deviations, axes @ np.sqrt(energies)
    assert float(logme_regression_score(features, target)) == pytest.approx(evidence(features, target), abs=1e-7)


def test_ncti_of_features_next_to_no_size_is_that_of_float64():
    """All but the ridge is then rounding in the covariances, which are shrunk by nearly 1."""
    data = problem()
    features = 1e-5 * data["features"].astype(np.float32)
    parts = ncti_components(features, data["labels"], num_classes=NUM_CLASSES)
    with jax.enable_x64(True):
        exact = ncti_components(features.astype(np.float64), data["labels"], num_classes=NUM_CLASSES)
    for name in ("simplex", "nearest_centre", "variability"):
        assert float(getattr(parts, name)) == pytest.approx(float(getattr(exact, name)), rel=1e-3)


def test_logme_regression_of_indicators_is_logme():
    data = problem()
    indicators = np.eye(NUM_CLASSES)[data["labels"]][:, [0, 1, 3]]
    expected = float(logme_score(data["features"], data["labels"], num_classes=NUM_CLASSES))
    for targets in (indicators, indicators == 1):
        assert float(logme_regression_score(data["features"], targets)) == pytest.approx(expected, rel=1e-5)


def test_logme_regression_of_an_exact_fit_is_unbounded():
    features = problem()["features"]
    for targets in (
        features @ np.ones((6, 1), np.float32),
        np.zeros(24),
        np.column_stack([features[:, 0], np.arange(24)]),
    ):
        result = logme_regression_score(features, targets)
        assert np.isfinite(float(result))
        assert int(result.status) == ScoreStatus.UNBOUNDED
    interpolated = logme_regression_score(problem(n=12, d=30)["features"], np.arange(12))
    assert np.isfinite(float(interpolated))
    assert int(logme_regression_score(problem(n=12, d=30)["features"], np.zeros(12)).status) == ScoreStatus.UNBOUNDED


def test_bad_targets_are_named():
    data = problem()
    holed = np.where(np.arange(24)[:, None] == 4, np.nan, data["targets"])
    for bad, message in (
        (data["targets"][:5], r"must have shape \(24,\)"),
        (np.ones((24, 0)), "t >= 1"),
        (data["targets"].astype(str), "real numbers"),
        (holed, r"targets\[4, 0\] is nan.*2 such values"),
        (holed[:, 1], r"targets\[4\] is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            score("logme_regression", data | {"targets": bad})
    traced = jax.jit(logme_regression_score)(data["features"], holed)
    assert int(traced.status) == ScoreStatus.INVALID_INPUT
