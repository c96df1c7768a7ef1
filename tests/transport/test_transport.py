"""Costs, potentials, certificates and assignment against exact transport (POT, scipy) and definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import cost_matrix
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from jaxrel.transport import (
    assign_classes,
    certified_interval,
    class_pair_costs,
    entropic_plan,
    euclidean_cost,
    feature_distance,
    margin_cost,
    mean_cost,
    range_cost,
    rough_potential,
    round_to_marginals,
    sinkhorn_potentials,
)


def random_transport(seed: int, n: int = 9, m: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cost array and two weight vectors, some of them 0."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    cost = np.linalg.norm(x[:, None] - y[None], axis=-1) * rng.choice([1.0, 0.0, 3.0], p=[0.8, 0.1, 0.1], size=(n, m))
    a, b = (rng.dirichlet(np.ones(k)) * (rng.random(k) < 0.8) for k in (n, m))
    a[0] += 0.1
    b[0] += 0.1
    return cost, a / a.sum(), b / b.sum()


@jax.jit
def interval(cost, a, b, epsilon, num_iterations):
    f, _ = sinkhorn_potentials(
        cost, a, b, epsilon=epsilon, num_iterations=num_iterations, start_epsilon=mean_cost(cost, a, b)
    )
    return certified_interval(cost, a, b, entropic_plan(cost, a, b, f, epsilon), f)


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 10, 300]),
    st.sampled_from([1.0, 0.1, 0.01]),
    st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30]),
    st.sampled_from([np.float32, np.float64]),
)
def test_interval_contains_the_exact_optimum(seed, num_iterations, epsilon, scale, dtype):
    cost, a, b = random_transport(seed)
    with jax.enable_x64(dtype == np.float64):
        cost, a, b = (np.asarray(x, dtype) for x in (cost * scale, a, b))
        size = np.asarray(max(cost.max(), 1e-35), dtype)
        lower, upper = (float(end) for end in interval(cost, a, b, epsilon * size, num_iterations))
    cost, a, b = (x.astype(np.float64) for x in (cost, a, b))
    # scaled for the solver only: its own tolerances are absolute
    exact = ot.emd2(a / a.sum(), b / b.sum(), cost / scale) * scale
    assert lower <= exact + 1e-12 * scale
    assert exact <= upper + 1e-12 * scale
    if num_iterations == 300 and epsilon == 0.01:
        assert upper - lower <= 0.05 * float(size)


@pytest.mark.parametrize("shape", [(300, 1), (1, 300)])
def test_rounding_is_allowed_for_where_only_one_plan_exists(shape):
    """With one point on a side the optimum is a plain mean: nothing but the allowance can keep it inside."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        cost = rng.lognormal(size=shape).astype(np.float32)
        a, b = (rng.dirichlet(np.ones(size)).astype(np.float32) for size in shape)
        exact = float(
            np.average(cost.astype(np.float64).ravel(), weights=np.multiply.outer(a, b).ravel().astype(float))
        )
        lower, upper = (float(end) for end in interval(cost, a, b, np.float32(0.1), 3))
        assert lower < exact < upper
        assert upper - lower < 1e-2 * exact


def test_a_batch_is_its_problems_one_by_one():
    problems = [random_transport(seed) for seed in range(3)]
    cost, a, b = (np.stack(arrays).astype(np.float32) for arrays in zip(*problems, strict=True))
    lower, upper = interval(cost, a, b, np.full(3, 0.05, np.float32), 50)
    for index in range(3):
        single = interval(cost[index], a[index], b[index], np.float32(0.05), 50)
        np.testing.assert_allclose((lower[index], upper[index]), single, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_rounded_plan_has_its_marginals():
    cost, a, b = random_transport(0)
    plan = np.random.default_rng(0).random(cost.shape)
    rounded = round_to_marginals(jnp.asarray(plan), jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(rounded.sum(1), a, atol=1e-15)
    np.testing.assert_allclose(rounded.sum(0), b, atol=1e-15)
    assert (rounded >= 0).all()


@pytest.mark.usefixtures("x64")
def test_potentials_converge_to_those_of_pot():
    cost, a, b = random_transport(1)
    a, b = a + 0.01, b + 0.01
    a, b = a / a.sum(), b / b.sum()
    f, _ = sinkhorn_potentials(*map(jnp.asarray, (cost, a, b)), epsilon=0.1, num_iterations=3000)
    plan = entropic_plan(*map(jnp.asarray, (cost, a, b)), f, 0.1)
    np.testing.assert_allclose(plan, ot.sinkhorn(a, b, cost, 0.1, numItermax=10000, stopThr=1e-14), atol=1e-9)


@pytest.mark.parametrize("masked", ["a", "b"])
def test_a_problem_without_mass_costs_nothing(masked):
    cost, a, b = (np.asarray(x, np.float32) for x in random_transport(0))
    a, b = (a * 0, b) if masked == "a" else (a, b * 0)
    assert [float(x) for x in interval(cost, a, b, np.float32(0.1), 5)] == [0.0, 0.0]


def test_identical_points_cost_nothing():
    a = np.full(4, 0.25, np.float32)
    lower, upper = interval(np.zeros((4, 4), np.float32), a, a, np.float32(1e-30), 10)
    assert (float(lower), float(upper)) == (0.0, 0.0)


@pytest.mark.usefixtures("x64")
@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 30.0]))
def test_costs_are_their_definitions_and_bound_the_change_of_the_loss(seed, scale):
    rng = np.random.default_rng(seed)
    u, v = scale * rng.normal(size=(5, 3)), scale * rng.normal(size=(4, 3))
    row = rng.dirichlet(np.ones(3)) * np.array([1, 1, seed % 2])
    with np.errstate(divide="ignore"):
        log_row = np.log(row)
    margin, range_, euclidean = margin_cost(u, v, log_row), range_cost(u, v), euclidean_cost(u, v)
    for cost, name in ((margin, "margin"), (range_, "range"), (euclidean, "euclidean")):
        np.testing.assert_allclose(cost, cost_matrix(name, u, v, row), atol=1e-12 * scale)
        shifted = {"margin": lambda u, v: margin_cost(u, v, log_row), "range": range_cost, "euclidean": euclidean_cost}
        np.testing.assert_allclose(shifted[name](u + 7, v - 3), cost, atol=1e-12 * (scale + 10))
    loss_u, loss_v = (logsumexp(x, axis=1) - logsumexp(x + log_row, axis=1) for x in (u, v))
    assert (loss_v[None] - loss_u[:, None] <= margin + 1e-12 * scale).all()


