"""The solver loop: iterations in one `while_loop` over a batch, until each problem has converged."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrel.transport.certificates import Certificate, dual_value
from jaxrel.transport.operators import IterationFunction, Operator

__all__ = ["Limits", "State", "iterate", "precision_floor", "varying_with"]

_SCALING_FACTOR = 4.0  # Between levels of epsilon: with over-relaxation a few iterations on each level are enough.
_SMALLEST_STEP = 2.0
_START_RELAXATION = 1.5
_MOST_DOUBLINGS = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Limits:
    """The stopping rule of a problem: at `epsilon`, or once the interval is as narrow as `relative_gap`.

    With a gap, epsilon is the smallest value tried. Both are (*b), in the units of the operator.
    """

    epsilon: Float[Array, "*b"]
    tolerance: Float[Array, "*b"]
    relative_gap: Float[Array, "*b"] | None
    max_iterations: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """The state of a batch in the loop.

    f and g are the potentials at `epsilon`, `goal` is the final epsilon, and `error` is the marginal error.
    `num_checks` counts the checks since epsilon last changed, `iterations_to_go` the iterations until the next check.
    """

    f: Float[Array, "*b n"]
    g: Float[Array, "*b m"]
    epsilon: Float[Array, "*b"]
    goal: Float[Array, "*b"]
    next_epsilon: Float[Array, "*b"]
    relaxation: Float[Array, "*b"]
    error: Float[Array, "*b"]
    certificate: Certificate
    num_iterations: Int[Array, "*b"]
    num_checks: Int[Array, "*b"]
    iterations_to_go: Int[Array, "*b"]
    finished: Bool[Array, "*b"]


def precision_floor(epsilon: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The marginal error due to rounding for costs of at most 1: exponents have an error of eps / epsilon."""
    return jnp.minimum(float(jnp.finfo(epsilon.dtype).eps) * (4 + 2 / epsilon), 0.1)


def iterate(
    operator: Operator,
    iterations: IterationFunction,
    g: Float[Array, "*b m"],
    *,
    start_epsilon: Float[Array, "*b"],
    goal: Float[Array, "*b"],
    mean_size: Float[Array, "*b"],
    skip: Bool[Array, "*b"],
    limits: Limits,
    iterations_per_check: int,
    over_relaxation: bool,
) -> State:
    """Iterate until every problem has converged; problems in `skip` never start.

    Args:
        operator: the batch, in the units of the operator.
        iterations: the inner loop, `Operator.scaling_iterations` or `log_iterations`.
        g: initial potential, -inf at masked points.
        start_epsilon: epsilon of the first iterations; each check divides it by 4 until it reaches the goal.
        goal: the first epsilon at which a problem may stop.
        mean_size: mean absolute cost, (*b).
    """
    gap = limits.relative_gap

    def step(state: State) -> State:
        epsilon = state.next_epsilon
        active = ~state.finished
        arrived = active & (epsilon <= state.goal)
        stays = epsilon == state.epsilon
        count = jnp.clip(limits.max_iterations - state.num_iterations, 1, state.iterations_to_go)
        known_f = jnp.where(stays[..., None], state.f, jnp.inf)
        f, g, error, plan = iterations(operator, known_f, state.g, epsilon, state.relaxation, count)
        num_iterations = state.num_iterations + count
        exhausted = num_iterations >= limits.max_iterations

        floor = precision_floor(epsilon)
        converged = error <= jnp.maximum(limits.tolerance, floor)
        failed = ~jnp.isfinite(error)
        goal = state.goal
        if gap is None:
            finished = (arrived & converged) | exhausted | failed
            error_wanted = jnp.maximum(limits.tolerance, floor)
            due = active & finished
            certificate = _certified(operator, plan, g, due, state.certificate)
        else:
            # Misplaced mass costs at most about error * mean size; a plan with a large error needs no certificate yet.
            value, _ = dual_value(operator.a, operator.b, f, g)
            error_wanted = jnp.maximum(gap * jnp.abs(value) / (2 * jnp.maximum(mean_size, floor)), floor)
            due = (arrived & (error <= 16 * error_wanted)) | (active & exhausted)
            certificate = _certified(operator, plan, g, due, state.certificate)
            width = certificate.upper - certificate.lower
            wanted = gap * jnp.abs(certificate.upper)
            # If the error of the costs exceeds the gap, further iterations gain nothing.
            certified = jnp.isfinite(width) & (width <= jnp.maximum(wanted, 4 * certificate.cost_error))
            at_floor = arrived & (epsilon <= limits.epsilon) & (error <= floor)
            finished = certified | at_floor | exhausted | failed
            # The part of the gap not due to misplaced mass is due to epsilon and about proportional to it.
            blurred = due & (error <= error_wanted)
            narrower = goal * jnp.clip(0.75 * wanted / width, 0.25, 0.75)
            goal = jnp.where(arrived, jnp.where(blurred, narrower, goal), gap * jnp.abs(value))
            goal = jnp.minimum(jnp.maximum(goal, limits.epsilon), epsilon)

        rate = jnp.where(stays, error / state.error, 1) ** (1 / count)
        relaxation, worse = state.relaxation, jnp.zeros_like(stays)
        if over_relaxation:
            # Far from the optimum a large over-relaxation can diverge: undo the iterations and reduce it.
            worse = stays & (error > 1.5 * state.error) & (state.relaxation > 1.05)
            relaxation = _relaxation(relaxation, rate, error)
            relaxation = jnp.where(stays & (rate >= 1), (1 + state.relaxation) / 2, relaxation)
        # Continue to the next level once misplaced mass costs less than the effect of this epsilon.
        fine = (error * mean_size <= epsilon) | (error <= floor)
        next_epsilon = jnp.where(fine, lowered(epsilon, goal), epsilon)
        new = State(
            f=jnp.where(worse[..., None], state.f, f),
            g=jnp.where(worse[..., None], state.g, g),
            epsilon=epsilon,
            goal=goal,
            next_epsilon=next_epsilon,
            relaxation=jnp.where(epsilon == next_epsilon, relaxation, _START_RELAXATION if over_relaxation else 1.0),
            error=jnp.where(worse, state.error, error),
            certificate=certificate,
            num_iterations=num_iterations,
            num_checks=jnp.where(stays, state.num_checks + 1, 0),
            iterations_to_go=jnp.where(
                arrived & (epsilon == next_epsilon),
                _iterations_to_go(state, rate, error, error_wanted, iterations_per_check),
                iterations_per_check,
            ),
            finished=finished,
        )
        return jax.tree.map(lambda old, new: _where(active, new, old), state, new)

    shape, dtype = limits.epsilon.shape, limits.epsilon.dtype
    infinite = jnp.full(shape, jnp.inf, dtype)
    state = State(
        f=jnp.where(operator.a > 0, jnp.zeros((), dtype), -jnp.inf),
        g=g,
        epsilon=infinite,
        goal=goal,
        next_epsilon=jnp.where(start_epsilon > _SMALLEST_STEP * goal, start_epsilon, goal),
        relaxation=jnp.full(shape, _START_RELAXATION if over_relaxation else 1.0, dtype),
        error=infinite,
        certificate=Certificate(-infinite, infinite, jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)),
        num_iterations=jnp.zeros(shape, jnp.int32),
        num_checks=jnp.zeros(shape, jnp.int32),
        iterations_to_go=jnp.full(shape, iterations_per_check, jnp.int32),
        finished=skip,
    )
    state = jax.tree.map(lambda leaf: varying_with(leaf, mean_size), state)
    return jax.lax.while_loop(lambda state: ~jnp.all(state.finished), step, state)


