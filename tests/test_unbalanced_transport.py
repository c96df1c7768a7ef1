"""Unbalanced transport against POT, brute force over plans, and its limits."""

from __future__ import annotations

import jax
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from jaxrel.transport.result import TransportStatus
from jaxrel.transport.unbalanced import unbalanced_sinkhorn

pytestmark = pytest.mark.slow


def kl(x: np.ndarray, y: np.ndarray) -> float:
    positive = x > 0
    return float(np.sum(x[positive] * np.log(x[positive] / y[positive])) - x.sum() + y.sum())


def objective(plan, cost, a, b, rho_a, rho_b, epsilon=0.0) -> float:
    """Infinite prices are left out: the plan has that marginal."""
    value = float(np.sum(plan * cost)) + epsilon * kl(plan, np.multiply.outer(a, b))
    for rho, marginal, weights in ((rho_a, plan.sum(1), a), (rho_b, plan.sum(0), b)):
        value += 0 if np.isinf(rho) else rho * kl(marginal, weights)
    return value


def random_problem(seed: int, n: int = 6, m: int = 5, zeros: float = 0.0):
    rng = np.random.default_rng(seed)
    cost = np.linalg.norm(rng.normal(size=(n, 1, 2)) - rng.normal(size=(1, m, 2)) - 0.5, axis=-1)
    a, b = 2 * rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    a, b = a * (rng.random(n) >= zeros), b * (rng.random(m) >= zeros)
    return cost, a + 0.01 * (np.arange(n) == 0), b + 0.01 * (np.arange(m) == 0)


