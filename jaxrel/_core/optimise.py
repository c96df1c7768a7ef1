"""A deterministic full-batch minimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["minimise"]

Parameters = TypeVar("Parameters")


def minimise(
    objective: Callable[[Parameters], Float[Array, ""]],
    start: Parameters,
    *,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
) -> Parameters:
    """Minimise by L-BFGS (optax) until the gradient's largest entry is at most `tolerance`; one `while_loop`."""
    import optax

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(carry: tuple[Parameters, Any]) -> Array:
        _, state = carry
        iteration = optax.tree.get(state, "count")
        gradient = optax.tree.get(state, "grad")
        steep = optax.tree.norm(gradient, ord=jnp.inf) > tolerance
        return (iteration == 0) | ((iteration < max_iterations) & steep)

    def step(carry: tuple[Parameters, Any]) -> tuple[Parameters, Any]:
        parameters, state = carry
        value, gradient = value_and_grad(parameters, state=state)
        updates, state = solver.update(gradient, state, parameters, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(parameters, updates), state

    parameters, _ = jax.lax.while_loop(unfinished, step, (start, solver.init(start)))
    return parameters
