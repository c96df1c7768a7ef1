"""Transport on a line and assignment against scipy and POT."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

from jaxrel.transport import exact
from jaxrel.transport.exact import wasserstein_1d
from jaxrel.transport.result import TransportStatus

assignment = jax.jit(exact.assignment)
line = jax.jit(wasserstein_1d)


def random_line(seed: int, n: int, m: int):
    """Points with ties, weights with zeros."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n).round(1), 2 * rng.normal(size=m).round(1) + 1
    a, b = (rng.dirichlet(np.ones(k)) * (rng.random(k) < 0.7) for k in (n, m))
    a[0] += 0.1
    b[-1] += 0.1
    return x, y, a, b


@pytest.mark.usefixtures("x64")
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (1, 6), (7, 4), (8, 8)]), st.sampled_from([1.0, 1.5, 2.0]))
def test_line_is_that_of_pot_and_scipy(seed, shape, p):
    x, y, a, b = random_line(seed, *shape)
    got = float(line(x, y, a, b, p=p))
    metric = {1.0: "cityblock", 2.0: "sqeuclidean"}.get(p, "minkowski")
    assert got == pytest.approx(ot.emd2_1d(x, y, a / a.sum(), b / b.sum(), metric=metric, p=p), abs=1e-12)
    if p == 1:
        assert got == pytest.approx(wasserstein_distance(x, y, a, b), abs=1e-12)


def test_line_without_weights_in_single_precision():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=3000), 3 + rng.exponential(size=1000)
    got = line(x.astype(np.float32), y.astype(np.float32))
    assert got.dtype == np.float32
    assert float(got) == pytest.approx(wasserstein_distance(x, y), rel=1e-5)


@pytest.mark.usefixtures("x64")
def test_leading_axes_are_problems_and_broadcast():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 5)), rng.normal(size=(3, 4))
    a = rng.random((2, 1, 5))
    got = line(x, y, a)
    assert got.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert float(got[i, j]) == pytest.approx(wasserstein_distance(x[i, j], y[j], a[i, 0]), abs=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(wasserstein_1d, in_axes=(0, None)))(x, y), line(x, y), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_gradients_on_a_line_are_finite_differences(p):
    rng = np.random.default_rng(1)
    inputs = (rng.normal(size=6), rng.normal(size=4), rng.random(6) + 0.1, rng.random(4) + 0.1)
    check_grads(jax.jit(lambda *z: wasserstein_1d(*z, p=p)), inputs, order=1, modes=("fwd", "rev"), rtol=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_line_of_equal_points_and_of_masked_points(p):
    x = np.array([1, 2, np.nan, 2, np.inf], np.float32)
    a = np.array([1, 2, 0, 2, 0], np.float32)
    y, b = np.array([2, 1, 5], np.float32), np.array([8, 2, 0], np.float32)
    value, gradients = jax.jit(jax.value_and_grad(lambda *z: wasserstein_1d(*z, p=p), argnums=(0, 1, 2, 3)))(x, y, a, b)
    assert float(value) == 0
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert not np.asarray(gradients[0]).any()


def test_weights_of_any_size_and_sides_without_mass():
    x, y = np.array([0, 1], np.float32), np.array([3, 5], np.float32)
    huge = np.full(2, 1e37, np.float32)
    assert float(line(x, y, huge, huge * 1e-37)) == pytest.approx(3.5)
    assert float(line(x, y, huge * 0, huge)) == 0
    gradient = jax.jit(jax.grad(wasserstein_1d, argnums=(0, 1, 2, 3)))(x, y, huge * 0, huge)
    assert all(np.isfinite(part).all() for part in gradient)


def test_new_numbers_do_not_retrace():
    traces = []

    @jax.jit
    def both(x, y, p, cost):
        traces.append(1)
        return wasserstein_1d(x, y, p=p), exact.assignment(cost).value

    for seed in range(3):
        rng = np.random.default_rng(seed)
        both(rng.normal(size=4), rng.normal(size=5), 1.0 + seed, rng.random((3, 3)))
    assert len(traces) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "scale"),
    [((1, 1), 1.0), ((1, 4), 1e30), ((5, 1), 1.0), ((6, 6), 1e-30), ((4, 9), 1.0), ((9, 4), 1e30), ((40, 40), 1.0)],
)
def test_assignment_is_that_of_scipy(dtype, shape, scale):
    cost = (np.random.default_rng(0).normal(size=shape) * scale).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        result = assignment(cost)
        assert result.value.dtype == dtype
    rows, columns = linear_sum_assignment(cost)
    np.testing.assert_array_equal(np.asarray(result.columns)[rows], columns)
    np.testing.assert_array_equal(np.asarray(result.rows)[columns], rows)
    assert (np.asarray(result.columns) == -1).sum() == max(shape[0] - shape[1], 0)
    assert (np.asarray(result.rows) == -1).sum() == max(shape[1] - shape[0], 0)
    assert float(result.value) == pytest.approx(cost[rows, columns].astype(float).mean(), rel=1e-6)
    assert int(result.status) == TransportStatus.OK


