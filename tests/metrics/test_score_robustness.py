"""Input that float32, ties, outliers and busy machines make hard: the numbers of float64, or a status."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
import sklearn.metrics
import sklearn.neighbors
from score_problems import FEATURE_BASED, NAMES, SLOW, problem, score
from threadpoolctl import threadpool_info, threadpool_limits

from jaxrel._core.standardisation import standardisation_of
from jaxrel._core.threads import few_threads
from jaxrel.metrics import (
    METRICS,
    ScoreStatus,
    decompose,
    discriminant_score,
    gbc_score,
    h_score,
    lfc_score,
    logme_regression_score,
    mmd_score,
    moments,
    moments_of_blocks,
    ncti_components,
    nearest_neighbours_score,
    pactran_gaussian_score,
    parc_score,
    ridge_probe_score,
    score_encoders,
    sfda_score,
    silhouette_score,
    transrate_score,
)

SHIFT_INVARIANT = [
    name for name in FEATURE_BASED if METRICS[name].shift_invariant and name not in SLOW | {"cross_view"}
]


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
def test_an_offset_costs_float64_features_no_digits(name):
    data = problem(dtype=np.float64)
    moved = data | {key: data[key] + 1e8 for key in ("features", "reference_features", "aligned_features")}
    expected, found = score(name, data), score(name, moved)
    assert int(found.status) == int(expected.status)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_an_offset_costs_float64_features_no_digits_in_a_batch():
    data = problem(dtype=np.float64)
    names = ["h_score", "parc", "energy_distance", "cka", "logme"]
    needs = ("reference_features", "aligned_features")

    def scores(offset):
        encoders = {need: [data[need] + offset] * 2 for need in needs}
        return score_encoders([data["features"] + offset] * 2, data["labels"], metrics=names, **encoders)

    for name in names[:-1]:
        np.testing.assert_allclose(scores(1e8)[name].value, scores(0)[name].value, rtol=1e-4, err_msg=name)


def test_a_spread_of_some_hundred_roundings_is_no_constant_however_many_samples_there_are():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 20_000)
    features = (3 * rng.normal(size=(3, 4)))[labels] + rng.normal(size=(20_000, 4))
    single = (features + 3e4).astype(np.float32)
    exact = (single.astype(np.float64) - single.astype(np.float64).mean(axis=0)).astype(np.float32)
    assert float(ridge_probe_score(single, labels)) == pytest.approx(float(ridge_probe_score(exact, labels)), abs=1e-3)
    assert float(h_score(single, labels)) == pytest.approx(float(h_score(exact, labels)), rel=1e-3)
    few = slice(0, 200)
    assert float(parc_score(single[few], labels[few])) == pytest.approx(
        float(parc_score(exact[few], labels[few])), abs=1e-3
    )


def test_what_differs_by_roundings_is_constant():
    rng = np.random.default_rng(0)
    rows = np.float32(0.1) * (1 + np.float32(1.2e-7) * rng.integers(-1, 2, (50, 3)).astype(np.float32))
    standardised = standardisation_of(rows, np.ones(50, np.float32))(rows)
    assert np.max(np.abs(standardised)) < 1e-6
    result = h_score(rows, np.arange(50) % 3)
    assert (float(result), int(result.status)) == (0, ScoreStatus.CONSTANT_FEATURES)


@pytest.mark.parametrize("level", [0.1, 1 / 3, 7.7])
def test_one_constant_feature_of_three_samples_tells_nothing(level):
    result = h_score(np.full((3, 1), level), [0, 1, 1])
    assert (float(result), int(result.status)) == (0, ScoreStatus.CONSTANT_FEATURES)


@pytest.mark.parametrize("factor", [1e3, 1e6, 1e9])
def test_one_sample_far_away_blurs_no_distance_of_the_others(factor):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    features = (6 * rng.normal(size=(3, 8)))[labels] + rng.normal(size=(300, 8))
    features[0] *= factor
    neighbours = sklearn.neighbors.NearestNeighbors(n_neighbors=2).fit(features).kneighbors(return_distance=False)
    accuracy = np.mean(labels[neighbours[:, 0]] == labels)
    assert float(nearest_neighbours_score(features, labels)) == pytest.approx(accuracy, abs=1.1 / 300)
    expected = sklearn.metrics.silhouette_score(features, labels)
    assert float(silhouette_score(features, labels)) == pytest.approx(expected, abs=5e-3)
    near = np.arange(300) > 0
    halves = np.arange(300) % 2 == 0
    without = float(mmd_score(features[halves & near], features[~halves]))
    assert float(mmd_score(features[halves], features[~halves])) == pytest.approx(without, abs=5e-3)


def test_ties_of_neighbours_do_not_make_the_order_of_samples_count():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        features, labels = rng.integers(0, 3, (40, 3)).astype(float), rng.integers(0, 3, 40)
        order, votes = rng.permutation(40), int(rng.integers(1, 6))
        expected = float(nearest_neighbours_score(features, labels, num_neighbours=votes))
        assert float(nearest_neighbours_score(features[order], labels[order], num_neighbours=votes)) == expected


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_small_factorisations_have_one_thread_and_give_the_others_back():
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with few_threads(np.zeros((500, 128))) as limited, few_threads(np.zeros((9, 3))):
            assert limited
            assert set(blas_threads()) == {1}
        assert blas_threads() == before
        with pytest.raises(ZeroDivisionError), few_threads(np.zeros((500, 128))):
            _ = 1 / 0
        with few_threads(np.zeros((3000, 768))) as limited:
            assert not limited
        assert blas_threads() == before
        decompose(problem()["features"], "raw")
        assert blas_threads() == before


THREADS = """
import sys, threading
import jax, numpy as np
from jaxrel import metrics