def test_feature_distance_does_not_suffer_from_a_common_offset():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 64)).astype(np.float32), rng.normal(size=(30, 64)).astype(np.float32)
    exact = np.linalg.norm(x[:, None].astype(float) - y[None], axis=-1)
    np.testing.assert_allclose(feature_distance(x, y), exact, rtol=1e-5)
    np.testing.assert_allclose(feature_distance(x + 100, y + 100), exact, rtol=1e-4)
    assert (np.asarray(feature_distance(x, x)) >= 0).all()


def test_gradients_are_finite_at_equal_points():
    x = jnp.ones((3, 2))
    for cost in (euclidean_cost, range_cost, feature_distance):
        gradient = jax.grad(lambda x, cost=cost: cost(x, x).sum())(x)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3), (1, 5), (5, 1), (1, 1)])
def test_assignment_is_optimal_and_uses_every_reference_class_at_most_once_where_it_can(shape):
    costs = np.random.default_rng(0).random(shape).astype(np.float32)
    support = np.asarray(jax.jit(assign_classes)(costs))
    assert support.any(axis=1).all()
    if shape[0] <= shape[1]:
        np.testing.assert_array_equal(support.sum(axis=0), 1)
        rows, columns = linear_sum_assignment(costs)
        assert support[rows, columns].all()
    else:
        np.testing.assert_array_equal(support.sum(axis=1), 1)
        assert support.sum(axis=0).max() <= -(-shape[0] // shape[1])


def test_class_pair_costs_find_the_same_classes_again():
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(4, 8))
    order = np.array([2, 0, 3, 1])
    reference = centres[:, None] + rng.normal(size=(4, 16, 8))
    target = centres[order][:, None] + rng.normal(size=(4, 16, 8))
    costs = class_pair_costs(target.astype(np.float32), reference.astype(np.float32))
    np.testing.assert_array_equal(np.argmin(costs, axis=1), order)
    uniform = np.full(16, 1 / 16)
    exact = ot.emd2(uniform, uniform, ot.dist(target[1], reference[2], metric="euclidean"))
    assert float(costs[1, 2]) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_rough_potentials_are_those_of_the_log_domain(scale):
    rng = np.random.default_rng(0)
    cost = jnp.asarray(scale * rng.gamma(1.0, size=(3, 12, 9)), jnp.float32)
    a = jnp.asarray(rng.dirichlet(np.ones(12), 3), jnp.float32).at[0, 4:].set(0)
    a = a / a.sum(1, keepdims=True)
    b = jnp.asarray(rng.dirichlet(np.ones(9), 3), jnp.float32)
    epsilon = 0.2 * mean_cost(cost, a, b)
    rough = rough_potential(cost, a, b, epsilon=epsilon, num_iterations=300)
    exact, _ = sinkhorn_potentials(cost, a, b, epsilon=epsilon, num_iterations=300)
    plans = [entropic_plan(cost, a, b, f, epsilon) for f in (rough, exact)]
    np.testing.assert_allclose(plans[0], plans[1], atol=2e-5)
    np.testing.assert_allclose(plans[0].sum(-1), a, atol=2e-5)


def test_rough_potentials_of_hopeless_problems_are_finite():
    """A tiny epsilon, where every kernel entry but one in a row underflows, and a problem without mass."""
    cost = jnp.asarray(np.random.default_rng(1).gamma(1.0, size=(2, 8, 8)), jnp.float32)
    a = jnp.full((2, 8), 1 / 8).at[1].set(0)
    f = rough_potential(cost, a, a, epsilon=jnp.full(2, 1e-6), num_iterations=50)
    assert np.isfinite(np.asarray(f)).all()
    np.testing.assert_allclose(entropic_plan(cost, a, a, f, jnp.full(2, 1e-6)).sum(1)[0], a[0], rtol=1e-5)
