r"""Derivatives of an entropic optimum by the envelope rule: the plan and the potentials are held fixed.

    d OT_eps = <P, dC> + <f, da> + <g, db>

This is exact to first order at the optimum for a fixed epsilon. Weights move inside the simplex, where f and g matter
only up to a constant, so they are centred over the points with weight. Points of weight 0 get exact zeros.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrel.transport.costs import CostFunction
from jaxrel.transport.log_domain import log_weights
from jaxrel.transport.tiled import Arrays, filled_up, reduce_tiles

__all__ = ["Optimum", "value_of_array", "value_of_cloud"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Optimum:
    """The solution for detached inputs; `mass` is the sum of the weights."""

    value: Float[Array, "*b"]
    f: Float[Array, "*b n"]
    g: Float[Array, "*b m"]
    epsilon: Float[Array, "*b"]
    mass: Float[Array, "*b"]


@jax.custom_jvp
def value_of_array(
    cost: Float[Array, "*b n m"], a: Float[Array, "*b n"], b: Float[Array, "*b m"], optimum: Optimum
) -> Float[Array, "*b"]:
    """`optimum.value`, differentiable with respect to cost, a and b."""
    del cost, a, b
    return optimum.value


@value_of_array.defjvp
def _value_of_array_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    cost, a, b, optimum = primals
    d_cost, d_a, d_b, _ = tangents
    row, column = _log_plan_terms(a, b, optimum)
    log_plan = row[..., :, None] + column[..., None, :] - cost / optimum.epsilon[..., None, None]
    live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    plan = jnp.where(live, jnp.exp(jnp.where(live, log_plan, 0)), 0)
    moved = jnp.sum(plan * jnp.where(live, d_cost, 0), axis=(-1, -2)) * optimum.mass
    return optimum.value, moved + _moved_weights(a, b, d_a, d_b, optimum)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def value_of_cloud(
    cost_function: CostFunction,
    tile: int,
    x: Float[Array, "*b n d"],
    y: Float[Array, "*b m d"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    optimum: Optimum,
) -> Float[Array, "*b"]:
    """`optimum.value`, differentiable with respect to points and weights in the memory of a few tiles."""
    del cost_function, tile, x, y, a, b
    return optimum.value


@value_of_cloud.defjvp
def _value_of_cloud_jvp(
    cost_function: CostFunction, tile: int, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    x, y, a, b, optimum = primals
    d_x, d_y, d_a, d_b, _ = tangents
    row, column = _log_plan_terms(a, b, optimum)
    row, column = (_with_rest(terms, tile) for terms in (row, column))
    eps = optimum.epsilon[..., None, None]

    def plan_cost(x: Array, y: Array) -> Array:
        (x, _), (y, _) = filled_up(x, a, tile), filled_up(y, b, tile)

        def priced(cost: Array, out: Arrays, along: Arrays) -> Arrays:
            plan = jax.lax.stop_gradient(jnp.exp(out[0] + along[0] - cost / eps))
            return (jnp.sum(plan * cost, -1),)

        (rows,) = reduce_tiles(cost_function, x, y, priced, (jnp.add,), (row,), (column,), axis=-1, tile=tile)
        return jnp.sum(rows, axis=-1)

    _, moved = jax.jvp(plan_cost, (x, y), (d_x, d_y))
    return optimum.value, moved * optimum.mass + _moved_weights(a, b, d_a, d_b, optimum)


def _log_plan_terms(
    a: Float[Array, "*b n"], b: Float[Array, "*b m"], optimum: Optimum
) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"]]:
    """`f / eps + log a` and `g / eps + log b`, for weights of sum 1; -inf at points without weight."""

    def term(weights: Float[Array, "*b k"], potential: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
        total = jnp.sum(weights, axis=-1, keepdims=True)
        return log_weights(weights / jnp.where(total > 0, total, 1)) + potential / optimum.epsilon[..., None]

    return term(a, optimum.f), term(b, optimum.g)


def _with_rest(terms: Float[Array, "*b n"], tile: int) -> Float[Array, "*b k"]:
    """Pad to a multiple of the tile by points of weight 0."""
    widths = [(0, 0)] * (terms.ndim - 1) + [(0, -terms.shape[-1] % tile)]
    return jnp.pad(terms, widths, constant_values=-jnp.inf)


def _moved_weights(
    a: Float[Array, "*b n"], b: Float[Array, "*b m"], d_a: Array, d_b: Array, optimum: Optimum
) -> Float[Array, "*b"]:
    def moved(weights: Float[Array, "*b k"], potential: Float[Array, "*b k"], change: Array) -> Float[Array, "*b"]:
        live = weights > 0
        count = jnp.maximum(jnp.sum(live, axis=-1, keepdims=True), 1)
        mean = jnp.sum(jnp.where(live, potential, 0), axis=-1, keepdims=True) / count
        return jnp.sum(jnp.where(live, potential - mean, 0) * change, axis=-1)

    return moved(a, optimum.f, d_a) + moved(b, optimum.g, d_b)
