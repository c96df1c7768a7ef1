r"""Unbalanced entropic transport: marginals are penalised instead of imposed, masses need not be equal.

    min_P <P, C> + eps KL(P | a b^T) + rho_a KL(P 1 | a) + rho_b KL(P^T 1 | b),   KL(x | y) = sum x log(x / y) - x + y
    = max_{f, g} sum_i a_i G_a(f_i) + sum_j b_j G_b(g_j) - eps sum_ij a_i b_j (exp((f_i + g_j - C_ij) / eps) - 1)

with `G(f) = rho (1 - exp(-f / rho))`, which is f for rho = inf. Potentials are held as `f = u + t`, `g = v - t`: the
plan does not see t, which is as large as rho where masses differ, and u and v stay of the size of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.transport.certificates import (
    c_transform,
    exact_scale,
    finite_or_zero,
    round_to_marginals,
    rounding_allowance,
    shallow_sum,
)
from jaxrel.transport.log_domain import log_weights, soft_min
from jaxrel.transport.result import SinkhornResult, TransportStatus
from jaxrel.transport.validation import checked_init, checked_number, checked_weights

__all__ = ["unbalanced_sinkhorn"]

_SWEEPS_PER_CHECK = 10
_LARGEST_EXPONENT = 40.0  # its exponential times the number of pairs is inside float32
_ANNEALING = 0.8  # factor of epsilon from sweep to sweep, from the size of the cost down to what is asked for


def unbalanced_sinkhorn(
    cost: Float[ArrayLike, "*b n m"],
    a: Float[ArrayLike, "*b n"] | None = None,
    b: Float[ArrayLike, "*b m"] | None = None,
    *,
    epsilon: Float[ArrayLike, "*b"],
    relaxation: Float[ArrayLike, "*b"] | tuple[Float[ArrayLike, "*b"], Float[ArrayLike, "*b"]],
    tolerance: Float[ArrayLike, "*b"] | None = None,
    where_a: Bool[ArrayLike, "*b n"] | None = None,
    where_b: Bool[ArrayLike, "*b m"] | None = None,
    init: tuple[Float[ArrayLike, "*b n"], Float[ArrayLike, "*b m"]] | SinkhornResult | None = None,
    max_sweeps: Int[ArrayLike, ""] = 5000,
) -> SinkhornResult:
    """Transport every problem of a batch with marginals relaxed by a Kullback-Leibler penalty.

    Args:
        cost: cost arrays, any leading axes are a batch; +inf forbids a pair. Masses may then stay where they are.
        a, b: non-negative weights of any sums; a weight of 0 masks its point. None weighs all points (of `where_a`,
            `where_b`) equally with sum 1.
        epsilon: regularisation, in the unit of the cost.
        relaxation: price rho of KL(P 1 | a) and of KL(P^T 1 | b), in the unit of the cost: one for both, or a pair.
            inf imposes that marginal.
        tolerance: a problem is finished once its marginal error is at most this. None takes the square root of the
            dtype's eps. Where the dtype cannot resolve it, iteration stops at the floor and the status says so.
        where_a, where_b: points that count; the others have no weight, whatever they hold.
        init: potentials to start from (only g is used), or an earlier result; epsilon is then not annealed.
        max_sweeps: the limit; may be traced.

    Returns:
        A `SinkhornResult` whose fields are, where they differ from the balanced ones:
        value: the entropic optimum above, its dual value at the potentials. Its derivative with respect to cost,
            weights, epsilon and relaxation is that of the dual with the potentials fixed (envelope rule).
        lower, upper: contain the optimum of the *unregularised* problem, eps = 0 above, rounding included.
        f, g: `P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)`, for weights as given; 0 at masked points and at points
            without a pair of finite cost.
        marginal_error: what a sweep still changes: `sum_i |(P 1)_i - w_i| / sum_i w_i` with w_i = a_i exp(-f_i / rho),
            the marginal that the potentials ask for, plus the relative change of mass.
        status: INFEASIBLE (value, lower and upper are inf) where a marginal is imposed that pairs of finite cost
            cannot have; UNEQUAL_MASS (NaN) only where both are imposed.

    Raises:
        ValueError: for shapes that do not fit, numbers that are not floating point, and, where values are concrete,
            weights that are negative and epsilon, relaxation or tolerance that are not positive.

    Method: Chizat, Peyre, Schmitzer, Vialard, "Scaling algorithms for unbalanced optimal transport problems" (Math. of
    Computation 2018) in the log domain, each sweep followed by the optimal translation t of the potentials (Sejourne,
    Vialard, Peyre, "Faster unbalanced optimal transport", AISTATS 2022), without which rho >> epsilon takes rho /
    epsilon sweeps. One `while_loop` over the batch, finished problems frozen.
    Certificate: upper is the unregularised objective at the entropic plan, scaled by its best factor, or at no plan at
    all; lower its dual at c-transformed potentials with their best translation; each widened by an a-priori bound of
    its rounding error. The interval is O(epsilon) wide at convergence.
    """
    cost = jnp.asarray(cost)
    if cost.ndim < 2 or 0 in cost.shape or not jnp.issubdtype(cost.dtype, jnp.floating):
        raise ValueError(f"cost must be floating point (*b n m), not empty, got {cost.dtype} {cost.shape}.")
    cost = cost.astype(jnp.promote_types(cost.dtype, jnp.float32))
    batch, (n, m) = cost.shape[:-2], cost.shape[-2:]
    a = checked_weights("a", a, where_a, (*batch, n), cost.dtype)
    b = checked_weights("b", b, where_b, (*batch, m), cost.dtype)
    if isinstance(relaxation, tuple) and len(relaxation) != 2:
        raise ValueError(f"relaxation must be one number or a pair, got {len(relaxation)}.")
    rho_a, rho_b = relaxation if isinstance(relaxation, tuple) else (relaxation, relaxation)

    def number(name: str, value: ArrayLike) -> Float[Array, "*b"]:
        return jnp.asarray(checked_number(name, value, batch=batch, dtype=cost.dtype))

    tolerance = float(jnp.finfo(cost.dtype).eps) ** 0.5 if tolerance is None else tolerance
    return _solve(
        cost,
        a,
        b,
        epsilon=number("epsilon", epsilon),
        rho_a=number("relaxation", rho_a),
        rho_b=number("relaxation", rho_b),
        tolerance=number("tolerance", tolerance),
        init=checked_init(init.g if isinstance(init, SinkhornResult) else init, a, b),
        max_sweeps=max_sweeps,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Problem:
    """Costs of about 1 in size, `live` the pairs that may carry mass, cost 0 at the others; a and b 0 off them."""

    cost: Float[Array, "*b n m"]
    live: Bool[Array, "*b n m"]
    a: Float[Array, "*b n"]
    b: Float[Array, "*b m"]
    epsilon: Float[Array, "*b"]
    rho_a: Float[Array, "*b"]
    rho_b: Float[Array, "*b"]

    @property
    def barred_cost(self) -> Float[Array, "*b n m"]:
        """The cost with +inf off the live pairs."""
        return jnp.where(self.live, self.cost, jnp.inf)

    def soft_min_rows(self, v: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b n"]:
        """`-eps log sum_j b_j exp((v_j - C_ij) / eps)`."""
        return soft_min(self.barred_cost, v, self.b, epsilon, axis=-1)

    def soft_min_columns(self, u: Float[Array, "*b n"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b m"]:
        """`-eps log sum_i a_i exp((u_i - C_ij) / eps)`."""
        return soft_min(self.barred_cost, u, self.a, epsilon, axis=-2)

    def log_plan(self, u: Float[Array, "*b n"], v: Float[Array, "*b m"]) -> Float[Array, "*b n m"]:
        """`log(a_i b_j) + (u_i + v_j - C_ij) / eps`, -inf off the live pairs."""
        exponent = (u[..., :, None] + v[..., None, :] - self.cost) / self.epsilon[..., None, None]
        exponent = exponent + log_weights(self.a)[..., :, None] + log_weights(self.b)[..., None, :]
        return jnp.where(self.live, exponent, -jnp.inf)


class _Potentials(NamedTuple):
    """`f = u + t`, `g = v - t`."""

    u: Float[Array, "*b n"]
    v: Float[Array, "*b m"]
    t: Float[Array, "*b"]


class _State(NamedTuple):
    potentials: _Potentials
    error: Float[Array, "*b"]
    sweeps: Int[Array, "*b"]
    active: Bool[Array, "*b"]


@jax.jit
def _solve(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    *,
    epsilon: Float[Array, "*b"],
    rho_a: Float[Array, "*b"],
    rho_b: Float[Array, "*b"],
    tolerance: Float[Array, "*b"],
    init: Float[Array, "*b m"] | None,
    max_sweeps: Int[ArrayLike, ""],
) -> SinkhornResult:
    problem, scale, alone, status = _prepared(cost, a, b, epsilon, rho_a, rho_b)
    independent = jnp.sum(a, axis=-1) * jnp.sum(b, axis=-1)
    fixed = jax.lax.stop_gradient(problem)
    start = None if init is None else init / scale[..., None]
    state, floor = _iterate(fixed, start, jax.lax.stop_gradient(tolerance), max_sweeps)
    imposed_a, imposed_b = (jnp.isinf(rho) for rho in (problem.rho_a, problem.rho_b))
    u, v, t = state.potentials
    # The last update of a sweep makes columns exact; where only rows are imposed they must be.
    rows_last = (imposed_a & ~imposed_b)[..., None]
    u = jnp.where(rows_last, jnp.where(fixed.a > 0, fixed.soft_min_rows(v, fixed.epsilon), 0), u)
    potentials = jax.lax.stop_gradient(_Potentials(u, v, t))

    plan_mass = jnp.sum(jnp.exp(problem.log_plan(potentials.u, potentials.v)), axis=(-1, -2))
    value = _dual(problem, potentials).value + alone - problem.epsilon * (plan_mass - independent)
    alone = jax.lax.stop_gradient(alone)
    lower, upper = _lower(fixed, potentials) + alone, _upper(fixed, potentials) + alone
    allowance = rounding_allowance(sum(cost.shape[-2:]), cost.dtype) * jnp.where(jnp.isfinite(alone), alone, 0)

    converged = state.error <= jnp.maximum(tolerance, floor)  # false for NaN: potentials overflowed
    status |= jnp.where(converged, 0, TransportStatus.NOT_CONVERGED)
    status |= jnp.where(converged & (state.error > tolerance), TransportStatus.PRECISION_FLOOR, 0)
    status |= jnp.where(jnp.isinf(upper) & jnp.isfinite(alone), TransportStatus.FORBIDDEN_MASS, 0)
    failed = (status & (TransportStatus.NOT_FINITE | TransportStatus.UNEQUAL_MASS)) != 0
    infeasible = (status & TransportStatus.INFEASIBLE) != 0
    value, lower, upper = (
        jnp.where(failed, jnp.nan, jnp.where(infeasible, jnp.inf, end * scale))
        for end in (value, lower - allowance, upper + allowance)
    )

    mass = jnp.sum(fixed.a, axis=-1)
    both = (imposed_a & imposed_b) & (mass > 0)
    centre = jnp.sum(fixed.b * v, axis=-1) - jnp.sum(fixed.a * u, axis=-1)
    t = jnp.where(both, centre / (2 * jnp.where(mass > 0, mass, 1)), t)
    return SinkhornResult(
        value=value,
        lower=lower,
        upper=upper,
        f=jnp.where(fixed.a > 0, u + t[..., None], 0) * scale[..., None],
        g=jnp.where(fixed.b > 0, v - t[..., None], 0) * scale[..., None],
        epsilon=jax.lax.stop_gradient(epsilon),
        num_iters=state.sweeps,
        marginal_error=state.error,
        status=status.astype(jnp.int32),
    )


def _prepared(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    epsilon: Float[Array, "*b"],
    rho_a: Float[Array, "*b"],
    rho_b: Float[Array, "*b"],
) -> tuple[_Problem, Float[Array, "*b"], Float[Array, "*b"], Int[Array, "*b"]]:
    """The scaled problem of the points that have a partner, the scale, the price of the others, and the status."""
    pair = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    weights_fail = jnp.any(~jnp.isfinite(a) | (a < 0), axis=-1) | jnp.any(~jnp.isfinite(b) | (b < 0), axis=-1)
    cost_fails = jnp.any(pair & (jnp.isnan(cost) | (cost == -jnp.inf)), axis=(-1, -2))
    live = pair & jnp.isfinite(cost)
    cost = jnp.where(live, cost, 0)
    scale = exact_scale(jax.lax.stop_gradient(jnp.max(jnp.abs(cost), axis=(-1, -2))))
    rho_a, rho_b, epsilon = rho_a / scale, rho_b / scale, epsilon / scale

    # A point without a partner keeps or loses its mass: the same in every plan. Partners have partners: one pass.
    met_a, met_b = jnp.any(live, axis=-1), jnp.any(live, axis=-2)
    alone_a, alone_b = (jnp.sum(jnp.where(met, 0, w), axis=-1) for met, w in ((met_a, a), (met_b, b)))
    price = _times(rho_a, alone_a) + _times(rho_b, alone_b)
    a, b = jnp.where(met_a, a, 0), jnp.where(met_b, b, 0)

    balanced = jnp.isinf(rho_a) & jnp.isinf(rho_b)
    mass_a, mass_b = jnp.sum(a, axis=-1), jnp.sum(b, axis=-1)
    rounding = 4 * sum(cost.shape[-2:]) * float(jnp.finfo(cost.dtype).eps)
    unequal = balanced & (jnp.abs(mass_a - mass_b) > rounding * jnp.maximum(mass_a, mass_b))
    b = b * jnp.where(balanced & ~unequal & (mass_b > 0), mass_a / jnp.where(mass_b > 0, mass_b, 1), 1)[..., None]
    status = (
        TransportStatus.NOT_FINITE * (weights_fail | cost_fails)
        + TransportStatus.INFEASIBLE * jnp.isinf(price)
        + TransportStatus.UNEQUAL_MASS * (unequal & ~jnp.isinf(price))
    )
    return _Problem(cost / scale[..., None, None], live, a, b, epsilon, rho_a, rho_b), scale, price, status


def _iterate(
    problem: _Problem, init: Float[Array, "*b m"] | None, tolerance: Float[Array, "*b"], max_sweeps: Int[ArrayLike, ""]
) -> tuple[_State, Float[Array, "*b"]]:
    """Sweeps until a sweep changes no more than the tolerance; and the error that the dtype can resolve."""
    eps = float(jnp.finfo(problem.cost.dtype).eps)
    # Costs and potentials are about 1 in size: this is what rounding makes of a difference of them over epsilon.
    floor = 4 * eps * (1 + 2 / problem.epsilon)
    # Sweeps in which epsilon is above the one asked for.
    size = jnp.maximum(1 / problem.epsilon, 1)
    anneal = jnp.ceil(jnp.log(size) / -jnp.log(_ANNEALING)) if init is None else jnp.zeros_like(size)

    def sweep(index: Int[Array, ""], carry: tuple[_Potentials, Float[Array, "*b"]]) -> tuple[_Potentials, Array]:
        (u, v, t), _ = carry
        epsilon = problem.epsilon * _ANNEALING ** -jnp.maximum(anneal - index, 0)
        keep_a, keep_b = 1 / (1 + epsilon / problem.rho_a), 1 / (1 + epsilon / problem.rho_b)
        pull_a, pull_b = epsilon * t / (problem.rho_a + epsilon), epsilon * t / (problem.rho_b + epsilon)
        new_u = keep_a[..., None] * problem.soft_min_rows(v, epsilon) - pull_a[..., None]
        new_u = jnp.where(problem.a > 0, new_u, 0)
        new_v = keep_b[..., None] * problem.soft_min_columns(new_u, epsilon) + pull_b[..., None]
        new_v = jnp.where(problem.b > 0, new_v, 0)
        new_t = _translation(problem, new_u, new_v)
        asked = jnp.where(problem.a > 0, log_weights(problem.a) - u / problem.rho_a[..., None], -jnp.inf)
        share = jax.nn.softmax(jnp.where(jnp.any(problem.a > 0, axis=-1, keepdims=True), asked, 0), axis=-1)
        change = (u - new_u) * (1 / epsilon + 1 / problem.rho_a)[..., None]
        error = jnp.sum(share * jnp.abs(jnp.expm1(change)), axis=-1) + jnp.abs(jnp.expm1((t - new_t) / problem.rho_b))
        return _Potentials(new_u, new_v, new_t), error

    def block(state: _State) -> _State:
        done = jnp.max(state.sweeps)
        until = jnp.minimum(done + _SWEEPS_PER_CHECK, max_sweeps)
        potentials, error = jax.lax.fori_loop(done, until, sweep, (state.potentials, state.error))

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(state.active.reshape(state.active.shape + (1,) * (new.ndim - state.active.ndim)), new, old)

        potentials = jax.tree.map(keep, potentials, state.potentials)
        error = keep(error, state.error)
        finished = (error <= jnp.maximum(tolerance, floor)) & (until > anneal)
        return _State(potentials, error, keep(until, state.sweeps), state.active & ~finished)

    empty = ~jnp.any(problem.live, axis=(-1, -2))
    zeros = jnp.zeros_like(problem.epsilon)
    v = jnp.zeros_like(problem.b) if init is None else jnp.where(problem.b > 0, init, 0)
    state = _State(
        potentials=_Potentials(jnp.zeros_like(problem.a), v, zeros),
        error=jnp.where(empty, 0, jnp.inf).astype(zeros.dtype),
        sweeps=jnp.zeros(zeros.shape, jnp.int32),
        active=~empty,
    )
    return jax.lax.while_loop(lambda s: jnp.any(s.active) & (jnp.max(s.sweeps) < max_sweeps), block, state), floor


def _translation(problem: _Problem, u: Float[Array, "*b n"], v: Float[Array, "*b m"]) -> Float[Array, "*b"]:
    """The t that maximises the dual: both relaxed marginals then have the same mass."""
    ratio = _log_mass(problem.a, u, problem.rho_a) - _log_mass(problem.b, v, problem.rho_b)
    freedom = 1 / problem.rho_a + 1 / problem.rho_b
    movable = (freedom > 0) & jnp.any(problem.live, axis=(-1, -2))
    return jnp.where(movable, ratio / jnp.where(movable, freedom, 1), 0)


def _log_mass(w: Float[Array, "*b n"], potential: Float[Array, "*b n"], rho: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """`log sum w exp(-potential / rho)`, of small relative error in its distance from `log sum w` for a large rho."""
    exponent = -potential / rho[..., None]
    largest = jnp.max(jnp.where(w > 0, exponent, -jnp.inf), axis=-1)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    below = jnp.where(w > 0, exponent - largest[..., None], 0)
    total = jnp.sum(w, axis=-1)
    total = jnp.where(total > 0, total, 1)
    loss = jnp.sum(w * jnp.expm1(below), axis=-1) / total
    flat = jnp.min(below, axis=-1) > -1
    steep = jnp.sum(w * jnp.exp(below), axis=-1)
    steep = jnp.log(jnp.where(steep > 0, steep, 1))
    return largest + jnp.where(flat, jnp.log(total) + jnp.log1p(jnp.where(flat, loss, 0)), steep)


class _Dual(NamedTuple):
    """Value of the two marginal terms, and a bound of its rounding error relative to `rounding_allowance`."""

    value: Float[Array, "*b"]
    size: Float[Array, "*b"]


def _dual(problem: _Problem, potentials: _Potentials) -> _Dual:
    """`<a, G_a(u + t)> + <b, G_b(v - t)>`."""
    u, v, t = potentials
    sides = (_side(problem.a, u, t, problem.rho_a), _side(problem.b, v, -t, problem.rho_b))
    return _Dual(sides[0].value + sides[1].value, sides[0].size + sides[1].size)


def _side(w: Float[Array, "*b n"], u: Float[Array, "*b n"], t: Float[Array, "*b"], rho: Float[Array, "*b"]) -> _Dual:
    """`<w, G(u + t)>`, as `G(r) + exp(-r / rho) G(u + t - r)` with r = t where t is small against rho, r = 0 elsewhere.

    A large rho makes t large against u, whose digits the sum would lose; but exp(-t / rho) must not be large.
    """
    relaxed = jnp.isfinite(rho)
    rho = jnp.where(relaxed, rho, 1)
    apart = jnp.where(relaxed & (jnp.abs(t) > rho), 0, t)
    u = jnp.where(w > 0, u + (t - apart)[..., None], 0)
    # t = 0 where both marginals are imposed; where this one alone is, G(t) = t.
    moved = jnp.where(relaxed, -rho * jnp.expm1(-apart / rho), apart)
    factor = jnp.where(relaxed, jnp.exp(-apart / rho), 1)
    gain = jnp.where(relaxed[..., None], -rho[..., None] * jnp.expm1(-u / rho[..., None]), u)
    slope = shallow_sum(w * jnp.where(relaxed[..., None], jnp.exp(-u / rho[..., None]), 1))
    # Arguments of exponentials are rounded too, and potentials are feasible only up to eps times their size.
    mass = shallow_sum(w)
    size = mass * (jnp.abs(moved) + jnp.abs(apart)) + 2 * shallow_sum(w * jnp.abs(gain))
    size += slope * (jnp.max(jnp.abs(u), axis=-1) + jnp.abs(t))
    return _Dual(mass * moved + factor * shallow_sum(w * gain), 3 * size)  # factor is at most e


def _lower(problem: _Problem, potentials: _Potentials) -> Float[Array, "*b"]:
    """Dual of the unregularised problem: c-transforms make u + v <= C, and any translation keeps it.

    The first only lowers v: where the entropic pair has room under C, a plain transform could raise v at the expense
    of a u so far below 0 that `exp(-u / rho)` explodes. The two that follow can only raise u and v.
    """

    cost = problem.barred_cost
    u = c_transform(cost, jnp.minimum(potentials.v, c_transform(cost, potentials.u, axis=-2)), axis=-1)
    v = c_transform(cost, u, axis=-2)
    dual = _dual(problem, _Potentials(u, v, _translation(problem, u, v)))
    lower = dual.value - rounding_allowance(sum(problem.cost.shape[-2:]), u.dtype) * dual.size
    return jnp.where(jnp.isnan(lower), -jnp.inf, lower)  # a term overflowed: nothing is known


def _upper(problem: _Problem, potentials: _Potentials) -> Float[Array, "*b"]:
    """Unregularised objective at the entropic plan, made to have the imposed marginals and scaled by its best factor.

    Rounding, besides that of the terms themselves: a marginal is wrong by `allowance` relative to itself, which moves
    its KL by that times `p |log(p / a)|` and by its square, or where it is imposed costs the largest cost.
    """
    a, b, cost = problem.a, problem.b, problem.cost
    allowance = rounding_allowance(sum(cost.shape[-2:]), cost.dtype)
    imposed_a, imposed_b = (jnp.isinf(rho)[..., None] for rho in (problem.rho_a, problem.rho_b))
    # An imposed marginal makes its rows or columns as large as they must be, the best factor a relaxed plan: taking
    # the maximum out of the exponents changes nothing, and far from convergence keeps exp from overflow.
    exponent = problem.log_plan(potentials.u, potentials.v)
    of_rows, of_columns = (finite_or_zero(jnp.max(exponent, axis=axis, keepdims=True)) for axis in (-1, -2))
    excess = jnp.maximum(jnp.max(of_rows, axis=-2, keepdims=True) - _LARGEST_EXPONENT, 0)
    shift = jnp.where((imposed_a & ~imposed_b)[..., None], of_rows, excess)
    plan = jnp.exp(exponent - jnp.where((imposed_b & ~imposed_a)[..., None], of_columns, shift))
    rows, columns = jnp.sum(plan, axis=-1), jnp.sum(plan, axis=-2)
    plan = plan * jnp.where(imposed_a & ~imposed_b, _ratio(a, rows), 1)[..., :, None]
    plan = plan * jnp.where(imposed_b & ~imposed_a, _ratio(b, columns), 1)[..., None, :]
    plan = jnp.where((imposed_a & imposed_b)[..., None], round_to_marginals(plan, a, b), plan)
    forbidden = jnp.any(~problem.live & (plan > 0), axis=(-1, -2))
    rows, columns = jnp.sum(plan, axis=-1), jnp.sum(plan, axis=-2)

    relaxed = jnp.isfinite(problem.rho_a) & jnp.isfinite(problem.rho_b)
    rho_a, rho_b = (jnp.where(jnp.isfinite(rho), rho, 0) for rho in (problem.rho_a, problem.rho_b))
    transport = shallow_sum(jnp.sum(plan * cost, axis=-1))
    slope = transport + rho_a * shallow_sum(_x_log_ratio(rows, a)) + rho_b * shallow_sum(_x_log_ratio(columns, b))
    mass = shallow_sum(rows)
    scalable = relaxed & (mass > 0)
    factor = jnp.exp(jnp.where(scalable, -slope / jnp.where(scalable, (rho_a + rho_b) * mass, 1), 0))
    rows, columns = rows * factor[..., None], columns * factor[..., None]

    size = factor * shallow_sum(jnp.sum(plan * jnp.abs(cost), axis=-1))
    size += jnp.where(relaxed, 0, 2.5 * mass * jnp.max(jnp.abs(cost), axis=(-1, -2)))
    value = factor * transport
    for rho, marginal, weights in ((rho_a, rows, a), (rho_b, columns, b)):
        # The part of KL(p | a) = sum a ((1 + x) log(1 + x) - x), x = p / a - 1, that cancels is of size a |x|.
        excess = jnp.where(weights > 0, (marginal - weights) / jnp.where(weights > 0, weights, 1), 0)
        log_term = jnp.where(excess > -1, jnp.log1p(jnp.where(excess > -1, excess, 0)), 0) * (1 + excess)
        value += rho * shallow_sum(weights * (log_term - excess))
        terms = shallow_sum(weights * (jnp.abs(log_term) + jnp.abs(excess)))
        size += rho * (terms + allowance * (shallow_sum(weights) + shallow_sum(marginal)))
    value = value + allowance * size
    value = jnp.where(forbidden | jnp.isnan(value), jnp.inf, value)
    nothing = jnp.where(relaxed, rho_a * shallow_sum(a) + rho_b * shallow_sum(b), jnp.inf) * (1 + allowance)
    return jnp.where(jnp.any(problem.live, axis=(-1, -2)), jnp.minimum(value, nothing), 0)


def _ratio(target: Float[Array, "*b n"], total: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    return jnp.where(total > 0, target / jnp.where(total > 0, total, 1), 0)


def _x_log_ratio(x: Float[Array, "*b n"], y: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    return jnp.where(x > 0, x * jnp.log(jnp.where(x > 0, x, 1) / jnp.where(y > 0, y, 1)), 0)


def _times(rho: Float[Array, "*b"], mass: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Product in which no mass costs nothing at any price."""
    return jnp.where(mass > 0, jnp.where(mass > 0, rho, 0) * mass, 0)
