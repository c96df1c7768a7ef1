"""What is taken from ott-jax: its cost functions and low-rank couplings. The only file that imports it, lazily."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel.transport.certificates import round_to_marginals, rounding_allowance, shallow_sum, sum_depth
from jaxrel.transport.point_clouds import CostFunction, PointCloud
from jaxrel.transport.result import TransportStatus
from jaxrel.transport.validation import checked_weights

__all__ = ["LowRankCoupling", "cost_function", "low_rank_transport"]

_BLOCK_ENTRIES = 2**22  # of the cost array that exist at a time
_LANDMARKS = 100


class _OttCost:
    """An ott-jax cost as a function of two clouds, equal to that of any other instance with the same parameters.

    The parameters are the attributes, not the leaves of the cost as a pytree: `Cosine`, for one, has its ridge in no
    leaf, and loses it when it is flattened and put together again.
    """

    def __init__(self, cost: Any) -> None:
        self.cost = cost
        self._key = _identity(cost)

    def __call__(self, x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
        all_pairs = self.cost.all_pairs
        for _ in range(x.ndim - 2):
            all_pairs = jax.vmap(all_pairs)
        return all_pairs(x, y)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OttCost) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"cost_function({type(self.cost).__name__})"


def cost_function(cost: Any) -> CostFunction:
    """An ott-jax cost function as a function that maps (*b, n, d) and (*b, m, d) to costs (*b, n, m).

    Two instances of one class with equal parameters give functions that are equal and have one hash, so that a jit
    that takes the function as a static argument is not traced twice. Parameters that are arrays are compared by
    their values, traced ones by identity.

    Args:
        cost: any object with a method `all_pairs`, such as the instances of `ott.geometry.costs`.

    Raises:
        ValueError: for any other object.
    """
    if isinstance(cost, type) or not callable(getattr(cost, "all_pairs", None)):
        raise ValueError(f"expected an instance of an ott-jax cost function (with all_pairs), got {cost!r}.")
    return _OttCost(cost)


def _identity(value: Any) -> Any:
    """A hashable key that is equal for objects of equal type and attributes."""
    if isinstance(value, jax.core.Tracer):
        return id(value)
    if isinstance(value, jax.Array | np.ndarray):
        array = np.asarray(value)
        return (array.dtype.str, array.shape, array.tobytes())
    if isinstance(value, dict):
        return (dict, frozenset((key, _identity(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return (type(value), tuple(_identity(item) for item in value))
    hash_method: Any = type(value).__hash__
    if hash_method is not None and hash_method is not object.__hash__:
        return (type(value), value)
    if hasattr(value, "__dict__") and not callable(getattr(value, "__get__", None)):
        return (type(value), _identity(vars(value)))
    return id(value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRankCoupling:
    """The coupling `P = q diag(1 / g) r^T` of two clouds; rows of q sum to a, rows of r to b, columns of both to g.

    Attributes:
        q, r: factors, not negative, 0 at masked points.
        g: inner weights, of sum 1; a component of weight 0 is not used.
        value: cost of the coupling. Its derivative with respect to the points is that with the factors fixed.
        upper: bound of the exact optimum: the value and an a-priori bound of its rounding error.
        marginal_error: what the marginals of the factors are off by in all, after they were made to match: rounding.
        num_iters: iterations of mirror descent.
        status: `TransportStatus` bits: NOT_CONVERGED; NOT_FINITE where the solver failed (the coupling is then the
            independent one) or points are not finite (values are then NaN).
    """

    q: Float[Array, "n k"]
    r: Float[Array, "m k"]
    g: Float[Array, " k"]
    value: Float[Array, ""]
    upper: Float[Array, ""]
    marginal_error: Float[Array, ""]
    num_iters: Int[Array, ""]
    status: Int[Array, ""]


def low_rank_transport(
    x: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, "m d"],
    a: Float[ArrayLike, " n"] | None = None,
    b: Float[ArrayLike, " m"] | None = None,
    *,
    rank: int,
    cost: Any = "squared_euclidean",
    epsilon: float = 0.0,
    step_size: float = 10.0,
    tolerance: float = 1e-4,
    max_iterations: int = 1000,
    key: Array | None = None,
) -> LowRankCoupling:
    """A coupling of low rank between clouds too large for a cost array, and the upper bound that it certifies.

    Args:
        x, y: points.
        a, b: non-negative weights, normalised to sum 1 here; None weighs all points equally. A weight of 0 masks its
            point, whatever it holds.
        rank: number k of components. The optimum over couplings of rank k falls towards the exact one as k grows; what
            is found is a local one.
        cost: as in `PointCloud`.
        epsilon: entropic regularisation of the factors, relative to the mean cost.
        step_size: of mirror descent, relative to the gradient; tolerance: change of the factors between iterations
            (Jensen-Shannon) at which it ends; max_iterations. All numbers here are static.
        key: random key of the first factors and of the landmarks.

    Raises:
        ValueError: for shapes that do not fit, an unknown cost, a rank below 1, and concrete weights that are negative.

    Method: low-rank Sinkhorn of ott-jax (Scetbon, Cuturi, Peyre, "Low-Rank Sinkhorn Factorization", ICML 2021) in the
    kernel domain, on costs divided by their mean. Time and memory of an iteration are (n + m)(d + k) k. Squared
    Euclidean costs are exactly of rank d + 2. Any other cost is replaced, for the solver only, by the skeleton
    `C[:, J] C[I, J]^+ C[I, :]` on 100 random landmarks I, J; `value` and `upper` are of the cost itself, formed in
    blocks of rows: n m evaluations, once.

    The factors are then rounded to their marginals, q to (a, g) and r to (b, g), with g the mean of their column sums:
    `P 1 = q diag(1 / g) r^T 1 = q 1 = a`, so that P is feasible. What rounding leaves is measured, and priced at the
    largest cost.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    for name, points in (("x", x), ("y", y)):
        if points.ndim != 2 or 0 in points.shape or not jnp.issubdtype(points.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point (n d), not empty, got {points.dtype} {points.shape}.")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have one dimension, got {x.shape[1]} and {y.shape[1]}.")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}.")
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    x, y = x.astype(dtype), y.astype(dtype)
    return _solve(
        x,
        y,
        checked_weights("a", a, None, x.shape[:1], dtype),
        checked_weights("b", b, None, y.shape[:1], dtype),
        jax.random.key(0) if key is None else key,
        cost="squared_euclidean" if _is_squared_euclidean(cost) else PointCloud(x, y, cost).cost_function,
        rank=rank,
        epsilon=epsilon,
        step_size=step_size,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """ott-jax imports jaxopt, which warns that it is no longer maintained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _is_squared_euclidean(cost: Any) -> bool:
    with _quiet_import():
        from ott.geometry.costs import SqEuclidean

    return cost == "squared_euclidean" if isinstance(cost, str) else type(cost) is SqEuclidean


@functools.partial(jax.jit, static_argnames=("cost", "rank", "epsilon", "step_size", "tolerance", "max_iterations"))
def _solve(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    key: Array,
    *,
    cost: CostFunction | str,
    rank: int,
    epsilon: float,
    step_size: float,
    tolerance: float,
    max_iterations: int,
) -> LowRankCoupling:
    with _quiet_import():
        from ott.geometry.low_rank import LRCGeometry
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.sinkhorn_lr import LRSinkhorn

    masses = shallow_sum(a), shallow_sum(b)
    a, b = (w / jnp.where(mass > 0, mass, 1) for w, mass in zip((a, b), masses, strict=True))
    x, y = (jnp.where(w[:, None] > 0, points, 0) for w, points in ((a, x), (b, y)))
    # Nearer to the origin, the terms of the expanded norms are smaller and so is their rounding.
    centre = jax.lax.stop_gradient(_weighted_mean(y, b))
    key_points, key_factors = jax.random.split(key)
    if isinstance(cost, str):
        left, right = _squared_euclidean_factors(x - centre, y - centre)
    else:
        left, right = _skeleton(cost, x, y, a, b, key_points)
    left, right = jax.lax.stop_gradient((left, right))
    mean = jnp.abs(jnp.sum((a @ left) * (b @ right)))
    geometry = LRCGeometry(left / jnp.where(mean > 0, mean, 1), right)
    solver = LRSinkhorn(
        rank=rank,
        gamma=step_size,
        epsilon=epsilon,
        threshold=tolerance,
        max_iterations=max_iterations,
        lse_mode=False,
    )
    output = solver(LinearProblem(geometry, a, b), rng=key_factors)

    solved = jnp.all(jnp.isfinite(output.q)) & jnp.all(jnp.isfinite(output.r))
    q, r, g, marginal_error = _feasible(
        jnp.where(solved, output.q, a[:, None] / rank), jnp.where(solved, output.r, b[:, None] / rank), a, b
    )
    q, r, g = jax.lax.stop_gradient((q, r, g))
    if isinstance(cost, str):
        value, size, largest = _squared_euclidean_value(x - centre, y - centre, a, b, q, r, g)
    else:
        value, size, largest = _value_in_blocks(cost, x, y, a, b, q, r, g)
    allowance = rounding_allowance(sum_depth(len(a)) + sum_depth(len(b)) + rank + 2 * x.shape[1], x.dtype)
    upper = value + allowance * size + 2 * largest * (marginal_error + allowance)
    valid = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
    failed = TransportStatus.NOT_FINITE * ~(solved & valid)
    status = failed + TransportStatus.NOT_CONVERGED * (solved & ~output.converged)
    return LowRankCoupling(
        q=q,
        r=r,
        g=g,
        value=jnp.where(valid, value, jnp.nan),
        upper=jax.lax.stop_gradient(jnp.where(valid, upper, jnp.nan)),
        marginal_error=marginal_error,
        num_iters=jnp.asarray(output.n_iters, jnp.int32),
        status=jnp.asarray(status, jnp.int32),
    )


def _feasible(
    q: Float[Array, "n k"], r: Float[Array, "m k"], a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[Float[Array, "n k"], Float[Array, "m k"], Float[Array, " k"], Float[Array, ""]]:
    """Factors rounded to (a, g) and (b, g), and what all their marginals are still off by."""
    g = shallow_sum(q.T) + shallow_sum(r.T)
    total = jnp.sum(g)
    g = g / jnp.where(total > 0, total, 1)
    q, r = round_to_marginals(q, a, g), round_to_marginals(r, b, g)
    error = shallow_sum(jnp.abs(jnp.sum(q, axis=1) - a)) + shallow_sum(jnp.abs(jnp.sum(r, axis=1) - b))
    error += jnp.sum(jnp.abs(shallow_sum(q.T) - g)) + jnp.sum(jnp.abs(shallow_sum(r.T) - g))
    return q, r, g, error


def _squared_euclidean_factors(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Float[Array, "n d+2"], Float[Array, "m d+2"]]:
    """`|x|^2 + |y|^2 - 2 <x, y>` as an inner product."""
    ones_x, ones_y = jnp.ones_like(x[:, :1]), jnp.ones_like(y[:, :1])
    left = jnp.concatenate([jnp.sum(x**2, axis=1, keepdims=True), ones_x, -2 * x], axis=1)
    return left, jnp.concatenate([ones_y, jnp.sum(y**2, axis=1, keepdims=True), y], axis=1)


def _skeleton(
    cost: CostFunction,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    key: Array,
) -> tuple[Float[Array, "n s"], Float[Array, "m s"]]:
    """`C[:, J]  C[I, J]^+` and `C[I, :]^T`, singular values below sqrt(eps) of the largest dropped."""
    key_x, key_y = jax.random.split(key)
    count = min(_LANDMARKS, len(a), len(b))
    rows = jax.random.choice(key_x, len(a), (count,), replace=False, p=a)
    columns = jax.random.choice(key_y, len(b), (count,), replace=False, p=b)
    cutoff = float(jnp.finfo(x.dtype).eps) ** 0.5
    inverse = jnp.linalg.pinv(cost(x[rows], y[columns]), rtol=cutoff)
    left = jnp.matmul(cost(x, y[columns]), inverse, precision=jax.lax.Precision.HIGHEST)
    return left, cost(x[rows], y).T


Priced = tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]  # value, sum of absolute terms, largest cost


def _squared_euclidean_value(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    q: Float[Array, "n k"],
    r: Float[Array, "m k"],
    g: Float[Array, " k"],
) -> Priced:
    """Cost of the coupling in linear time, as a sum of terms that are not negative: nothing cancels.

    Component k couples q_k / g_k with r_k / g_k independently: its cost is the scatter of both about their means, and
    the squared distance of the means.
    """

    def scatter(points: Float[Array, "n d"], factor: Float[Array, "n k"]) -> tuple[Array, Array]:
        weights = factor / jnp.where(g > 0, g, 1)
        means = jnp.matmul(weights.T, points, precision=jax.lax.Precision.HIGHEST)

        def of_component(one: tuple[Float[Array, " d"], Float[Array, " n"]]) -> Float[Array, ""]:
            mean, share = one
            return shallow_sum(share * jnp.sum((points - mean) ** 2, axis=1))

        return means, jnp.sum(jax.lax.map(of_component, (means, factor.T)))

    means_x, scatter_x = scatter(x, q)
    means_y, scatter_y = scatter(y, r)
    value = scatter_x + scatter_y + jnp.sum(g * jnp.sum((means_x - means_y) ** 2, axis=1))
    radius_x, radius_y = (jnp.sqrt(jnp.max(jnp.where(w > 0, jnp.sum(z**2, axis=1), 0))) for w, z in ((a, x), (b, y)))
    return value, value, (radius_x + radius_y) ** 2


def _value_in_blocks(
    cost: CostFunction,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    q: Float[Array, "n k"],
    r: Float[Array, "m k"],
    g: Float[Array, " k"],
) -> Priced:
    """Cost of the coupling, the cost array and the plan formed for some rows at a time."""
    scaled = r / jnp.where(g > 0, g, 1)

    # Recomputed in the backward pass, which would otherwise keep every block.
    @jax.checkpoint
    def row(one: tuple[Float[Array, " d"], Float[Array, ""], Float[Array, " k"]]) -> tuple[Array, Array, Array]:
        point, weight, factor = one
        live = (weight > 0) & (b > 0)
        costs = jnp.where(live, cost(point[None], y)[0], 0)
        terms = jnp.matmul(scaled, factor, precision=jax.lax.Precision.HIGHEST) * costs
        return shallow_sum(terms), shallow_sum(jnp.abs(terms)), jnp.max(jnp.abs(costs))

    rows_at_a_time = max(1, min(len(a), _BLOCK_ENTRIES // len(b)))
    terms, sizes, largest = jax.lax.map(row, (x, a, q), batch_size=rows_at_a_time)
    return shallow_sum(terms), shallow_sum(sizes), jnp.max(largest)


def _weighted_mean(points: Float[Array, "n d"], weights: Float[Array, " n"]) -> Float[Array, " d"]:
    return jnp.matmul(weights, points, precision=jax.lax.Precision.HIGHEST)
