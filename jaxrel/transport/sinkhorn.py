r"""Batched optimal transport: entropic potentials with a certificate of the exact optimum.

OT_eps = min_P <P, C> + eps KL(P | a b^T)   over plans with marginals a and b
       = max_{f, g} <a, f> + <b, g> - eps sum_ij a_i b_j (exp((f_i + g_j - C_ij) / eps) - 1)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.programs import compiled
from jaxrel.transport.certificates import centred, dual_value, normalised, shallow_sum
from jaxrel.transport.dense import DenseOperator, dense_operator, scaled_array
from jaxrel.transport.envelope import Optimum, value_of_array, value_of_cloud
from jaxrel.transport.iteration import Limits, State, iterate, precision_floor, varying_with
from jaxrel.transport.log_domain import log_iterations, symmetric_iterations
from jaxrel.transport.operators import ScaledProblem
from jaxrel.transport.point_clouds import PointCloud, cost_array
from jaxrel.transport.result import SinkhornResult, TransportStatus
from jaxrel.transport.tiled import TiledOperator, filled_up, scaled_cloud
from jaxrel.transport.validation import checked_init, checked_number, checked_problem

__all__ = ["SinkhornConfig", "sinkhorn"]

_ITERATIONS = 8
_FIRST_BLUR = 0.8  # The optimum is below the mean cost, and epsilon is close to the gap that it causes.
_COARSE_POINTS = 2048


@jax.tree_util.register_static
@dataclass(frozen=True)
class SinkhornConfig:
    """Static options of the solver. The config is hashable, and a new value recompiles.

    Attributes:
        inner: `"scaling"` iterates by matrix-vector products with an absorbed kernel, `"log"` by log-sum-exp. They
            agree; the first is about ten times faster, the second is the reference and is used for tiled clouds.
            `"symmetric"` averages the two potentials, for costs with C^T = C and a = b (a cloud and itself). It needs
            only a few iterations at any epsilon, without epsilon scaling, but does not converge for other problems.
        epsilon_unit: `"mean_cost"`: epsilon is relative to the mean of |C| under a b^T, for each problem; `"cost"`:
            epsilon has the unit of the cost.
        epsilon_scaling: start at a 64th of the range of the cost and divide by 4 until epsilon is reached.
        over_relaxation: adapt the over-relaxation of the updates to the observed rate; False uses plain updates.
        iterations_per_check: iterations before the first check of the error. Later checks come as often as the observed
            rate requires, after at most twice as many iterations as before. None is 8, or 3 for tiled clouds, where a
            check is cheap compared to an iteration.
    """

    inner: Literal["scaling", "log", "symmetric"] = "scaling"
    epsilon_unit: Literal["mean_cost", "cost"] = "mean_cost"
    epsilon_scaling: bool = True
    over_relaxation: bool = True
    iterations_per_check: int | None = None

    def __post_init__(self) -> None:
        """Reject unknown names and invalid sizes."""
        for name, allowed in (("inner", ("scaling", "log", "symmetric")), ("epsilon_unit", ("mean_cost", "cost"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        iterations = self.iterations_per_check
        if iterations is not None and (not isinstance(iterations, int) or iterations < 1):
            raise ValueError(f"iterations_per_check must be a positive integer or None, got {iterations!r}.")


def sinkhorn(
    cost: Float[ArrayLike, "*b n m"] | PointCloud,
    a: Float[ArrayLike, "*b n"] | None = None,
    b: Float[ArrayLike, "*b m"] | None = None,
    *,
    epsilon: Float[ArrayLike, "*b"] | None = None,
    relative_gap: Float[ArrayLike, "*b"] | None = None,
    tolerance: Float[ArrayLike, "*b"] | None = None,
    where_a: Bool[ArrayLike, "*b n"] | None = None,
    where_b: Bool[ArrayLike, "*b m"] | None = None,
    init: tuple[Float[ArrayLike, "*b n"], Float[ArrayLike, "*b m"]] | SinkhornResult | None = None,
    max_iterations: Int[ArrayLike, ""] = 5000,
    config: SinkhornConfig = SinkhornConfig(),
) -> SinkhornResult:
    r"""Solve a batch of transport problems to a given epsilon or to a certified relative gap.

    Args:
        cost: cost arrays, with any leading batch axes, or a `PointCloud`. A cost of inf forbids a pair.
        a, b: non-negative weights of equal sum; a weight of 0 masks its point. None gives all points (of `where_a`,
            `where_b`) equal weight, with sum 1.
        epsilon: regularisation, in the unit of the config (relative to the mean cost by default).
        relative_gap: lower epsilon until `upper - lower <= relative_gap * |upper|` is certified. Pass this or epsilon;
            with both, epsilon is the smallest value tried.
        tolerance: marginal error `sum_i |sum_j P_ij - a_i|` (for weights of sum 1) at which a problem stops. None is
            3e-4 in float32 and 1e-6 in float64. If the dtype cannot reach it at this epsilon, iteration stops at the
            floor of the dtype, about `eps * (4 + 2 max|C| / epsilon)`, and sets the status.
        where_a, where_b: masks of the points to use; the values of other points are ignored.
        init: potentials to start from (only g is used), or an earlier result; epsilon scaling is then skipped.
        max_iterations: the largest number of iterations; may be traced.
        config: static options of the solver.

    Returns:
        A `SinkhornResult` whose arrays have the batch axes of the cost. A problem without mass costs 0.

    Raises:
        ValueError: for shapes that do not match, or n and m that differ with inner="symmetric". For concrete values
            also for NaN or -inf costs, negative or non-finite weights, different sums of a and b, and an epsilon or
            relative_gap that is not positive. For traced values, the status is set and the result is NaN.

    Method: alternating updates (Sinkhorn 1967; Cuturi 2013) in one `while_loop` over the batch; converged problems are
    frozen. Kernels are absorbed as in Schmitzer (2019), "Stabilized sparse scaling algorithms", epsilon is scaled, and
    updates are over-relaxed (Thibault et al. 2021; Lehmann et al. 2022) by the factor that SOR theory gives for the
    observed rate. Tiled clouds start from the potentials of every k-th point, at most 2,048 of each cloud.
    Deviations: only rows are absorbed by their maximum, which cannot underflow; scalings are limited to exp(+-40)
    between absorptions. A forbidden pair costs more than any detour: with finite costs of at most s in size, it costs
    `(2 + 2 min(n, m)) s`, which does not change the optimum if a feasible plan exists.

    Examples:
        >>> import jax.numpy as jnp
        >>> cost, a, b = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
        >>> result = sinkhorn(cost, a, b, relative_gap=0.01)
        >>> bool(result.lower <= 0.25 <= result.upper)
        True
    """
    cost, a, b = checked_problem(cost, a, b, where_a, where_b)
    if epsilon is None and relative_gap is None:
        raise ValueError("pass epsilon (a regularisation) or relative_gap (an accuracy).")
    if config.inner == "symmetric" and a.shape != b.shape:
        raise ValueError(f'inner="symmetric" needs a cloud and itself, got {a.shape[-1]} and {b.shape[-1]} points.')
    number = functools.partial(checked_number, batch=a.shape[:-1], dtype=a.dtype)
    return _solve(
        cost,
        a,
        b,
        epsilon=number("epsilon", epsilon),
        relative_gap=number("relative_gap", relative_gap),
        tolerance=number("tolerance", tolerance),
        init=checked_init(init.g if isinstance(init, SinkhornResult) else init, a, b),
        max_iterations=max_iterations,
        config=config,
    )


@functools.partial(compiled, static_argnames="config")
def _solve(
    cost: Float[Array, "*b n m"] | PointCloud,
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    *,
    epsilon: Float[Array, "*b"] | None,
    relative_gap: Float[Array, "*b"] | None,
    tolerance: Float[Array, "*b"] | None,
    init: Float[Array, "*b m"] | None,
    max_iterations: Int[ArrayLike, ""],
    config: SinkhornConfig,
) -> SinkhornResult:
    """The kernel of `sinkhorn`: solve for detached inputs, then compute the value with derivatives."""
    tile, error = None, None
    if isinstance(cost, PointCloud):
        tile = cost.tile_side
        # Masked points may have any values, even ones that would spoil the precision of the others.
        (x, _), (y, _) = filled_up(cost.x, a, 1), filled_up(cost.y, b, 1)
        cost = dataclasses.replace(cost, x=x, y=y)
        if tile is None:
            if cost.cost_error is not None:
                error = jax.lax.stop_gradient(cost.cost_error(cost.x, cost.y))
            cost = cost_array(cost)
            # Named costs of finite points are infinite only if they overflow.
            cost = cost if error is None else jnp.where(jnp.isfinite(cost + error), cost, jnp.nan)
    detached = jax.lax.stop_gradient((cost, a, b, error))
    result, mass = _solve_detached(*detached, epsilon, relative_gap, tolerance, init, max_iterations, config)
    optimum = Optimum(result.value, result.f, result.g, result.epsilon, mass)
    if isinstance(cost, PointCloud) and tile is not None:
        value = value_of_cloud(cost.cost_function, tile, cost.x, cost.y, a, b, optimum)
    else:
        value = value_of_array(cost, a, b, optimum)
    return dataclasses.replace(result, value=value)


def _solve_detached(
    cost: Float[Array, "*b n m"] | PointCloud,
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    error: Float[Array, "*b n m"] | None,
    epsilon: Float[Array, "*b"] | None,
    relative_gap: Float[Array, "*b"] | None,
    tolerance: Float[Array, "*b"] | None,
    init: Float[Array, "*b m"] | None,
    max_iterations: Int[ArrayLike, ""],
    config: SinkhornConfig,
) -> tuple[SinkhornResult, Float[Array, "*b"]]:
    """Values, certificates and potentials in the units of the problem, and its mass."""
    probe = (cost.x if isinstance(cost, PointCloud) else cost)[..., 0, 0]
    a, b = varying_with(a, probe), varying_with(b, probe)
    size_a, size_b = a.shape[-1], b.shape[-1]
    eps = float(jnp.finfo(a.dtype).eps)
    mass_a, mass_b = shallow_sum(a), shallow_sum(b)
    scaled = _scaled(cost, normalised(a), normalised(b), error)
    operator, unit = scaled.operator, scaled.scale
    invalid = scaled.invalid | _not_weights(a, mass_a) | _not_weights(b, mass_b)
    empty = ~invalid & ~((mass_a > 0) & (mass_b > 0))
    unequal = jnp.abs(mass_a - mass_b) > 4 * (size_a + size_b) * eps * jnp.maximum(mass_a, mass_b)
    unequal = unequal & ~invalid & ~empty

    # An epsilon below a few eps of the largest cost is meaningless; certificates stop at their resolution.
    smallest = jnp.full(empty.shape, (4 if relative_gap is None else 512) * eps, a.dtype)
    if epsilon is not None:
        relative = config.epsilon_unit == "mean_cost"
        smallest = jnp.maximum(smallest, epsilon * scaled.mean_size if relative else epsilon / unit)
    limits = Limits(
        epsilon=smallest,
        tolerance=jnp.broadcast_to(
            jnp.asarray(max(eps**0.5, 1e-6) if tolerance is None else tolerance, a.dtype), empty.shape
        ),
        relative_gap=relative_gap,
        max_iterations=jnp.asarray(max_iterations),
    )
    symmetric = config.inner == "symmetric"
    in_log_domain = symmetric or isinstance(operator, TiledOperator)
    run = functools.partial(
        iterate,
        skip=empty | unequal | invalid,
        mean_size=scaled.mean_size,
        limits=limits,
        iterations_per_check=config.iterations_per_check or (3 if in_log_domain else _ITERATIONS),
        over_relaxation=config.over_relaxation and not symmetric,
    )
    goal = smallest if relative_gap is None else jnp.maximum(_FIRST_BLUR * relative_gap * scaled.mean_size, smallest)
    scaled_down = config.epsilon_scaling and init is None and not symmetric
    start_epsilon = scaled.start_epsilon if scaled_down else goal
    g = jnp.zeros_like(operator.b)
    if init is not None:
        g = g.at[..., :size_b].set(init / unit[..., None])
    elif isinstance(operator, TiledOperator) and scaled_down:
        g, start_epsilon = _coarse_start(operator, run, start_epsilon, goal)
        # The epsilon that a sample needed for the gap is about right for the whole clouds.
        goal = smallest if relative_gap is None else jnp.maximum(start_epsilon, smallest)
    scaling = isinstance(operator, DenseOperator) and config.inner == "scaling"
    state = run(
        operator,
        symmetric_iterations if symmetric else DenseOperator.scaling_iterations if scaling else log_iterations,
        jnp.where(operator.b > 0, g, -jnp.inf),
        start_epsilon=start_epsilon,
        goal=goal,
    )

    f, g = centred(operator.a, operator.b, state.f, state.g)
    value, _ = dual_value(operator.a, operator.b, f, g)
    failed = invalid | (~jnp.isfinite(state.error) & ~empty & ~unequal)
    # No plan on allowed pairs costs more than 1.
    infeasible = ~failed & ~unequal & ~empty & (scaled.blocked | (state.certificate.lower > 1))
    mass = jnp.where(empty, 0, mass_a)
    tiny = float(jnp.finfo(a.dtype).tiny)

    def in_units(amount: Float[Array, "*b"], outwards: int = 0) -> Float[Array, "*b"]:
        # Multiply by the larger factor first: only a product that is itself too small then underflows.
        product = amount * jnp.maximum(unit, mass) * jnp.minimum(unit, mass)
        lost = (jnp.abs(product) < tiny) & (amount != 0) & ~empty
        return jnp.where(lost, outwards * tiny, product)

    lower, upper = in_units(state.certificate.lower, -1), in_units(state.certificate.upper, 1)
    failed = failed | (~infeasible & ~empty & ~unequal & (jnp.isposinf(lower) | jnp.isneginf(upper)))

    def defined(amount: Float[Array, "*b"]) -> Float[Array, "*b"]:
        amount = jnp.where(infeasible, jnp.inf, jnp.where(empty, 0, amount))
        return jnp.where(failed | unequal, jnp.nan, amount)

    status = jnp.where(empty, 0, _status(state, limits, infeasible, size_a + size_b))
    status = jnp.where(unequal, int(TransportStatus.UNEQUAL_MASS), status)
    status = jnp.where(failed, int(TransportStatus.NOT_FINITE), status)
    started = state.num_iterations > 0
    result = SinkhornResult(
        value=defined(in_units(value)),
        lower=defined(lower),
        upper=defined(upper),
        f=jnp.where(started[..., None], f[..., :size_a] * unit[..., None], 0),
        g=jnp.where(started[..., None], g[..., :size_b] * unit[..., None], 0),
        epsilon=jnp.where(started, state.epsilon, smallest) * unit,
        num_iterations=state.num_iterations,
        marginal_error=jnp.where(started, state.error, 0),
        status=status.astype(jnp.int32),
    )
    return result, mass


def _scaled(
    cost: Float[Array, "*b n m"] | PointCloud,
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    error: Float[Array, "*b n m"] | None,
) -> ScaledProblem:
    if not isinstance(cost, PointCloud):
        return scaled_array(cost, a, b, error)
    tile = cost.tile_side or max(a.shape[-1], b.shape[-1])
    return scaled_cloud(cost.cost_function, cost.cost_error, cost.x, cost.y, a, b, tile=tile)


def _coarse_start(
    operator: TiledOperator, run: Callable[..., State], start_epsilon: Float[Array, "*b"], goal: Float[Array, "*b"]
) -> tuple[Float[Array, "*b m"], Float[Array, "*b"]]:
    """Potential of the columns, and epsilon, from the problem between every k-th point of each cloud.

    Potentials of a sample are close to those of the whole clouds and cost little; the full passes only refine them.
    """
    x, a = (values[..., :: -(-operator.a.shape[-1] // _COARSE_POINTS)] for values in (operator.x.mT, operator.a))
    y, b = (values[..., :: -(-operator.b.shape[-1] // _COARSE_POINTS)] for values in (operator.y.mT, operator.b))
    mass_a, mass_b = shallow_sum(a), shallow_sum(b)
    a, b = normalised(a), normalised(b)
    live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    coarse = dense_operator(jnp.where(live, operator.costs(x.mT, y.mT), 0), a, b)
    g = jnp.where(b > 0, jnp.zeros_like(b), -jnp.inf)
    state = run(
        coarse,
        DenseOperator.scaling_iterations,
        g,
        iterations_per_check=_ITERATIONS,
        start_epsilon=start_epsilon,
        goal=goal,
    )
    sampled = filled_up(x.mT, a, operator.tile)
    rows = dataclasses.replace(operator, x=sampled[0], a=sampled[1])
    f = jnp.full(rows.a.shape, -jnp.inf, a.dtype).at[..., : a.shape[-1]].set(state.f)
    usable = (mass_a > 0) & (mass_b > 0) & jnp.isfinite(state.error)
    g = jnp.where(usable[..., None], rows.soft_min_columns(f, state.epsilon), 0)
    return g, jnp.where(usable, state.epsilon, goal)


def _status(state: State, limits: Limits, infeasible: Bool[Array, "*b"], num_points: int) -> Int[Array, "*b"]:
    eps = jnp.finfo(state.error.dtype).eps
    certificate = state.certificate
    floor = precision_floor(state.epsilon)
    if limits.relative_gap is None:
        at_floor = (state.error > limits.tolerance) & (state.error <= floor) & (state.epsilon <= limits.epsilon)
        missed = jnp.zeros_like(at_floor)
        open_ended = ~at_floor & ((state.error > limits.tolerance) | (state.epsilon > limits.epsilon))
    else:
        missed = certificate.upper - certificate.lower > limits.relative_gap * jnp.abs(certificate.upper)
        at_floor = missed & (state.error <= floor) & (state.epsilon <= limits.epsilon)
        open_ended = jnp.zeros_like(missed)
    forbidden = ~infeasible & (certificate.forbidden_mass > num_points * eps)
    return (
        TransportStatus.NOT_CONVERGED * (open_ended & ~infeasible)
        + TransportStatus.PRECISION_FLOOR * (at_floor & ~infeasible)
        + TransportStatus.GAP_NOT_CERTIFIED * (missed & ~infeasible)
        + TransportStatus.INFEASIBLE * infeasible
        + TransportStatus.FORBIDDEN_MASS * forbidden
    )


def _not_weights(weights: Float[Array, "*b n"], mass: Float[Array, "*b"]) -> Bool[Array, "*b"]:
    return ~jnp.isfinite(mass) | jnp.any(weights < 0, axis=-1)
