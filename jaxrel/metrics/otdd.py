r"""OTDD: the optimal transport distance between two labelled data sets.

    d(R, T) = min_P sum_ij P_ij (||x_i - y_j||^2 + W_2^2(class of x_i, class of y_j))

Source: Alvarez-Melis, Fusi, "Geometric dataset distances via optimal transport", NeurIPS 2020, with p = 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.couplings import entropic_coupling
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel
from jaxrel.metrics.label_distances import Inner, checked_blocks, label_distances, pooled_label_distances
from jaxrel.metrics.labelled_pairs import (
    EpsilonUnit,
    LabelledPair,
    PlacedPair,
    checked_epsilon,
    checked_gap,
    checked_pair,
    checked_squares,
    placed,
    placed_epsilon,
    sample_costs,
    task_coupling,
)
from jaxrel.metrics.result import Score, make_score
from jaxrel.transport import mean_cost

__all__ = ["DatasetDistance", "otdd_distance"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DatasetDistance(Score):
    """A batch of distances between data sets.

    Attributes:
        value: the distance, in squared feature units.
        status: `ScoreStatus` bits, 0 on success.
        lower, upper: an interval that contains the exact distance, see `otdd_distance`.
    """

    lower: Float[Array, "*b"]
    upper: Float[Array, "*b"]


@no_derivative
@pads_samples
def otdd_distance(
    reference_features: Float[ArrayLike, "n d"],
    reference_labels: Int[ArrayLike, " n"],
    features: Float[ArrayLike, "m d"],
    labels: Int[ArrayLike, " m"],
    *,
    inner: Inner = "exact",
    debiased: bool = False,
    relative_gap: Float[ArrayLike, ""] | None = 0.01,
    epsilon: Float[ArrayLike, ""] | None = None,
    epsilon_unit: EpsilonUnit = "cost",
    reference_weights: Float[ArrayLike, " n"] | None = None,
    weights: Float[ArrayLike, " m"] | None = None,
    reference_num_classes: int | None = None,
    num_classes: int | None = None,
    block_sizes: tuple[int, int] | None = None,
) -> DatasetDistance:
    """Optimal transport distance of two labelled tasks, with squared distances of samples and classes; lower is better.

    Args:
        reference_features, reference_labels: `(n, d)` and `(n,)` integers, of the reference task.
        features, labels: `(m, d)` and `(m,)` integers, of the target task; n and m may differ, and so may classes.
        inner: "exact": W_2 between the samples of two classes; "gaussian": between Gaussians with their moments, which
            is never larger.
        debiased: compute the Sinkhorn divergence `OT(R, T) - OT(R, R) / 2 - OT(T, T) / 2` at `epsilon`, which is
            exactly 0 between a task and itself.
        relative_gap: certified relative accuracy of the shift-invariant part of the distance. None is as accurate as
            the dtype permits. The terms of the divergence, which is a difference, always converge fully.
        epsilon: regularisation of the divergence. None is 0.2 squared feature units ("cost") or 0.05 of the mean cost
            ("mean_cost"). The distance is not regularised.
        epsilon_unit: "cost": in squared feature units; "mean_cost": relative to the mean cost between R and T.
        reference_weights, weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        reference_num_classes, num_classes: class counts; needed inside `jit` and `vmap`.
        block_sizes: sizes of the largest class of the reference and of the target; required for "exact" with traced
            labels. With traced labels "gaussian" is faster with sizes below d.

    Returns:
        A `DatasetDistance`, marked as not converged if the gap was not certified. It grows with the square of the
        scale, and is invariant to common shifts and rotations of both tasks and to the numbering of classes. Its
        interval contains the minimum over all couplings and allows for errors of the distances between classes (those
        of "gaussian" are treated as exact). For the divergence it combines the intervals of the three terms, up to
        rounding. The distance of a task to itself is 0 up to the resolution of the dtype, about 1e-4 of the squared
        spread in float32.

    Raises:
        ValueError: see `checked_pair`, `checked_epsilon`, `checked_gap`, `checked_squares`, `checked_blocks`.

    Deviations from the authors' code: its costs, and so its values, are half of these, and its epsilon of 0.1 is 0.2
    here. It regularises the distances between classes as well; here they are W_2^2 itself, to a certified relative gap
    of half of `relative_gap`, or of 1e-3 (float64: 1e-7) for None and for the divergence. Its outer problem stops after
    about ten annealing steps, with an error of about 1 %; here it continues until the overall gap is certified.
    Covariances are divided by the number of samples n, not by n - 1.

    `O(n m (d + s))` operations with s the iterations of Sinkhorn's algorithm, `O(n m)` memory, and for "exact" as much
    again between classes, with `r t k l` entries for r and t classes of at most k and l samples; for "gaussian"
    `O((n + m) d^2 + r t d^3)`, or `O(r t k l (d + min(k, l)))` where k and l are below d. The divergence takes four
    times as much.
    """
    pair = checked_pair(
        reference_features,
        reference_labels,
        features,
        labels,
        reference_weights=reference_weights,
        weights=weights,
        reference_num_classes=reference_num_classes,
        num_classes=num_classes,
    )
    if epsilon is not None and not debiased:
        raise ValueError("epsilon is the regularisation of the divergence: pass debiased=True, or no epsilon.")
    default = 0.2 if epsilon_unit == "cost" else 0.05
    dtype = pair.target.features.dtype
    number = checked_epsilon(default if epsilon is None else epsilon, epsilon_unit, dtype)
    gap = checked_gap(relative_gap, dtype)
    pair, sizes = checked_blocks(checked_squares(pair), reference_labels, labels, inner, block_sizes)
    if debiased:
        return _divergence(pair, number, inner=inner, epsilon_unit=epsilon_unit, block_sizes=sizes)
    return _distance(pair, gap, inner=inner, block_sizes=sizes)


def _distance_kernel(
    pair: LabelledPair, relative_gap: Float[Array, ""] | None, *, inner: Inner, block_sizes: tuple[int, int]
) -> DatasetDistance:
    place = placed(pair)
    of_labels = None if relative_gap is None else relative_gap / 2
    between = label_distances(pair, place, inner=inner, block_sizes=block_sizes, relative_gap=of_labels)
    cost = sample_costs(pair, place, between.value)
    coupling = task_coupling(pair, place, cost, relative_gap=relative_gap, error=between.error_of_plans(pair))
    amounts = jnp.stack([jnp.maximum(cost.of(coupling.plan), 0), coupling.lower, coupling.upper])
    return _result(pair, place, amounts, coupling.converged)


_distance = kernel(_distance_kernel, static=("inner", "block_sizes"))


def _divergence_kernel(
    pair: LabelledPair,
    epsilon: Float[Array, ""],
    *,
    inner: Inner,
    epsilon_unit: EpsilonUnit,
    block_sizes: tuple[int, int],
) -> DatasetDistance:
    place = placed(pair)
    between = pooled_label_distances(pair, place, inner=inner, block_sizes=block_sizes).value
    r = pair.reference.memberships.shape[1]
    tasks = (pair.reference, place.reference), (pair.target, place.target)
    terms = (0, 1, between[:r, r:]), (0, 0, between[:r, :r]), (1, 1, between[r:, r:])
    size = max(place.reference.shape[0], place.target.shape[0])

    def fill(array: Array) -> Array:
        return jnp.pad(array, [(0, size - length) for length in array.shape])

    # Without the squares of one sample alone, which cancel, as in `TaskCost`.
    costs = []
    for first, second, label_cost in terms:
        (one, x), (other, y) = tasks[first], tasks[second]
        costs.append(fill(one.memberships @ label_cost @ other.memberships.T - 2 * x @ y.T))
    shares = [fill(share) for share in pair.shares]
    a = jnp.stack([shares[first] for first, _, _ in terms])
    b = jnp.stack([shares[second] for _, second, _ in terms])
    cost = jnp.stack(costs)
    mean = mean_cost(cost[0], a[0], b[0]) + place.spread_square + 2 * place.offset_square
    coupling = entropic_coupling(cost, a, b, placed_epsilon(place, mean, epsilon, epsilon_unit))
    sign = jnp.asarray([1, -0.5, -0.5], cost.dtype)
    lower, upper = coupling.lower, coupling.upper
    amounts = jnp.stack(
        [
            sign @ lower,
            jnp.sum(jnp.where(sign > 0, sign * lower, sign * upper)),
            jnp.sum(jnp.where(sign > 0, sign * upper, sign * lower)),
        ]
    )
    return _result(pair, place, amounts + 2 * place.offset_square, jnp.all(coupling.converged))


_divergence = kernel(_divergence_kernel, static=("inner", "epsilon_unit", "block_sizes"))


def _result(
    pair: LabelledPair, place: PlacedPair, amounts: Float[Array, " 3"], converged: Bool[Array, ""]
) -> DatasetDistance:
    """Value, lower and upper end, given in the unit of the place."""
    value, lower, upper = place.squared(amounts)
    score = make_score(value, pair.status, converged=converged)
    undefined = jnp.where(pair.valid, 0, jnp.nan)
    return DatasetDistance(score.value, score.status, lower + undefined, upper + undefined)