labels = np.arange(120) % 4
features = np.random.default_rng(0).normal(size=(8, 120, 24)).astype(np.float32)

def vmapped():
    score = getattr(scores, sys.argv[1])
    compiled = jax.jit(jax.vmap(lambda rows: score(rows, labels, num_classes=4).value))
    for _ in range(20):
        jax.block_until_ready(compiled(features))

def batched():
    for _ in range(5):
        metrics.score_encoders(features, labels, metrics=["h_score", "ridge_probe", "ncti"], batch_size=4)

work = batched if sys.argv[1] == "score_encoders" else vmapped
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h_score", "ridge_probe_score", "ncti_components", "score_encoders"])
def test_batched_scores_of_several_threads_do_not_wait_for_each_other_for_ever(name):
    subprocess.run([sys.executable, "-c", THREADS, name], check=True, timeout=240)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SLOW | {"nce"}])
def test_extreme_sizes_and_weights_give_finite_numbers_or_a_status(name):
    """Of one shape, so that nothing is compiled twice."""
    data = problem()
    for scale in (1e-38, 1e-30, 1e30, 3e37):
        for weight in (1e-30, 1, 1e37):
            extreme = data | {"weights": np.full(24, weight, np.float32)}
            if METRICS[name].needs[0] in ("features", "reference_features"):
                extreme |= {key: data[key] * np.float32(scale) for key in ("features", "reference_features")}
            try:
                result = score(name, extreme)
            except ValueError:
                continue
            assert int(result.status) or bool(np.all(np.isfinite(result.value))), (scale, weight)


@pytest.mark.parametrize("weight", [1e-33, 3e37])
def test_weights_whose_products_the_dtype_cannot_hold_are_invalid(weight):
    result = h_score(problem()["features"], problem()["labels"], weights=np.full(24, weight, np.float32))
    assert int(result.status) == ScoreStatus.INVALID_INPUT
    assert np.isnan(result.value)


@pytest.mark.parametrize("function", [discriminant_score, sfda_score])
def test_samples_that_two_classes_share_are_of_neither_for_sure(function):
    """With more features than samples classes do not vary in most directions, and there their means are the sample."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        features, labels = rng.normal(size=(9, 12)).astype(np.float32), np.array([0, 1, 2] * 3)
        features[[1, 2, 3]] = features[[0, 0, 5]]
        single = float(function(features, labels))
        with jax.enable_x64(True):
            assert single == pytest.approx(float(function(features.astype(np.float64), labels)), abs=1e-4)


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_ncti_knows_directions_in_which_no_class_varies(seed):
    """The samples less one for each class leave some: a shrinkage of 1e-9 is all that is there."""
    features, labels = 1.3 * np.random.default_rng(seed).normal(size=(9, 12)).astype(np.float32), np.arange(9) % 3
    found = ncti_components(features, labels)
    with jax.enable_x64(True):
        expected = ncti_components(features.astype(np.float64), labels)
    np.testing.assert_allclose(found.simplex, expected.simplex, rtol=1e-5)


def test_gbc_of_float32_features_bears_an_offset():
    rng = np.random.default_rng(0)
    features, labels = (1e5 + rng.normal(size=(24, 5))).astype(np.float32), np.arange(24) % 3
    single = float(gbc_score(features, labels))
    with jax.enable_x64(True):
        assert single == pytest.approx(float(gbc_score(features.astype(np.float64), labels)), rel=1e-5)


@pytest.mark.parametrize("seed", [373, 1005])
def test_logme_finds_the_higher_of_two_maxima(seed):
    """The lower one is less by 0.005 and 0.003, and the one that a grid in steps of 2.3 takes for the higher."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((24, 1)) > np.cumsum(rng.dirichlet(np.ones(3)))[:-1]).sum(axis=1)
    features = rng.choice([0, 1, 4]) * rng.normal(size=(3, 5))[labels] + rng.normal(size=(24, 5))
    single = float(logme_regression_score(features.astype(np.float32), (labels == 0).astype(np.float32)))
    with jax.enable_x64(True):
        assert single == pytest.approx(float(logme_regression_score(features, (labels == 0) * 1.0)), abs=1e-4)


def test_logme_finds_the_higher_of_two_maxima_between_the_points_of_the_grid():
    features = np.full((3, 12), 0.7, np.float32)
    features[:, 0] = [-2.059548, -1.3109837, 0.6809928]
    targets = np.array([-2.0947747, -0.38534868, 1.7000456], np.float32)
    assert float(logme_regression_score(features, targets)) == pytest.approx(-1.871463, abs=1e-5)


