"""Heads within a budget for their Lipschitz constant, by an augmented Lagrangian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrel._core.optimise import minimise
from jaxrel.heads.head import Head
from jaxrel.transport.costs import squared_distance

__all__ = ["minimise_within"]

# Augmented Lagrangian. Four to nine rounds are used. A larger first penalty takes fewer of them, each less
# well-conditioned: up to five times the iterations for a hundred classes.
_MAX_ROUNDS = 20
_FIRST_PENALTY = 3.0  # In units of the sum of the multipliers for each class.
_GROWTH = 4.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Round:
    """State between two rounds of the augmented Lagrangian."""

    count: Int[Array, ""]
    head: Head  # V = W / budget, and the bias
    multipliers: Float[Array, "k k"]  # nu = lambda / mu
    penalty: Float[Array, ""]  # mu
    residual: Float[Array, ""]


def minimise_within(
    objective: Callable[[Head], Float[Array, ""]],
    free: Head,
    budget: Float[Array, ""],
    *,
    max_iterations: int,
    tolerance: float,
) -> Head:
    r"""The minimum over `max_{k,l} ||w_k - w_l||_2 <= budget`, from the free minimum (returned where it is feasible).

    With `V = W / budget` and `g_kl = ||v_k - v_l||^2 - 1 <= 0`, a round minimises the augmented Lagrangian

        F(V, w0) + mu / 2 * sum_{k<l} max(0, g_kl + nu_kl)^2

    and then sets `nu <- max(0, g + nu)`, until no entry of nu changes by more than `tolerance`. That change is the
    largest violation and the largest slack of a constraint with a positive multiplier `mu nu`.
    """
    # A gradient in V is `budget` times that in W: for a small budget it would pass any tolerance. The one in the bias
    # is not, and is known to a few eps.
    eps = jnp.finfo(budget.dtype).eps
    unit = jnp.minimum(jnp.maximum(budget, 8 * eps / jnp.maximum(tolerance, eps)), 1)

    def scaled_objective(head: Head) -> Float[Array, ""]:
        return objective(Head(budget * head.weights, head.bias)) / unit

    def unfinished(state: _Round) -> Array:
        return (state.count < _MAX_ROUNDS) & (state.residual > tolerance)

    def step(state: _Round) -> _Round:
        def lagrangian(head: Head) -> Float[Array, ""]:
            # Each pair counts twice in the sum, hence mu / 4.
            return scaled_objective(head) + state.penalty / 4 * jnp.sum(_shifted(head, state.multipliers) ** 2)

        head = minimise(lagrangian, state.head, max_iterations=max_iterations, tolerance=tolerance)
        multipliers = _shifted(head, state.multipliers)
        residual = jnp.max(jnp.abs(multipliers - state.multipliers))
        # mu grows at constant lambda = mu nu.
        return _Round(state.count + 1, head, multipliers / _GROWTH, state.penalty * _GROWTH, residual)

    head = jax.lax.while_loop(unfinished, step, _first_round(scaled_objective, free, budget)).head
    weights = budget * head.weights
    constant = Head(weights, head.bias).lipschitz
    return Head(weights * jnp.where(constant > budget, budget / constant, 1), head.bias)


def _shifted(head: Head, multipliers: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """`max(0, g + nu)`."""
    return jnp.maximum(squared_distance(head.weights, head.weights) - 1 + multipliers, 0)


def _first_round(scaled_objective: Callable[[Head], Float[Array, ""]], free: Head, budget: Float[Array, ""]) -> _Round:
    r"""The free head shrunk to the budget, and a penalty in units of the multipliers.

    At the optimum `grad F = -sum lambda_kl grad g_kl` and `<V, grad g_kl> = 2` for each active pair, so the sum of the
    multipliers is half the slope of F along V.
    """
    constant = free.lipschitz
    start = Head(free.weights / jnp.maximum(constant, budget), free.bias)
    radial = Head(start.weights, jnp.zeros_like(start.bias))
    _, slope = jax.jvp(scaled_objective, (start,), (radial,))
    k = free.bias.size
    return _Round(
        count=jnp.zeros((), jnp.int32),
        head=start,
        multipliers=jnp.zeros((k, k), slope.dtype),
        penalty=_FIRST_PENALTY / k * jnp.abs(slope) / 2,
        residual=jnp.where(constant > budget, jnp.inf, 0).astype(slope.dtype),
    )
