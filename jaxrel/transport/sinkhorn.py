"""Entropic optimal transport in the log domain, batched over leading axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

__all__ = ["entropic_plan", "mean_cost", "sinkhorn_potentials"]


def mean_cost(cost: Float[Array, "*b n m"], a: Float[Array, "*b n"], b: Float[Array, "*b m"]) -> Float[Array, "*b"]:
    """Cost of the independent coupling `a b^T`: the scale to which epsilon is relative."""
    return jnp.einsum("...n,...nm,...m->...", a, cost, b, precision=jax.lax.Precision.HIGHEST)


def sinkhorn_potentials(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    *,
    epsilon: Float[ArrayLike, "*b"],
    num_sweeps: Int[ArrayLike, ""],
    start_epsilon: Float[ArrayLike, "*b"] | None = None,
) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"]]:
    """Potentials f, g after `num_sweeps` alternating updates at a falling epsilon.

        f_i = -eps LSE_j((g_j - C_ij) / eps + log b_j),   g_j = -eps LSE_i((f_i - C_ij) / eps + log a_i)

    Args:
        cost: finite numbers; a, b: weights that each sum to 1, a weight of 0 masks its point.
        epsilon: final regularisation, in units of the cost, one for each problem; must be positive.
        num_sweeps: number of f, g update pairs; may be traced.
        start_epsilon: regularisation of the first sweep; it falls geometrically to `epsilon` over the first half of
            the sweeps, which is what makes a small epsilon affordable. None keeps epsilon constant.
    """
    log_a, log_b = _log(a), _log(b)
    epsilon = jnp.asarray(epsilon, cost.dtype)
    ratio = jnp.ones_like(epsilon) if start_epsilon is None else jnp.maximum(jnp.asarray(start_epsilon) / epsilon, 1)
    half = jnp.maximum(jnp.asarray(num_sweeps, cost.dtype) / 2, 1)

    def sweep(
        index: Int[Array, ""], potentials: tuple[Float[Array, "*b n"], Float[Array, "*b m"]]
    ) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"]]:
        _, g = potentials
        eps = epsilon * ratio ** jnp.maximum(1 - index / half, 0)
        eps = eps[..., None]
        scaled = cost / eps[..., None]
        f = -eps * _log_sum_exp((g / eps + log_b)[..., None, :] - scaled, axis=-1)
        g = -eps * _log_sum_exp((f / eps + log_a)[..., :, None] - scaled, axis=-2)
        return f, g

    return jax.lax.fori_loop(0, num_sweeps, sweep, (jnp.zeros_like(a), jnp.zeros_like(b)))


def entropic_plan(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    f: Float[Array, "*b n"],
    epsilon: Float[ArrayLike, "*b"],
) -> Float[Array, "*b n m"]:
    """`P_ij = b_j softmax_i((f_i - C_ij) / eps + log a_i)`: columns sum to b for any f, so it never overflows.

    At the fixed point its rows sum to a as well.
    """
    eps = jnp.asarray(epsilon, cost.dtype)[..., None, None]
    logits = (f[..., :, None] - cost) / eps + _log(a)[..., :, None]
    return b[..., None, :] * jnp.exp(logits - _log_sum_exp(logits, axis=-2)[..., None, :])


def _log(weights: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Logarithm that is -inf at 0 with a zero derivative there."""
    positive = weights > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weights, 1)), -jnp.inf)


def _log_sum_exp(x: Float[Array, "*b n m"], axis: int) -> Float[Array, "*b n"]:
    """Log-sum-exp along one axis; 0 where every term is masked, so that an empty problem stays finite."""
    largest = jnp.max(x, axis=axis, keepdims=True)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.exp(x - largest), axis=axis)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)), 0) + jnp.squeeze(largest, axis)