def exact_optimum(cost, a, b, rho_a, rho_b) -> float:
    """Dual of the unregularised problem, maximised by scipy over f <= min (C - g): an oracle without plans."""

    def negative_dual(g):
        f = np.min(cost - g, axis=1)
        value = -rho_a * np.sum(a * np.expm1(-f / rho_a)) - rho_b * np.sum(b * np.expm1(-g / rho_b))
        gradient = b * np.exp(-g / rho_b)
        np.subtract.at(gradient, np.argmin(cost - g, axis=1), a * np.exp(-f / rho_a))
        return -value, -gradient

    with np.errstate(over="ignore", invalid="ignore"):  # of steps that are taken back
        return -minimize(negative_dual, np.zeros(len(b)), jac=True, method="SLSQP", options={"ftol": 1e-14}).fun


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rho", "epsilon"), [(0.1, 0.05), (1.0, 0.05), (1.0, 1.0), (30.0, 0.1)])
def test_plan_and_value_are_those_of_pot(rho, epsilon):
    cost, a, b = random_problem(0)
    result = unbalanced_sinkhorn(cost, a, b, epsilon=epsilon, relaxation=rho, tolerance=1e-12).raise_if_failed()
    expected = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, epsilon, rho, reg_type="kl", c=np.multiply.outer(a, b), numItermax=200000, stopThr=1e-15
    )
    plan = np.multiply.outer(a, b) * np.exp((result.f[:, None] + result.g[None] - cost) / epsilon)
    np.testing.assert_allclose(plan, expected, atol=1e-10)
    assert float(result.value) == pytest.approx(objective(plan, cost, a, b, rho, rho, epsilon), rel=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", [(0.3, 2.0), (np.inf, 0.5), (0.5, np.inf)])
def test_the_two_sides_may_have_different_prices(relaxation):
    """The plan is a minimum: the objective at any other plan with the imposed marginals is larger."""
    cost, a, b = random_problem(1)
    result = unbalanced_sinkhorn(cost, a, b, epsilon=0.1, relaxation=relaxation, tolerance=1e-12).raise_if_failed()
    plan = np.multiply.outer(a, b) * np.exp((result.f[:, None] + result.g[None] - cost) / 0.1)
    value = objective(plan, cost, a, b, *relaxation, epsilon=0.1)
    assert float(result.value) == pytest.approx(value, rel=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = plan * np.exp(0.01 * rng.normal(size=plan.shape))
        if np.isinf(relaxation[0]):
            other *= (a / other.sum(1))[:, None]
        if np.isinf(relaxation[1]):
            other *= b / other.sum(0)
        assert objective(other, cost, a, b, *relaxation, epsilon=0.1) > value


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 0.3, 3.0, 100.0]),
    st.sampled_from([1.0, 10.0]),
    st.sampled_from([0.02, 0.5]),
    st.sampled_from([0, 3, 3000]),
    st.sampled_from([1e-20, 1.0, 1e20]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_interval_contains_the_optimum(seed, rho, ratio, epsilon, max_sweeps, scale, offset, dtype):
    cost, a, b = random_problem(seed, zeros=0.2)
    cost = cost - offset
    with jax.enable_x64(dtype == np.float64):
        inputs = [np.asarray(x, dtype) for x in (cost * scale, a, b)]
        prices = (dtype(rho * scale), dtype(rho * ratio * scale))
        result = unbalanced_sinkhorn(*inputs, epsilon=dtype(epsilon * scale), relaxation=prices, max_sweeps=max_sweeps)
        lower, upper = float(result.lower) / scale, float(result.upper) / scale
    cost, a, b = (x.astype(np.float64) for x in inputs)
    live = np.ix_(a > 0, b > 0)
    plan = ot.unbalanced.mm_unbalanced(
        a[a > 0], b[b > 0], cost[live] / scale, (rho, rho * ratio), div="kl", numItermax=3000, stopThr=1e-13
    )
    from_plan = objective(plan, cost[live] / scale, a[a > 0], b[b > 0], rho, rho * ratio)
    from_dual = exact_optimum(cost[live] / scale, a[a > 0], b[b > 0], rho, rho * ratio)
    assert lower <= from_plan + 1e-9
    assert from_dual <= upper + 1e-9
    if max_sweeps == 3000 and epsilon == 0.02 and offset == 0:
        assert upper - lower <= 0.15 * (a.sum() + b.sum())


@pytest.mark.usefixtures("x64")
def test_brute_force_over_small_plans():
    cost, a, b = random_problem(3, 3, 4)
    found = minimize(
        lambda plan: objective(plan.reshape(3, 4), cost, a, b, 0.5, 0.5),
        np.multiply.outer(a, b).ravel(),
        bounds=[(1e-12, None)] * 12,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "maxiter": 500, "maxfun": 5000},
    ).fun
    result = unbalanced_sinkhorn(cost, a, b, epsilon=0.01, relaxation=0.5)
    assert float(result.lower) <= found <= float(result.upper) + 1e-6
    assert float(result.upper - result.lower) < 0.02


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", [np.inf, 1e9])
def test_a_large_price_gives_balanced_transport(relaxation):
    cost, a, b = random_problem(4)
    a = a / a.sum() * b.sum()
    result = unbalanced_sinkhorn(cost, a, b, epsilon=0.1, relaxation=relaxation, tolerance=1e-11)
    plan = ot.sinkhorn(a, b, cost, 0.1, numItermax=100000, stopThr=1e-14)
    got = np.multiply.outer(a, b) * np.exp((result.f[:, None] + result.g[None] - cost) / 0.1)
    np.testing.assert_allclose(got, plan, atol=1e-7)
    assert float(result.value) == pytest.approx(objective(plan, cost, a, b, np.inf, np.inf, 0.1), rel=1e-6)
    exact = ot.emd2(a, b, cost)
    assert float(result.lower) <= exact <= float(result.upper)
    sharp = unbalanced_sinkhorn(cost, a, b, epsilon=0.003, relaxation=relaxation, max_sweeps=20000)
    assert float(sharp.lower) == pytest.approx(exact, rel=0.02)
    assert float(sharp.upper) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("relaxation", [(1.0, np.inf), (np.inf, 1.0), 1000.0])
