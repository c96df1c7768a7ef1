"""The solver against exact transport (POT), its own reference twin, finite differences and every kind of bad input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from jaxrel import ResultError
from jaxrel.transport import PointCloud, SinkhornConfig, TransportStatus, cost_array, sinkhorn

ABSOLUTE = SinkhornConfig(epsilon_unit="cost")
LOG = SinkhornConfig(epsilon_unit="cost", inner="log")


def clouds(seed: int, *batch: int, n: int = 20, m: int = 15, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*batch, n, d)), rng.normal(size=(*batch, m, d)) + 0.5


def weights(seed: int, *shape: int, zeros: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.ones(shape[-1]), shape[:-1]) * (rng.random(shape) >= zeros)
    values[..., 0] += 0.05
    return values / values.sum(axis=-1, keepdims=True)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[..., :, None, :] - y[..., None, :, :], axis=-1)


def exact(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    cost, a, b = (np.asarray(x, np.float64) for x in (cost, a, b))
    size = max(np.abs(cost).max(), 1e-300)  # the exact solver's tolerances are absolute
    return float(ot.emd2(a / a.sum(), b / b.sum(), cost / size) * size)


def entropic(cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float) -> tuple[float, np.ndarray]:
    """Value and plan of `min <P, C> + eps KL(P | a b^T)` by POT."""
    plan = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", numItermax=100_000, stopThr=1e-11)
    product = a[:, None] * b
    ratio = np.where(plan > 0, plan / product, 1)
    return float((plan * cost).sum() + epsilon * (plan * np.log(ratio)).sum()), plan


# --- certificates ------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="config")
def solve(cost, a, b, epsilon, max_iterations, config):
    return sinkhorn(cost, a, b, epsilon=epsilon, max_iterations=max_iterations, config=config)


@functools.partial(jax.jit, static_argnames="config")
def solve_to_gap(cost, a, b, gap, config):
    return sinkhorn(cost, a, b, relative_gap=gap, config=config)


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 3, 40, 1000]),
    st.sampled_from([1.0, 0.1, 0.01, 1e-4]),
    st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30]),
    st.sampled_from([0.0, -3.0]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["scaling", "log"]),
)
def test_interval_contains_the_exact_optimum(seed, max_iterations, epsilon, scale, shift, dtype, inner):
    """Whatever epsilon, however early it stops, at any scale, with costs of any sign and weights of 0."""
    x, y = clouds(seed, n=9, m=7, d=2)
    cost, a, b = distances(x, y) + shift, weights(seed, 9, zeros=0.3), weights(seed + 1, 7, zeros=0.3)
    with jax.enable_x64(dtype == np.float64):
        cost, a, b = (np.asarray(v, dtype) for v in (cost * scale, a, b))
        result = solve(cost, a, b, np.asarray(epsilon, dtype), max_iterations, SinkhornConfig(inner=inner))
        lower, upper = float(result.lower), float(result.upper)
    optimum = exact(cost, a, b)
    assert lower <= optimum + 1e-14 * scale
    assert optimum <= upper + 1e-14 * scale
    if max_iterations == 1000 and epsilon == 0.01:
        assert upper - lower <= 0.1 * np.abs(cost).max()


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.01]), st.sampled_from([np.float32, np.float64]))
def test_the_gap_that_is_asked_for_is_certified(seed, gap, dtype):
    x, y = clouds(seed, n=12, m=12, d=5)
    cost, a, b = distances(x, y), weights(seed, 12), weights(seed + 1, 12)
    with jax.enable_x64(dtype == np.float64):
        cost, a, b = (np.asarray(v, dtype) for v in (cost, a, b))
        result = solve_to_gap(cost, a, b, np.asarray(gap, dtype), SinkhornConfig())
        assert result.messages == ()
        lower, upper = float(result.lower), float(result.upper)
    assert upper - lower <= gap * upper * (1 + 1e-6)
    assert lower <= exact(cost, a, b) <= upper


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(300, 1), (1, 300), (700, 1)])
def test_rounding_is_allowed_for_where_only_one_plan_exists(shape):
    """With one point on a side the optimum is a plain mean: nothing but the allowance can keep it inside."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cost = rng.lognormal(size=shape).astype(np.float32)
        a, b = (rng.dirichlet(np.ones(size)).astype(np.float32) for size in shape)
        a64, b64 = (w.astype(float) / w.astype(float).sum() for w in (a, b))
        mean = float(a64 @ cost.astype(float) @ b64)
        result = solve(cost, a, b, np.float32(0.1), 5, SinkhornConfig())
        assert float(result.lower) < mean < float(result.upper)
        assert float(result.upper - result.lower) < 2e-2 * mean


