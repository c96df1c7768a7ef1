"""Certified intervals of `sinkhorn` against exact optima: hostile costs, weights, masks and clouds in both dtypes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
from scipy.spatial.distance import cdist

from fuzzers.tally import Tally
from jaxrel.transport import PointCloud, TransportStatus, blockwise_interval, sinkhorn

__all__ = ["batches"]

_SHAPES = ((2, 2), (2, 5), (3, 3), (4, 4), (1, 3), (9, 7), (6, 2), (8, 8), (5, 1))
_BATCHES = (4, 1, 2, 7, 3, 9, 5, 8, 6)
_STEPS = 512  # batches in one call
_INVALID = int(TransportStatus.NOT_FINITE | TransportStatus.UNEQUAL_MASS)

Arrays = tuple[np.ndarray, ...]


def batches(rng: np.random.Generator) -> Iterator[Tally]:
    """Round after round of other shapes and batch sizes; each shape has its batch size and mode, to compile once."""
    while True:
        for number, (shape, batch) in enumerate(zip(_SHAPES, _BATCHES, strict=True)):
            for dtype in (np.float32, np.float64) if number % 3 == 0 else (np.float32,):
                yield _arrays(rng, shape, batch, dtype)
                yield _forbidden(rng, shape, batch, dtype)
        for kind in ("euclidean", "squared_euclidean"):
            yield _clouds(rng, (8, 8), 4, np.float32, kind)
            yield _clouds(rng, (9, 7), 1, np.float32, kind, tile=4)
            yield _lone_clouds(rng, (9, 7), np.float32, kind)
        yield _clouds(rng, (4, 4), 3, np.float64, "euclidean")
        yield _clouds(rng, (60, 50), 1, np.float32, "euclidean")
        yield _blockwise(rng, np.float32)


def _arrays(rng: np.random.Generator, shape: tuple[int, int], batch: int, dtype: Any) -> Tally:
    cost, a, b = zip(*(_problem(rng, shape) for _ in range(_STEPS * batch)), strict=True)
    problems = tuple(np.asarray(z, dtype) for z in (cost, a, b))
    return _judged("cost arrays", dtype, batch, problems, _solved(rng, problems, batch, dtype), problems[0])


def _forbidden(rng: np.random.Generator, shape: tuple[int, int], batch: int, dtype: Any) -> Tally:
    """Infinite costs off a plan that exists, so that the optimum is finite."""
    cost, a, b = (np.stack(z) for z in zip(*(_problem(rng, shape) for _ in range(_STEPS * batch)), strict=True))
    plan = np.zeros_like(cost)
    for one, p, q in zip(plan, a, b, strict=True):
        i = j = 0
        while i < shape[0] and j < shape[1]:
            moved = min(p[i] - one[i].sum(), q[j] - one[:, j].sum())
            one[i, j] += max(moved, 0)
            i, j = (i + 1, j) if p[i] - one[i].sum() <= q[j] - one[:, j].sum() else (i, j + 1)
    # Of the lightest points float64 leaves nothing on the path: they go anywhere.
    light = (a < 1e-9)[:, :, None] | (b < 1e-9)[:, None, :]
    near = (plan > 0) | (np.roll(plan, 1, 1) > 0) | light
    cost = np.where(near | (rng.random(cost.shape) < 0.5), cost, np.inf)
    problems = tuple(np.asarray(z, dtype) for z in (cost, a, b))
    return _judged("forbidden pairs", dtype, batch, problems, _solved(rng, problems, batch, dtype), problems[0])


def _clouds(
    rng: np.random.Generator, shape: tuple[int, int], batch: int, dtype: Any, kind: str, tile: int | None = None
) -> Tally:
    steps = _STEPS if max(shape) < 10 else 32
    x, y, a, b = _cloud_pairs(rng, shape, steps * batch, dtype)
    result = _solved(rng, (x, y, a, b), batch, dtype, cost=kind, tile=tile)
    return _judged(
        f"{'tiled ' if tile else ''}clouds, {kind}", dtype, batch, (x, y, a, b), result, _distances(x, y, kind)
    )


def _lone_clouds(rng: np.random.Generator, shape: tuple[int, int], dtype: Any, kind: str) -> Tally:
    """One call for each problem, without a batch: another program, which rounds in its own way."""
    x, y, a, b = problems = _cloud_pairs(rng, shape, 256, dtype)
    with jax.enable_x64(dtype == np.float64):
        results = [
            sinkhorn(PointCloud(p, q, kind), *ab, relative_gap=0.1) for p, q, *ab in zip(x, y, a, b, strict=True)
        ]
    found = tuple(np.array([getattr(result, name) for result in results]) for name in ("lower", "upper", "status"))
    return _judged(f"lone clouds, {kind}", dtype, 0, problems, found, _distances(x, y, kind))


def _blockwise(rng: np.random.Generator, dtype: Any) -> Tally:
    x, y, a, b = _cloud_pairs(rng, (30, 20), 64, dtype)
    equal = np.full_like(a, 1 / 30), np.full_like(b, 1 / 20)
    with jax.enable_x64(dtype == np.float64):
        result = blockwise_interval(
            PointCloud(jnp.asarray(x), jnp.asarray(y)), *equal, block_size=8, relative_gap=0.1, max_iterations=200
        )
    problems = (x, y, *equal)
    found = (np.asarray(result.lower), np.asarray(result.upper), np.asarray(result.status))
    return _judged("blockwise", dtype, 1, problems, found, _distances(x, y, "euclidean"))


def _problem(rng: np.random.Generator, shape: tuple[int, int]) -> Arrays:
    """A cost array and weights, each of a random character."""
    n, m = shape
    makers: dict[str, Callable[[], Any]] = {
        "normal": lambda: rng.normal(size=shape),
        "lognormal": lambda: rng.lognormal(sigma=3, size=shape),
        "whole": lambda: rng.integers(-2, 3, shape).astype(float),
        "separable": lambda: rng.normal(size=(n, 1)) + rng.normal(size=m),
        "constant": lambda: np.full(shape, rng.normal()),
        "distances": lambda: np.abs(rng.normal(size=(n, 1)) - rng.normal(size=m)),
    }
    cost = makers[rng.choice(list(makers))]()
    offset = rng.choice([0.0, 0.0, 1.0, -1.0, 300.0, -300.0, 1e5, -1e5])
    scale = 10.0 ** (rng.uniform(-30, 30) if rng.random() < 0.5 else rng.uniform(-2, 4))
    a, b = _weights(rng, n), _weights(rng, m)
    mass = 10.0 ** rng.uniform(-3, 3) if rng.random() < 0.3 else 1.0
    return (cost + offset) * scale, a * mass, b * mass


def _weights(rng: np.random.Generator, size: int) -> np.ndarray:
    weights = rng.dirichlet(np.full(size, rng.choice([0.3, 1.0, 30.0]))) if rng.random() < 0.7 else np.ones(size)
    light = rng.random(size) < rng.choice([0.0, 0.4])
    weights = np.where(light, weights * 10.0 ** rng.uniform(-30, -6), weights)
    weights = np.where(rng.random(size) < rng.choice([0.0, 0.3]), 0, weights)
    heaviest = rng.integers(size)
    weights[heaviest] = max(weights[heaviest], 0.1)
    return weights / weights.sum()


def _cloud_pairs(rng: np.random.Generator, shape: tuple[int, int], count: int, dtype: Any) -> Arrays:
    """Clouds that are equal, nearly so, or not, in any place and of any size."""
    n, m = shape
    d = 3
    points = rng.normal(size=(count, max(shape), d)) * 10.0 ** rng.uniform(-3, 0, size=(count, 1, 1))
    points += rng.normal(size=(count, 1, d)) * rng.choice([0.0, 1.0, 1e2, 1e4, 1e6], size=(count, 1, 1))
    shift = rng.choice([0.0, 1e-7, 1e-5, 1e-3, 1.0], size=(count, 1, 1))
    x, y = points[:, :n], (points + shift * rng.normal(size=points.shape))[:, :m]
    limit = 17 if dtype == np.float32 else 30  # squares stay finite
    scale = np.where(rng.random((count, 1, 1)) < 0.5, 1, 10.0 ** rng.uniform(-limit, limit, size=(count, 1, 1)))
    even = rng.random(count) < 0.5
    a, b = (np.stack([_weights(rng, size) for _ in range(count)]) for size in shape)
    if n == m:  # the optimum of equal clouds is 0
        a[even], b[even] = 1 / n, 1 / m
    return tuple(np.asarray(z, dtype) for z in (x * scale, y * scale, a, b))


@functools.partial(jax.jit, static_argnames=("gap", "cost", "tile"))
def _solve(problems: Any, number: Any, iterations: Any, *, gap: bool, cost: str | None, tile: int | None) -> Any:
    def solve(step: Any) -> Any:
        *geometry, a, b, number = step
        given = PointCloud(geometry[0], geometry[1], cost=cost, tile=tile) if cost else geometry[0]
        result = sinkhorn(given, a, b, max_iterations=iterations, **{"relative_gap" if gap else "epsilon": number})
        return result.lower, result.upper, result.status

    return jax.lax.map(solve, (*problems, number))


def _solved(
    rng: np.random.Generator, problems: Arrays, batch: int, dtype: Any, cost: str | None = None, tile: int | None = None
) -> Arrays:
    steps = problems[0].shape[0] // batch
    gap = batch % 2 == 1
    number = 10.0 ** rng.uniform(-2 if gap else -3, 0, (steps, batch))
    iterations = int(rng.choice([1, 20, 200]))
    stepped = tuple(z.reshape(steps, batch, *z.shape[1:]) for z in problems)
    with jax.enable_x64(dtype == np.float64):
        found = _solve(stepped, number.astype(dtype), iterations, gap=gap, cost=cost, tile=tile)
    return tuple(np.asarray(z).reshape(-1) for z in found)


def _distances(x: np.ndarray, y: np.ndarray, kind: str) -> np.ndarray:
    metric = {"euclidean": "euclidean", "squared_euclidean": "sqeuclidean"}[kind]
    return np.stack([cdist(p, q, metric) for p, q in zip(x.astype(float), y.astype(float), strict=True)])


def _judged(sort: str, dtype: Any, batch: int, problems: Arrays, found: Arrays, cost: np.ndarray) -> Tally:
    """Ends that are on the wrong side of the exact optimum, by more than what the oracle cannot resolve."""
    lower, upper, status = found
    a, b = (z.astype(np.longdouble) for z in problems[-2:])
    low, high = _exact_optima(cost.astype(np.longdouble), a, b)
    # An end that is not a number, or infinite on the wrong side, is false unless the status says so.
    refused = (status & _INVALID) > 0
    outside = np.maximum(np.nan_to_num(lower, nan=np.inf) - high, low - np.nan_to_num(upper, nan=-np.inf))
    false = ~refused & ~(outside <= 0)
    finite = np.where(np.isfinite(cost), np.abs(cost), 0).max(axis=(1, 2)) * a.sum(axis=1)
    worst = np.where(false, outside / np.where(finite > 0, finite, 1), 0)
    example = ""
    if false.any():
        k = int(np.argmax(worst))
        shown = [np.array2string(z[k], threshold=200).replace("\n", "") for z in problems] if cost[k].size < 30 else []
        example = f"batch {batch}, [{lower[k]}, {upper[k]}] status {status[k]}, exact {high[k]}: {' '.join(shown)}"
    name = f"{sort}, {np.dtype(dtype).name}"
    return Tally(name, len(lower), int(false.sum()), int(refused.sum()), float(np.max(worst)), example)


def _exact_optima(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Below and above the optimum by what the oracle may be off."""
    mass = a.sum(axis=1)
    a, b = a / a.sum(axis=1, keepdims=True), b / b.sum(axis=1, keepdims=True)
    live = (a > 0)[:, :, None] & (b > 0)[:, None, :]
    size = np.where(live & np.isfinite(cost), np.abs(cost), 0).max(axis=(1, 2))
    unit = np.where(size > 0, size, 1)
    forbidden = live & ~np.isfinite(cost)
    cost = np.where(live, np.where(np.isfinite(cost), cost / unit[:, None, None], 4 + 2 * min(cost.shape[1:])), 0)
    if min(cost.shape[1:]) == 1:
        optimum = np.einsum("ki,kij,kj->k", a, cost, b)
        low, high = optimum, optimum
    elif 2 in cost.shape[1:]:
        low = high = _of_two_rows(*((cost, a, b) if cost.shape[1] == 2 else (cost.swapaxes(1, 2), b, a)))
    else:
        low, high = np.array([_by_simplex(*problem) for problem in zip(cost, a, b, strict=True)]).T
    # Long doubles have 64 bits; mass of forbidden pairs may be a rounding of the weights.
    slack = 1e-17 if min(cost.shape[1:]) < 3 and not forbidden.any() else 1e-14
    return (low - slack) * unit * mass, (high + slack) * unit * mass


def _of_two_rows(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The first row takes the columns at which it is cheapest against the second, until it is full."""
    order = np.argsort(cost[:, 0] - cost[:, 1], axis=1)
    cost, b = np.take_along_axis(cost, order[:, None], 2), np.take_along_axis(b, order, 1)
    before = np.cumsum(b, axis=1) - b
    taken = np.clip(a[:, :1] - before, 0, b)
    return np.sum(taken * cost[:, 0] + (b - taken) * cost[:, 1], axis=1)


def _by_simplex(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Dual and primal value of POT's network simplex: the optimum is between them."""
    rows, columns = a > 0, b > 0
    cost, a, b = (z.astype(np.float64) for z in (cost[np.ix_(rows, columns)], a[rows], b[columns]))
    plan, log = ot.emd(a, b, cost, log=True)
    u = log["u"] - np.mean(log["u"])
    v = np.min(cost - u[:, None], axis=0)
    u = np.min(cost - v, axis=1)
    return float(a @ u + b @ v), float(np.sum(plan * cost))
