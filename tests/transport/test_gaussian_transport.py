"""Gaussian moments and Bures distances against scipy, POT, closed forms and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from jax.test_util import check_grads
from scipy.linalg import sqrtm

from jaxrel.transport import gaussian
from jaxrel.transport.gaussian import bures_distances

pytestmark = pytest.mark.slow

gaussian_moments = jax.jit(gaussian.gaussian_moments, static_argnums=2)


def random_covariances(seed: int, k: int, d: int, rank: int | None = None) -> np.ndarray:
    factors = np.random.default_rng(seed).normal(size=(k, rank or 2 * d, d))
    return np.einsum("kri,krj->kij", factors, factors) / factors.shape[1]


def by_definition(mean_x, cov_x, mean_y, cov_y) -> float:
    root = np.real(sqrtm(cov_x))
    cross = np.real(np.trace(sqrtm(root @ cov_y @ root)))
    return float(np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def labelled(seed: int, n: int = 200, d: int = 5, k: int = 4):
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, size=n, p=rng.dirichlet(np.ones(k)))
    return rng.normal(size=(n, d)) + labels[:, None], labels, rng.random(n) * (rng.random(n) < 0.8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("n", "d", "k"), [(200, 5, 4), (3, 5, 4), (1, 1, 1), (50, 20, 3), (40, 2, 30)])
def test_moments_are_those_of_numpy(n, d, k):
    features, labels, weights = labelled(n, n, d, k)
    weights[0] = 0.5
    means, covariances, mass = gaussian_moments(features, labels, k, weights=weights)
    for c in range(k):
        chosen = (labels == c) & (weights > 0)
        if not chosen.any():
            assert not means[c].any()
            assert not covariances[c].any()
            assert mass[c] == 0
            continue
        np.testing.assert_allclose(means[c], np.average(features[chosen], axis=0, weights=weights[chosen]), atol=1e-12)
        expected = np.cov(features[chosen].T, aweights=weights[chosen], bias=True).reshape(d, d)
        np.testing.assert_allclose(covariances[c], expected, atol=1e-12)
        assert mass[c] == pytest.approx(weights[chosen].sum())


def test_weights_are_multiplicities_and_samples_without_weight_are_absent():
    features, labels, _ = labelled(1)
    features = features.astype(np.float32)
    copies = np.random.default_rng(1).integers(0, 3, size=len(labels))
    expected = gaussian_moments(np.repeat(features, copies, axis=0), np.repeat(labels, copies), 4)
    features[copies == 0] = np.nan
    weighted = gaussian_moments(features, labels, 4, weights=copies.astype(np.float32))
    out_of_range = gaussian_moments(features, np.where(copies > 0, labels, -1), 4, weights=np.float32(copies + 1))
    for got, want in zip(weighted, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(x).all() for x in out_of_range)


def test_moments_do_not_suffer_from_a_common_offset():
    features, labels, _ = labelled(2, n=5000)
    plain = gaussian_moments(features.astype(np.float32), labels, 4)[1]
    shifted = gaussian_moments((features + 1000).astype(np.float32), labels, 4)[1]
    np.testing.assert_allclose(shifted, plain, atol=1e-3)


def test_gradients_of_moments_do_not_see_masked_features():
    features, labels, weights = labelled(3)
    features = np.where(weights[:, None] > 0, features, np.nan).astype(np.float32)

    def total(features, weights):
        means, covariances, _ = gaussian_moments(features, labels, 4, weights=weights)
        return jnp.sum(means**2) + jnp.sum(covariances**2)

    for_features, for_weights = jax.jit(jax.grad(total, argnums=(0, 1)))(features, weights.astype(np.float32))
    assert np.isfinite(for_features).all()
    assert np.isfinite(for_weights).all()
    assert not np.asarray(for_features)[weights == 0].any()


@pytest.mark.usefixtures("x64")
def test_gradients_of_moments_are_finite_differences():
    features, labels, weights = labelled(4, n=20, d=3, k=2)
    weights += 0.1
    probe = np.random.default_rng(0).normal(size=(2, 3, 3))

    def total(features, weights):
        return jnp.sum(probe * gaussian_moments(features, labels, 2, weights=weights)[1])

    check_grads(total, (features, weights), order=1, modes=("fwd", "rev"), rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [1, 2, 7])
def test_distances_are_their_definition(d):
    rng = np.random.default_rng(d)
    means_x, means_y = rng.normal(size=(3, d)), rng.normal(size=(4, d))
    cov_x, cov_y = random_covariances(d, 3, d), random_covariances(d + 100, 4, d)
    got = jax.jit(bures_distances)(means_x, cov_x, means_y, cov_y)
    for r in range(3):
        for t in range(4):
            one = (means_x[r], cov_x[r], means_y[t], cov_y[t])
            assert float(got[r, t]) == pytest.approx(by_definition(*one), rel=1e-10)
            pot = ot.gaussian.bures_wasserstein_distance(means_x[r], means_y[t], cov_x[r], cov_y[t])
            assert float(got[r, t]) == pytest.approx(float(pot) ** 2, rel=1e-6)
    np.testing.assert_allclose(bures_distances(means_y, cov_y, means_x, cov_x).T, got, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("scale_x", "scale_y"), [(1e-30, 1e-30), (1e30, 1e30), (1e30, 1e-30), (1e-30, 1.0)])
def test_commuting_covariances_of_any_scale(dtype, scale_x, scale_y):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x, y = rng.random((2, 6)) + 0.1
    cov_x, cov_y = ((scale * (basis * values) @ basis.T) for scale, values in ((scale_x, x), (scale_y, y)))
    exact = np.sum((np.sqrt(scale_x * x) - np.sqrt(scale_y * y)) ** 2)
    with jax.enable_x64(dtype == np.float64):
        zero = np.zeros((1, 6), dtype)
        inputs = (zero, cov_x[None].astype(dtype), zero, cov_y[None].astype(dtype))
        got = jax.jit(bures_distances)(*inputs)
        assert got.dtype == dtype
        assert float(got[0, 0]) == pytest.approx(exact, rel=2e-5 if dtype == np.float32 else 1e-12)
        gradients = jax.jit(jax.grad(lambda *a: bures_distances(*a).sum(), argnums=(1, 3)))(*inputs)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("rank", [1, 5, 40])
def test_equal_gaussians_are_at_distance_0_and_none_is_negative(rank):
    cov = random_covariances(0, 4, 40, rank).astype(np.float32)
    mean = np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32)
    distances = np.asarray(jax.jit(bures_distances)(mean, cov, mean, cov))
    size = np.trace(cov, axis1=1, axis2=2)
    assert (distances >= 0).all()
    assert (np.diagonal(distances) <= 2e-6 * size).all()
    np.testing.assert_allclose(distances, distances.T, rtol=1e-5, atol=1e-5 * size.max())
    assert (distances[~np.eye(4, dtype=bool)] > 1).all()


def test_rank_deficient_covariances_keep_the_accuracy_of_single_precision():
    """The eigenvalues of S1^1/2 S2 S1^1/2 would be off by eps, and their square roots by 3e-4, 30 times over."""
    x, y = (random_covariances(seed, 1, 40, 10) for seed in (0, 1))
    left, right = (np.linalg.cholesky(c[0] + 1e-13 * np.eye(40)) for c in (x, y))
    exact = np.trace(x[0]) + np.trace(y[0]) - 2 * np.linalg.svd(left.T @ right, compute_uv=False).sum()
    zero = np.zeros((1, 40), np.float32)
    got = bures_distances(zero, x.astype(np.float32), zero, y.astype(np.float32))
    assert float(got[0, 0]) == pytest.approx(exact, rel=1e-5)


def test_zero_covariances_are_points():
    zero, mean = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    none, cov = np.zeros((1, 3, 3), np.float32), random_covariances(0, 1, 3).astype(np.float32)
    assert float(bures_distances(zero, none, mean, none)[0, 0]) == 3
    assert float(bures_distances(zero, none, mean, cov)[0, 0]) == pytest.approx(3 + np.trace(cov[0]), rel=1e-6)
    gradients = jax.grad(lambda *a: bures_distances(*a).sum(), argnums=(1, 3))(zero, none, mean, cov)
    np.testing.assert_allclose(gradients, np.broadcast_to(np.eye(3), (2, 1, 3, 3)), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_gradients_are_finite_differences():
    rng = np.random.default_rng(0)
    inputs = (
        rng.normal(size=(2, 4)),
        random_covariances(0, 2, 4),
        rng.normal(size=(3, 4)),
        random_covariances(1, 3, 4),
    )
    check_grads(bures_distances, inputs, order=1, modes=("fwd", "rev"), rtol=1e-5, eps=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_gradient_moves_by_the_optimal_map():
    """T pushes the first Gaussian onto the second: T S1 T = S2."""
    x, y = random_covariances(0, 1, 5), random_covariances(1, 1, 5)
    zero = np.zeros((1, 5))
    gradient = jax.grad(lambda c: bures_distances(zero, c, zero, y)[0, 0])(x)[0]
    optimal_map = np.eye(5) - gradient
    np.testing.assert_allclose(optimal_map @ x[0] @ optimal_map, y[0], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_at_equal_and_at_rank_deficient_covariances(dtype):
    with jax.enable_x64(dtype == np.float64):
        full, low, other = (
            random_covariances(seed, 1, 6, rank).astype(dtype) for seed, rank in ((0, 12), (1, 2), (2, 3))
        )
        zero = np.zeros((1, 6), dtype)

        def gradient(x, y):
            return np.asarray(jax.jit(jax.grad(lambda c: bures_distances(zero, c, zero, y).sum()))(x))[0]

        tolerance = 1e-3 if dtype == np.float32 else 1e-9
        np.testing.assert_allclose(gradient(full, full), 0, atol=tolerance)
        # on the range 0, outside it 1: variance added where there is none must be moved back there
        basis = np.linalg.eigh(low[0])[1]
        expected = basis @ np.diag([1, 1, 1, 1, 0, 0]) @ basis.T
        np.testing.assert_allclose(gradient(low, low), expected, atol=tolerance)
        assert np.isfinite(gradient(low, other)).all()
        assert np.isfinite(gradient(low, full)).all()
        assert np.isfinite(gradient(full, low)).all()


def test_distance_between_samples_is_near_their_exact_transport():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 2)) @ np.array([[2, 0], [1, 0.5]])
    y = rng.normal(size=(1500, 2)) @ np.array([[0.5, 0], [0, 1.5]]) + 1
    labels = np.zeros(1500, int)
    moments = (gaussian_moments(z.astype(np.float32), labels, 1)[:2] for z in (x, y))
    got = float(bures_distances(*next(moments), *next(moments))[0, 0])
    uniform = np.full(1500, 1 / 1500)
    assert got == pytest.approx(ot.emd2(uniform, uniform, ot.dist(x, y)), rel=0.05)


def test_distances_are_finite_under_vmap_and_count_one_trace():
    traces = []

    @jax.jit
    def distances(*gaussians):
        traces.append(1)
        return jax.vmap(bures_distances)(*gaussians)

    means = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    for seed in (0, 1):
        cov = np.stack([random_covariances(seed + i, 3, 4) for i in range(2)]).astype(np.float32)
        batched = distances(means, cov, means, cov)
        single = bures_distances(means[0], cov[0], means[0], cov[0])
        np.testing.assert_allclose(batched[0], single, atol=1e-5)
    assert len(traces) == 1


def test_wrong_inputs_say_what_is_expected():
    x, labels = np.ones((4, 2), np.float32), np.zeros(4, int)
    with pytest.raises(ValueError, match="floating point"):
        gaussian.gaussian_moments(labels[:, None], labels, 2)
    with pytest.raises(ValueError, match="integers"):
        gaussian.gaussian_moments(x, labels.astype(np.float32), 2)
    with pytest.raises(ValueError, match="num_classes"):
        gaussian.gaussian_moments(x, labels, 0)
    with pytest.raises(ValueError, match="shape of labels"):
        gaussian.gaussian_moments(x, labels, 2, weights=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="negative"):
        gaussian.gaussian_moments(x, labels, 2, weights=-np.ones(4, np.float32))
    cov = np.ones((4, 2, 2), np.float32)
    with pytest.raises(ValueError, match="covariances_y"):
        bures_distances(x, cov, x, cov[:3])
    with pytest.raises(ValueError, match="floating point"):
        bures_distances(x, cov, x.astype(int), cov)
    with pytest.raises(ValueError, match="one dimension"):
        bures_distances(x, cov, np.ones((4, 3), np.float32), np.ones((4, 3, 3), np.float32))