def lowered(epsilon: Float[Array, "*b"], goal: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The next level of epsilon; levels barely above the goal are skipped."""
    level = epsilon / _SCALING_FACTOR
    return jnp.where(level > _SMALLEST_STEP * goal, level, goal)


def _iterations_to_go(
    state: State,
    rate: Float[Array, "*b"],
    error: Float[Array, "*b"],
    wanted: Float[Array, "*b"],
    iterations_per_check: int,
) -> Int[Array, "*b"]:
    """Iterations until the next check at this epsilon: as many as the rate requires, at most twice the last number.

    Long runs form fewer kernels, and over-relaxation needs them because each check interrupts it.
    """
    most = iterations_per_check * 2 ** jnp.minimum(state.num_checks + 1, _MOST_DOUBLINGS)
    slow = ~((rate > 0) & (rate < 1))
    needed = jnp.log(wanted / error) / jnp.log(jnp.where(slow, 0.5, rate))
    needed = jnp.where(slow | ~jnp.isfinite(needed), most, jnp.ceil(needed))
    return jnp.clip(needed, iterations_per_check, most).astype(jnp.int32)


def _certified(
    operator: Operator, plan: object, g: Float[Array, "*b m"], due: Bool[Array, "*b"], known: Certificate
) -> Certificate:
    """Update the certificates of the problems that are due, keeping the better of each end, as both are valid."""

    def improved() -> Certificate:
        new = operator.certificate(plan, g)
        lower = jnp.where(due, jnp.maximum(new.lower, known.lower), known.lower)
        better = due & (new.upper < known.upper)
        return Certificate(
            lower=lower,
            upper=jnp.where(better, new.upper, known.upper),
            forbidden_mass=jnp.where(better, new.forbidden_mass, known.forbidden_mass),
            cost_error=jnp.where(better, new.cost_error, known.cost_error),
        )

    return jax.lax.cond(jnp.any(due), improved, lambda: known)


def _relaxation(
    relaxation: Float[Array, "*b"], rate: Float[Array, "*b"], error: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    r"""The over-relaxation that SOR theory gives for the observed rate, if it is larger than the current one.

    If plain iterations contract by eta, those relaxed by w contract by lambda with
    `(lambda + w - 1)^2 = lambda w^2 eta` as long as `lambda > w - 1`, and `w = 2 / (1 + sqrt(1 - eta))` contracts best.
    """
    known = (rate < 1) & (rate > relaxation - 1)
    rate = jnp.where(known, rate, 1)
    eta = jnp.clip((rate + relaxation - 1) ** 2 / (rate * relaxation**2), 0, 1 - 1e-6)
    # The theory is local: the larger the error, the smaller the safe over-relaxation.
    best = jnp.minimum(2 / (1 + jnp.sqrt(1 - eta)), 2 - jnp.clip(2 * jnp.sqrt(error), 0.02, 0.2))
    return jnp.where(known, jnp.maximum(best, relaxation), relaxation)


def varying_with(value: Array, data: Float[Array, "*b"]) -> Array:
    """The value, marked under `shard_map` as varying with the data, which loops require of their initial state."""
    return _where(data == data, value, value)  # also for NaN data


def _where(condition: Bool[Array, "*b"], new: Array, old: Array) -> Array:
    """`where` with the condition broadcast over trailing axes."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (new.ndim - condition.ndim)), new, old)
