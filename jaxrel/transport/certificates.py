"""Certificates: an interval that contains the exact optimal transport cost, from any plan and any potential."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = [
    "SUM_WIDTH",
    "UPPER_FACTOR",
    "Certificate",
    "PlanFactors",
    "c_transform",
    "centred",
    "certified_interval",
    "certify",
    "dual_value",
    "exact_scale",
    "finite_or_zero",
    "highest_at_zero",
    "map_problems",
    "missing_share",
    "normalised",
    "round_to_marginals",
    "rounding_allowance",
    "shallow_sum",
    "shallow_times",
    "shallow_transposed_times",
    "shrink",
    "sum_depth",
    "times",
    "transposed_times",
]

UPPER_FACTOR = 4.0
SUM_WIDTH = 128
_SHORT = 512  # Shorter sums gain nothing from blocks.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlanFactors:
    """The plan `diag(rows) kernel diag(columns)`."""

    rows: Float[Array, "*b n"]
    kernel: Float[Array, "*b n m"]
    columns: Float[Array, "*b m"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Certificate:
    """`lower <= exact optimum <= upper`.

    forbidden_mass: mass that the plan of `upper` has on pairs of cost above 1. cost_error: error in the cost of that
    plan due to errors of the costs, which no plan or potential can reduce.
    """

    lower: Float[Array, "*b"]
    upper: Float[Array, "*b"]
    forbidden_mass: Float[Array, "*b"]
    cost_error: Float[Array, "*b"]


def round_to_marginals(
    plan: Float[Array, "*b n m"], a: Float[Array, "*b n"], b: Float[Array, "*b m"]
) -> Float[Array, "*b n m"]:
    """The nearest cheap plan with marginals a and b (Altschuler, Weed, Rigollet, NeurIPS 2017, algorithm 2).

    Rows, then columns, are scaled down to their marginals, and the missing mass is added as a product.
    """
    plan = plan * shrink(a, jnp.sum(plan, axis=-1))[..., :, None]
    plan = plan * shrink(b, jnp.sum(plan, axis=-2))[..., None, :]
    missing_a = jnp.maximum(a - jnp.sum(plan, axis=-1), 0)
    missing_b = jnp.maximum(b - jnp.sum(plan, axis=-2), 0)
    allowance = rounding_allowance(a.shape[-1] + b.shape[-1], plan.dtype)
    share, missing_b = missing_share(missing_a, missing_b, allowance)
    return plan + share[..., :, None] * missing_b[..., None, :]


def certified_interval(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    plan: Float[Array, "*b n m"],
    f: Float[Array, "*b n"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """`(lower, upper)` that contain the exact optimum of the given cost array; 0 for a problem without mass.

    upper: cost of `plan` rounded to its marginals, a feasible plan. lower: dual value at f, made feasible by
    c-transforms. Both are valid for any plan and any f; good ones make the interval narrow. Each end is moved outwards
    by an a-priori bound on its rounding error. a and b each sum to 1, or to 0; costs are finite.
    """
    live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    cost = jnp.where(live, cost, 0)
    scale = exact_scale(jnp.max(jnp.abs(cost), axis=(-1, -2)))
    cost = cost / scale[..., None, None]
    f = jnp.where(a > 0, f / scale[..., None], -jnp.inf)
    g = jnp.where(b > 0, c_transform(cost, f, axis=-2), -jnp.inf)
    certificate = certify(cost, a, b, PlanFactors(jnp.ones_like(a), plan, jnp.ones_like(b)), g)
    empty = ~jnp.any(live, axis=(-1, -2))
    return jnp.where(empty, 0, certificate.lower * scale), jnp.where(empty, 0, certificate.upper * scale)


def certify(
    cost: Float[Array, "*b n m"],
    a: Float[Array, "*b n"],
    b: Float[Array, "*b m"],
    factors: PlanFactors,
    g: Float[Array, "*b m"],
    error: Float[Array, "*b n m"] | None = None,
) -> Certificate:
    """The interval from a factored plan and a potential that is -inf where b is 0, for costs of about 1 in size.

    The plan is rounded to its marginals as in `round_to_marginals`, by matrix-vector products with the kernel. `error`
    bounds the error of each cost: the interval is then valid for all costs within it.
    """
    # Recomputed in each of its uses, a kernel or a residual could be rounded differently.
    factors = jax.lax.optimization_barrier(factors)
    row_sums = factors.rows * shallow_times(factors.kernel, factors.columns)
    rows = factors.rows * shrink(a, row_sums)
    column_sums = factors.columns * shallow_transposed_times(factors.kernel, rows)
    kept = shrink(b, column_sums)
    rows, columns = jax.lax.optimization_barrier((rows, factors.columns * kept))
    missing_a = jnp.maximum(a - rows * shallow_times(factors.kernel, columns), 0)
    missing_b = jnp.maximum(b - column_sums * kept, 0)
    allowance = rounding_allowance(sum(map(sum_depth, cost.shape[-2:])), cost.dtype)
    share, missing_b = missing_share(missing_a, missing_b, allowance)

    def spent(cost: Float[Array, "*b n m"]) -> Float[Array, "*b"]:
        # One loop over both arrays, in sums of whole rows, without forming their product in memory.
        priced = jnp.sum(factors.kernel * (cost * columns[..., None, :]), axis=-1)
        return shallow_sum(rows * priced + share * shallow_times(cost, missing_b))

    upper = spent(cost)
    cost_error = jnp.zeros_like(upper) if error is None else spent(error)

    low = cost if error is None else cost - error
    g = highest_at_zero(g)
    f = jnp.where(a > 0, c_transform(low, g, axis=-1), -jnp.inf)
    g = jnp.where(b > 0, c_transform(low, f, axis=-2), -jnp.inf)
    lower, size = dual_value(a, b, f, g)
    # One axis after the other: both at once compile to a slower loop on CPU.
    smallest, highest = jnp.min(jnp.min(low, axis=-1), axis=-1), jnp.max(jnp.max(cost, axis=-1), axis=-1)
    largest = jnp.maximum(highest, -smallest)
    if error is not None:
        largest = largest + jnp.max(error, axis=(-1, -2))
    # `|C| <= C + 2 max(-C, 0)`: the terms of the row sums, up to their sign.
    of_rows = rounding_allowance(cost.shape[-1], cost.dtype) * (upper + cost_error + 2 * jnp.maximum(-smallest, 0))

    def forbidden_mass() -> Float[Array, "*b"]:
        return map_problems(_forbidden_mass, cost, rows, factors.kernel, columns, share, missing_b, batch=upper.shape)

    return Certificate(
        lower=lower - allowance * (largest + size),
        upper=upper + cost_error + allowance * UPPER_FACTOR * largest + of_rows,
        forbidden_mass=jax.lax.cond(jnp.any(largest > 1), forbidden_mass, lambda: jnp.zeros_like(upper)),
        cost_error=cost_error,
    )


def missing_share(
    missing_a: Float[Array, "*b n"], missing_b: Float[Array, "*b m"], allowance: float
) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"]]:
    """`(share, missing_b)` whose product is a plan for the mass missing on each side.

    The residuals cancel, and are pure rounding once a plan has its marginals. The divisor is at least the allowance, so
    shares stay at most 1 however the compiler rounds; the allowance covers the mass that is not placed.
    """
    missing_a, missing_b = jax.lax.optimization_barrier((missing_a, missing_b))
    total = jnp.maximum(jnp.maximum(shallow_sum(missing_a), shallow_sum(missing_b)), allowance / 2)
    return missing_a / total[..., None], missing_b


def highest_at_zero(potential: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Shift the potential to a maximum of 0, so that c-transforms are of the size of the cost. The constant is free."""
    return potential - finite_or_zero(jnp.max(potential, axis=-1, keepdims=True))


