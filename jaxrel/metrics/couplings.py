r"""Couplings of two samples: optimal within a certified gap, or entropic at any epsilon down to the optimum.

    P = argmin <P, C> + epsilon KL(P | a b^T)   over couplings of a and b

An optimal coupling need not be unique: if all features are equal, every coupling is optimal. The limit of P for a
falling epsilon is unique: the optimal coupling of largest entropy, independent of the order of the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.transport import (
    SinkhornConfig,
    TransportStatus,
    mean_cost,
    round_to_marginals,
    sinkhorn,
)

__all__ = ["Coupling", "certified_coupling", "entropic_coupling"]

_STAGES = 4
_FIRST_BITS = 10  # The first stage is at 2^-10 of the size of the cost,
_BITS_A_STAGE = 4  # each further one at a 16th of the epsilon before.
_TIED_ROUNDINGS = 32.0
_KEPT = 64.0  # in units of epsilon: the mass that is cut off is below rounding.
_ROUGH, _FINE = 1e-5, 1e-8  # errors of the marginals, between stages and at the end
_MAX_ITERATIONS = 20000
_LEAST_SHARE = 0.25  # of a gap is left to the solver, however much of it the errors of the costs use.
_LARGEST_ERROR = _LARGEST_EXCESS = 1e-3
_ABSOLUTE = SinkhornConfig(epsilon_unit="cost")

_State = tuple[Float[Array, "*b n m"], Float[Array, "*b n"], Float[Array, "*b m"], Float[Array, "*b"]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Coupling:
    """A coupling of two samples.

    Attributes:
        plan: the plan, with the requested marginals up to rounding.
        f: potential of the first side, as for `certified_interval`.
        lower, upper: an interval that contains the minimum of the objective; see the functions that return a coupling.
        converged: whether the coupling reached the requested accuracy.
    """

    plan: Float[Array, "*b n m"]
    f: Float[Array, "*b n"]
    lower: Float[Array, "*b"]
    upper: Float[Array, "*b"]
    converged: Bool[Array, "*b"]


def certified_coupling(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    relative_gap: Float[ArrayLike, ""],
    slack: Float[ArrayLike, "*b"] = 0.0,
) -> Coupling:
    """A coupling whose cost is within `relative_gap` of the optimum, with an interval that contains the optimum.

    Args:
        cost: finite costs; a, b: weights of sum 1.
        relative_gap: the coupling has converged if `upper - lower <= relative_gap * upper`, or if the optimum may be 0,
            where no gap is relative, and the coupling is as good as the dtype resolves.
        slack: bound on the error in the cost of any coupling, included in the interval.
    """
    # w + 2 slack <= gap upper if w <= (gap - 2 slack / least) upper, as no coupling costs less than all cheapest pairs.
    least = jnp.sum(a * jnp.min(cost, axis=-1), axis=-1)
    share = 1 - 2 * jnp.asarray(slack) / jnp.where(least > 0, relative_gap * least, jnp.inf)
    result = sinkhorn(
        cost, a, b, relative_gap=relative_gap * jnp.maximum(share, _LEAST_SHARE), max_iterations=_MAX_ITERATIONS
    )
    lower, upper = result.lower - slack, result.upper + slack
    f, g = jnp.where(a > 0, result.f, -jnp.inf), jnp.where(b > 0, result.g, -jnp.inf)
    # For tiny costs, epsilon is below the smallest number of the dtype.
    epsilon = jnp.maximum(result.epsilon, jnp.finfo(cost.dtype).tiny)
    exponent = (f[..., :, None] + g[..., None, :] - cost) / epsilon[..., None, None]
    plan = round_to_marginals(a[..., :, None] * b[..., None, :] * jnp.exp(exponent), a, b)
    missed, at_floor = (
        result.status & int(bit) > 0 for bit in (TransportStatus.GAP_NOT_CERTIFIED, TransportStatus.PRECISION_FLOOR)
    )
    converged = (upper - lower <= relative_gap * upper) | (lower <= 0) & (~missed | at_floor)
    return Coupling(plan, result.f, lower, upper, converged)


def entropic_coupling(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    epsilon: Float[ArrayLike, "*b"],
) -> Coupling:
    """The coupling at `epsilon`, or at the smallest epsilon that the dtype resolves if that is larger.

    Its interval contains the optimum of `<P, C> + epsilon KL(P | a b^T)`, up to rounding; the ends are the dual value
    of the potentials and the cost of the plan. It has converged if the marginals and the optimum are accurate to 1e-3
    of the mass and of the size of the cost.

    Args:
        cost: finite costs of either sign.
        a, b: weights of sum 1; 0 masks a point.
        epsilon: in units of the cost, 0 to infinity.

    Terms of the cost that depend only on the row or the column do not change couplings and are removed. Costs that
    differ by less than 2^-22 of the mean size of the rest, or by 32 roundings of the mean |cost| (float32: 2^-18) if
    that is more, are treated as ties. This is the smallest epsilon.
    """
    rounding = float(jnp.finfo(cost.dtype).eps)
    f, g, rest = _without_marginal_costs(cost, a, b)
    size = mean_cost(jnp.abs(rest), a, b)
    smallest = jnp.maximum(_level(_STAGES - 1) * size, _TIED_ROUNDINGS * rounding * mean_cost(jnp.abs(cost), a, b))
    smallest = jnp.where(smallest > 0, smallest, 1)
    goal = jnp.clip(jnp.asarray(epsilon, cost.dtype), smallest, smallest / rounding**2)
    rest, f, g, error = _solved((rest, f, g, jnp.zeros_like(size)), a, b, size, goal)

    independent = a[..., :, None] * b[..., None, :]
    exponent = -rest / goal[..., None, None]
    plan = round_to_marginals(independent * jnp.exp(exponent), a, b)
    # sum_ij a_i b_j (exp(-rest_ij / epsilon) - 1): 0 where the potentials are optimal.
    surplus = goal * jnp.sum(independent * jnp.expm1(exponent), axis=(-1, -2))
    value = jnp.sum(a * f, axis=-1) + jnp.sum(b * g, axis=-1)
    # <P, C> = <a, f> + <b, g> + <P, rest>: the large potentials do not enter the difference of the ends.
    spent = jnp.sum(plan * rest, axis=(-1, -2)) + goal * _relative_entropy(plan, independent)
    upper = value + spent
    lower = jnp.minimum(value - surplus, upper)
    converged = (error <= _LARGEST_ERROR) & (spent + surplus <= _LARGEST_EXCESS * jnp.maximum(size, smallest))
    return Coupling(plan, f, lower, upper, converged)


def _solved(
    state: _State, a: Float[Array, "*b n"], b: Float[Array, "*b m"], size: Float[Array, "*b"], goal: Float[Array, "*b"]
) -> _State:
    """The reduced cost at the optimal potentials for epsilon `goal`, these potentials, and the marginal error.

    Every stage solves for the reduced cost `C - f - g` of the earlier stages. It is near 0 where the plan has mass. It
    is cut off at 64 epsilon, above which nothing is transported, so that numbers stay small enough for float32 to
    resolve an epsilon of a few roundings of the cost.
    """
    live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    fine = max(_FINE, 64 * float(jnp.finfo(goal.dtype).eps))

    def stage(index: Int[Array, ""], state: _State) -> _State:
        rest, f, g, _ = state
        cut = jnp.where(index == 0, jnp.inf, _KEPT * jnp.maximum(_level(index - 1) * size, goal))
        result = sinkhorn(
            jnp.minimum(rest, cut[..., None, None]),
            a,
            b,
            epsilon=jnp.maximum(_level(index) * size, goal),
            tolerance=jnp.where(index == _STAGES - 1, fine, max(_ROUGH, fine)),
            max_iterations=_MAX_ITERATIONS,
            config=_ABSOLUTE,
        )
        rest = jnp.where(live, rest - (result.f[..., :, None] + result.g[..., None, :]), 0)
        return rest, f + result.f, g + result.g, result.marginal_error

    rest, *others = state
    return jax.lax.fori_loop(0, _STAGES, stage, (jnp.where(live, rest, 0), *others))


def _level(stage: Int[ArrayLike, ""]) -> Any:
    """Epsilon of a stage, relative to the size of the cost."""
    return 2.0 ** (-_FIRST_BITS - _BITS_A_STAGE * stage)


def _without_marginal_costs(
    cost: Float[Array, "*b n m"], a: Float[Array, "*b n"], b: Float[Array, "*b m"]
) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"], Float[Array, "*b n m"]]:
    """Means of the rows, means of the columns after subtracting them, and the remaining cost."""
    rows = jnp.sum(cost * b[..., None, :], axis=-1)
    rest = cost - rows[..., :, None]
    columns = jnp.sum(rest * a[..., :, None], axis=-2)
    return rows, columns, rest - columns[..., None, :]


def _relative_entropy(plan: Float[Array, "*b n m"], independent: Float[Array, "*b n m"]) -> Float[Array, "*b"]:
    """`KL(P | a b^T)` for masses of 1 as a sum of `a_i b_j (t log t - t + 1)`, which is stable to rounding of t."""
    more = jnp.where(independent > 0, plan / jnp.where(independent > 0, independent, 1), 1) - 1
    logarithm = jnp.log1p(jnp.maximum(more, -1 + jnp.finfo(plan.dtype).eps))
    return jnp.sum(independent * ((1 + more) * logarithm - more), axis=(-1, -2))
