"""Sinkhorn iterations and certificates on cost arrays that fit in memory.

The operators here and in `tiled` have the same methods; `sinkhorn` uses either. They take costs scaled to about 1 in
size, weights of sum 1, and potentials that are -inf at masked points. This excludes masked points from every sum,
minimum and soft minimum without a mask of the size of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrel.transport.certificates import (
    Certificate,
    PlanFactors,
    c_transform,
    certify,
    exact_scale,
    finite_or_zero,
    map_problems,
    times,
    transposed_times,
)
from jaxrel.transport.log_domain import soft_min
from jaxrel.transport.operators import Iterations, ScaledProblem, forbidden_cost

__all__ = ["DenseOperator", "dense_operator", "scaled_array"]

# Epsilon scaling begins at this fraction of the range of the cost, about an eighth of its standard deviation. It is the
# largest epsilon at which a few iterations converge from zero, measured on Gaussian clouds in 10 to 100 dimensions.
_FIRST_LEVEL = 1 / 64
_LARGEST_LOG_SCALING = 40.0  # exp(40) for rows times exp(40) for columns stays inside float32.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseOperator:
    """A batch of transport problems as one cost array.

    Attributes:
        cost: (*b, n, m), at most 1 in size where a plan may go, 0 at masked pairs.
        row_minimum: `min_j C_ij` over the columns with weight.
        a, b: weights of sum 1 (or 0: no mass), 0 at masked points.
        error: bound on the error of each cost; None if costs are exact.
    """

    cost: Float[Array, "*b n m"]
    row_minimum: Float[Array, "*b n"]
    a: Float[Array, "*b n"]
    b: Float[Array, "*b m"]
    error: Float[Array, "*b n m"] | None = None

    def soft_min_rows(self, g: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b n"]:
        """`f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps)`."""
        return jnp.where(self.a > 0, soft_min(self.cost, g, self.b, epsilon, axis=-1), -jnp.inf)

    def soft_min_columns(self, f: Float[Array, "*b n"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b m"]:
        """`g_j = -eps log sum_i a_i exp((f_i - C_ij) / eps)`."""
        return jnp.where(self.b > 0, soft_min(self.cost, f, self.a, epsilon, axis=-2), -jnp.inf)

    def scaling_iterations(
        self,
        f: Float[Array, "*b n"],
        g: Float[Array, "*b m"],
        epsilon: Float[Array, "*b"],
        relaxation: Float[Array, "*b"],
        num_iterations: Int[Array, "*b"],
    ) -> Iterations:
        """Over-relaxed iterations in the scaling domain: `(f, g, marginal error, plan)`, columns of the plan exact.

        They continue from f, or from g alone where f is not finite.

        g is absorbed into the kernel `E_ij = exp((f_i + g_j - C_ij) / eps)`, with the f that makes the largest entry of
        each row 1, so no row can underflow. An iteration is then two matrix-vector products, ten times cheaper than
        exponentials, on scalings that are updated by

            log v <- (1 - w) log v - w log(E^T (a u)),    log u <- (1 - w) log u - w log(E (b v))

        and limited in size, so that no product overflows. The next call absorbs the scalings.
        """
        eps = epsilon[..., None]
        from_nothing = jnp.all(jnp.where(self.b > 0, g, 0) == 0)
        nearest = jax.lax.cond(from_nothing, lambda: self.row_minimum, lambda: c_transform(self.cost, g, axis=-1))
        kernel = jnp.exp((g[..., None, :] - self.cost + nearest[..., None]) / eps[..., None])
        relax = relaxation[..., None]

        def iterate(index: Int[Array, ""], logs: tuple[Array, Array]) -> tuple[Array, Array]:
            log_u, log_v = logs
            on = index < num_iterations[..., None]
            column_sums = transposed_times(kernel, self.a * jnp.exp(log_u))
            log_v = jnp.where(on, _limited((1 - relax) * log_v - relax * jnp.log(column_sums)), log_v)
            row_sums = times(kernel, self.b * jnp.exp(log_v))
            return jnp.where(on, _limited((1 - relax) * log_u - relax * jnp.log(row_sums)), log_u), log_v

        plain = -jnp.log(times(kernel, self.b))
        log_u = _limited(jnp.where(jnp.isfinite(f), (f - nearest) / eps, plain))
        log_u, _ = jax.lax.fori_loop(0, jnp.max(num_iterations), iterate, (log_u, jnp.zeros_like(self.b)))
        rows = self.a * jnp.exp(log_u)
        log_v = _limited(-jnp.log(transposed_times(kernel, rows)))
        plan = PlanFactors(rows, kernel, self.b * jnp.exp(log_v))
        error = jnp.sum(jnp.abs(rows * times(kernel, plan.columns) - self.a), axis=-1)
        f = jnp.where(self.a > 0, nearest + eps * log_u, -jnp.inf)
        return f, jnp.where(self.b > 0, g + eps * log_v, -jnp.inf), error, plan

    def plan(self, f: Float[Array, "*b n"], g: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> PlanFactors:
        """`P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)`, with the largest kernel entry of each column scaled to 1.

        Columns are normalised to b, as they are at the end of an iteration, so nothing overflows for any f.
        """
        del g
        nearest = c_transform(self.cost, f, axis=-2)
        kernel = jnp.exp((f[..., :, None] - self.cost + nearest[..., None, :]) / epsilon[..., None, None])
        sums = transposed_times(kernel, self.a)
        return PlanFactors(self.a, kernel, jnp.where(sums > 0, self.b / jnp.where(sums > 0, sums, 1), 0))

    def certificate(self, plan: PlanFactors, g: Float[Array, "*b m"]) -> Certificate:
        """The certified interval of a plan and of the potential g."""
        return certify(self.cost, self.a, self.b, plan, g, self.error)


def dense_operator(cost: Float[Array, "*b n m"], a: Float[Array, "*b n"], b: Float[Array, "*b m"]) -> DenseOperator:
    """The operator of a cost array, without scaling."""
    row_minimum = jnp.min(jnp.where((b > 0)[..., None, :], cost, jnp.inf), axis=-1)
    return DenseOperator(cost, finite_or_zero(row_minimum), a, b)


def scaled_array(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    error: Float[Array, "*b n m"] | None = None,
) -> ScaledProblem:
    """A cost array in the units of its operator. `error` bounds the error of each entry; a and b sum to 1 or 0."""
    row_low = jnp.min(cost, axis=-1)  # one axis after the other: both at once compile to a slower loop on CPU
    low, high = jnp.min(row_low, axis=-1), jnp.max(jnp.max(cost, axis=-1), axis=-1)
    clean = jnp.all(a > 0) & jnp.all(b > 0) & jnp.all(jnp.isfinite(low) & jnp.isfinite(high))

    def divided() -> tuple[Array, ...]:
        scale = exact_scale(jnp.maximum(high, -low))
        return (
            cost / scale[..., None, None],
            row_low / scale[..., None],
            scale,
            (high - low) / scale,
            jnp.zeros_like(low, bool),
            jnp.zeros_like(low, bool),
        )

    def sorted_out() -> tuple[Array, ...]:
        return map_problems(_sorted_out, cost, a, b, batch=low.shape)

    # One pass over the cost if nothing is masked, forbidden or invalid.
    scaled, row_minimum, scale, spread, invalid, blocked = jax.lax.cond(clean, divided, sorted_out)
    mean_size = jax.lax.cond(
        clean & jnp.all(low >= 0),
        lambda: jnp.sum(a * times(scaled, b), axis=-1),
        lambda: jnp.sum(a * jnp.sum(jnp.where(scaled > 1, 0, jnp.abs(scaled)) * b[..., None, :], axis=-1), axis=-1),
    )
    return ScaledProblem(
        operator=DenseOperator(scaled, row_minimum, a, b, None if error is None else error / scale[..., None, None]),
        scale=scale,
        mean_size=mean_size,
        start_epsilon=spread * _FIRST_LEVEL,
        invalid=invalid,
        blocked=blocked,
    )


def _sorted_out(
    cost: Float[Array, "n m"], a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[
    Float[Array, "n m"], Float[Array, " n"], Float[Array, ""], Float[Array, ""], Bool[Array, ""], Bool[Array, ""]
]:
    """`(scaled cost, row minimum, scale, range, invalid, blocked)` of one problem.

    Masked pairs cost 0, forbidden ones their price.
    """
    live = (a > 0)[:, None] & (b > 0)
    finite, forbidden = live & jnp.isfinite(cost), live & jnp.isposinf(cost)
    usable = jnp.where(finite, cost, 0)
    scale = exact_scale(jnp.max(jnp.abs(usable)))
    usable = usable / scale
    spread = jnp.max(usable) - jnp.min(usable)
    scaled = jnp.where(forbidden, forbidden_cost(*cost.shape), usable)
    return (
        scaled,
        dense_operator(scaled, a, b).row_minimum,
        scale,
        spread,
        jnp.any(live & ~finite & ~forbidden),
        jnp.any((a > 0) & ~jnp.any(finite, axis=1)) | jnp.any((b > 0) & ~jnp.any(finite, axis=0)),
    )


def _limited(log_scaling: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    return jnp.clip(log_scaling, -_LARGEST_LOG_SCALING, _LARGEST_LOG_SCALING)