def test_far_from_convergence_the_interval_is_finite_and_holds(relaxation):
    """After two sweeps the potentials of unequal masses are so far off that the plan itself would overflow."""
    rng = np.random.default_rng(0)
    cost = np.float32(rng.lognormal(size=(4, 40, 1)) - 0.3)
    a, b = np.float32(0.1 * rng.dirichlet(np.ones(40), 4)), np.ones((4, 1), np.float32)
    rough = unbalanced_sinkhorn(cost, a, b, epsilon=0.3, relaxation=relaxation, max_sweeps=2)
    with jax.enable_x64(True):
        sharp = unbalanced_sinkhorn(*map(np.float64, (cost, a, b)), epsilon=0.01, relaxation=relaxation)
    assert np.isfinite(rough.lower).all()
    assert np.isfinite(rough.upper).all()
    assert (np.asarray(rough.lower) <= np.asarray(sharp.upper)).all()
    assert (np.asarray(sharp.lower) <= np.asarray(rough.upper)).all()


def test_a_small_price_destroys_mass():
    cost, a, b = (np.asarray(x, np.float32) for x in random_problem(5))
    for rho in (1e-4, 1e-8):
        result = unbalanced_sinkhorn(cost + 0.1, a, b, epsilon=0.01, relaxation=rho)
        assert float(result.lower) == pytest.approx(rho * (a.sum() + b.sum()), rel=1e-3)
        assert float(result.upper) == pytest.approx(rho * (a.sum() + b.sum()), rel=1e-3)


@pytest.mark.parametrize("relaxation", [0.5, (0.5, np.inf), (np.inf, 0.5), np.inf])
def test_a_side_without_mass(relaxation):
    cost, a, b = (np.asarray(x, np.float32) for x in random_problem(6))
    rho_a = relaxation[0] if isinstance(relaxation, tuple) else relaxation
    result = unbalanced_sinkhorn(cost, a, 0 * b, epsilon=0.1, relaxation=relaxation)
    assert float(result.value) == pytest.approx(rho_a * a.sum())
    assert float(result.lower) <= rho_a * a.sum() <= float(result.upper)
    assert int(result.status) == (TransportStatus.INFEASIBLE if np.isinf(rho_a) else TransportStatus.OK)
    empty = unbalanced_sinkhorn(cost, 0 * a, 0 * b, epsilon=0.1, relaxation=relaxation)
    assert [float(x) for x in (empty.value, empty.lower, empty.upper)] == [0, 0, 0]
    assert int(empty.status) == TransportStatus.OK


@pytest.mark.usefixtures("x64")
def test_forbidden_pairs_carry_nothing():
    cost, a, b = random_problem(7)
    cost[0], cost[1, 2:], cost[4, :3] = np.inf, np.inf, np.inf
    result = unbalanced_sinkhorn(cost, a, b, epsilon=0.02, relaxation=0.7).raise_if_failed()
    dear = unbalanced_sinkhorn(np.minimum(cost, 1e3), a, b, epsilon=0.02, relaxation=0.7)
    assert float(result.value) == pytest.approx(float(dear.value), rel=1e-6)
    assert float(result.lower) == pytest.approx(float(dear.lower), rel=1e-3)
    assert float(result.upper) == pytest.approx(float(dear.upper), rel=1e-3)
    assert float(result.upper - result.lower) < 0.1
    imposed = unbalanced_sinkhorn(cost, a, b, epsilon=0.02, relaxation=(np.inf, 0.7))
    assert int(imposed.status) == TransportStatus.INFEASIBLE
    assert float(imposed.upper) == np.inf
    columns = unbalanced_sinkhorn(cost, a, b, epsilon=0.02, relaxation=(0.7, np.inf)).raise_if_failed()
    assert float(columns.lower) <= float(columns.upper) < np.inf
    gradient = gradients(cost, a, b, *np.float64([0.02, 0.7, 0.7]))
    assert all(np.isfinite(part).all() for part in gradient)


