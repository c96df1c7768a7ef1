"""Metrics without labels: other computations of the definition, ends of the range."""

from __future__ import annotations

import jax
import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from score_problems import problem, score

from jaxrel.metrics import (
    ScoreStatus,
    alpha_req_score,
    cka_score,
    energy_distance_score,
    energy_score,
    mmd_score,
    rankme_score,
    sinkhorn_divergence_score,
    spectral_decay,
)


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


@pytest.mark.usefixtures("x64")
def test_sinkhorn_divergence_lies_between_wasserstein_and_energy_distance():
    data = problem(dtype=np.float64)
    x, y = data["features"], data["reference_features"]
    distances = np.linalg.norm(x[:, None] - y, axis=-1)
    exact = -ot.emd2(ot.unif(len(x)), ot.unif(len(y)), distances) / distances.mean()
    assert float(sinkhorn_divergence_score(x, y, epsilon=1e-4)) == pytest.approx(exact, abs=1e-3)
    assert float(sinkhorn_divergence_score(x, y, epsilon=1e4)) == pytest.approx(
        float(energy_distance_score(x, y)), abs=1e-3
    )
    with pytest.raises(ValueError, match="epsilon must be one positive"):
        sinkhorn_divergence_score(x, y, epsilon=0)


@pytest.mark.parametrize("function", [energy_distance_score, mmd_score, sinkhorn_divergence_score])
def test_equal_samples_are_at_distance_0(function):
    data = problem()
    first = (np.arange(24) < 10).astype(np.float32)
    reference = data["features"][9::-1]
    assert float(function(data["features"], reference, weights=first)) == pytest.approx(0, abs=1e-6)
    assert float(function(data["features"], reference + 1e4, weights=first)) < -0.7
    with pytest.raises(ValueError, match="width"):
        function(data["features"], data["features"][:, :2])


@pytest.mark.parametrize("function", [mmd_score, energy_distance_score])
def test_distances_in_batches_are_those_of_float64(function):
    """A sample's distance to itself, rounded, is no distance, wherever the origin is."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(256, n, 12)).astype(np.float32) for n in (16, 7))
    present = (np.arange(16) < 9).astype(np.float32)

    def one(pair):
        return function(*pair, weights=present).value

    found = jax.jit(lambda pairs: jax.lax.map(one, pairs, batch_size=16))((x, y))
    with jax.enable_x64(True):
        exact = jax.jit(lambda pairs: jax.lax.map(one, pairs))((x.astype(np.float64), y.astype(np.float64)))
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_mmd_of_absent_samples_where_pairs_make_exactly_half():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(20, 50)).astype(np.float32), rng.normal(0.5, 1, size=(15, 50)).astype(np.float32)
        absent = float(mmd_score(x, y, weights=np.arange(20) < 5))
        assert absent == pytest.approx(float(mmd_score(x[:5], y)), rel=1e-5)


def unbiased_product(a, b):
    """Inner product of the U-centred matrices, as Székely and Rizzo define them, over pairs that differ."""
    n = len(a)

    def centred(gram):
        gram = gram - np.diag(np.diag(gram))
        rows = gram.sum(axis=1) / (n - 2)
        result = gram - rows[:, None] - rows + gram.sum() / ((n - 1) * (n - 2))
        return result - np.diag(np.diag(result))

    return np.sum(centred(a @ a.T) * centred(b @ b.T))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("n", "d"), [(24, 6), (8, 30)])
def test_cka_against_gram_matrices(n, d):
    data = problem(1, n, d, np.float64)
    x, y = data["features"] + 3, data["aligned_features"]
    centring = np.eye(n) - 1 / n
    k, l = (centring @ z @ z.T @ centring for z in (x, y))  # noqa: E741
    expected = np.sum(k * l) / np.linalg.norm(k) / np.linalg.norm(l)
    assert float(cka_score(x, y)) == pytest.approx(expected, rel=1e-10)
    assert float(cka_score(y, x)) == pytest.approx(expected, rel=1e-10)
    unbiased = unbiased_product(x, y) / np.sqrt(unbiased_product(x, x) * unbiased_product(y, y))
    assert float(cka_score(x, y, debiased=True)) == pytest.approx(unbiased, rel=1e-10)
    for options in ({}, {"debiased": True}):
        assert float(cka_score(x, -2 * x + 1, **options)) == pytest.approx(1)


def test_cka_of_independent_features():
    """The bias is that of few samples, not of the encoders."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 400))
    assert float(cka_score(x, y)) > 0.8
    assert abs(float(cka_score(x, y, debiased=True))) < 0.05


def test_debiased_cka_needs_four_samples_that_are_not_equally_far_apart():
    data = problem(n=3 + 3)
    for total, status in ((3, ScoreStatus.UNDEFINED), (4, ScoreStatus.OK)):
        result = score("cka", data | {"weights": (np.arange(6) < total).astype(np.float32)}, debiased=True)
        assert int(result.status) == status
    assert float(cka_score(np.eye(6), data["features"], debiased=True)) == 0


def test_energy_is_that_of_the_least_energetic_samples():
    features = problem(n=600)["features"]
    energies = np.sort(scipy.special.logsumexp(features.astype(float), axis=1))
    for fraction, count in ((0.005, 3), (0.01, 6), (0.0099, 5), (1.0, 600), (1e-6, 1), (0.29, 174), (0.57, 342)):
        found = energy_score(features, fraction=fraction)
        assert float(found) == pytest.approx(energies[:count].mean(), rel=1e-5), fraction
        with jax.enable_x64(True):
            assert float(energy_score(features, fraction=fraction)) == pytest.approx(energies[:count].mean(), rel=1e-6)


def test_close_samples_along_one_feature_keep_their_distances():
    """Products have lost distances of a thousandth, and with them the median of those that are positive."""
    rng = np.random.default_rng(0)
    features = np.full((200, 24, 5), 2.5)
    features[..., 0] = rng.normal(size=(200, 24))
    reference = np.full((200, 7, 5), 2.5)
    reference[..., 0] = rng.normal(size=(200, 7))

    def scores(dtype: str) -> np.ndarray:
        return np.asarray(jax.vmap(lambda x, y: mmd_score(x, y).value)(features.astype(dtype), reference.astype(dtype)))

    single = features.astype(np.float32), reference.astype(np.float32)
    found = scores("float32")
    with jax.enable_x64(True):
        features, reference = (array.astype(np.float64) for array in single)
        np.testing.assert_allclose(found, scores("float64"), atol=1e-4)