@pytest.mark.usefixtures("x64")
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_square_assignment_is_optimal_transport(seed):
    cost = np.random.default_rng(seed).integers(0, 4, size=(6, 6)).astype(float)
    uniform = np.full(6, 1 / 6)
    assert float(assignment(cost).value) == pytest.approx(ot.emd2(uniform, uniform, cost), abs=1e-12)


def test_a_batch_of_assignments_is_its_problems_one_by_one():
    cost = np.random.default_rng(0).random((2, 3, 5, 4)).astype(np.float32)
    batch = assignment(cost)
    mapped = jax.jit(jax.vmap(exact.assignment))(cost)
    for i in range(2):
        for j in range(3):
            one = assignment(cost[i, j])
            np.testing.assert_array_equal(batch.columns[i, j], one.columns)
            np.testing.assert_array_equal(mapped.rows[i, j], one.rows)
            assert float(batch.value[i, j]) == pytest.approx(float(one.value))


@pytest.mark.parametrize("shape", [(4, 4), (5, 2)])
def test_the_gradient_of_an_assignment_is_the_matching(shape):
    cost = np.random.default_rng(0).random(shape).astype(np.float32)
    gradient = np.asarray(jax.jit(jax.grad(lambda c: exact.assignment(c).value))(cost))
    expected = np.zeros(shape)
    expected[linear_sum_assignment(cost)] = 1 / min(shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_forbidden_pairs_and_invalid_costs():
    cost = np.array([[0, 1, 9], [0, np.inf, np.inf], [1, 2, np.inf]], np.float32)
    result = assignment(cost)
    np.testing.assert_array_equal(result.columns, [2, 0, 1])
    assert float(result.value) == pytest.approx(11 / 3)
    assert int(result.status) == TransportStatus.OK

    blocked = np.array([[0, np.inf], [1, np.inf]], np.float32)
    broken = np.array([[0, np.nan], [1, 2]], np.float32)
    batch = assignment(np.stack([blocked, broken, np.where(np.isnan(broken), -np.inf, broken)]))
    assert list(np.asarray(batch.status)) == [
        TransportStatus.INFEASIBLE,
        TransportStatus.NOT_FINITE,
        TransportStatus.NOT_FINITE,
    ]
    assert float(batch.value[0]) == np.inf
    assert np.isnan(batch.value[1:]).all()
    np.testing.assert_allclose(jax.jit(jax.grad(lambda c: exact.assignment(c).value))(cost).sum(), 1, rtol=1e-6)


def test_equal_costs_are_matched_too():
    for value in (0.0, -3.0, 1e38):
        result = assignment(np.full((3, 5), value, np.float32))
        assert sorted(np.asarray(result.rows)) == [-1, -1, 0, 1, 2]
        assert float(result.value) == pytest.approx(value)


def test_wrong_inputs_say_what_is_expected():
    x = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="floating point"):
        wasserstein_1d(x.astype(int), x)
    with pytest.raises(ValueError, match="not empty"):
        wasserstein_1d(x, x[:0])
    with pytest.raises(ValueError, match="weights of y must end"):
        wasserstein_1d(x, x, b=jnp.ones(2))
    with pytest.raises(ValueError, match="negative"):
        wasserstein_1d(x, x, -x)
    with pytest.raises(ValueError, match="at least 1"):
        wasserstein_1d(x, x, p=0.5)
    with pytest.raises(ValueError, match="one number"):
        wasserstein_1d(x, x, p=x)
    for cost in (x, np.ones((2, 0), np.float32), np.ones((2, 2), int)):
        with pytest.raises(ValueError, match="cost must be"):
            exact.assignment(cost)
