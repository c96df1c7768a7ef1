"""Assignment of reference classes to target classes, from transport costs between their clouds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrel.transport.costs import feature_distance
from jaxrel.transport.fixed_iterations import entropic_plan, mean_cost, rough_potential

__all__ = ["assign_classes", "class_pair_costs"]


def class_pair_costs(
    target_points: Float[Array, "t s d"],
    reference_points: Float[Array, "r s d"],
    *,
    epsilon: float = 0.05,
    num_iterations: int = 20,
) -> Float[Array, "t r"]:
    """Entropic 1-Wasserstein cost between each target class and each reference class.

    Args:
        target_points, reference_points: s points of each class, with equal weights.
        epsilon: regularisation relative to the mean cost of the pair.
        num_iterations: Sinkhorn iterations.

    It solves one target class at a time against all reference classes, so memory is r * s * s.
    """
    a = jnp.full(reference_points.shape[:2], 1 / reference_points.shape[1], reference_points.dtype)
    b = jnp.full((reference_points.shape[0], target_points.shape[1]), 1 / target_points.shape[1], a.dtype)

    def against_all(points: Float[Array, "s d"]) -> Float[Array, " r"]:
        cost = feature_distance(reference_points, jnp.broadcast_to(points, (a.shape[0], *points.shape)))
        scale = jnp.maximum(mean_cost(cost, a, b), jnp.finfo(cost.dtype).tiny * 2**24)
        f = rough_potential(cost, a, b, epsilon=epsilon * scale, num_iterations=num_iterations)
        return jnp.sum(entropic_plan(cost, a, b, f, epsilon * scale) * cost, axis=(-1, -2))

    return jax.lax.map(against_all, target_points)


def assign_classes(costs: Float[Array, "t r"]) -> Bool[Array, "t r"]:
    """Assign reference classes to target classes at the least total cost. Row k marks the classes assigned to k.

    If there are at most as many target classes as reference classes, each target class gets a reference class of its
    own (Hungarian algorithm), and every remaining reference class is assigned to its nearest target class. If there are
    more target classes, each gets one reference class, and no reference class is used by more than ceil(t / r) of them.
    """
    from optax.assignment import hungarian_algorithm

    num_target, num_reference = costs.shape
    copies = -(-num_target // num_reference)
    rows, columns = hungarian_algorithm(jnp.tile(costs, (1, copies)))
    assigned = jnp.zeros(costs.shape, bool).at[rows, columns % num_reference].set(True)
    nearest = jax.nn.one_hot(jnp.argmin(costs, axis=0), num_target, dtype=bool, axis=0)
    unused = ~jnp.any(assigned, axis=0)
    return assigned | (nearest & unused)
