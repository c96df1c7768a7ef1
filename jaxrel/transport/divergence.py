r"""Sinkhorn divergence between weighted point clouds: debiased entropic transport.

S_eps(a, b) = OT_eps(a, b) - OT_eps(a, a) / 2 - OT_eps(b, b) / 2
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.arrays import jax_array
from jaxrel._core.status import HasStatus
from jaxrel.transport.costs import CostFunction
from jaxrel.transport.point_clouds import PointCloud
from jaxrel.transport.result import SinkhornResult, TransportStatus
from jaxrel.transport.sinkhorn import SinkhornConfig, sinkhorn
from jaxrel.transport.validation import checked_weights

__all__ = ["SelfTerm", "SinkhornDivergence", "self_term", "sinkhorn_divergence"]

_ABSOLUTE = SinkhornConfig(epsilon_unit="cost")


@functools.partial(jax.tree_util.register_dataclass, data_fields=("value", "epsilon", "status"), meta_fields=("cost",))
@dataclass(frozen=True)
class SelfTerm(HasStatus):
    """`OT_eps(a, a)` of a batch of clouds, for reuse against many others.

    Attributes:
        value: differentiable with respect to points and weights if it is computed inside the differentiated function;
            otherwise it is a constant.
        epsilon: the regularisation it was computed at, in the unit of the cost.
        status: `TransportStatus` bits.
        cost: as in `PointCloud`.
    """

    value: Float[Array, "*b"]
    epsilon: Float[Array, "*b"]
    status: Int[Array, "*b"]
    cost: str | CostFunction = "euclidean"

    statuses: ClassVar = TransportStatus


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SinkhornDivergence(HasStatus):
    """A batch of Sinkhorn divergences.

    Attributes:
        value: `OT_eps(a, b) - OT_eps(a, a) / 2 - OT_eps(b, b) / 2`.
        cross: the solution between the two clouds, with the interval of their unregularised transport.
        self_x, self_y: the self terms, to pass to the next call with the same cloud.
        status: `TransportStatus` bits of the three problems combined.
    """

    value: Float[Array, "*b"]
    cross: SinkhornResult
    self_x: SelfTerm
    self_y: SelfTerm
    status: Int[Array, "*b"]

    statuses: ClassVar = TransportStatus


def self_term(
    x: Float[ArrayLike, "*b n d"],
    a: Float[ArrayLike, "*b n"] | None = None,
    *,
    epsilon: Float[ArrayLike, "*b"],
    cost: str | CostFunction = "euclidean",
    where: Bool[ArrayLike, "*b n"] | None = None,
    tile: int | None = None,
    tolerance: Float[ArrayLike, "*b"] | None = None,
    max_iterations: Int[ArrayLike, ""] = 5000,
    config: SinkhornConfig = _ABSOLUTE,
) -> SelfTerm:
    """Entropic transport of clouds to themselves, with the arguments of `sinkhorn_divergence`."""
    _check_unit(config)
    points = jax_array("x", x)
    cloud = PointCloud(points, points, cost, tile)
    # With a stored kernel, iterations cost next to nothing. A user-defined cost need not be symmetric.
    if cloud.tile_side is not None and isinstance(cost, str):
        config = dataclasses.replace(config, inner="symmetric")
    result = sinkhorn(
        cloud,
        a,
        a,
        epsilon=epsilon,
        tolerance=tolerance,
        where_a=where,
        where_b=where,
        max_iterations=max_iterations,
        config=config,
    )
    # The requested epsilon: that of the result may be the smallest that the dtype resolves.
    asked = jnp.broadcast_to(jnp.asarray(epsilon, result.value.dtype), result.value.shape)
    return SelfTerm(result.value, asked, result.status, cost)


def sinkhorn_divergence(
    x: Float[ArrayLike, "*b n d"],
    y: Float[ArrayLike, "*b m d"],
    a: Float[ArrayLike, "*b n"] | None = None,
    b: Float[ArrayLike, "*b m"] | None = None,
    *,
    epsilon: Float[ArrayLike, "*b"],
    cost: str | CostFunction = "euclidean",
    where_a: Bool[ArrayLike, "*b n"] | None = None,
    where_b: Bool[ArrayLike, "*b m"] | None = None,
    self_x: SelfTerm | None = None,
    self_y: SelfTerm | None = None,
    tile: int | None = None,
    tolerance: Float[ArrayLike, "*b"] | None = None,
    max_iterations: Int[ArrayLike, ""] = 5000,
    config: SinkhornConfig = _ABSOLUTE,
) -> SinkhornDivergence:
    r"""`OT_eps(a, b) - OT_eps(a, a) / 2 - OT_eps(b, b) / 2` (Feydy et al., AISTATS 2019).

    For the named costs it is 0 between equal clouds and positive between others. It tends to the unregularised
    transport cost as epsilon falls and to half an energy distance as epsilon rises. Other costs C have these properties
    if `exp(-C / epsilon)` is a positive definite kernel.

    Args:
        x, y: points. Leading axes are batch axes and broadcast; the self term of a cloud with fewer batch axes is
            computed only once.
        a, b: weights as in `sinkhorn`, with the batch axes of their own points.
        epsilon: regularisation in the unit of the cost, not relative to its mean: the three terms must share it, but
            their mean costs differ. It broadcasts against the batch of each self term that is computed here, so a
            separate epsilon for each problem needs the batch axes on both clouds.
        cost, tile: as in `PointCloud`.
        where_a, where_b: masks of the points to use.
        self_x, self_y: known self terms, from `self_term` or an earlier result. They must belong to these points,
            weights, cost and epsilon; the last two are checked.
        tolerance, max_iterations, config: as in `sinkhorn`; config must have `epsilon_unit="cost"`.

    Returns:
        A `SinkhornDivergence`. Its value is differentiable with respect to points and weights by the envelope rule; in
        a self term both sides move. It has an error of rounding and of the square of the tolerance, so it may be
        slightly below 0: for "euclidean" by about 1e-4 of the radius in float32, as the distance of a point to itself
        is only accurate to `sqrt(eps)`, see `feature_distance`. The value of a problem without mass is 0.

    Raises:
        ValueError: as in `sinkhorn`; for a config with another unit, batches that do not broadcast, or a self term of
            another cost, shape or (concrete) epsilon.
    """
    _check_unit(config)
    x, y = jax_array("x", x), jax_array("y", y)
    options: dict[str, Any] = {"tile": tile, "max_iterations": max_iterations, "tolerance": tolerance, "config": config}
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x and y must be (*b, n, d) and (*b, m, d), got {x.shape} and {y.shape}.")
    try:
        batch = jnp.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError as error:
        raise ValueError(f"the batch axes of x and y do not broadcast: {x.shape} and {y.shape}.") from error
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    x, y = x.astype(dtype), y.astype(dtype)
    known = tuple(
        self_term(points, weights, epsilon=epsilon, cost=cost, where=where, **options)
        if term is None
        else _checked_term(name, term, points.shape[:-2], epsilon, cost)
        for name, term, points, weights, where in (
            ("self_x", self_x, x, a, where_a),
            ("self_y", self_y, y, b, where_b),
        )
    )
    a = checked_weights("a", a, where_a, x.shape[:-1], dtype)
    b = checked_weights("b", b, where_b, y.shape[:-1], dtype)
    x, y = (jnp.broadcast_to(points, (*batch, *points.shape[-2:])) for points in (x, y))
    a, b = (jnp.broadcast_to(weights, (*batch, weights.shape[-1])) for weights in (a, b))
    cross = sinkhorn(
        PointCloud(x, y, cost, tile),
        a,
        b,
        epsilon=epsilon,
        tolerance=tolerance,
        max_iterations=max_iterations,
        config=config,
    )
    return SinkhornDivergence(
        value=cross.value - (known[0].value + known[1].value) / 2,
        cross=cross,
        self_x=known[0],
        self_y=known[1],
        status=cross.status | known[0].status | known[1].status,
    )


def _check_unit(config: SinkhornConfig) -> None:
    if config.epsilon_unit != "cost":
        raise ValueError(f'the terms of a divergence share one epsilon: set epsilon_unit="cost" in {config}.')


def _checked_term(
    name: str, term: SelfTerm, batch: tuple[int, ...], epsilon: Float[ArrayLike, "*b"], cost: str | CostFunction
) -> SelfTerm:
    if term.cost != cost:
        raise ValueError(f"{name} was computed for the cost {term.cost!r}, not for {cost!r}.")
    if term.value.shape != batch:
        raise ValueError(f"{name} has batch {term.value.shape}, its points have {batch}.")
    if not isinstance(epsilon, jax.core.Tracer) and not isinstance(term.epsilon, jax.core.Tracer):
        given, used = np.asarray(epsilon, term.epsilon.dtype), np.asarray(term.epsilon)
        # A tolerance of four roundings, as either may have been computed in another precision.
        if not np.allclose(given, used, rtol=4 * float(np.finfo(np.float32).eps), atol=0):
            raise ValueError(f"{name} was computed at epsilon {used}, not at {given}.")
    return term
