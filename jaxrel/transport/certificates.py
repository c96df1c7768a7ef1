"""An interval that contains the exact optimal transport cost, from any pair of potentials."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["certified_interval", "round_to_marginals"]


def round_to_marginals(
    plan: Float[Array, "*b n m"], a: Float[Array, "*b n"], b: Float[Array, "*b m"]
) -> Float[Array, "*b n m"]:
    """The nearest cheap plan with marginals a and b (Altschuler, Weed, Rigollet, NeurIPS 2017, algorithm 2).

    Rows, then columns, are scaled down to their marginals, and what is missing is spread as a product.
    """
    plan = plan * _shrink(a, jnp.sum(plan, axis=-1))[..., :, None]
    plan = plan * _shrink(b, jnp.sum(plan, axis=-2))[..., None, :]
    missing_a = jnp.maximum(a - jnp.sum(plan, axis=-1), 0)
    missing_b = jnp.maximum(b - jnp.sum(plan, axis=-2), 0)
    missing = jnp.sum(missing_a, axis=-1)[..., None]
    spread = jnp.where(missing > 0, missing_a / jnp.where(missing > 0, missing, 1), 0)
    return plan + spread[..., :, None] * missing_b[..., None, :]


def certified_interval(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    plan: Float[Array, "*b n m"],
    f: Float[Array, "*b n"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """`(lower, upper)` around the exact optimum of the cost array as given, 0 for a problem without mass.

    upper: cost of `plan` rounded to its marginals, a feasible plan. lower: value of the dual at f made feasible by
    two c-transforms. Both hold for any plan and any f; good ones make the interval narrow.

    Each end is moved outwards by an a-priori bound of its rounding error. Sums run over one axis at a time, so that
    a sum of n terms, in any order, errs by at most n eps / 2 times the sum of their sizes; the same holds for the
    marginals, and mass that is wrong by x can cost at most x times the largest cost.
    """
    n, m = cost.shape[-2:]
    eps = float(jnp.finfo(cost.dtype).eps)
    live_a, live_b = a > 0, b > 0
    live = live_a[..., :, None] & live_b[..., None, :]
    cost = jnp.where(live, cost, 0)
    largest = jnp.max(jnp.abs(cost), axis=(-1, -2))

    row_cost = jnp.sum(round_to_marginals(plan, a, b) * cost, axis=-1)
    # Without the barrier the compiler may merge the two sums into one of n * m terms.
    upper = jnp.sum(jax.lax.optimization_barrier(row_cost), axis=-1)
    upper = upper + (n + m + 16) * eps * (jnp.abs(upper) + largest)

    g = _c_transform(cost, f, live, axis=-2)
    f = _c_transform(cost, g, live, axis=-1)
    # The constant exchanged between f and g is free: sharing it keeps both, and so the allowance, small.
    shift = (jnp.sum(a * f, axis=-1) - jnp.sum(b * g, axis=-1)) / 2
    f, g = f - shift[..., None], g + shift[..., None]
    f, g = jnp.where(live_a, f, 0), jnp.where(live_b, g, 0)
    size = largest + jnp.max(jnp.abs(f), axis=-1) + jnp.max(jnp.abs(g), axis=-1)
    lower = jnp.sum(a * f, axis=-1) + jnp.sum(b * g, axis=-1)
    lower = lower - (n + m + 16) * eps * size

    empty = ~jnp.any(live, axis=(-1, -2))
    return jnp.where(empty, 0, lower), jnp.where(empty, 0, upper)


def _shrink(target: Float[Array, "*b n"], total: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    return jnp.where(total > target, target / jnp.where(total > 0, total, 1), 1)


def _c_transform(
    cost: Float[Array, "*b n m"], potential: Float[Array, "*b k"], live: Float[Array, "*b n m"], axis: int
) -> Float[Array, "*b l"]:
    potential = potential[..., :, None] if axis == -2 else potential[..., None, :]
    slack = jnp.min(jnp.where(live, cost - potential, jnp.inf), axis=axis)
    return jnp.where(jnp.isfinite(slack), slack, 0)