def test_transrate_of_one_class_is_not_negative():
    for seed in range(30):
        features = (1e25 * np.random.default_rng(seed).normal(size=(9, 12))).astype(np.float32)
        assert float(transrate_score(features, np.zeros(9, int), num_classes=2)) >= 0


def test_pactran_of_large_features_is_that_of_float64():
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    features = (1e12 * rng.normal(size=(24, 5))).astype(np.float32)
    found = pactran_gaussian_score(features, labels)
    with jax.enable_x64(True):
        expected = pactran_gaussian_score(features.astype(np.float64), labels)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)


@pytest.mark.slow
def test_pactran_of_large_features_stays_at_its_minimum_in_a_batch():
    """With all optimisations, steps that rounding decides led these problems to scores of -8e5 to -4e13."""

    def problem(seed):
        rng = np.random.default_rng(seed)
        labels, _ = rng.choice(3, 24, p=[0.67, 0.29, 0.04]), rng.normal(size=15)
        return (1e15 * rng.normal(size=(24, 5))).astype(np.float32), labels, np.full(24, 1e12, np.float32)

    def score(features, labels, weights):
        return pactran_gaussian_score(features, labels, weights=weights, num_classes=3).value

    optimised: dict[str, Any] = {"xla_backend_optimization_level": 3}
    if jax.version.__version_info__ < (0, 11):  # later ones have no other emitters
        optimised["xla_cpu_use_fusion_emitters"] = True
    features, labels, weights = map(np.stack, zip(*map(problem, (8046, 22275, 29397, 38016)), strict=True))
    found = jax.jit(jax.vmap(score), compiler_options=optimised)(features, labels, weights)
    np.testing.assert_allclose(found, [-0.4051491, -0.3844628, -0.4385026, -0.2187243], rtol=1e-4)


@pytest.mark.parametrize("seed", [0, 24, 25])
def test_the_ridge_probe_fits_nothing_to_directions_of_rounding(seed):
    """One sample has nearly all the weight: without it the others are fitted, with it they are next to nothing."""
    features = np.random.default_rng(seed).normal(size=(6, 12)).astype(np.float32)
    labels, weights = np.array([2, 0, 2, 1, 2, 0]), np.array([1, 1e-4, 0, 1e-4, 1e-4, 1e-4], np.float32)
    single = float(ridge_probe_score(features, labels, weights=weights))
    with jax.enable_x64(True):
        double = float(ridge_probe_score(features.astype(np.float64), labels, weights=weights.astype(np.float64)))
    assert single == pytest.approx(double, abs=1e-6)


def test_small_responses_of_the_ridge_probe_tell_classes_of_equal_shares_apart():
    """Next to 1/3 they are rounding; where the penalty is large they only shrink with it."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    features = (rng.normal(size=(3, 4))[labels] + rng.normal(size=(30, 4))).astype(np.float32)
    small, large = (float(ridge_probe_score(features, labels, ridges=[ridge])) for ridge in (1e4, 1e9))
    assert large == pytest.approx(small)


@pytest.mark.parametrize("function", [lfc_score, silhouette_score])
def test_light_samples_beside_heavy_ones_keep_their_digits(function):
    labels = np.array([0, 0, 0, 0, 0, 1])
    weights = np.array([1, 1e-4, 1e-4, 1, 1, 1e-4], np.float32)
    for seed in range(20):
        features = np.random.default_rng(seed).normal(size=(6, 12)).astype(np.float32)
        single = float(function(features, labels, weights=weights))
        with jax.enable_x64(True):
            double = float(function(features.astype(np.float64), labels, weights=weights.astype(np.float64)))
        assert single == pytest.approx(double, abs=2e-6, rel=1e-4)


@pytest.mark.parametrize("function", [h_score, ridge_probe_score])
def test_one_label_far_from_the_others_is_one_more_class(function):
    """Arrays of a place for each number up to it would take gigabytes."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(1000, 4)).astype(np.float32), np.arange(1000) % 3
    labels[7] = 3
    expected = float(function(features, labels))
    labels[7] = 300_000
    assert float(function(features, labels)) == expected


def test_blocks_of_float64_features_bear_an_offset():
    data = problem(n=60, dtype=np.float64)
    names = ["h_score", "regularised_h_score", "alpha_req"]
    labels, parts = data["labels"], [slice(start, start + 16) for start in range(0, 60, 16)]
    expected, found = (
        moments_of_blocks(((features[part], labels[part]) for part in parts), num_classes=4)
        for features in (data["features"], data["features"] + 1e8)
    )
    for name in names:
        one, other = (moments.compute(name, state).value for state in (found, expected))
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_derivative_of_a_shared_decomposition_is_refused_too():
    data = problem()

    def number(features):
        return h_score(features, data["labels"], num_classes=4, decomposition=decompose(features, "standardised")).value

    with pytest.raises(ValueError, match="has no derivative"):
        jax.grad(number)(data["features"])