@jax.jit
def entropic(cost, a, b, epsilon, rho_a, rho_b):
    return unbalanced_sinkhorn(cost, a, b, epsilon=epsilon, relaxation=(rho_a, rho_b), tolerance=1e-12).value


gradients = jax.jit(jax.grad(entropic, argnums=range(6)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", [(0.4, 3.0), (np.inf, 0.6)])
def test_gradients_are_finite_differences(relaxation):
    cost, a, b = random_problem(8)

    inputs = (cost, a, b, *np.float64([0.2, *relaxation]))
    gradient = gradients(*inputs)
    rng = np.random.default_rng(0)
    for _ in range(3):
        step = [1e-5 * np.asarray(rng.normal(size=np.shape(x))) * np.isfinite(x) for x in inputs]
        ends = [entropic(*(x + sign * s for x, s in zip(inputs, step, strict=True))) for sign in (1, -1)]
        expected = float(ends[0] - ends[1]) / 2
        moved = zip(gradient, step, strict=True)
        assert sum(float(np.sum(g * s)) for g, s in moved if np.any(s)) == pytest.approx(expected, rel=1e-5)
        assert float(jax.jvp(entropic, inputs, tuple(step))[1]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_gradient_in_the_cost_is_the_plan_and_the_interval_has_none():
    cost, a, b = random_problem(9)
    result = unbalanced_sinkhorn(cost, a, b, epsilon=0.1, relaxation=1.0)
    plan = np.multiply.outer(a, b) * np.exp((result.f[:, None] + result.g[None] - cost) / 0.1)
    value, lower = (
        jax.grad(lambda c, end=end: getattr(unbalanced_sinkhorn(c, a, b, epsilon=0.1, relaxation=1.0), end))(cost)
        for end in ("value", "lower")
    )
    np.testing.assert_allclose(value, plan, rtol=1e-10)
    assert not np.asarray(lower).any()


def test_a_batch_is_its_problems_one_by_one():
    problems = [random_problem(seed) for seed in range(3)]
    cost, a, b = (np.stack(arrays).astype(np.float32) for arrays in zip(*problems, strict=True))
    numbers = {"epsilon": np.float32([0.1, 0.3, 0.05]), "relaxation": np.float32([1, np.inf, 0.1])}
    a[1] *= b[1].sum() / a[1].sum()
    batch = unbalanced_sinkhorn(cost, a, b, **numbers)
    mapped = jax.vmap(lambda *z: unbalanced_sinkhorn(*z[:3], epsilon=z[3], relaxation=z[4]))(
        cost, a, b, *numbers.values()
    )
    for i in range(3):
        one = unbalanced_sinkhorn(cost[i], a[i], b[i], **{name: x[i] for name, x in numbers.items()})
        assert int(one.num_iters) == int(batch.num_iters[i])
        for name in ("value", "lower", "upper", "f", "g"):
            np.testing.assert_allclose(getattr(batch, name)[i], getattr(one, name), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(getattr(mapped, name)[i], getattr(one, name), rtol=1e-4, atol=1e-4)


def test_masked_points_are_absent():
    cost, a, b = (np.asarray(x, np.float32) for x in random_problem(10))
    kept_a, kept_b = np.arange(6) % 3 > 0, np.arange(5) % 4 > 0
    small = unbalanced_sinkhorn(cost[np.ix_(kept_a, kept_b)], a[kept_a], b[kept_b], epsilon=0.1, relaxation=1.0)
    cost[~kept_a], cost[:, ~kept_b] = np.nan, np.nan
    masked = unbalanced_sinkhorn(cost, a, b, epsilon=0.1, relaxation=1.0, where_a=kept_a, where_b=kept_b)
    assert float(masked.value) == pytest.approx(float(small.value), rel=1e-5)
    assert float(masked.upper) == pytest.approx(float(small.upper), rel=1e-3)
    np.testing.assert_allclose(np.asarray(masked.f)[kept_a], small.f, atol=1e-4)
    assert not np.asarray(masked.f)[~kept_a].any()
    uniform = unbalanced_sinkhorn(cost, epsilon=0.1, relaxation=1.0, where_a=kept_a, where_b=kept_b)
    weights = (kept_a / kept_a.sum(), kept_b / kept_b.sum())
    same = unbalanced_sinkhorn(cost, *map(np.float32, weights), epsilon=0.1, relaxation=1.0)
    assert float(uniform.value) == pytest.approx(float(same.value), rel=1e-6)


def test_a_result_warms_the_next_problem():
    cost, a, b = (np.asarray(x, np.float32) for x in random_problem(11))
    first = unbalanced_sinkhorn(cost, a, b, epsilon=0.05, relaxation=1.0)
    again = unbalanced_sinkhorn(cost, a, b, epsilon=0.05, relaxation=1.0, init=first)
    assert int(again.num_iters) <= 10 < int(first.num_iters)
    assert float(again.value) == pytest.approx(float(first.value), rel=1e-5)


@pytest.mark.usefixtures("x64")
def test_a_large_price_does_not_slow_it_down():
    """Without the translation the error falls by rho / (rho + epsilon) a sweep: 10^6 sweeps to converge."""
    cost, a, b = random_problem(12)
    result = unbalanced_sinkhorn(cost, a, b, epsilon=0.5, relaxation=1e5, tolerance=1e-8).raise_if_failed()
    assert int(result.num_iters) < 200


def test_status_tells_what_went_wrong_and_new_numbers_do_not_retrace():
    traces = []

    @jax.jit
    def solve(cost, a, b, rho, sweeps):
        traces.append(1)
        return unbalanced_sinkhorn(cost, a, b, epsilon=0.01, relaxation=rho, tolerance=1e-4, max_sweeps=sweeps)

    cost, a, b = (np.asarray(x, np.float32) for x in random_problem(13))
    short = solve(cost, a, b, 10.0, 3)
    assert int(short.status) == TransportStatus.NOT_CONVERGED
    assert float(short.lower) < float(short.upper)
    assert int(short.num_iters) == 3
    assert int(solve(cost, a, b, 1.0, 5000).status) in (TransportStatus.OK, TransportStatus.PRECISION_FLOOR)
    unequal = solve(cost, a, b, np.inf, 50)
    assert int(unequal.status) & TransportStatus.UNEQUAL_MASS
    assert np.isnan(unequal.value)
    for broken in ((cost * np.nan, a, b), (cost, -a, b), (-np.inf * cost, a, b)):
        result = solve(*broken, 1.0, 50)
        assert int(result.status) & TransportStatus.NOT_FINITE
        assert np.isnan([result.value, result.lower, result.upper]).all()
    assert len(traces) == 1


def test_wrong_inputs_say_what_is_expected():
    cost, a, b = (np.asarray(x, np.float32) for x in random_problem(0))
    for bad in (cost[0], cost[:0], cost.astype(int)):
        with pytest.raises(ValueError, match="cost must be"):
            unbalanced_sinkhorn(bad, epsilon=0.1, relaxation=1.0)
    with pytest.raises(ValueError, match="a has shape"):
        unbalanced_sinkhorn(cost, b, b, epsilon=0.1, relaxation=1.0)
    with pytest.raises(ValueError, match="not negative"):
        unbalanced_sinkhorn(cost, -a, b, epsilon=0.1, relaxation=1.0)
    with pytest.raises(ValueError, match="epsilon must be positive"):
        unbalanced_sinkhorn(cost, a, b, epsilon=0.0, relaxation=1.0)
    with pytest.raises(ValueError, match="relaxation must be positive"):
        unbalanced_sinkhorn(cost, a, b, epsilon=0.1, relaxation=(1.0, -1.0))
    with pytest.raises(ValueError, match="a pair"):
        unbalanced_sinkhorn(cost, a, b, epsilon=0.1, relaxation=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="potentials of shape"):
        unbalanced_sinkhorn(cost, a, b, epsilon=0.1, relaxation=1.0, init=(a, a))
