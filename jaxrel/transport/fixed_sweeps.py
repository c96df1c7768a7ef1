"""A given number of sweeps: quick to compile, for loops that take many rough plans and certify none of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel.transport.log_domain import log_sum_exp, log_weights, soft_min

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
    epsilon = jnp.asarray(epsilon, cost.dtype)
    ratio = jnp.ones_like(epsilon) if start_epsilon is None else jnp.maximum(jnp.asarray(start_epsilon) / epsilon, 1)
    half = jnp.maximum(jnp.asarray(num_sweeps, cost.dtype) / 2, 1)

    def sweep(
        index: Int[Array, ""], potentials: tuple[Float[Array, "*b n"], Float[Array, "*b m"]]
    ) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"]]:
        _, g = potentials
        eps = epsilon * ratio ** jnp.maximum(1 - index / half, 0)
        f = soft_min(cost, g, b, eps, axis=-1)
        return f, soft_min(cost, f, a, eps, axis=-2)

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
    logits = (f[..., :, None] - cost) / eps + log_weights(a)[..., :, None]
    return b[..., None, :] * jnp.exp(logits - log_sum_exp(logits, axis=-2)[..., None, :])
