"""ott-jax cost functions against their definitions and exact transport."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from jaxrel.transport import PointCloud, cost_function, sinkhorn

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


@pytest.mark.parametrize("name", ["power", "squared"])
def test_the_interval_of_an_ott_cost_contains_the_optimum(name):
    make, definition = COSTS[name]
    x, y = clouds(2)
    exact = ot.emd2(np.full(60, 1 / 60), np.full(50, 1 / 50), definition(x, y))
    result = sinkhorn(PointCloud(x, y, make()), relative_gap=0.05)
    assert float(result.lower) < exact < float(result.upper)


def test_new_numbers_and_equal_costs_do_not_retrace():
    traces = []

    class Counted(costs.PNormP):
        def all_pairs(self, x, y):
            traces.append(1)
            return super().all_pairs(x, y)

    sinkhorn(PointCloud(*clouds(0), Counted(1.5)), epsilon=0.1)
    count = len(traces)
    sinkhorn(PointCloud(*clouds(1), Counted(1.5)), epsilon=0.1)
    assert len(traces) == count > 0
