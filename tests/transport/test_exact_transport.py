"""Assignment against scipy and POT."""

from __future__ import annotations

import jax
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from jaxrel.transport import exact
from jaxrel.transport.result import TransportStatus

assignment = jax.jit(exact.assignment)


def test_new_numbers_do_not_retrace():
    traces = []

    @jax.jit
    def value(cost):
        traces.append(1)
        return exact.assignment(cost).value

    for seed in range(3):
        value(np.random.default_rng(seed).random((3, 3)))
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
    for cost in (x, np.ones((2, 0), np.float32), np.ones((2, 2), int)):
        with pytest.raises(ValueError, match="cost must be"):
            exact.assignment(cost)
