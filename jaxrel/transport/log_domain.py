"""Sinkhorn by log-sum-exp: the reference iterations, and the only ones that never store the cost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrel.transport.certificates import finite_or_zero
from jaxrel.transport.operators import Iterations, Operator

__all__ = ["log_iterations", "log_sum_exp", "log_weights", "soft_min", "symmetric_iterations"]


def log_iterations(
    operator: Operator,
    f: Float[Array, "*b n"],
    g: Float[Array, "*b m"],
    epsilon: Float[Array, "*b"],
    relaxation: Float[Array, "*b"],
    num_iterations: Int[Array, "*b"],
) -> Iterations:
    """Over-relaxed iterations: `(f, g, marginal error, plan)`, with the columns of the plan exact.

    They continue from f, or from g alone where f is not finite.

        g <- g + w (soft_min_columns(f) - g),    f <- f + w (soft_min_rows(g) - f)

    The last iteration is not over-relaxed. The error is that of the columns before the last update, which bounds that
    of the rows after it: a plain update never increases the error in L1.
    """

    def relaxed(old: Float[Array, "*b k"], new: Float[Array, "*b k"], on: Bool[Array, "*b 1"]) -> Float[Array, "*b k"]:
        moved = jnp.where(jnp.isfinite(new), new + (relaxation[..., None] - 1) * (new - old), new)
        return jnp.where(on, moved, old)

    def iterate(index: Int[Array, ""], potentials: tuple[Array, Array]) -> tuple[Array, Array]:
        f, g = potentials
        on = index < num_iterations[..., None] - 1
        g = relaxed(g, operator.soft_min_columns(f, epsilon), on)
        return relaxed(f, operator.soft_min_rows(g, epsilon), on), g

    known = jnp.isfinite(f) | (operator.a <= 0)
    f = jax.lax.cond(jnp.all(known), lambda: f, lambda: jnp.where(known, f, operator.soft_min_rows(g, epsilon)))
    start = (jnp.where(operator.a > 0, f, -jnp.inf), g)
    f, g = jax.lax.fori_loop(0, jnp.max(num_iterations) - 1, iterate, start)
    g = operator.soft_min_columns(f, epsilon)
    f = operator.soft_min_rows(g, epsilon)
    updated = operator.soft_min_columns(f, epsilon)
    return f, updated, _column_error(operator, g, updated, epsilon), operator.plan(f, updated, epsilon)


def symmetric_iterations(
    operator: Operator,
    f: Float[Array, "*b n"],
    g: Float[Array, "*b n"],
    epsilon: Float[Array, "*b"],
    relaxation: Float[Array, "*b"],
    num_iterations: Int[Array, "*b"],
) -> Iterations:
    """Averaged updates for a cloud and itself, whose potentials are equal. Returns the same as `log_iterations`.

        f <- (f + soft_min(f)) / 2

    Alternating updates oscillate around the fixed point of a symmetric problem. Their mean is a contraction that
    converges from f = 0 in a few steps at any epsilon (Feydy et al., AISTATS 2019, section 3.1).
    """
    del relaxation
    start = jnp.where(jnp.isfinite(f), f, g)

    def iterate(index: Int[Array, ""], f: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
        on = (index < num_iterations[..., None]) & (operator.a > 0)
        return jnp.where(on, (f + operator.soft_min_rows(f, epsilon)) / 2, f)

    f = jax.lax.fori_loop(0, jnp.max(num_iterations), iterate, start)
    updated = operator.soft_min_columns(f, epsilon)
    return f, updated, _column_error(operator, f, updated, epsilon), operator.plan(f, updated, epsilon)


def _column_error(
    operator: Operator, g: Float[Array, "*b m"], updated: Float[Array, "*b m"], epsilon: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """Error of the columns before their potential g was updated."""
    excess = jnp.where(operator.b > 0, g - updated, 0) / epsilon[..., None]
    return jnp.sum(operator.b * jnp.abs(jnp.expm1(excess)), axis=-1)


def soft_min(
    cost: Float[Array, "*b n m"],
    potential: Float[Array, "*b k"],
    weights: Float[Array, "*b k"],
    epsilon: Float[Array, "*b"],
    *,
    axis: int,
) -> Float[Array, "*b l"]:
    """`-eps log sum w exp((potential - C) / eps)` along the columns (axis -1) or rows (axis -2) of the cost."""
    eps = epsilon[..., None]
    exponent = potential / eps + log_weights(weights)
    exponent = exponent[..., None, :] if axis == -1 else exponent[..., :, None]
    return -eps * log_sum_exp(exponent - cost / eps[..., None], axis=axis)


def log_weights(weights: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Logarithm that is -inf at 0 with a zero derivative there."""
    positive = weights > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weights, 1)), -jnp.inf)


def log_sum_exp(x: Float[Array, "*b n m"], axis: int) -> Float[Array, "*b l"]:
    """Log-sum-exp along one axis. It is 0 where every term is masked, so that an empty problem stays finite."""
    largest = finite_or_zero(jnp.max(x, axis=axis, keepdims=True))
    total = jnp.sum(jnp.exp(x - largest), axis=axis)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)), 0) + jnp.squeeze(largest, axis)
