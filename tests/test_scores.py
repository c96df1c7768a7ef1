"""Transferability metrics: properties that all of them have, values of the original implementations, references."""

from __future__ import annotations

import json
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import sklearn.covariance
import sklearn.datasets
import sklearn.linear_model
import sklearn.neighbors

from jaxrel.scores import (
    METRICS,
    Score,
    ScoreStatus,
    alpha_req_score,
    energy_distance_score,
    h_score,
    information_maximisation_score,
    logme_score,
    maximum_probability_score,
    mmd_score,
    nearest_neighbours_score,
    negative_entropy_score,
    rankme_score,
    ridge_probe_score,
    spectral_decay,
)

NAMES = sorted(METRICS)
LABELLED = [name for name in NAMES if not METRICS[name].label_free]
FEATURE_BASED = [name for name in NAMES if "features" in METRICS[name].needs]
SCALE_INVARIANT = FEATURE_BASED
NUM_CLASSES = 4
ROW_ALIGNED = ("features", "labels", "probabilities", "folds", "weights")
ORACLES = json.loads((pathlib.Path(__file__).parent / "data" / "score_oracles.json").read_text())


def problem(seed: int = 0, n: int = 24, d: int = 6, dtype=np.float32) -> dict[str, np.ndarray]:
    """Class 2 never occurs, class 3 once."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[5] = 3
    features = rng.normal(size=(n, d)) + rng.normal(size=(NUM_CLASSES, d))[labels]
    data = {
        "features": features,
        "reference_features": rng.normal(size=(10, d)) + 0.3,
        "probabilities": rng.dirichlet(np.full(5, 0.5), n),
        "weights": np.ones(n),
    }
    return {name: value.astype(dtype) for name, value in data.items()} | {"labels": labels, "folds": np.arange(n) % 3}


def score(name: str, data: dict, **options) -> Score:
    metric = METRICS[name]
    if not metric.label_free:
        options.setdefault("num_classes", NUM_CLASSES)
    if name == "ridge_probe":
        options |= {"folds": data["folds"], "num_folds": 3}
    return metric.function(*(data[need] for need in metric.needs), weights=data["weights"], **options)


def taken(data: dict, rows) -> dict:
    return {name: value[rows] if name in ROW_ALIGNED else value for name, value in data.items()}


def value(name: str, data: dict, **options) -> float:
    result = score(name, data, **options)
    assert result.messages == ()
    return float(result)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_samples_is_irrelevant(name):
    data = problem()
    order = np.random.default_rng(1).permutation(24)
    assert value(name, taken(data, order)) == pytest.approx(value(name, data), rel=1e-5)


@pytest.mark.parametrize("name", FEATURE_BASED)
def test_order_of_features_is_irrelevant(name):
    data = problem()
    order = np.random.default_rng(2).permutation(6)
    permuted = data | {key: data[key][:, order] for key in ("features", "reference_features")}
    assert value(name, permuted) == pytest.approx(value(name, data), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_counts(name):
    """A weight of 2 is the sample twice, one of 0 no sample, whatever its features and label are."""
    data = problem()
    counts = np.ones(24, np.float32)
    counts[[1, 7, 8, 20]], counts[[0, 3, 9, 22]] = 2, 0
    weighted = data | {"weights": counts}
    repeated = taken(data, np.repeat(np.arange(24), counts.astype(int)))
    expected = value(name, repeated)
    assert value(name, weighted) == pytest.approx(expected, rel=2e-5)
    for key, rubbish in (("features", np.nan), ("probabilities", np.inf), ("labels", -7)):
        weighted[key] = weighted[key].copy()
        weighted[key][[0, 3, 9, 22]] = rubbish
    assert value(name, weighted) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_reference_weights_are_counts(name):
    if "reference_features" not in METRICS[name].needs:
        return
    data = problem()
    counts = np.asarray([2, 0, 1, 1, 2, 0, 1, 1, 1, 1], np.float32)
    repeated = data | {"reference_features": np.repeat(data["reference_features"], counts.astype(int), axis=0)}
    assert value(name, data, reference_weights=counts) == pytest.approx(value(name, repeated), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_jit_and_vmap_over_encoders(name):
    """Values that are unknown cannot be refused: a bad encoder has NaN and a status, the others are as ever."""
    problems = [problem(seed) | {"labels": problem()["labels"]} for seed in (0, 1)]
    plain = [value(name, data) for data in problems]
    varying = [key for key in METRICS[name].needs if key != "labels"]
    bad = {key: np.full_like(problems[0][key], np.nan) for key in varying}
    stacked = {key: jnp.stack([data[key] for data in (*problems, bad)]) for key in varying}
    batch = jax.jit(jax.vmap(lambda arrays: score(name, problems[0] | arrays)))(stacked)
    np.testing.assert_allclose(batch.value, [*plain, np.nan], rtol=2e-5)
    np.testing.assert_array_equal(batch.status, [0, 0, ScoreStatus.INVALID_INPUT])
    assert len(batch.messages) == 1


@pytest.mark.parametrize("name", NAMES)
def test_float32_against_float64(name):
    single = value(name, problem())
    assert score(name, problem()).value.dtype == jnp.float32
    half = problem() | {key: jnp.asarray(problem()[key], jnp.bfloat16) for key in ("features", "reference_features")}
    half["probabilities"] = jnp.asarray(problem()["probabilities"], jnp.bfloat16)
    assert score(name, half).value.dtype == jnp.float32
    with jax.enable_x64(True):
        double = score(name, problem(dtype=np.float64))
        assert double.value.dtype == jnp.float64
        assert single == pytest.approx(float(double), rel=1e-4)


@pytest.mark.parametrize("name", SCALE_INVARIANT)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_scale_is_irrelevant(name, scale):
    data = problem()
    scaled = data | {key: data[key] * np.float32(scale) for key in ("features", "reference_features")}
    assert value(name, scaled) == pytest.approx(value(name, data), rel=1e-4)


@pytest.mark.parametrize("name", FEATURE_BASED)
def test_constant_feature_and_collapsed_features(name):
    data = problem()
    for column, level in ((0, 2.5), (slice(None), 1e6), (slice(None), 0)):
        constant = data | {key: data[key].copy() for key in ("features", "reference_features")}
        constant["features"][:, column] = constant["reference_features"][:, column] = level
        result = score(name, constant)
        collapsed = column != 0
        defined = not (name == "alpha_req" and collapsed)
        assert int(result.status) == (0 if defined else ScoreStatus.UNDEFINED)
        assert bool(np.isfinite(result.value)) == defined


@pytest.mark.parametrize("name", NAMES)
def test_one_sample(name):
    result = score(name, problem() | {"weights": np.eye(24, dtype=np.float32)[5]})
    needs_more = name in ("alpha_req", "nearest_neighbours", "regularised_h_score", "ridge_probe")
    assert int(result.status) in (ScoreStatus.OK, ScoreStatus.UNDEFINED)
    assert (int(result.status) == ScoreStatus.UNDEFINED) == needs_more == bool(np.isnan(result.value))


@pytest.mark.parametrize("name", FEATURE_BASED)
def test_more_features_than_samples(name):
    data = problem(n=12, d=30)
    assert np.isfinite(value(name, data))


@pytest.mark.parametrize("name", NAMES)
def test_other_values_need_no_compilation(name, caplog):
    options = {
        "nearest_neighbours": ({"num_neighbours": 1}, {"num_neighbours": 4}),
        "ridge_probe": ({"ridges": np.array([0.1, 1.0])}, {"ridges": np.array([0.3, 2.0])}),
    }.get(name, ({}, {}))
    value(name, problem(0), **options[0])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        score(name, problem(3) | {"weights": np.full(24, 2, np.float32)}, **options[1])
    assert not [record for record in caplog.records if "Compiling" in record.message]


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_changed(name):
    data = problem()
    for array in data.values():
        array.flags.writeable = False
    value(name, data)
    assert all(np.array_equal(array, problem()[key]) for key, array in data.items())


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_named(name):
    metric, data = METRICS[name], problem()
    first = metric.needs[0]
    for key, bad, message in (
        (first, data[first][0], "must have shape"),
        (first, np.where(np.arange(24)[:, None] == 3, np.nan, data[first]), r"features\[3, 0\] is nan"),
        (first, data[first].astype(str), "real numbers"),
        ("weights", np.zeros(24), "all 0"),
        ("weights", -np.ones(24), r"weights\[0\] is -1"),
        ("weights", np.ones(5), "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            score(name, data | {key: bad})


@pytest.mark.parametrize("name", LABELLED)
def test_bad_labels_are_named(name):
    data = problem()
    for bad, message in (
        (data["labels"] + 1, r"outside 0 \.\. 3"),
        (data["labels"] / 2, "must be integers"),
        (None, "needs labels"),
        (np.eye(4)[data["labels"]], r"must have shape \(n,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            score(name, data | {"labels": bad})
    with pytest.raises(ValueError, match="num_classes must be given"):
        jax.eval_shape(METRICS[name].function, data["features"], data["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if METRICS[name].differentiable])
@pytest.mark.usefixtures("x64")
def test_derivatives(name):
    data = problem(dtype=np.float64)
    first = METRICS[name].needs[0]
    direction = np.random.default_rng(4).normal(size=data[first].shape)
    direction -= direction.mean(axis=1, keepdims=True)

    def along(step):
        return score(name, data | {first: data[first] + step * direction}).value

    step = 1e-6
    numerical = (float(along(step)) - float(along(-step))) / (2 * step)
    assert float(jax.jit(jax.grad(along))(0.0)) == pytest.approx(numerical, rel=1e-5)


def test_registry():
    assert all(metric.name == name and metric.source for name, metric in METRICS.items())
    assert all(metric.higher_is_better for metric in METRICS.values())
    assert METRICS["rankme"].label_free
    assert not METRICS["logme"].label_free


def gaussian_classes(seed: int, n: int, d: int, labels=lambda rng: rng.integers(0, 5, 600)):
    rng = np.random.default_rng(seed)
    y = labels(rng)
    means = rng.normal(size=(5, d))
    return means[y] + rng.normal(size=(n, d)), y


def with_singleton(rng):
    labels = rng.integers(0, 4, 600)
    labels[0] = 4
    return labels


def oracle_input(case: str):
    if case in ("iris", "digits"):
        return getattr(sklearn.datasets, f"load_{case}")(return_X_y=True)
    if case == "d_gt_n":
        return gaussian_classes(1, 60, 200, lambda rng: rng.integers(0, 5, 60))
    if case == "imbalanced":
        return gaussian_classes(2, 600, 32, lambda rng: rng.choice(5, 600, p=[0.6, 0.25, 0.1, 0.04, 0.01]))
    if case == "singleton":
        return gaussian_classes(3, 600, 32, with_singleton)
    if case == "missing_class":
        return gaussian_classes(5, 600, 32, lambda rng: rng.choice([0, 1, 3, 4], 600))
    features, labels = gaussian_classes(0, 600, 32)
    if case == "constant_col":
        features[:, 3] = 2.5
    return features * (1000 if case == "scaled" else 1) + (10 if case == "shifted" else 0), labels


def oracle_tolerance(oracle: dict) -> float:
    """Peers stop their iteration for LogME at a relative change of 1e-2 and so below the maximum; and one computes in
    float32, carrying precisions over from class to class. Accuracies are printed in float32."""
    if oracle["metric"] == "logme":
        return 1e-3 if oracle["case"] == "singleton" else 3e-6
    return 1e-6


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: f"{oracle['metric']}-{oracle['case']}")
def test_original_implementations(oracle):
    features, labels = oracle_input(oracle["case"])
    function = METRICS[oracle["metric"]].function
    with jax.enable_x64(True):
        result = function(features, labels, **oracle["options"])
        assert float(result) == pytest.approx(oracle["value"], rel=oracle_tolerance(oracle))
    single = function(features.astype(np.float32), labels, **oracle["options"])
    assert float(single) == pytest.approx(oracle["value"], rel=1e-3)


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
    assert float(result) == np.inf
    assert int(result.status) == ScoreStatus.UNBOUNDED
    assert "exactly" in result.messages[0]


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


@pytest.mark.usefixtures("x64")
def test_spectra():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(40, 8)))[0]
    assert float(rankme_score(basis)) == pytest.approx(8)
    assert float(rankme_score(np.ones((40, 8)))) == pytest.approx(1)
    assert float(rankme_score(np.zeros((40, 8)))) == 0
    centred = np.linalg.qr(np.column_stack([np.ones(40), rng.normal(size=(40, 8))]))[0][:, 1:]
    for alpha in (0.5, 1.0, 2.5):
        features = centred * np.arange(1, 9) ** (-alpha / 2) + 3
        assert float(spectral_decay(features)) == pytest.approx(alpha)
        assert float(alpha_req_score(features)) == pytest.approx(-abs(alpha - 1), abs=1e-9)


@pytest.mark.usefixtures("x64")
def test_energy_distance_and_mmd_against_all_pairs():
    data = problem(dtype=np.float64)
    x, y = data["features"], data["reference_features"]

    def distances(a, b):
        return np.linalg.norm(a[:, None] - b, axis=-1)

    across = 2 * distances(x, y).mean()
    expected = -(across - distances(x, x).mean() - distances(y, y).mean()) / across
    assert float(energy_distance_score(x, y)) == pytest.approx(expected, rel=1e-9)
    line = energy_distance_score(x[:, :1], y[:, :1])
    energy = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert float(line) == pytest.approx(-energy / (2 * distances(x[:, :1], y[:, :1]).mean()), rel=1e-9)

    pooled = np.concatenate([x, y])
    mass = np.concatenate([np.full(24, 1 / 24), np.full(10, 1 / 10)])
    upper = np.triu_indices(34, 1)
    order = np.argsort(distances(pooled, pooled)[upper])
    pair_mass = np.cumsum(np.outer(mass, mass)[upper][order])
    bandwidth = distances(pooled, pooled)[upper][order][np.searchsorted(pair_mass, pair_mass[-1] / 2)]

    def mean_kernel(a, b):
        return np.exp(-(distances(a, b) ** 2) / (2 * bandwidth**2)).mean()

    expected = -(mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert float(mmd_score(x, y)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("function", [energy_distance_score, mmd_score])
def test_equal_samples_are_at_distance_0(function):
    data = problem()
    first = (np.arange(24) < 10).astype(np.float32)
    reference = data["features"][9::-1]
    assert float(function(data["features"], reference, weights=first)) == pytest.approx(0, abs=1e-6)
    assert float(function(data["features"], reference + 1e4, weights=first)) < -0.7
    with pytest.raises(ValueError, match="width"):
        function(data["features"], data["features"][:, :2])


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
    rows = problem()["probabilities"].astype(float)
    expected = scipy.stats.entropy(rows.mean(axis=0)) - scipy.stats.entropy(rows, axis=1).mean()
    assert float(information_maximisation_score(rows)) == pytest.approx(expected, rel=1e-5)
