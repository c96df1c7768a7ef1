"""Block-wise bounds against the exact optimum of POT."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from jaxrel.transport import PointCloud, TransportStatus, sinkhorn
from jaxrel.transport.blockwise import _cut, _cut_equally, blockwise_interval

pytestmark = pytest.mark.slow


def clouds(seed: int, n: int, m: int, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)) + 1
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    return tuple(np.asarray(v, dtype) for v in (x, y, a, b))


def exact(x, y, a=None, b=None) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = (
        np.full(len(points), 1 / len(points)) if weights is None else weights / weights.sum(dtype=np.float64)
        for points, weights in ((x, a), (y, b))
    )
    return ot.emd2(a.astype(np.float64), b.astype(np.float64), np.linalg.norm(x[:, None] - y, axis=-1))


@pytest.mark.parametrize(
    ("dtype", "block_size", "weighted"),
    [
        (np.float32, 40, (False, False)),
        (np.float32, 70, (True, True)),
        (np.float32, 400, (True, True)),
        (np.float64, 40, (True, False)),
    ],
)
def test_the_interval_contains_the_optimum(dtype, block_size, weighted):
    for seed in range(6):
        x, y, a, b = clouds(seed, 240, 311, dtype)
        a, b = (weights if use else None for weights, use in zip((a, b), weighted, strict=True))
        expected = exact(x, y, a, b)
        with jax.enable_x64(dtype == np.float64):
            result = blockwise_interval(PointCloud(x, y), a, b, block_size=block_size, relative_gap=0.02)
        assert result.messages == ()
        assert result.lower.dtype == dtype
        assert float(result.lower) <= expected <= float(result.upper)
        assert float(result.lower) > 0.94 * expected
        assert float(result.upper) < (1.021 if block_size == 400 else 1.4) * expected


def test_one_block_is_the_whole_problem():
    x, y, a, b = clouds(0, 200, 150)
    result = blockwise_interval(PointCloud(x, y), a, b, block_size=200)
    whole = sinkhorn(PointCloud(x, y), a, b, relative_gap=0.05)
    np.testing.assert_allclose([result.lower, result.upper], [whole.lower, whole.upper], rtol=1e-5)


def test_upper_is_the_mean_over_blocks():
    x, y, _, _ = clouds(0, 240, 120)
    blocks = [exact(x[60 * k : 60 * k + 60], y[30 * k : 30 * k + 30]) for k in range(4)]
    for relative_gap in (0.05, 0.2):
        result = blockwise_interval(PointCloud(x, y), block_size=60, relative_gap=relative_gap, lower=False)
        assert np.mean(blocks) <= float(result.upper) <= (1 + 1.1 * relative_gap) * np.mean(blocks)
        assert float(result.lower) == -np.inf


def test_points_sorted_along_a_line_need_no_other_blocks():
    rng = np.random.default_rng(0)
    x, y = (np.sort(rng.normal(size=(300, 1)).astype(np.float32) + shift, axis=0) for shift in (0, 0.5))
    result = blockwise_interval(PointCloud(x, y), block_size=30, relative_gap=0.02, lower=False)
    expected = exact(x, y)
    assert expected <= float(result.upper) + 1e-5 <= 1.03 * expected
    key = jax.random.key(0)
    shuffled = blockwise_interval(PointCloud(x, y), block_size=30, relative_gap=0.02, lower=False, key=key)
    assert float(shuffled.upper) > 1.03 * expected


def test_points_without_weight_do_not_count():
    x, y, a, b = clouds(1, 200, 160)
    holes = np.arange(200) * 2
    x_more, a_more = np.full((400, 2), np.nan, np.float32), np.zeros(400, np.float32)
    x_more[holes], a_more[holes] = x, 3 * a
    result = blockwise_interval(PointCloud(x_more, y), a_more, 3 * b, block_size=140)
    expected = 3 * exact(x, y, a, b)
    assert 0.9 * expected < float(result.lower) <= expected <= float(result.upper) < 1.4 * expected


def test_a_full_block_makes_upper_infinite_and_says_so():
    x, y, _, b = clouds(2, 300, 300)
    a = np.where(np.arange(300) < 10, 1.0, 1e-6).astype(np.float32)
    a /= a.sum()
    result = blockwise_interval(PointCloud(x, y), a, b, block_size=50)
    assert float(result.upper) == np.inf
    assert int(result.status) & TransportStatus.BLOCK_OVERFLOW
    assert "block_size" in result.messages[0]
    assert 0 < float(result.lower) <= exact(x, y, a, b)


@pytest.mark.parametrize("num_blocks", [1, 7, 50])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_hold_all_of_the_mass_and_share_it_equally(num_blocks, dtype):
    rng = np.random.default_rng(num_blocks)
    heavy = np.full(113, 1e-9)
    heavy[60] = 1.0  # spans most of the blocks
    with jax.enable_x64(dtype == np.float64):
        for weights in (rng.dirichlet(np.ones(113)), heavy, np.full(113, 1 / 113), rng.dirichlet(np.full(113, 0.1))):
            weights = weights.astype(dtype) * (rng.random(113) < 0.9).astype(dtype)
            weights = weights / weights.sum()
            blocks = _cut(jnp.asarray(weights), num_blocks, jax.random.key(0))
            if not bool(blocks.fits):
                continue
            found = np.zeros(113)
            np.add.at(found, np.asarray(blocks.index), np.asarray(blocks.weights, np.float64))
            np.testing.assert_allclose(found, weights, rtol=8 * num_blocks**0.5 * np.finfo(dtype).eps)
            masses = np.asarray(blocks.weights, np.float64).sum(1)
            np.testing.assert_allclose(masses, 1 / num_blocks, atol=20 * np.finfo(dtype).eps)
        blocks = _cut_equally(jnp.full(113, 1 / 113, dtype), num_blocks, jax.random.key(1))
        found = np.zeros(113)
        np.add.at(found, np.asarray(blocks.index), np.asarray(blocks.weights, np.float64))
        np.testing.assert_allclose(found, 1 / 113, rtol=4 * np.finfo(dtype).eps)
        masses = np.asarray(blocks.weights, np.float64).sum(1)
        np.testing.assert_allclose(masses, 1 / num_blocks, rtol=4 * np.finfo(dtype).eps)
        assert blocks.index.shape[1] <= -(-113 // num_blocks) + 1


def test_batches_and_jit_agree_with_single_problems_and_trace_once():
    x, y, a, b = (np.stack(v) for v in zip(clouds(0, 90, 80), clouds(1, 90, 80), strict=True))
    traces = []

    def distance(x, y):
        traces.append(1)
        return jnp.linalg.norm(x[..., :, None, :] - y[..., None, :, :], axis=-1)

    function = jax.jit(
        lambda x, y, a, b, gap: blockwise_interval(PointCloud(x, y, distance), a, b, block_size=40, relative_gap=gap)
    )
    result = function(x, y, a, b, 0.05)
    count = len(traces)
    function(x + 1, y, a, b, 0.1)
    assert len(traces) == count
    for k in range(2):
        one = blockwise_interval(PointCloud(x[k], y[k], distance), a[k], b[k], block_size=40)
        np.testing.assert_allclose([one.lower, one.upper], [result.lower[k], result.upper[k]], rtol=1e-4)


def test_statuses_of_traced_inputs():
    x, y, a, b = clouds(3, 60, 60)
    function = jax.jit(lambda x, y, a, b: blockwise_interval(PointCloud(x, y), a, b, block_size=30))
    nan = np.where(np.arange(60)[:, None] == 7, np.nan, x).astype(np.float32)
    for inputs, status in (
        ((nan, y, a, b), TransportStatus.NOT_FINITE),
        ((x, nan, a, b), TransportStatus.NOT_FINITE),
        ((x, y, -a, b), TransportStatus.NOT_FINITE),
        ((x, y, 2 * a, b), TransportStatus.UNEQUAL_MASS),
    ):
        result = function(*inputs)
        assert int(result.status) == status
        assert np.isnan([result.lower, result.upper]).all()
    result = function(x, y, 0 * a, b)
    assert [float(result.lower), float(result.upper), int(result.status)] == [0, 0, 0]


def test_an_infinite_cost_makes_upper_infinite():
    x, y, _, _ = clouds(4, 60, 60)
    result = blockwise_interval(PointCloud(x, y, _blocked), block_size=30)
    assert float(result.upper) == np.inf
    assert int(result.status) == TransportStatus.FORBIDDEN_MASS
    assert np.isfinite(result.lower)


def _blocked(x, y):
    distance = jnp.linalg.norm(x[..., :, None, :] - y[..., None, :, :], axis=-1)
    return jnp.where(distance > 2.5, jnp.inf, distance)


def test_invalid_arguments():
    x, y, a, b = clouds(0, 20, 20)
    with pytest.raises(ValueError, match="PointCloud"):
        blockwise_interval(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="block_size"):
        blockwise_interval(PointCloud(x, y), block_size=0)
    with pytest.raises(ValueError, match="relative_gap"):
        blockwise_interval(PointCloud(x, y), relative_gap=0.0)
    with pytest.raises(ValueError, match="sums to"):
        blockwise_interval(PointCloud(x, y), a, 2 * b)
