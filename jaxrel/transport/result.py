"""The results of transport solvers and their status codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.status import HasStatus, StatusBits
from jaxrel.transport.certificates import normalised, round_to_marginals, shallow_sum
from jaxrel.transport.fixed_iterations import entropic_plan
from jaxrel.transport.point_clouds import PointCloud
from jaxrel.transport.tiled import filled_up
from jaxrel.transport.validation import checked_problem

__all__ = ["SinkhornResult", "TransportStatus"]


class TransportStatus(StatusBits):
    """Status bits of a solver. `lower` and `upper` stay valid unless the message says otherwise."""

    OK = 0
    NOT_CONVERGED = (
        1,
        "the marginal error is above the tolerance after max_iterations: raise max_iterations, tolerance or epsilon.",
    )
    PRECISION_FLOOR = (
        2,
        "the tolerance is below what the dtype can resolve at this epsilon; iterated to that floor: "
        "use float64, a larger epsilon or a larger tolerance.",
    )
    GAP_NOT_CERTIFIED = (
        4,
        "the interval [lower, upper] is wider than relative_gap: raise max_iterations, ask for less, or use float64.",
    )
    INFEASIBLE = (
        8,
        "no plan avoids the pairs of infinite cost: the optimum is infinite.",
    )
    FORBIDDEN_MASS = (
        16,
        "the plan still has mass on pairs of infinite cost, so that a feasible plan was not shown to exist; "
        "[lower, upper] holds if one does: raise max_iterations or use float64.",
    )
    UNEQUAL_MASS = (
        32,
        "a and b have different sums, the result is NaN: normalise them.",
    )
    NOT_FINITE = (
        64,
        "the cost has a NaN or -inf, the weights are negative or not finite, or their sum, a distance of points or the "
        "optimum overflows the dtype; the result is NaN: divide costs, points or weights by one number.",
    )
    BLOCK_OVERFLOW = (
        128,
        "a block holds more points than there is room for, so that upper is infinite: "
        "shuffle the points (key), or use a larger block_size.",
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SinkhornResult(HasStatus):
    """Optimal transport for a batch of problems: value, certified interval and potentials.

    Attributes:
        value: entropic optimum `min_P <P, C> + epsilon KL(P | a b^T)`, in units of the cost times the mass.
            Differentiable with respect to cost, points and weights by the envelope rule; no other field is.
        lower, upper: an interval that contains the exact, unregularised optimum of the given cost, rounding included.
        f, g: dual potentials, `P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)` for weights of sum 1; 0 at masked
            points, centred so that `<a, f> = <b, g>`.
        epsilon: regularisation of the potentials, in units of the cost.
        num_iterations: Sinkhorn iterations (pairs of updates).
        marginal_error: `sum_i |sum_j P_ij - a_i|` of the entropic plan for weights of sum 1; its columns are exact.
        status: `TransportStatus` bits, 0 on success.
    """

    value: Float[Array, "*b"]
    lower: Float[Array, "*b"]
    upper: Float[Array, "*b"]
    f: Float[Array, "*b n"]
    g: Float[Array, "*b m"]
    epsilon: Float[Array, "*b"]
    num_iterations: Int[Array, "*b"]
    marginal_error: Float[Array, "*b"]
    status: Int[Array, "*b"]

    statuses: ClassVar = TransportStatus

    def plan(
        self,
        cost: Float[ArrayLike, "*b n m"] | PointCloud,
        a: Float[ArrayLike, "*b n"] | None = None,
        b: Float[ArrayLike, "*b m"] | None = None,
        *,
        where_a: Bool[ArrayLike, "*b n"] | None = None,
        where_b: Bool[ArrayLike, "*b m"] | None = None,
    ) -> Float[Array, "*b n m"]:
        """The plan of the potentials, rounded to the marginals: feasible, with cost `upper` up to rounding.

        Args:
            cost, a, b, where_a, where_b: the problem that was solved, which the result does not store.

        Its rows sum to a and its columns to b up to rounding. It is the plan of `upper` if the last check was the best,
        as it is at convergence. Memory and time are `n m`, also for a tiled cloud.
        """
        geometry, a, b = checked_problem(cost, a, b, where_a, where_b)
        if isinstance(geometry, PointCloud):
            (x, _), (y, _) = filled_up(geometry.x, a, 1), filled_up(geometry.y, b, 1)
            prices = geometry.cost_function(x, y)
        else:
            prices = geometry
        live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
        shares = normalised(a), normalised(b)
        plan = entropic_plan(jnp.where(live, prices, 0), *shares, self.f, self.epsilon)
        # A column whose pairs are all forbidden has no entropic plan.
        return round_to_marginals(jnp.where(live & (plan > 0), plan, 0), *shares) * shallow_sum(a)[..., None, None]