@pytest.mark.parametrize("tile", [None, 600])
def test_sums_are_shallow_enough_for_a_percent_of_many_points(tile):
    """The rounding that float32 has to allow for is that of blocks, not of all points in one row."""
    x, y = clouds(0, n=900, m=700, d=8)
    cloud = PointCloud(x.astype(np.float32), y.astype(np.float32), "squared_euclidean", tile)
    problem = cost_array(cloud) if tile is None else cloud
    result = sinkhorn(problem, relative_gap=0.01)
    optimum = ot.emd2([], [], distances(x, y) ** 2)
    assert result.messages == ()
    assert float(result.lower) < optimum < float(result.upper) < 1.01 * float(result.lower) + 1e-6


# --- the entropic problem ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("config", [ABSOLUTE, LOG])
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.02])
def test_value_and_potentials_are_those_of_pot(config, epsilon):
    x, y = clouds(0)
    cost, a, b = distances(x, y), weights(1, 20), weights(2, 15)
    value, plan = entropic(cost, a, b, epsilon)
    result = sinkhorn(cost, a, b, epsilon=epsilon, tolerance=1e-10, max_iterations=50_000, config=config)
    assert result.messages == ()
    assert float(result.value) == pytest.approx(value, abs=1e-9)
    found = a[:, None] * b * np.exp((np.asarray(result.f)[:, None] + np.asarray(result.g) - cost) / epsilon)
    np.testing.assert_allclose(found, plan, atol=1e-9)
    assert float(a @ result.f) == pytest.approx(float(b @ result.g), abs=1e-12)
    assert float(result.epsilon) == pytest.approx(epsilon)
    assert np.abs(found.sum(1) - a).sum() == pytest.approx(float(result.marginal_error), abs=1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("epsilon", [0.5, 0.02])
def test_scaling_and_log_iterations_agree_along_the_way(epsilon):
    """Not only at the end: the same iterations in two forms."""
    x, y = clouds(3)
    cost, a, b = distances(x, y), weights(1, 20, zeros=0.3), weights(2, 15, zeros=0.3)
    for max_iterations in (2, 7, 30):
        configs = (SinkhornConfig(inner=inner, over_relaxation=False) for inner in ("scaling", "log"))
        scaling, log = (sinkhorn(cost, a, b, epsilon=epsilon, max_iterations=max_iterations, config=c) for c in configs)
        np.testing.assert_array_equal(scaling.num_iterations, log.num_iterations)
        np.testing.assert_allclose(scaling.g, log.g, atol=1e-9)
        np.testing.assert_allclose(scaling.upper, log.upper, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cost", ["euclidean", "squared_euclidean"])
@pytest.mark.parametrize("tile", [4, 7, 64])
def test_a_tiled_cloud_is_its_cost_array(tile, cost):
    x, y = clouds(0, 2)
    a, b = weights(1, 2, 20, zeros=0.3), weights(2, 2, 15)
    array = distances(x, y) ** (2 if cost == "squared_euclidean" else 1)
    dense = sinkhorn(array, a, b, epsilon=0.05, tolerance=1e-9)
    tiled = sinkhorn(PointCloud(x, y, cost=cost, tile=tile), a, b, epsilon=0.05, tolerance=1e-9)
    assert tiled.messages == dense.messages == ()
    for name in ("value", "lower", "upper", "f", "g", "epsilon"):
        np.testing.assert_allclose(getattr(tiled, name), getattr(dense, name), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_over_relaxation_saves_iterations():
    x, y = clouds(0, 8, n=50, m=50)
    cost = distances(x, y)
    relaxed, plain = (
        sinkhorn(cost, epsilon=0.005, max_iterations=50_000, config=SinkhornConfig(over_relaxation=o))
        for o in (True, False)
    )
    np.testing.assert_allclose(relaxed.value, plain.value, rtol=1e-6)
    assert (np.asarray(relaxed.num_iterations) < np.asarray(plain.num_iterations) / 2).all()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_warm_start_is_short():
    x, y = clouds(0)
    cost = distances(x, y)
    cold = sinkhorn(cost, epsilon=0.02)
    for init in (cold, (cold.f, cold.g)):
        warm = sinkhorn(cost * 1.001, epsilon=0.02, init=init)
        assert warm.messages == ()
        assert int(warm.num_iterations) < int(cold.num_iterations)
        assert float(warm.value) == pytest.approx(1.001 * float(cold.value), rel=1e-6)


# --- batches, masks, transformations -----------------------------------------------------------------------------


def test_a_batch_is_its_problems_one_by_one():
    """Finished problems are frozen: neither their numbers nor their counts depend on the company."""
    x, y = clouds(0, 2, 3)
    cost = distances(x, y).astype(np.float32)
    cost[0, 1] *= 1e3
    cost[1, 2] += 100
    batch = sinkhorn(cost, relative_gap=0.02)
    assert batch.value.shape == (2, 3)
    assert batch.f.shape == (2, 3, 20)
    for index in np.ndindex(2, 3):
        single = sinkhorn(cost[index], relative_gap=0.02)
        for name in ("value", "lower", "upper", "epsilon"):
            np.testing.assert_allclose(getattr(batch, name)[index], getattr(single, name), rtol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile", [None, 8])
def test_masks_and_weights_of_zero_are_subsets(tile):
    x, y = clouds(0)
    keep_x, keep_y = np.arange(20) % 3 > 0, np.arange(15) % 4 > 0
    dirty_x, dirty_y = np.where(keep_x[:, None], x, 1e9), np.where(keep_y[:, None], y, -1e9)
    subset = sinkhorn(PointCloud(x[keep_x], y[keep_y], tile=tile), epsilon=0.05, tolerance=1e-9)
    masked = sinkhorn(
        PointCloud(dirty_x, dirty_y, tile=tile), epsilon=0.05, tolerance=1e-9, where_a=keep_x, where_b=keep_y
    )
    zeros = sinkhorn(
        PointCloud(dirty_x, dirty_y, tile=tile), keep_x * 2.0, keep_y * 26 / 11, epsilon=0.05, tolerance=1e-9
    )
    for name in ("value", "lower", "upper"):
        np.testing.assert_allclose(getattr(masked, name), getattr(subset, name), rtol=1e-6)
        np.testing.assert_allclose(getattr(zeros, name), 26 * getattr(subset, name), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(masked.f)[keep_x], subset.f, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(masked.f)[~keep_x], 0)


def test_masked_pairs_may_hold_anything():
    cost = distances(*clouds(0)).astype(np.float32)
    keep = np.arange(20) < 10
    dirty = np.where(keep[:, None], cost, np.nan)
    clean = sinkhorn(cost[:10], epsilon=0.1)
    masked = sinkhorn(dirty, epsilon=0.1, where_a=keep)
    assert masked.messages == ()
    np.testing.assert_allclose(masked.value, clean.value, rtol=1e-5)


def test_vmap_and_jit_are_the_batch():
    x, y = clouds(0, 4)
    cost, a = distances(x, y).astype(np.float32), weights(1, 4, 20).astype(np.float32)
    for settings_ in ({"epsilon": 0.05}, {"relative_gap": 0.02}):
        call = functools.partial(sinkhorn, **settings_)
        batch, mapped = call(cost, a), jax.jit(jax.vmap(call))(cost, a)
        for name in ("value", "lower", "upper", "epsilon", "num_iterations"):
            np.testing.assert_allclose(getattr(mapped, name), getattr(batch, name), rtol=2e-4, err_msg=name)


@pytest.mark.slow
def test_shard_map_and_pmap_solve_their_own_problems():
    x, y = clouds(0, 8)
    cost = jnp.asarray(distances(x, y), jnp.float32)
    expected = sinkhorn(cost, relative_gap=0.02)
    mesh = jax.make_mesh((4,), ("pairs",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        lambda c: sinkhorn(c, relative_gap=0.02),
        mesh=mesh,
        in_specs=PartitionSpec("pairs"),
        out_specs=PartitionSpec("pairs"),
    )
    for result in (
        jax.jit(sharded)(cost),
        jax.pmap(lambda c: sinkhorn(c, relative_gap=0.02))(cost.reshape(4, 2, 20, 15)),
    ):
        for name in ("value", "lower", "upper"):
            np.testing.assert_allclose(
                np.ravel(getattr(result, name)), np.ravel(getattr(expected, name)), rtol=2e-4, err_msg=name
            )


def test_new_numbers_do_not_trace_again():
    traces = 0

    def counting(x, y):
        nonlocal traces
        traces += 1
        return jnp.linalg.norm(x[..., :, None, :] - y[..., None, :, :], axis=-1)

    for tile in (None, 8):
        for seed, (epsilon, tolerance, max_iterations) in enumerate(
            [(0.1, 1e-3, 50), (0.2, 1e-2, 60), (np.float32(1), 0.1, 7)]
        ):
            x, y = (points.astype(np.float32) for points in clouds(seed))
            cloud = PointCloud(x, y, cost=counting, tile=tile)
            sinkhorn(cloud, epsilon=epsilon, tolerance=tolerance, max_iterations=max_iterations)
            if seed == 0:
                before = traces
        assert traces == before > 0


@pytest.mark.slow
def test_tiles_bound_the_memory_of_values_and_gradients():
    """Compiled for 20,000 points: 1.6 GB in one array, not formed, neither forwards nor backwards."""
    x = jax.ShapeDtypeStruct((20_000, 16), jnp.float32)

    def value(x, y):
        return sinkhorn(PointCloud(x, y, tile=512), epsilon=0.05).value

    memory = jax.jit(jax.value_and_grad(value)).lower(x, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 150e6


# --- derivatives -------------------------------------------------------------------------------------------------


def slope(function, at: np.ndarray, direction: np.ndarray, step: float = 1e-5) -> float:
    return float((function(at + step * direction) - function(at - step * direction)) / (2 * step))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("config", [ABSOLUTE, LOG])
def test_gradients_with_respect_to_cost_and_weights(config):
    x, y = clouds(0)
    cost, a, b = distances(x, y), 2 * weights(1, 20, zeros=0.3), 2 * weights(2, 15)
    rng = np.random.default_rng(0)

    def value(cost, a, b):
        return sinkhorn(cost, a, b, epsilon=0.1, tolerance=1e-12, max_iterations=50_000, config=config).value

    gradients = jax.jit(jax.grad(value, (0, 1, 2)))(cost, a, b)
    direction = rng.normal(size=cost.shape)
    assert float((gradients[0] * direction).sum()) == pytest.approx(
        slope(lambda c: value(c, a, b), cost, direction), rel=1e-6
    )
    for index, w in ((1, a), (2, b)):
        direction = rng.normal(size=w.shape) * (w > 0)
        direction = np.where(w > 0, direction - direction.sum() / (w > 0).sum(), 0)
        move = (lambda v: value(cost, v, b)) if index == 1 else (lambda v: value(cost, a, v))
        assert float(gradients[index] @ direction) == pytest.approx(slope(move, w, direction, 1e-7), rel=1e-5)
        assert float(gradients[index].sum()) == pytest.approx(0, abs=1e-12)
    np.testing.assert_array_equal(np.asarray(gradients[0])[a == 0], 0)
    np.testing.assert_array_equal(np.asarray(gradients[1])[a == 0], 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile", [None, 6])
@pytest.mark.slow
def test_gradients_with_respect_to_points(tile):
    x, y = clouds(0, 2, n=10, m=8)
    a = weights(1, 2, 10, zeros=0.3)

    def value(x, y):
        cloud = PointCloud(x, y, tile=tile)
        return sinkhorn(cloud, a, epsilon=0.1, tolerance=1e-12, max_iterations=50_000, config=ABSOLUTE).value

    rng = np.random.default_rng(0)
    direction = rng.normal(size=x.shape)
    gradient = jax.grad(lambda x: value(x, y).sum())(x)
    expected = slope(lambda x: value(x, y).sum(), x, direction)
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(np.asarray(gradient)[a == 0], 0)
    _, forward = jax.jvp(lambda x: value(x, y).sum(), (x,), (direction,))
    assert float(forward) == pytest.approx(expected, rel=1e-6)


def test_gradients_under_vmap_are_zero_at_masked_points():
    x, y = clouds(0, 2, n=10, m=8)
    x, y, a = (v.astype(np.float32) for v in (x, y, weights(1, 2, 10, zeros=0.3)))

    def value(x, y, a):
        return sinkhorn(PointCloud(x, y), a, epsilon=0.1).value

    one_by_one = jax.vmap(jax.grad(value))(x, y, a)
    np.testing.assert_allclose(one_by_one, jax.grad(lambda x: value(x, y, a).sum())(x), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(one_by_one)[a == 0], 0)


def test_only_the_value_has_a_derivative():
    cost = distances(*clouds(0)).astype(np.float32)
    for name in ("lower", "upper", "f", "marginal_error"):
        gradient = jax.grad(lambda c, name=name: getattr(sinkhorn(c, epsilon=0.1), name).sum())(cost)
        np.testing.assert_array_equal(gradient, 0)


# --- degenerate input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings_", [{"epsilon": 0.05}, {"relative_gap": 0.01}])
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_degenerate_problems_have_defined_results(settings_, dtype):
    with jax.enable_x64(dtype == np.float64):
        same = np.ones((4, 4), dtype)
        result = sinkhorn(np.zeros((4, 4), dtype), **settings_)
        assert [float(v) for v in (result.value, result.lower, result.upper)] == [0, 0, 0]
        result = sinkhorn(same, **settings_)
        np.testing.assert_allclose([result.lower, result.value, result.upper], 1, rtol=1e-4)
        result = sinkhorn(np.full((1, 1), 3, dtype), **settings_)
        np.testing.assert_allclose([result.lower, result.value, result.upper], 3, rtol=1e-4)
        result = sinkhorn(-2 * same, **settings_)
        np.testing.assert_allclose([result.lower, result.value, result.upper], -2, rtol=1e-4)
        for scale in (1e-30, 1e30):
            cost = (distances(*clouds(0)) * scale).astype(dtype)
            result = sinkhorn(cost, **settings_)
            reference = sinkhorn((cost / scale).astype(dtype), **settings_)
            assert result.messages == ()
            np.testing.assert_allclose(result.value / scale, reference.value, rtol=1e-3)
        for mask in (
            {"where_a": np.zeros(4, bool)},
            {"where_b": np.zeros(4, bool)},
            {"a": np.zeros(4), "b": np.zeros(4)},
        ):
            result = sinkhorn(same, **mask, **settings_)
            assert [float(v) for v in (result.value, result.lower, result.upper, result.status)] == [0, 0, 0, 0]


def test_identical_clouds_cost_next_to_nothing():
    """The optimum is 0, so that no relative gap can be certified: the status says so, the interval holds."""
    x = clouds(0)[0]
    result = sinkhorn(distances(x, x).astype(np.float32), relative_gap=0.01, max_iterations=500)
    assert float(result.lower) <= 0 <= float(result.upper) < 0.05
    assert int(result.status) & TransportStatus.GAP_NOT_CERTIFIED


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forbidden_pairs_that_leave_a_plan(dtype):
    cost = distances(*clouds(0, n=12, m=12)).astype(dtype)
    blocks = np.arange(12)[:, None] // 4 == np.arange(12) // 4
    with jax.enable_x64(dtype == np.float64):
        result = sinkhorn(np.where(blocks, cost, np.inf), epsilon=0.02, tolerance=1e-9 if dtype == np.float64 else None)
    parts = [exact(cost[s, s], np.ones(4), np.ones(4)) for s in (slice(0, 4), slice(4, 8), slice(8, 12))]
    assert float(result.lower) <= np.mean(parts) <= float(result.upper)
    assert float(result.upper - result.lower) < (0.1 if dtype == np.float64 else 0.5)
    assert np.isfinite(result.value)


@pytest.mark.parametrize("settings_", [{"epsilon": 0.05}, {"relative_gap": 0.01}])
def test_forbidden_pairs_that_leave_no_plan(settings_):
    cost = distances(*clouds(0, n=6, m=6)).astype(np.float32)
    row = cost.copy()
    row[2] = np.inf
    crowded = cost.copy()
    crowded[:4, 1:] = np.inf  # four points of mass 1/6 each can only go to one of mass 1/6
    batch = sinkhorn(np.stack([row, crowded, cost]), **settings_)
    np.testing.assert_array_equal(np.isinf(batch.value), [True, True, False])
    np.testing.assert_array_equal(np.isinf(batch.lower), [True, True, False])
    assert [int(s) & TransportStatus.INFEASIBLE for s in batch.status] == [8, 8, 0]
    with pytest.raises(ResultError, match="SinkhornResult 0: no plan avoids"):
        batch.raise_if_failed()


def test_statuses_say_what_happened():
    cost = distances(*clouds(0)).astype(np.float32)
    assert sinkhorn(cost, epsilon=0.01, max_iterations=1).messages[0].startswith("the marginal error is above")
    floor = sinkhorn(cost, epsilon=0.05, tolerance=1e-9)
    assert int(floor.status) == TransportStatus.PRECISION_FLOOR
    assert float(floor.marginal_error) < 1e-4
    gap = sinkhorn(cost, relative_gap=1e-7)
    assert int(gap.status) & TransportStatus.GAP_NOT_CERTIFIED
    limited = sinkhorn(cost, relative_gap=0.001, epsilon=0.1)
    assert int(limited.status) & TransportStatus.GAP_NOT_CERTIFIED
    assert float(limited.epsilon) >= 0.099 * cost.mean()
    assert sinkhorn(cost, epsilon=0.1).raise_if_failed().messages == ()


def test_half_precision_is_upcast():
    cost = jnp.asarray(distances(*clouds(0)), jnp.bfloat16)
    result = sinkhorn(cost, epsilon=0.05)
    assert result.value.dtype == jnp.float32
    np.testing.assert_allclose(result.value, sinkhorn(cost.astype(jnp.float32), epsilon=0.05).value)


SQUARE = np.ones((3, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((SQUARE,), {}), "pass epsilon"),
        (((SQUARE,), {"epsilon": 0.0}), "epsilon must be positive"),
        (((SQUARE,), {"epsilon": -1.0}), "epsilon must be positive"),
        (((SQUARE,), {"relative_gap": np.nan}), "relative_gap must be positive"),
        (((SQUARE[0],), {"epsilon": 0.1}), "cost must be"),
        (((SQUARE, np.ones(2)), {"epsilon": 0.1}), r"a has shape \(2,\), expected \(3,\)"),
        (((SQUARE, np.ones(3), np.ones(3) / 3), {"epsilon": 0.1}), "a sums to 3 and b to 1.*normalise"),
        (((SQUARE, -np.ones(3)), {"epsilon": 0.1}), r"a\[0\] is -1.0: weights must be"),
        (((SQUARE, np.array([1, np.nan, 0])), {"epsilon": 0.1}), r"a\[1\] is nan"),
        (((np.where(np.eye(3) > 0, np.nan, SQUARE),), {"epsilon": 0.1}), r"cost\[0, 0\] is nan"),
        (((-np.where(np.eye(3) > 0, np.inf, SQUARE),), {"epsilon": 0.1}), r"cost\[0, 0\] is -inf"),
        (((np.ones((0, 3)),), {"epsilon": 0.1}), "at least one point"),
        (((SQUARE * 1j,), {"epsilon": 0.1}), "complex"),
        (((SQUARE,), {"epsilon": 0.1, "init": (np.ones(3), np.ones(4))}), "init must hold"),
        (((PointCloud(SQUARE, np.ones((3, 2))),), {"epsilon": 0.1}), "x and y must be"),
        (((PointCloud(SQUARE * np.inf, SQUARE),), {"epsilon": 0.1}), r"x\[0, 0\] is inf"),
        (((PointCloud(SQUARE, SQUARE, cost="cosine"),), {"epsilon": 0.1}), "unknown cost 'cosine'"),
        (((PointCloud(SQUARE, SQUARE, tile=0),), {"epsilon": 0.1}), "tile must be"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    positional, keyword = arguments
    with pytest.raises(ValueError, match=message):
        sinkhorn(*positional, **keyword)


def test_a_bad_config_is_refused():
    for keywords, message in (({"inner": "newton"}, "inner must"), ({"epsilon_unit": "m"}, "epsilon_unit must")):
        with pytest.raises(ValueError, match=message):
            SinkhornConfig(**keywords)
    with pytest.raises(ValueError, match="iterations_per_check"):
        SinkhornConfig(iterations_per_check=0)


@pytest.mark.parametrize("tile", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_bad_values_inside_jit_give_nan_and_a_status(tile):
    """Traced values cannot be checked beforehand; the other problems of the batch are not affected."""
    x, y = (np.stack([points] * 4).astype(np.float32) for points in clouds(0, n=6, m=6))
    a = np.full((4, 6), 1 / 6, np.float32)
    x[1, 2] = np.nan
    a[2, 0] = -1
    a[3] *= 2
    result = jax.jit(lambda x, y, a: sinkhorn(PointCloud(x, y, tile=tile), a, epsilon=0.1))(x, y, a)
    assert [int(s) for s in result.status] == [0, 64, 64, 32]
    np.testing.assert_array_equal(np.isnan(result.value), [False, True, True, True])
    np.testing.assert_array_equal(np.isnan(result.upper), [False, True, True, True])
    uniform = np.full(6, 1 / 6)
    value, _ = entropic(distances(x[0], y[0]).astype(float), uniform, uniform, float(result.epsilon[0]))
    np.testing.assert_allclose(result.value[0], value, rtol=1e-4)


# --- what rounding may do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4])
def test_a_light_point_and_negative_costs_leave_the_interval_right_in_any_batch(size):
    cost = np.tile(np.array([[-1219.4913, -1226.7991], [-1227.3765, -1218.8889]], np.float32), (size, 1, 1))
    a, b = np.array([1, 1e-8], np.float32), np.array([0.7868082, 0.21319179], np.float32)
    result = sinkhorn(cost, np.tile(a, (size, 1)), np.tile(b, (size, 1)), epsilon=0.05)
    assert (np.asarray(result.lower) < -1221.0493).all()
    assert (np.asarray(result.upper) > -1221.0493).all()
    np.testing.assert_allclose(result.upper, -1221.04, atol=0.01)


@pytest.mark.parametrize("shift", [0.0, 1e-5])
def test_the_interval_of_close_clouds_contains_the_optimum_of_the_points(shift):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 64)).astype(np.float32)
    y = (x + shift * rng.normal(size=x.shape)).astype(np.float32)
    optimum = exact(distances(x.astype(float), y.astype(float)), np.ones(60), np.ones(60))
    result = sinkhorn(PointCloud(x, y), relative_gap=0.5)
    assert float(result.lower) <= optimum <= float(result.upper)
    assert int(result.status) & TransportStatus.GAP_NOT_CERTIFIED


def test_a_light_point_without_an_allowed_pair_makes_a_problem_infeasible():
    cost = np.array([[1.0, np.inf], [1.0, np.inf]], np.float32)
    result = sinkhorn(cost, np.array([0.5, 0.5], np.float32), np.array([1, 1e-12], np.float32), epsilon=0.1)
    assert int(result.status) == TransportStatus.INFEASIBLE


def test_the_plan_of_a_result_is_feasible_and_costs_its_upper_end():
    rng = np.random.default_rng(0)
    cost, a, b = (rng.normal(size=(3, 5, 4)) - 5).astype(np.float32), weights(0, 3, 5), weights(1, 3, 4)
    result = sinkhorn(cost, 2 * a, 2 * b, epsilon=0.05)
    plan = np.asarray(result.plan(cost, 2 * a, 2 * b))
    np.testing.assert_allclose(plan.sum(-1), 2 * a, atol=3e-6)
    np.testing.assert_allclose(plan.sum(-2), 2 * b, atol=3e-6)
    np.testing.assert_allclose((plan * cost).sum((-1, -2)), result.upper, rtol=1e-4)
