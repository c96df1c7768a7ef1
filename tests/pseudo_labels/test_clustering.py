"""Clustering kernels against scikit-learn, scipy and brute force, at every scale, with weights and in batches."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from jaxrel._core.standardisation import standardisation_of
from jaxrel.pseudo_labels import (
    adjusted_rand_index,
    class_count,
    gaussian_mixture,
    kmeans,
    nearest_centres,
    view_whitening,
)
from jaxrel.pseudo_labels.kmeans import best_of_restarts

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


def _mixture(seed, *, n=300, d=6, k=5, spread=1.0, centre_spread=4.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    features = centre_spread * rng.normal(size=(k, d))[labels] + spread * rng.normal(size=(n, d))
    return features.astype(np.float32), labels


def _weights(n):
    return np.ones(n, np.float32)


def _same_partition(labels_a, labels_b):
    return adjusted_rand_score(np.asarray(labels_a), np.asarray(labels_b)) == 1


def _kmeans(features, weights, key=KEY, max_iterations=50):
    """Always called alike, so that tests share compilations."""
    return kmeans(features, weights, key, num_clusters=5, max_iterations=max_iterations)


def _gaussian_mixture(features, weights, key=KEY, covariance="diagonal", max_iterations=100, tolerance=1e-3):
    options = {"max_iterations": max_iterations, "tolerance": tolerance, "regularisation": 1e-3}
    return gaussian_mixture(features, weights, key, num_components=5, covariance=covariance, **options)


def _copied(features):
    """Half of the samples with numbers of copies from 0, the others missing; and the copies, as many rows in all."""
    n = len(features)
    copies = np.bincount(np.random.default_rng(1).integers(0, n // 2, n), minlength=n)
    rows = np.repeat(np.arange(n), copies)
    return np.where(copies[:, None] > 0, features, np.nan), copies.astype(np.float32), rows


# k-means


def test_inertia_is_that_of_scikit_learn():
    features = np.stack([_mixture(seed, centre_spread=spread)[0] for spread in (0.5, 4.0) for seed in range(2)])
    inertia = [float(_kmeans(z, _weights(300)).inertia) for z in features]
    peer = [KMeans(5, n_init=4, random_state=0).fit(z).inertia_ for z in features]
    assert np.all(np.asarray(inertia) <= 1.02 * np.asarray(peer))


def test_the_best_partition_of_few_samples_is_found():
    rng = np.random.default_rng(3)
    features, weights = rng.normal(size=(7, 2)).astype(np.float32), np.array([1, 2, 1, 3, 1, 1, 2], np.float32)

    def inertia(labels):
        parts = [np.asarray(labels) == label for label in set(labels)]
        centres = [np.average(features[part], axis=0, weights=weights[part]) for part in parts]
        return sum(weights[p] @ ((features[p] - c) ** 2).sum(1) for p, c in zip(parts, centres, strict=True))

    best = min(itertools.product(range(3), repeat=7), key=inertia)
    clusters = kmeans(features, weights, KEY, num_clusters=3, num_restarts=16)
    assert _same_partition(clusters.labels, best)
    np.testing.assert_allclose(clusters.inertia, inertia(best), rtol=1e-5)


def test_a_result_is_a_fixed_point_of_its_own_definition():
    features, _ = _mixture(1, centre_spread=0.5)
    weights = np.random.default_rng(0).integers(0, 4, 300).astype(np.float32)
    clusters = _kmeans(features, weights)
    labels, live = np.asarray(clusters.labels), weights > 0
    distances = ((features[:, None].astype(float) - np.asarray(clusters.centres)) ** 2).sum(2)
    np.testing.assert_array_equal(labels[live], distances.argmin(1)[live])
    np.testing.assert_array_equal(nearest_centres(features, clusters.centres), distances.argmin(1))
    np.testing.assert_allclose(clusters.inertia, weights @ distances.min(1), rtol=1e-5)
    for label in range(5):
        part = live & (labels == label)
        centre = np.average(features[part], axis=0, weights=weights[part])
        np.testing.assert_allclose(clusters.centres[label], centre, atol=1e-5)
        np.testing.assert_allclose(clusters.sizes[label], weights[part].sum())


@pytest.mark.parametrize("max_iterations", [1, 50])
def test_weights_are_numbers_of_copies(max_iterations):
    """The draws do not depend on the number of samples, so that even the seeds agree."""
    features, weights, rows = _copied(_mixture(2, centre_spread=0.7)[0])
    fit = functools.partial(_kmeans, max_iterations=max_iterations)
    weighted = fit(features, weights)
    copied = fit(features[rows], _weights(300))
    np.testing.assert_array_equal(np.asarray(weighted.labels)[rows], copied.labels)
    np.testing.assert_allclose(weighted.inertia, copied.inertia, rtol=1e-5)
    np.testing.assert_allclose(weighted.centres, copied.centres, atol=1e-5)
    np.testing.assert_array_equal(weighted.sizes, copied.sizes)
    assert int(weighted.num_iterations) == int(copied.num_iterations) <= max_iterations


def test_order_scale_and_offset_change_nothing():
    features, truth = _mixture(4)
    reference = _kmeans(features, _weights(300))
    assert _same_partition(reference.labels, truth)
    order = np.random.default_rng(0).permutation(300)
    shuffled = _kmeans(features[order], _weights(300))
    assert _same_partition(shuffled.labels, truth[order])
    np.testing.assert_allclose(shuffled.inertia, reference.inertia, rtol=1e-5)
    shifted = _kmeans(features + 1000, 7 * _weights(300))
    np.testing.assert_array_equal(shifted.labels, reference.labels)
    np.testing.assert_allclose(shifted.inertia, 7 * reference.inertia, rtol=1e-3)
    for scale in (1e-10, 1e10):
        scaled = _kmeans(features * np.float32(scale), _weights(300))
        np.testing.assert_array_equal(scaled.labels, reference.labels)
        np.testing.assert_allclose(scaled.inertia / scale**2, reference.inertia, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e10])
def test_constant_features_are_one_cluster(value):
    features = np.full((300, 6), value, np.float32)
    clusters = _kmeans(features, _weights(300))
    assert float(clusters.inertia) == 0
    assert sorted(np.asarray(clusters.sizes)) == [0, 0, 0, 0, 300]
    np.testing.assert_array_equal(clusters.centres, np.full((5, 6), np.float32(value)))


def test_fewer_distinct_samples_than_clusters_leave_clusters_empty():
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(3, 6)).astype(np.float32)
    features = distinct[rng.integers(0, 3, 300)]
    clusters = _kmeans(features, _weights(300))
    assert np.count_nonzero(clusters.sizes) == 3
    assert float(clusters.inertia) < 1e-9
    nearest = np.abs(np.asarray(clusters.centres)[:, None] - distinct).max(2).min(1)
    np.testing.assert_allclose(nearest, 0, atol=1e-5)


def test_an_empty_cluster_moves_to_the_farthest_sample():
    features = jnp.array([[0.0], [1.0], [2.0], [9.0], [30.0]])
    seeds = jnp.array([[[0.0], [100.0], [100.0]]])
    fit = jax.jit(functools.partial(best_of_restarts, features, jnp.ones(5), seeds, live=jnp.ones(3, bool)))
    np.testing.assert_allclose(fit(max_iterations=1).centres, [[8.4], [30.0], [30.0]], rtol=1e-6)
    final = fit(max_iterations=50)
    np.testing.assert_allclose(final.centres, [[9.0], [30.0], [1.0]], rtol=1e-6)
    np.testing.assert_array_equal(final.labels, [2, 2, 2, 0, 1])


@pytest.mark.usefixtures("x64")
def test_float64_is_kept():
    features = _mixture(0)[0].astype(np.float64)
    clusters = _kmeans(features, np.ones(300))
    assert clusters.centres.dtype == clusters.inertia.dtype == clusters.sizes.dtype == jnp.float64
    distances = ((features - np.asarray(clusters.centres)[np.asarray(clusters.labels)]) ** 2).sum()
    np.testing.assert_allclose(clusters.inertia, distances, rtol=1e-12)


def test_a_batch_over_encoders_and_seeds_is_each_of_them():
    features = np.stack([_mixture(seed, centre_spread=0.7)[0] for seed in range(2)])
    keys = jax.random.split(KEY, 3)
    over_seeds = jax.vmap(_kmeans, (None, None, 0))
    batch = jax.jit(jax.vmap(over_seeds, (0, None, None)))(features, _weights(300), keys)
    assert batch.labels.shape == (2, 3, 300)
    for i, j in itertools.product(range(2), range(3)):
        single = _kmeans(features[i], _weights(300), keys[j])
        np.testing.assert_array_equal(batch.labels[i, j], single.labels)
        assert int(batch.num_iterations[i, j]) == int(single.num_iterations)


def test_new_numbers_do_not_compile_again():
    features, _ = _mixture(0)
    for fit, function in ((_kmeans, kmeans), (_gaussian_mixture, gaussian_mixture)):
        fit(features, _weights(300))
        compiled = function._cache_size()
        fit(features + 1, 2 * _weights(300), jax.random.key(1), max_iterations=7)
        assert function._cache_size() == compiled


@pytest.mark.parametrize("sizes", [{"num_clusters": 0}, {"num_clusters": 2, "num_restarts": 0}])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="must be positive"):
        kmeans(np.zeros((3, 1), np.float32), _weights(3), KEY, **sizes)


# Gaussian mixtures


@pytest.mark.parametrize(
    ("covariance", "peer", "centre_spread"),
    [("spherical", "spherical", 4.0), ("diagonal", "diag", 1.0), ("diagonal", "diag", 4.0), ("tied", "tied", 1.0)],
)
def test_likelihood_is_that_of_scikit_learn(covariance, peer, centre_spread):
    features, truth = _mixture(5, centre_spread=centre_spread)
    features *= np.linspace(1, 3, 6, dtype=np.float32)
    floor = 1e-3 * features.var(axis=0).mean()
    fit = functools.partial(_gaussian_mixture, covariance=covariance)
    mixture = fit(features, _weights(300), max_iterations=500, tolerance=1e-5)
    start = _kmeans(features, _weights(300))
    expected = GaussianMixture(
        5, covariance_type=peer, reg_covar=floor, max_iter=500, tol=1e-5, means_init=start.centres, random_state=0
    ).fit(features.astype(np.float64))
    assert float(mixture.log_likelihood) >= expected.score(features) - 0.01
    np.testing.assert_allclose(np.sum(mixture.responsibilities, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.sum(mixture.proportions), 1, atol=1e-5)
    expected.means_, expected.weights_ = np.asarray(mixture.means), np.asarray(mixture.proportions, float)
    expected.weights_ /= expected.weights_.sum()
    covariances = np.asarray(mixture.covariances, float)
    expected.covariances_ = covariances[:, 0] if covariance == "spherical" else covariances
    roots = np.linalg.inv(np.linalg.cholesky(covariances)).T if covariance == "tied" else covariances**-0.5
    expected.precisions_cholesky_ = roots[:, 0] if covariance == "spherical" else roots
    np.testing.assert_allclose(mixture.log_likelihood, expected.score(features), atol=1e-3)
    np.testing.assert_allclose(mixture.responsibilities, expected.predict_proba(features), atol=5e-3)
    if centre_spread == 4.0:
        assert _same_partition(np.argmax(mixture.responsibilities, axis=1), truth)


@pytest.mark.parametrize("covariance", ["diagonal", "tied"])
def test_mixtures_take_weights_as_copies_at_every_scale(covariance):
    features, weights, rows = _copied(_mixture(6, centre_spread=2.0)[0])
    fit = functools.partial(_gaussian_mixture, covariance=covariance)
    copied = fit(features[rows], _weights(300))
    weighted = fit(features, weights)
    np.testing.assert_allclose(weighted.log_likelihood, copied.log_likelihood, atol=1e-4)
    np.testing.assert_allclose(weighted.means, copied.means, atol=1e-3)
    np.testing.assert_allclose(np.asarray(weighted.responsibilities)[rows], copied.responsibilities, atol=1e-3)
    for scale in (1e-10, 1e10):
        scaled = fit(features * np.float32(scale), weights)
        np.testing.assert_allclose(scaled.log_likelihood + 6 * np.log(scale), weighted.log_likelihood, atol=1e-3)
        np.testing.assert_allclose(scaled.covariances / scale**2, weighted.covariances, rtol=1e-3, atol=1e-4)


def _degenerate_samples():
    """Equal samples, fewer distinct samples than components, and components that are points."""
    rng = np.random.default_rng(0)
    few = rng.normal(size=(3, 6))[rng.integers(0, 3, 300)]
    return np.stack([np.full((300, 6), 3.0), few, _mixture(7, spread=1e-5)[0]]).astype(np.float32)


@pytest.mark.parametrize("covariance", ["diagonal", "tied"])
def test_mixtures_of_degenerate_samples_are_finite(covariance):
    fit = functools.partial(_gaussian_mixture, covariance=covariance)
    for features, num_components in zip(_degenerate_samples(), (1, 3, 5), strict=True):
        mixture = fit(features, _weights(300))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(mixture))
        variances = np.linalg.eigvalsh(mixture.covariances) if covariance == "tied" else mixture.covariances
        assert np.all(np.asarray(variances) > 0)
        np.testing.assert_allclose(np.sum(mixture.responsibilities, axis=1), 1, atol=1e-5)
        assert np.count_nonzero(mixture.proportions) == num_components


def test_mixtures_in_a_batch_are_each_of_them():
    features = np.stack([_mixture(seed, centre_spread=1.0)[0] for seed in range(3)])
    batch = jax.vmap(_gaussian_mixture, (0, None, 0))(features, _weights(300), jax.random.split(KEY, 3))
    for i, key in enumerate(jax.random.split(KEY, 3)):
        single = _gaussian_mixture(features[i], _weights(300), key)
        np.testing.assert_allclose(batch.log_likelihood[i], single.log_likelihood, atol=1e-4)
        np.testing.assert_allclose(batch.means[i], single.means, atol=1e-2)


def test_an_unknown_covariance_is_refused():
    with pytest.raises(ValueError, match="must be one of spherical, diagonal, tied"):
        gaussian_mixture(np.zeros((3, 1), np.float32), _weights(3), KEY, num_components=2, covariance="full")


# View whitening


def _views(seed, *, n=200, d=5, scale=1.0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) * np.linspace(1, 4, d)
    noise = rng.normal(size=(d, d))
    first, second = (features + 0.3 * rng.normal(size=(n, d)) @ noise for _ in range(2))
    return tuple(scale * z for z in (features, first, second))


def _expected_whitening(features, first, second, weights, shrinkage):
    shares = weights / weights.sum()
    standardise = standardisation_of(jnp.asarray(features), jnp.asarray(weights))
    x, y = np.asarray(standardise(first), float), np.asarray(standardise(second), float)
    within = (shares[:, None] * (x - y)).T @ (x - y) / 2
    between = np.cov(((x + y) / 2).T, aweights=shares, ddof=0)
    metric = (1 - shrinkage) * within + shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    ratios, directions = scipy.linalg.eigh(between, metric)
    return ratios[::-1], directions[:, ::-1], between, metric


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shrinkage", [0.1, 0.5])
def test_whitening_is_the_generalised_eigenproblem(shrinkage):
    features, first, second = _views(0)
    weights = np.random.default_rng(1).integers(0, 3, 200).astype(float)
    whitening = view_whitening(features, first, second, weights, shrinkage=shrinkage)
    ratios, directions, between, metric = _expected_whitening(features, first, second, weights, shrinkage)
    np.testing.assert_allclose(whitening.ratios, ratios, rtol=1e-10)
    ours = np.asarray(whitening.directions)
    np.testing.assert_allclose(np.abs(ours), np.abs(directions), atol=1e-9)
    np.testing.assert_allclose(ours.T @ metric @ ours, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(ours.T @ between @ ours, np.diag(ratios), atol=1e-9)
    assert np.all(np.take_along_axis(ours, np.abs(ours).argmax(0)[None], 0) > 0)
    np.testing.assert_allclose(whitening(features), np.asarray(whitening.standardisation(features)) @ ours, rtol=1e-10)
    rows = np.repeat(np.arange(200), weights.astype(int))
    copied = _expected_whitening(features[rows], first[rows], second[rows], np.ones(len(rows)), shrinkage)
    np.testing.assert_allclose(whitening.ratios, copied[0], rtol=1e-10)


def test_whitening_in_float32_at_every_scale_and_in_a_batch():
    weights = np.random.default_rng(1).integers(0, 3, 200).astype(np.float32)
    views = [np.stack([_views(0, scale=scale)[i] for scale in (1, 1e-10, 1e10)]).astype(np.float32) for i in range(3)]
    views = [np.where(weights[:, None] > 0, z, np.nan) for z in views]
    fit = functools.partial(view_whitening, num_directions=3)
    whitening = jax.jit(jax.vmap(fit, (0, 0, 0, None)))(*views, weights)
    assert whitening.directions.shape == (3, 5, 3)
    ratios, _, _, _ = _expected_whitening(*_views(0), weights, 0.1)
    np.testing.assert_allclose(whitening.ratios, np.broadcast_to(ratios[:3], (3, 3)), rtol=1e-3)
    np.testing.assert_allclose(whitening.directions[1:], whitening.directions[np.zeros(2, int)], atol=2e-3)


def test_whitening_without_differences_is_finite():
    """In one batch: equal views, constant features, views that differ where the features are constant."""
    features, first, second = (z.astype(np.float32) for z in _views(0))
    constant = np.full_like(features, 5.0)
    batch = [
        np.stack(z) for z in ([features, constant, constant], [features, constant, first], [features, constant, second])
    ]
    whitening = jax.vmap(functools.partial(view_whitening, num_directions=3), (0, 0, 0, None))(*batch, _weights(200))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whitening))
    np.testing.assert_array_equal(whitening.ratios[1], 0)
    assert np.isfinite(jax.vmap(lambda fit, z: fit(z))(whitening, batch[0])).all()
    principal = np.linalg.eigh(np.corrcoef(features.T))[1][:, ::-1][:, :3]
    unit = whitening.directions[0] / np.linalg.norm(whitening.directions[0], axis=0)
    np.testing.assert_allclose(np.abs(np.sum(principal * unit, axis=0)), 1, atol=1e-3)


# The number of clusters

_COUNT = functools.partial(class_count, candidates=(2, 3, 4, 5, 6, 8, 10, 11, 12), num_splits=2)


def test_separated_clusters_are_counted():
    truth = (3, 5, 10)
    features = np.stack([_mixture(seed, n=400, k=k, centre_spread=6.0, spread=0.7)[0] for seed, k in enumerate(truth)])
    noise = 0.3 * np.random.default_rng(0).normal(size=(2, *features.shape)).astype(np.float32)
    result = jax.vmap(_COUNT, (0, 0, None, None))(features + noise[0], features + noise[1], _weights(400), KEY)
    assert tuple(np.asarray(result.count)) == truth
    assert np.all(np.asarray(result.agreements) <= 1 + 1e-6)


def test_one_cluster_is_counted_as_one_at_every_scale():
    blob = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    blob[7] = np.nan
    weights = _weights(400)
    weights[7] = 0
    features = np.stack([blob, blob * np.float32(1e10), np.full_like(blob, 2.0)])
    result = jax.vmap(_COUNT, (0, 0, None, None))(features, features, weights, KEY)
    assert tuple(np.asarray(result.count)) == (1, 1, 1)
    np.testing.assert_allclose(result.agreements[0], result.agreements[1], atol=1e-5)
    np.testing.assert_array_equal(result.agreements[2], 0)


@pytest.mark.parametrize("candidates", [(), (1, 2)])
def test_candidates_without_a_choice_are_refused(candidates):
    with pytest.raises(ValueError, match="at least 2"):
        class_count(np.zeros((3, 1)), np.zeros((3, 1)), _weights(3), KEY, candidates=candidates)


def test_adjusted_rand_index_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    index = functools.partial(adjusted_rand_index, num_a=4, num_b=6)
    a, b = rng.integers(0, 4, (5, 60)), rng.integers(0, 6, (5, 60))
    b[1], b[2] = a[1], (a[2] + 1) % 4
    b[3, :50] = a[3, :50]
    copies = rng.integers(0, 4, (5, 60))
    ours = jax.vmap(index)(a, b, copies.astype(np.float32))
    expected = [adjusted_rand_score(*(np.repeat(z, c) for z in pair)) for *pair, c in zip(a, b, copies, strict=True)]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_adjusted_rand_index_of_trivial_partitions():
    index = functools.partial(adjusted_rand_index, weights=_weights(4), num_a=4, num_b=4)
    one, each = np.zeros(4, int), np.arange(4)
    values = [float(index(a, b)) for a, b in ((one, one), (each, each), (one, each))]
    assert values == [adjusted_rand_score(a, b) for a, b in ((one, one), (each, each), (one, each))] == [1, 1, 0]
