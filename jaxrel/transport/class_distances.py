"""Transport between all pairs of classes of two labelled data sets, in one batched call."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.arrays import jax_array
from jaxrel._core.programs import compiled
from jaxrel.transport.certificates import normalised
from jaxrel.transport.point_clouds import CostFunction, PointCloud
from jaxrel.transport.result import SinkhornResult, TransportStatus
from jaxrel.transport.sinkhorn import SinkhornConfig, sinkhorn
from jaxrel.transport.tiled import filled_up
from jaxrel.transport.validation import checked_number, checked_weights

__all__ = ["class_distances", "gather_classes"]

# Entries of the cost arrays solved at a time: 64 MiB in float32, and on a CPU what fits into its cache, which is five
# times as fast.
_DENSE_ENTRIES = 2**24
_DENSE_ENTRIES_ON_CPU = 2**21
_DEFAULT_EPSILON = 0.05
_RELATIVE = SinkhornConfig()


def gather_classes(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    num_classes: int,
    max_points: int,
    *,
    weights: Float[ArrayLike, " n"] | None = None,
) -> tuple[Float[Array, "k m d"], Float[Array, "k m"]]:
    """Gather the points and weights of each class, padded by points of weight 0 to `m = max_points`.

    A class of more than `max_points` points keeps the first ones in the given order: shuffle the points if the order is
    not random. Points of weight 0, or with a label outside of 0..num_classes-1, belong to no class. None gives all
    points weight 1; weights are not normalised here.

    Raises:
        ValueError: for shapes that do not match, sizes below 1, labels that are not integers, or concrete weights that
            are negative or not finite.
    """
    features, labels = jax_array("features", features), jax_array("labels", labels)
    if features.ndim != 2 or labels.shape != features.shape[:1] or 0 in features.shape:
        raise ValueError(f"features and labels must be (n, d) and (n,), got {features.shape} and {labels.shape}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}.")
    if num_classes < 1 or max_points < 1:
        raise ValueError(f"num_classes and max_points must be positive, got {num_classes} and {max_points}.")
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    amounts = checked_weights("weights", jnp.ones((), dtype) if weights is None else weights, None, labels.shape, dtype)
    belongs = (amounts > 0) & (labels >= 0) & (labels < num_classes)
    keys = jnp.where(belongs, labels, num_classes)
    order = jnp.argsort(keys, stable=True)
    start = jnp.searchsorted(keys[order], jnp.arange(num_classes + 1))
    slots = start[:-1, None] + jnp.arange(max_points)
    index = order[jnp.minimum(slots, order.shape[0] - 1)]
    inside = slots < start[1:, None]
    points = jnp.where(inside[..., None], features[index].astype(dtype), 0)
    return points, jnp.where(inside, amounts[index], 0)


def class_distances(
    points_x: Float[ArrayLike, "r s d"],
    points_y: Float[ArrayLike, "t q d"],
    *,
    weights_x: Float[ArrayLike, "r s"] | None = None,
    weights_y: Float[ArrayLike, "t q"] | None = None,
    cost: str | CostFunction = "euclidean",
    epsilon: Float[ArrayLike, ""] | None = None,
    relative_gap: Float[ArrayLike, ""] | None = None,
    tolerance: Float[ArrayLike, ""] | None = None,
    max_iterations: Int[ArrayLike, ""] = 5000,
    config: SinkhornConfig = _RELATIVE,
) -> SinkhornResult:
    """Solve transport between each of r classes and each of t classes in one batch of shape (r, t).

    Args:
        points_x, points_y: the points of each class, see `gather_classes`.
        weights_x, weights_y: weights, normalised here class by class. Points of weight 0 pad a smaller class, and their
            values are ignored. None gives all points equal weight.
        cost: as in `PointCloud`.
        epsilon, relative_gap, tolerance, max_iterations, config: as in `sinkhorn`; without epsilon and relative_gap,
            epsilon is 0.05 of the mean cost of each pair of classes.

    Returns:
        The `SinkhornResult` of `sinkhorn`, with a value that is differentiable with respect to points and weights. A
        pair in which a class has no mass costs 0, with status 0: mask such pairs if they matter.

    Raises:
        ValueError: for shapes that do not match, concrete weights that are negative or not finite, or an epsilon or
            relative_gap that is not positive. Points that are not finite give NaN and set the status.

    Memory is `r s t q` entries up to a limit of 2^24 (on a CPU 2^21). Above it, only as many classes of x as fit are
    solved at a time (at least one, `s t q` entries), and a derivative solves them again instead of storing
    intermediate arrays.
    """
    x, y = jax_array("points_x", points_x), jax_array("points_y", points_y)
    if x.ndim != 3 or y.ndim != 3 or x.shape[-1] != y.shape[-1] or 0 in (*x.shape, *y.shape):
        raise ValueError(f"points must be (r, s, d) and (t, q, d), none of them 0, got {x.shape} and {y.shape}.")
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    a = checked_weights("weights_x", weights_x, None, x.shape[:-1], dtype)
    b = checked_weights("weights_y", weights_y, None, y.shape[:-1], dtype)
    if epsilon is None and relative_gap is None:
        epsilon = _DEFAULT_EPSILON
    numbers = {
        name: checked_number(name, value, batch=(), dtype=dtype)
        for name, value in (("epsilon", epsilon), ("relative_gap", relative_gap), ("tolerance", tolerance))
    }
    cloud = PointCloud(x, y, cost)
    functions = cloud.cost_function, cloud.cost_error
    return _solve_pairs(x.astype(dtype), y.astype(dtype), a, b, numbers, max_iterations, functions, config)


@functools.partial(compiled, static_argnums=(6, 7))
def _solve_pairs(
    x: Float[Array, "r s d"],
    y: Float[Array, "t q d"],
    a: Float[Array, "r s"],
    b: Float[Array, "t q"],
    numbers: dict[str, Any],
    max_iterations: Int[ArrayLike, ""],
    functions: tuple[CostFunction, CostFunction | None],
    config: SinkhornConfig,
) -> SinkhornResult:
    (r, s), (t, q) = a.shape, b.shape
    cost_function, cost_error = functions
    # Points of weight 0 become copies of the heaviest point, so that they do not move the centre and have finite costs.
    x, y = (
        filled_up(points.reshape(-1, points.shape[-1]), weights.reshape(-1), 1)[0].reshape(points.shape)
        for points, weights in ((x, a), (y, b))
    )
    a, b = normalised(a), normalised(b)

    def solved(x: Float[Array, "k s d"], a: Float[Array, "k s"]) -> SinkhornResult:
        k, d = x.shape[0], x.shape[-1]

        # All pairs of points at once, so that no point is copied for each class of the other side.
        def between(function: CostFunction) -> Float[Array, "k t s q"]:
            return function(x.reshape(k * s, d), y.reshape(t * q, d)).reshape(k, s, t, q).swapaxes(1, 2)

        result = sinkhorn(
            between(cost_function), a[:, None], b, max_iterations=max_iterations, config=config, **numbers
        )
        if cost_error is None:
            return result
        live = (a > 0)[:, None, :, None] & (b > 0)[:, None, :]
        error = jnp.max(jnp.where(live, jax.lax.stop_gradient(between(cost_error)), 0), axis=(-1, -2))
        return _widened(result, error, numbers["relative_gap"])

    most = _DENSE_ENTRIES_ON_CPU if jax.default_backend() == "cpu" else _DENSE_ENTRIES
    if r * s * t * q <= most:
        return solved(x, a)
    at_once = max(most // (s * t * q), 1)
    rest = -r % at_once
    x = jnp.concatenate([x, jnp.broadcast_to(x[:1], (rest, *x.shape[1:]))]).reshape(-1, at_once, *x.shape[1:])
    a = jnp.pad(a, ((0, rest), (0, 0))).reshape(-1, at_once, s)
    results = jax.lax.map(jax.checkpoint(lambda some: solved(*some)), (x, a))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:r], results)


def _widened(
    result: SinkhornResult, error: Float[Array, "*b"], relative_gap: Float[Array, ""] | None
) -> SinkhornResult:
    """The result for costs with errors up to `error`."""
    lower, upper = result.lower - error, result.upper + error
    status = result.status
    if relative_gap is not None:
        wide = upper - lower > relative_gap * jnp.abs(upper)
        status = status | jnp.where(wide, int(TransportStatus.GAP_NOT_CERTIFIED), 0)
    return dataclasses.replace(result, lower=lower, upper=upper, status=status)
