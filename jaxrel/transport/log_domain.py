"""Sinkhorn by log-sum-exp: the reference form of the sweeps, and the only one where the cost is never stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.transport.certificates import Certificate, finite_or_zero

__all__ = [
    "Operator",
    "ScaledProblem",
    "SweepFunction",
    "Sweeps",
    "entropic_plan",
    "forbidden_cost",
    "log_sum_exp",
    "log_sweeps",
    "log_weights",
    "mean_cost",
    "sinkhorn_potentials",
]

Sweeps = tuple[Float[Array, "*b n"], Float[Array, "*b m"], Float[Array, "*b"], Any]
SweepFunction = Callable[[Any, Array, Array, Array, Array, Array], Sweeps]


class Operator(Protocol):
    """What the driver needs of a batch of problems.

    Costs are about 1 in size, the weights `a` (*b, n) and `b` (*b, m) sum to 1, potentials are -inf where they are 0.
    """

    @property
    def a(self) -> Float[Array, "*b n"]:
        """Weights of the rows."""

    @property
    def b(self) -> Float[Array, "*b m"]:
        """Weights of the columns."""

    def soft_min_rows(self, g: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b n"]:
        """`f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps)`."""

    def soft_min_columns(self, f: Float[Array, "*b n"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b m"]:
        """`g_j = -eps log sum_i a_i exp((f_i - C_ij) / eps)`."""

    def plan(self, f: Float[Array, "*b n"], g: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> Any:
        """The plan of two potentials, in the form that `certificate` takes."""

    def certificate(self, plan: Any, g: Float[Array, "*b m"]) -> Certificate:
        """The certified interval from a plan and a potential."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScaledProblem:
    """A batch in the units of an operator.

    Attributes:
        operator: costs divided by `scale`, a power of two at or above the largest that is finite.
        mean_size: mean of |C| under a b^T, over allowed pairs, after the division.
        start_epsilon: where epsilon scaling begins, after the division.
        invalid: problems whose cost has a NaN or -inf.
    """

    operator: Operator
    scale: Float[Array, "*b"]
    mean_size: Float[Array, "*b"]
    start_epsilon: Float[Array, "*b"]
    invalid: Bool[Array, "*b"]


def forbidden_cost(n: int, m: int) -> float:
    """The price of a forbidden pair where allowed ones cost at most 1 in size.

    Exchanging mass on a forbidden pair along a cycle of at most min(n, m) allowed pairs, each of which replaces
    another, saves more than it can cost: the optimum avoids forbidden pairs wherever a feasible plan does.
    """
    return 2.0 + 2.0 * min(n, m)


def log_sweeps(
    operator: Operator,
    f: Float[Array, "*b n"],
    g: Float[Array, "*b m"],
    epsilon: Float[Array, "*b"],
    relaxation: Float[Array, "*b"],
    num_sweeps: Int[Array, "*b"],
) -> Sweeps:
    """Over-relaxed sweeps: `(f, g, marginal error, plan)`, columns of the plan exact.

    They go on from f, or from g alone where f is not finite.

        g <- g + w (soft_min_columns(f) - g),    f <- f + w (soft_min_rows(g) - f)

    The last sweep is not relaxed. The error is that of the columns before the last update, which bounds that of the
    rows after it: a plain update never increases the error in L1.
    """

    def relaxed(old: Float[Array, "*b k"], new: Float[Array, "*b k"], on: Bool[Array, "*b 1"]) -> Float[Array, "*b k"]:
        moved = jnp.where(jnp.isfinite(new), new + (relaxation[..., None] - 1) * (new - old), new)
        return jnp.where(on, moved, old)

    def sweep(index: Int[Array, ""], potentials: tuple[Array, Array]) -> tuple[Array, Array]:
        f, g = potentials
        on = index < num_sweeps[..., None] - 1
        g = relaxed(g, operator.soft_min_columns(f, epsilon), on)
        return relaxed(f, operator.soft_min_rows(g, epsilon), on), g

    known = jnp.isfinite(f) | (operator.a <= 0)
    f = jax.lax.cond(jnp.all(known), lambda: f, lambda: jnp.where(known, f, operator.soft_min_rows(g, epsilon)))
    start = (jnp.where(operator.a > 0, f, -jnp.inf), g)
    f, g = jax.lax.fori_loop(0, jnp.max(num_sweeps) - 1, sweep, start)
    g = operator.soft_min_columns(f, epsilon)
    f = operator.soft_min_rows(g, epsilon)
    updated = operator.soft_min_columns(f, epsilon)
    live = operator.b > 0
    excess = jnp.where(live, g - updated, 0) / epsilon[..., None]
    error = jnp.sum(operator.b * jnp.abs(jnp.expm1(jnp.where(live, excess, 0))), axis=-1)
    return f, updated, error, operator.plan(f, updated, epsilon)


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
    log_a, log_b = log_weights(a), log_weights(b)
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
        f = -eps * log_sum_exp((g / eps + log_b)[..., None, :] - scaled, axis=-1)
        g = -eps * log_sum_exp((f / eps + log_a)[..., :, None] - scaled, axis=-2)
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
    logits = (f[..., :, None] - cost) / eps + log_weights(a)[..., :, None]
    return b[..., None, :] * jnp.exp(logits - log_sum_exp(logits, axis=-2)[..., None, :])


def log_weights(weights: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Logarithm that is -inf at 0 with a zero derivative there."""
    positive = weights > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weights, 1)), -jnp.inf)


def log_sum_exp(x: Float[Array, "*b n m"], axis: int) -> Float[Array, "*b n"]:
    """Log-sum-exp along one axis; 0 where every term is masked, so that an empty problem stays finite."""
    largest = finite_or_zero(jnp.max(x, axis=axis, keepdims=True))
    total = jnp.sum(jnp.exp(x - largest), axis=axis)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)), 0) + jnp.squeeze(largest, axis)
