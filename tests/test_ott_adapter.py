"""ott-jax cost functions and low-rank couplings against their definitions and exact transport."""

from __future__ import annotations

import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from jaxrel.transport.ott_adapter import cost_function, low_rank_transport
from jaxrel.transport.result import TransportStatus

pytestmark = pytest.mark.slow

with warnings.catch_warnings():  # of jaxopt, which ott-jax imports
    warnings.simplefilter("ignore", DeprecationWarning)
    from ott.geometry import costs, regularizers

COSTS = {
    "euclidean": (costs.Euclidean, lambda x, y: cdist(x, y)),
    "squared": (costs.SqEuclidean, lambda x, y: cdist(x, y, "sqeuclidean")),
    "power": (lambda: costs.PNormP(1.5), lambda x, y: cdist(x, y, "minkowski", p=1.5) ** 1.5 / 1.5),
    "cosine": (costs.Cosine, lambda x, y: cdist(x, y, "cosine")),
}


def clouds(seed: int, n: int = 60, m: int = 50, d: int = 3):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d)) + 1
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_is_its_definition_and_is_traced_once(name):
    make, definition = COSTS[name]
    traces = []

    def evaluate(x, y, cost):
        traces.append(1)
        return cost(x, y)

    jitted = jax.jit(evaluate, static_argnums=2)
    x, y = clouds(0)
    for _ in range(2):
        np.testing.assert_allclose(jitted(x, y, cost_function(make())), definition(x, y), rtol=1e-4, atol=1e-5)
    assert len(traces) == 1
    assert cost_function(make()) == cost_function(make())
    assert hash(cost_function(make())) == hash(cost_function(make()))
    batched = cost_function(make())(np.stack([x, -x]), np.stack([y, y]))
    np.testing.assert_allclose(batched[1], definition(-x, y), rtol=1e-4, atol=1e-5)


def test_other_parameters_make_another_cost():
    def elastic(strength: float) -> costs.RegTICost:
        return costs.RegTICost(regularizers.L1(), lam=strength)

    assert cost_function(elastic(0.5)) == cost_function(elastic(0.5))
    different = [
        costs.PNormP(1.5),
        costs.PNormP(2.5),
        costs.SqPNorm(1.5),
        costs.Cosine(),
        costs.Cosine(ridge=1e-2),
        costs.Euclidean(),
        elastic(0.5),
        elastic(0.25),
    ]
    functions = [cost_function(cost) for cost in different]
    assert len(set(functions)) == len(different)
    assert len({*functions, *(cost_function(cost) for cost in different)}) == len(different)
    assert functions[0] != "euclidean"
    # the ridge is not a leaf of the cost: taken apart and put together, it would be the default
    x = np.full((1, 2), 1e-2, np.float32)
    assert float(functions[4](x, x)[0, 0]) == pytest.approx(1 - 2e-4 / (2e-4 + 1e-2), rel=1e-4)


