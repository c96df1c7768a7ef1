"""Sinkhorn divergences and distances between classes against numpy, POT and finite differences."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.special import logsumexp

from jaxrel.transport import PointCloud, SinkhornConfig, TransportStatus, sinkhorn
from jaxrel.transport.class_distances import class_distances, gather_classes
from jaxrel.transport.divergence import self_term, sinkhorn_divergence


def clouds(seed: int, n: int = 12, m: int = 12, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)) + 0.5
    a, b = rng.dirichlet(np.full(n, 3.0)), rng.dirichlet(np.full(m, 3.0))
    return tuple(np.asarray(v, dtype) for v in (x, y, a, b))


def distances(x, y, cost="euclidean"):
    squared = np.sum((x[:, None].astype(np.float64) - y) ** 2, axis=-1)
    return squared if cost == "squared_euclidean" else np.sqrt(squared)


def entropic(x, y, a, b, epsilon, cost) -> float:
    """The dual value after plain updates in the log domain."""
    scaled = distances(x, y, cost) / epsilon
    g = np.zeros(len(b))
    for _ in range(4000):
        before = g
        f = -logsumexp(g + np.log(b) - scaled, axis=1)
        g = -logsumexp(f[:, None] + np.log(a)[:, None] - scaled, axis=0)
        if np.abs(g - before).max() < 1e-13:
            break
    return epsilon * (a @ f + b @ g)


SYMMETRIC = SinkhornConfig(epsilon_unit="cost", inner="symmetric")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile", [None, 8])
def test_a_cloud_and_itself_by_averaged_updates(tile):
    """Half a dozen of them at any epsilon, with an interval that contains the optimum of 0; masked points count not."""
    x, _, a, _ = clouds(0, dtype=np.float64)
    x[3], a[3] = np.nan, 0
    live = a > 0
    a = a / a.sum()
    for epsilon in (1.0, 0.1, 0.01, 0.001):
        result = sinkhorn(PointCloud(x, x, tile=tile), a, a, epsilon=epsilon, config=SYMMETRIC)
        assert result.messages == ()
        assert int(result.num_iterations) <= 30
        assert float(result.value) == pytest.approx(entropic(*(x[live],) * 2, *(a[live],) * 2, epsilon, "euclidean"))
        np.testing.assert_allclose(result.f, result.g, atol=1e-5)
        assert result.lower <= 0 <= result.upper


def test_averaged_updates_are_for_a_cloud_and_itself():
    x, y, a, b = clouds(0, m=10)
    with pytest.raises(ValueError, match='inner="symmetric" needs a cloud and itself, got 12 and 10 points'):
        sinkhorn(PointCloud(x, y), a, b, epsilon=0.1, config=SYMMETRIC)
    result = sinkhorn(PointCloud(x, x[::-1] + 1), epsilon=0.1, config=SYMMETRIC, max_iterations=50)
    assert int(result.status) & TransportStatus.NOT_CONVERGED


def uphill_cost(x, y):
    """Not the same there and back."""
    difference = y[..., None, :, :] - x[..., :, None, :]
    return jnp.sum(jnp.abs(difference) + difference.clip(0), axis=-1)


@pytest.mark.parametrize("cost", ["euclidean", uphill_cost])
def test_self_terms_of_tiled_clouds_are_those_of_stored_ones(cost):
    x, _, a, _ = clouds(0)
    tiled, stored = (self_term(x, a, epsilon=0.5, cost=cost, tile=tile) for tile in (8, None))
    assert tiled.messages == ()
    assert float(tiled.value) == pytest.approx(float(stored.value), rel=1e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cost", ["euclidean", pytest.param("squared_euclidean", marks=pytest.mark.slow)])
@pytest.mark.parametrize("epsilon", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_value_is_that_of_plain_updates(cost, epsilon):
    x, y, a, b = clouds(0, dtype=np.float64)
    result = sinkhorn_divergence(x, y, a, b, epsilon=epsilon, cost=cost, tolerance=1e-6)
    terms = [entropic(*z, epsilon, cost) for z in ((x, y, a, b), (x, x, a, a), (y, y, b, b))]
    assert float(result.value) == pytest.approx(terms[0] - terms[1] / 2 - terms[2] / 2, abs=1e-7)
    assert float(result.self_x.value) == pytest.approx(terms[1], abs=1e-7)
    assert int(result.status) == 0


@pytest.mark.usefixtures("x64")
def test_limits_in_epsilon():
    """Unregularised transport for small epsilon, half an energy distance for a large one."""
    x, y, a, b = clouds(1, dtype=np.float64)
    small = sinkhorn_divergence(x, y, a, b, epsilon=2e-3, tolerance=1e-6, max_iterations=50000).value
    assert float(small) == pytest.approx(ot.emd2(a, b, distances(x, y)), abs=2e-3)
    large = sinkhorn_divergence(x, y, a, b, epsilon=1e5).value
    energy = a @ distances(x, y) @ b - (a @ distances(x, x) @ a + b @ distances(y, y) @ b) / 2
    assert float(large) == pytest.approx(energy, rel=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("moved", [0.0, 0.7])
def test_two_gaussians_have_the_closed_form(moved):
    """Squared cost: translations leave self terms alone and add their squared length."""
    x, _, a, _ = clouds(2, dtype=np.float64)
    result = sinkhorn_divergence(x, x + moved, a, a, epsilon=0.5, cost="squared_euclidean", tolerance=1e-9)
    assert float(result.value) == pytest.approx(2 * moved**2, abs=1e-9)


@pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean"])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_zero_between_equal_clouds_and_not_negative_elsewhere(cost, epsilon):
    for seed in range(4):
        x, y, a, b = clouds(seed)
        assert float(sinkhorn_divergence(x, x, a, a, epsilon=epsilon, cost=cost).value) == 0
        order = np.random.default_rng(seed).permutation(len(x))
        permuted = sinkhorn_divergence(x, x[order], a, a[order], epsilon=epsilon, cost=cost)
        assert abs(float(permuted.value)) < 1e-4
        assert float(sinkhorn_divergence(x, y, a, b, epsilon=epsilon, cost=cost).value) > 0.01


def test_reused_self_terms_give_the_identical_value():
    x, y, a, b = clouds(0)
    first = sinkhorn_divergence(x, y, a, b, epsilon=0.1)
    again = sinkhorn_divergence(x, y, a, b, epsilon=0.1, self_x=first.self_x, self_y=first.self_y)
    assert float(again.value) == float(first.value)
    alone = self_term(x, a, epsilon=0.1)
    assert float(alone.value) == float(first.self_x.value)
    assert float(sinkhorn_divergence(x, y, a, b, epsilon=0.1, self_x=alone).value) == float(first.value)


def test_one_cloud_against_a_batch():
    x, y, a, b = clouds(0)
    others = np.stack([y, y + 1, 2 * y])
    weights = np.stack([b, b[::-1], b])
    result = sinkhorn_divergence(x[None], others, a[None], weights, epsilon=0.2)
    assert result.self_x.value.shape == (1,)
    for k in range(3):
        single = sinkhorn_divergence(x, others[k], a, weights[k], epsilon=0.2)
        assert float(result.value[k]) == pytest.approx(float(single.value), abs=2e-4)
    reused = sinkhorn_divergence(x[None], others, a[None], weights, epsilon=0.2, self_x=result.self_x)
    np.testing.assert_array_equal(reused.value, result.value)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("tile", "cost"), [(None, "euclidean"), (8, "squared_euclidean")])
def test_gradients_are_those_of_finite_differences(tile, cost):
    x, y, a, b = clouds(3, 6, 6, np.float64)

    def value(x, y, a, b):
        return sinkhorn_divergence(x, y, a, b, epsilon=0.3, cost=cost, tile=tile, tolerance=1e-11).value

    gradients = jax.grad(value, argnums=(0, 1, 2, 3))(x, y, a, b)
    rng = np.random.default_rng(0)
    step = 1e-3  # the distance of a point to itself is only known to about 1e-8
    for k, values in enumerate((x, y, a, b)):
        direction = rng.normal(size=values.shape)
        if values.ndim == 1:
            direction = 0.1 * (direction - direction.mean())  # weights keep their sum
        ends = []
        for sign in (1, -1):
            inputs = [x, y, a, b]
            inputs[k] = values + sign * step * direction
            ends.append(float(value(*inputs)))
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float(jnp.sum(gradients[k] * direction)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.usefixtures("x64")
def test_a_self_term_from_outside_is_a_constant():
    x, y, a, b = clouds(3, 6, 6, np.float64)
    outside = self_term(x, a, epsilon=0.3)
    of_cross = jax.grad(lambda x: sinkhorn(PointCloud(x, y), a, b, epsilon=0.3, config=ABSOLUTE).value)(x)
    found = jax.grad(lambda x: sinkhorn_divergence(x, y, a, b, epsilon=0.3, self_x=outside).value)(x)
    np.testing.assert_allclose(found, of_cross, atol=1e-12)


ABSOLUTE = SinkhornConfig(epsilon_unit="cost")


@pytest.mark.slow
def test_masks_equal_subsets():
    x, y, _, _ = clouds(4)
    more = np.concatenate([x, np.full((4, 2), np.nan, np.float32)])
    where = np.arange(len(more)) < len(x)
    plain = sinkhorn_divergence(x, y, epsilon=0.2)
    masked = sinkhorn_divergence(more, y, epsilon=0.2, where_a=where)
    assert float(masked.value) == pytest.approx(float(plain.value), abs=2e-4)
    gradient = jax.grad(lambda x: sinkhorn_divergence(x, y, epsilon=0.2, where_a=where).value)(more)
    np.testing.assert_array_equal(gradient[len(x) :], 0)


def test_jit_vmap_and_no_second_trace():
    x, y, _, _ = clouds(5)
    traces = []

    @jax.jit
    def value(x, y, epsilon):
        traces.append(1)
        return sinkhorn_divergence(x, y, epsilon=epsilon).value

    expected = [float(sinkhorn_divergence(x, y + k, epsilon=0.1 + k).value) for k in range(2)]
    for k in range(2):
        assert float(value(x, y + k, 0.1 + k)) == pytest.approx(expected[k], abs=2e-4)
    assert len(traces) == 1
    mapped = jax.vmap(value, in_axes=(None, 0, 0))(x, jnp.stack([y, y + 1]), jnp.array([0.1, 1.1]))
    np.testing.assert_allclose(mapped, expected, atol=2e-4)
    term = jax.jit(lambda x: self_term(x, epsilon=0.1))(x)
    assert float(sinkhorn_divergence(x, y, epsilon=0.1, self_x=term).value) == pytest.approx(expected[0], abs=2e-4)


def test_the_function_is_not_traced_again_for_new_numbers():
    x, y, _, _ = clouds(6)
    traces = []

    def cost(x, y):
        traces.append(1)
        return jnp.sum(jnp.abs(x[..., :, None, :] - y[..., None, :, :]), axis=-1)

    sinkhorn_divergence(x, y, epsilon=0.5, cost=cost)
    count = len(traces)
    sinkhorn_divergence(x + 1, y, epsilon=0.7, cost=cost)
    assert len(traces) == count
    points = np.stack([x[:6], x[6:12]])
    class_distances(points, points, cost=cost)
    count = len(traces)
    class_distances(points + 1, points, cost=cost, epsilon=0.2)
    assert len(traces) == count


def test_trouble_in_any_term_is_reported():
    x, y, _, _ = clouds(7)
    short = self_term(x, epsilon=1e-3, max_iterations=1)
    assert int(short.status) == TransportStatus.NOT_CONVERGED
    result = sinkhorn_divergence(x, y, epsilon=1e-3, self_x=short, max_iterations=20000, tolerance=1e-1)
    assert int(result.cross.status) == 0
    assert int(result.status) == TransportStatus.NOT_CONVERGED


def test_invalid_arguments():
    x, y, _, _ = clouds(0)
    term = self_term(x, epsilon=0.1)
    with pytest.raises(ValueError, match="computed at epsilon"):
        sinkhorn_divergence(x, y, epsilon=0.2, self_x=term)
    with pytest.raises(ValueError, match="computed for the cost"):
        sinkhorn_divergence(x, y, epsilon=0.1, self_x=term, cost="squared_euclidean")
    with pytest.raises(ValueError, match="self_y has batch"):
        sinkhorn_divergence(x, y[None], epsilon=0.1, self_y=term)
    with pytest.raises(ValueError, match="epsilon_unit"):
        sinkhorn_divergence(x, y, epsilon=0.1, config=SinkhornConfig())
    with pytest.raises(ValueError, match="epsilon_unit"):
        self_term(x, epsilon=0.1, config=SinkhornConfig())
    with pytest.raises(ValueError, match="must be positive"):
        sinkhorn_divergence(x, y, epsilon=0.0)
    with pytest.raises(ValueError, match="do not broadcast"):
        sinkhorn_divergence(np.stack([x] * 2), np.stack([y] * 3), epsilon=0.1)
    with pytest.raises(ValueError, match=r"\(\*b, n, d\)"):
        sinkhorn_divergence(x, y[:, :1], epsilon=0.1)


def labelled(seed: int, n: int, num_classes: int):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, num_classes, n)


@pytest.mark.parametrize("many", [pytest.param(False, marks=pytest.mark.slow), True])
def test_class_distances_are_those_of_pot(many, monkeypatch):
    if many:  # two classes of x at a time
        module = importlib.import_module("jaxrel.transport.class_distances")
        monkeypatch.setattr(module, "_DENSE_ENTRIES_ON_CPU", 2 * 30 * 4 * 31)
    (x, labels_x), (y, labels_y) = labelled(0, 110, 5), labelled(1, 90, 4)
    points_x, weights_x = gather_classes(x, labels_x, 5, 30)
    points_y, weights_y = gather_classes(y + 5, labels_y, 4, 31)
    result = class_distances(points_x, points_y, weights_x=weights_x, weights_y=weights_y, relative_gap=0.01)
    assert result.value.shape == (5, 4)
    assert result.messages == ()
    for k in range(5):
        for c in range(4):
            left, right = x[labels_x == k], y[labels_y == c] + 5
            expected = ot.emd2(ot.unif(len(left)), ot.unif(len(right)), distances(left, right))
            assert float(result.lower[k, c]) <= expected <= float(result.upper[k, c])


@pytest.mark.slow
def test_padding_and_empty_classes():
    (x, labels_x), (y, labels_y) = labelled(2, 60, 3), labelled(3, 50, 2)
    points_x, weights_x = gather_classes(x, np.where(labels_x == 1, -1, labels_x), 3, 40)
    points_y, weights_y = gather_classes(y, labels_y, 2, 40)
    junk = jnp.where(weights_x[..., None] > 0, points_x, jnp.nan)

    def value(points_x, points_y):
        return class_distances(points_x, points_y, weights_x=weights_x, weights_y=7 * weights_y)

    result, clean = value(junk, points_y), value(points_x, points_y)
    np.testing.assert_array_equal(result.value, clean.value)
    np.testing.assert_array_equal(np.stack([result.value, result.lower, result.upper])[:, 1], 0)
    np.testing.assert_array_equal(result.status, 0)
    tight = class_distances(x[None, labels_x == 2], y[None, labels_y == 1])
    assert float(tight.value[0, 0]) == pytest.approx(float(result.value[2, 1]), rel=1e-4)
    gradient = jax.grad(lambda x: jnp.sum(value(x, points_y).value))(junk)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    np.testing.assert_array_equal(jnp.where(weights_x[..., None] > 0, 0, gradient), 0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_gradients_do_not_depend_on_the_loop(monkeypatch):
    rng = np.random.default_rng(4)
    x, y, a = rng.normal(size=(3, 5, 2)), rng.normal(size=(2, 6, 2)), rng.random((3, 5)) + 0.1

    @jax.value_and_grad
    def value(inputs):
        x, y, a = inputs
        result = class_distances(x, y, weights_x=a, epsilon=0.1, tolerance=1e-11, config=ABSOLUTE)
        return jnp.sum(result.value)

    _, whole = value((x, y, a))
    direction = 1e-4 * rng.normal(size=a.shape)
    ends = [value((x, y, a + sign * direction))[0] for sign in (1, -1)]
    assert float(jnp.sum(whole[2] * direction)) == pytest.approx(float(ends[0] - ends[1]) / 2, rel=1e-5)
    module = importlib.import_module("jaxrel.transport.class_distances")
    monkeypatch.setattr(module, "_DENSE_ENTRIES_ON_CPU", 2 * 5 * 2 * 6)
    jax.clear_caches()
    for one, other in zip(whole, value((x, y, a))[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_gather_classes():
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    labels = np.array([1, 0, 1, 5, 1, 0])
    points, weights = gather_classes(features, labels, 3, 2, weights=np.array([1.0, 2, 0, 4, 5, 6], np.float32))
    np.testing.assert_array_equal(weights, [[2, 6], [1, 5], [0, 0]])
    np.testing.assert_array_equal(points[0], features[[1, 5]])
    np.testing.assert_array_equal(points[1], features[[0, 4]])
    with pytest.raises(ValueError, match="integers"):
        gather_classes(features, labels.astype(np.float32), 3, 2)
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        gather_classes(features, labels[:3], 3, 2)
    with pytest.raises(ValueError, match="positive"):
        gather_classes(features, labels, 3, 0)
    with pytest.raises(ValueError, match="weights"):
        gather_classes(features, labels, 3, 2, weights=-np.ones(6, np.float32))
    with pytest.raises(ValueError, match=r"\(r, s, d\)"):
        class_distances(features, features)