def _forbidden_mass(
    cost: Float[Array, "n m"],
    rows: Float[Array, " n"],
    kernel: Float[Array, "n m"],
    columns: Float[Array, " m"],
    share: Float[Array, " n"],
    missing_b: Float[Array, " m"],
) -> Float[Array, ""]:
    forbidden = cost > 1
    kept = times(jnp.where(forbidden, kernel, 0), columns)
    return jnp.sum(rows * kept + share * times(forbidden.astype(cost.dtype), missing_b))


def map_problems(function: Callable[..., Any], *arrays: Array, batch: tuple[int, ...]) -> Any:
    """`vmap` over all batch axes, run one problem at a time to save memory in rare cases."""
    flat = tuple(x.reshape(-1, *x.shape[len(batch) :]) for x in arrays)
    results = jax.lax.map(lambda problem: function(*problem), flat)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), results)


def dual_value(
    a: Float[Array, "*b n"], b: Float[Array, "*b m"], f: Float[Array, "*b n"], g: Float[Array, "*b m"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """`<a, f> + <b, g>` over the points with weight, and the size of the potentials, which scales its rounding error.

    A constant can be moved between f and g: balancing it keeps both, and so the allowance, small.
    """
    f, g = centred(a, b, f, g)
    size = jnp.max(jnp.abs(f), axis=-1) + jnp.max(jnp.abs(g), axis=-1)
    return shallow_sum(a * f) + shallow_sum(b * g), size


def centred(
    a: Float[Array, "*b n"], b: Float[Array, "*b m"], f: Float[Array, "*b n"], g: Float[Array, "*b m"]
) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"]]:
    """The same potentials with `<a, f> = <b, g>`, and 0 at points without weight."""
    f, g = jnp.where(a > 0, f, 0), jnp.where(b > 0, g, 0)
    shift = (shallow_sum(a * f) - shallow_sum(b * g))[..., None] / 2
    return jnp.where(a > 0, f - shift, 0), jnp.where(b > 0, g + shift, 0)


def rounding_allowance(depth: int, dtype: jnp.dtype) -> float:
    r"""Bound on the error of a value from sums of at most `depth` terms in all, relative to the size of the terms.

    With u = eps / 2, a sum of n terms in any order errs by at most (n - 1) u times the sum of their sizes. lower: the
    potentials are feasible up to 2 u, their two sums err by n u and m u, and the weights by the same amount. upper: the
    sums of the rounded plan exceed the weights by at most (n + m) u on each side. They fall short by the same amount,
    plus the error of the residuals and the difference of their totals, 3 (n + m) u in all. Moving the excess and the
    missing mass makes the plan feasible and costs at most 6 (n + m) u times the largest cost. The sum of its costs errs
    by (n + m) u, which gives `UPPER_FACTOR`.
    """
    return (depth + 16) * float(jnp.finfo(dtype).eps)


def exact_scale(largest: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The power of two at or above `largest`, 1 for 0. Dividing by it is exact."""
    _, exponent = jnp.frexp(largest)
    limits = jnp.finfo(largest.dtype)
    exponent = jnp.clip(exponent, limits.minexp + 1, limits.maxexp - 1)
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), exponent), 1)


def shrink(target: Float[Array, "*b n"], total: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    """The factor of at most 1 that brings each total down to its target."""
    return jnp.where(total > target, target / jnp.where(total > 0, total, 1), 1)


def normalised(weights: Float[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Weights divided by their sum, or 0 if the sum is 0."""
    total = shallow_sum(weights)[..., None]
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 0)


def times(matrix: Float[Array, "*b n m"], vector: Float[Array, "*b m"]) -> Float[Array, "*b n"]:
    """Matrix-vector product, in the precision of the dtype on every device."""
    return jnp.einsum("...nm,...m->...n", matrix, vector, precision=jax.lax.Precision.HIGHEST)


def transposed_times(matrix: Float[Array, "*b n m"], vector: Float[Array, "*b n"]) -> Float[Array, "*b m"]:
    """Product with the transpose, in the precision of the dtype on every device."""
    return jnp.einsum("...nm,...n->...m", matrix, vector, precision=jax.lax.Precision.HIGHEST)


def shallow_times(matrix: Float[Array, "*b n m"], vector: Float[Array, "*b m"]) -> Float[Array, "*b n"]:
    """`times` with sums as shallow as those of `shallow_sum`. Zeros outside a block of the vector add no error."""
    if vector.shape[-1] <= _SHORT:
        return times(matrix, vector)
    blocks = _blocks(vector).mT
    return _sum_of_blocks(jnp.matmul(matrix, blocks, precision=jax.lax.Precision.HIGHEST), axis=-1)


def shallow_transposed_times(matrix: Float[Array, "*b n m"], vector: Float[Array, "*b n"]) -> Float[Array, "*b m"]:
    """`transposed_times` with sums as shallow as those of `shallow_sum`."""
    if vector.shape[-1] <= _SHORT:
        return transposed_times(matrix, vector)
    return _sum_of_blocks(jnp.matmul(_blocks(vector), matrix, precision=jax.lax.Precision.HIGHEST), axis=-2)


def _blocks(vector: Float[Array, "*b n"]) -> Float[Array, "*b k n"]:
    """Split the vector into a sum of vectors with at most `SUM_WIDTH` non-zero entries."""
    size = vector.shape[-1]
    owner = jnp.arange(size) // SUM_WIDTH
    return jnp.where(owner == jnp.arange(-(-size // SUM_WIDTH))[:, None], vector[..., None, :], 0)


def _sum_of_blocks(parts: Float[Array, "*_"], axis: int) -> Float[Array, "*_"]:
    # Without the barrier the compiler may merge this sum with the products behind it.
    return jnp.sum(jax.lax.optimization_barrier(parts), axis=axis)


def shallow_sum(x: Float[Array, "*b n"]) -> Float[Array, "*b"]:
    """Sum along the last axis in two levels, so that no partial sum has more than `sum_depth(n)` terms."""
    size = x.shape[-1]
    # Without the barrier the compiler may merge this sum with one behind it, or its own two levels.
    x = jax.lax.optimization_barrier(x)
    if size <= _SHORT:
        return jnp.sum(x, axis=-1)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -size % SUM_WIDTH)])
    parts = jnp.sum(x.reshape(*x.shape[:-1], -1, SUM_WIDTH), axis=-1)
    return jnp.sum(jax.lax.optimization_barrier(parts), axis=-1)


def sum_depth(size: int) -> int:
    """The largest number of terms that `shallow_sum` adds sequentially."""
    return size if size <= _SHORT else SUM_WIDTH - (-size // SUM_WIDTH)


def c_transform(cost: Float[Array, "*b n m"], potential: Float[Array, "*b k"], axis: int) -> Float[Array, "*b l"]:
    """`min (cost - potential)` along an axis. Masked points have potential -inf; if all are masked, it is 0."""
    potential = potential[..., :, None] if axis == -2 else potential[..., None, :]
    return finite_or_zero(jnp.min(cost - potential, axis=axis))


def finite_or_zero(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x with infinite values, from a minimum or maximum over no points, replaced by 0."""
    return jnp.where(jnp.isfinite(x), x, 0)