@pytest.mark.parametrize("wrong", ["euclidean", costs.Euclidean, np.linalg.norm, None])
def test_what_is_no_cost_is_refused(wrong):
    with pytest.raises(ValueError, match="all_pairs"):
        cost_function(wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cost", ["squared_euclidean", "euclidean"])
def test_the_coupling_is_feasible_and_its_cost_an_upper_bound(cost, dtype):
    rng = np.random.default_rng(1)
    x, y = clouds(1)
    a, b = rng.dirichlet(np.ones(60)), rng.dirichlet(np.ones(50))
    a[:5], b[7] = 0, 0
    with jax.enable_x64(dtype == np.float64):
        inputs = [z.astype(dtype) for z in (x, y, 3 * a, b)]
        inputs[0][:5] = np.nan
        result = low_rank_transport(*inputs, rank=8, cost=cost)
    q, r, g = (np.asarray(z, np.float64) for z in (result.q, result.r, result.g))
    assert (q >= 0).all()
    assert (r >= 0).all()
    plan = (q / g) @ r.T
    a, b = a / a.sum(), b / b.sum()
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(plan.sum(1), a, atol=tolerance)
    np.testing.assert_allclose(plan.sum(0), b, atol=tolerance)
    assert float(result.marginal_error) < 60 * tolerance
    array = cdist(x, y, "sqeuclidean" if cost == "squared_euclidean" else "euclidean")
    assert float(result.value) == pytest.approx(np.sum(plan * array), rel=1e-5)
    exact = ot.emd2(a, b, array)
    independent = a @ array @ b
    assert exact <= float(result.value) <= float(result.upper)
    assert float(result.upper) <= float(result.value) * (1.01 if dtype == np.float32 else 1 + 1e-10)
    assert float(result.value) < exact + 0.5 * (independent - exact)
    assert result.value.dtype == dtype
    assert int(result.status) == TransportStatus.OK


@pytest.mark.parametrize("name", ["power", "squared"])
def test_ott_costs_are_accepted(name):
    make, definition = COSTS[name]
    x, y = clouds(2)
    result = low_rank_transport(x, y, rank=8, cost=make())
    exact = ot.emd2(np.full(60, 1 / 60), np.full(50, 1 / 50), definition(x, y))
    assert exact <= float(result.upper) < definition(x, y).mean()
    if name == "squared":
        assert float(result.value) == float(low_rank_transport(x, y, rank=8).value)


def test_a_higher_rank_comes_nearer_to_the_optimum():
    x, y = clouds(3)
    array = cdist(x, y, "sqeuclidean")
    exact = ot.emd2(np.full(60, 1 / 60), np.full(50, 1 / 50), array)
    values = [float(low_rank_transport(x, y, rank=rank).value) for rank in (1, 8, 20)]
    assert values[0] == pytest.approx(array.mean(), rel=1e-5)
    assert values[0] > values[1] > values[2] > exact
    assert values[2] < exact + 0.3 * (values[0] - exact)


def test_units_and_position_do_not_matter():
    x, y = clouds(4)
    one = low_rank_transport(x, y, rank=8)
    for scale in (1e-12, 1e12):
        other = low_rank_transport(x * scale, y * scale, rank=8)
        assert float(other.value) == pytest.approx(float(one.value) * scale**2, rel=0.02)
    moved = low_rank_transport(x + 100, y + 100, rank=8)
    assert float(moved.value) == pytest.approx(float(one.value), rel=0.02)


@pytest.mark.parametrize("cost", ["squared_euclidean", "euclidean"])
def test_the_gradient_is_that_of_the_cost_at_the_coupling(cost):
    x, y = clouds(5)

    def value(x):
        result = low_rank_transport(x, y, rank=8, cost=cost)
        return result.value, result

    gradient, result = jax.grad(value, has_aux=True)(x)
    plan = (result.q / result.g) @ result.r.T

    @jax.grad
    def at_the_coupling(x):
        squared = jnp.sum((x[:, None] - y) ** 2, axis=-1)
        return jnp.sum(plan * (squared if cost == "squared_euclidean" else jnp.sqrt(squared)))

    np.testing.assert_allclose(gradient, at_the_coupling(x), atol=1e-6)


def test_identical_points_cost_nothing():
    result = low_rank_transport(np.ones((60, 3), np.float32), np.ones((50, 3), np.float32), rank=8)
    assert float(result.value) == pytest.approx(0, abs=1e-10)
    assert 0 <= float(result.upper) < 1e-5


def test_memory_and_time_are_linear():
    x, y = clouds(6, 20_000, 20_000, 16)
    solve = jax.jit(lambda x, y: low_rank_transport(x, y, rank=8, max_iterations=100))
    assert solve.lower(x, y).compile().memory_analysis().temp_size_in_bytes < 2**28  # the cost array has 2^30.6
    start = time.perf_counter()
    result = solve(x, y)
    assert float(result.upper) < cdist(x[:1000], y[:1000], "sqeuclidean").mean()
    assert float(result.upper) < 1.05 * float(result.value)
    assert time.perf_counter() - start < 60


def test_status_and_validation():
    x, y = clouds(7)
    assert int(low_rank_transport(x, y, rank=5, max_iterations=10).status) == TransportStatus.NOT_CONVERGED
    broken = low_rank_transport(np.where(x > 1, np.nan, x), y, rank=8)
    assert int(broken.status) & TransportStatus.NOT_FINITE
    assert np.isnan(broken.upper)
    with pytest.raises(ValueError, match="x must be"):
        low_rank_transport(x[0], y, rank=5)
    with pytest.raises(ValueError, match="one dimension"):
        low_rank_transport(x[:, :2], y, rank=5)
    with pytest.raises(ValueError, match="rank"):
        low_rank_transport(x, y, rank=0)
    with pytest.raises(ValueError, match="unknown cost"):
        low_rank_transport(x, y, rank=2, cost="manhattan")
    with pytest.raises(ValueError, match="a has shape"):
        low_rank_transport(x, y, np.ones(3), rank=2)


def test_new_numbers_and_equal_costs_do_not_retrace():
    traces = []

    class Counted(costs.PNormP):
        def all_pairs(self, x, y):
            traces.append(1)
            return super().all_pairs(x, y)

    low_rank_transport(*clouds(0), rank=3, cost=Counted(1.5), max_iterations=20)
    count = len(traces)
    low_rank_transport(*clouds(1), rank=3, cost=Counted(1.5), max_iterations=20)
    assert len(traces) == count > 0
