"""Shared parts of the metrics between two labelled tasks: checks, units, costs, couplings, and label distributions."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.metrics.couplings import Coupling, certified_coupling, entropic_coupling
from jaxrel.metrics.kernels import centred, entropy, own_size, safe_divide
from jaxrel.metrics.origin import about_centre
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample
from jaxrel.transport import certified_interval, mean_cost
from jaxrel.transport.certificates import rounding_allowance, shallow_sum, shallow_transposed_times, sum_depth
from jaxrel.transport.validation import checked_number

__all__ = [
    "EpsilonUnit",
    "LabelledPair",
    "PlacedPair",
    "TaskCost",
    "checked_epsilon",
    "checked_gap",
    "checked_pair",
    "checked_squares",
    "conditional_entropy",
    "label_law",
    "placed",
    "placed_epsilon",
    "sample_costs",
    "task_coupling",
]

EpsilonUnit = Literal["cost", "mean_cost"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelledPair:
    """A reference task and a target task, features of one dtype and width."""

    reference: LabelledSample
    target: LabelledSample

    @property
    def valid(self) -> Bool[Array, ""]:
        """Whether both tasks are valid."""
        return self.reference.valid & self.target.valid

    @property
    def status(self) -> Int[Array, ""]:
        """`ScoreStatus` bits that depend only on the input."""
        return self.reference.status | self.target.status

    @property
    def shares(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """Weights of sum 1."""
        return (
            safe_divide(self.reference.weights, self.reference.total),
            safe_divide(self.target.weights, self.target.total),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlacedPair:
    """Features of both tasks relative to their own means, in a unit in which none exceeds 1.

    Attributes:
        offset_square: squared distance of the means, in the unit.
        spread_square: mean squared distance of the centred features; add `offset_square` for the original features.
        unit: length of the unit.
    """

    reference: Float[Array, "n d"]
    target: Float[Array, "m d"]
    offset_square: Float[Array, ""]
    spread_square: Float[Array, ""]
    unit: Float[Array, ""]

    def squared(self, amount: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Convert squared units to squared feature units."""
        return amount * self.unit * self.unit


class TaskCost(NamedTuple):
    """A cost between samples, in the unit of the place. The cost of a plan P is `<P, interaction> + spread + offset`.

    `spread` and `offset` are the means of the cost terms that depend on a single sample. These do not change which
    couplings are optimal, but would hide the other terms in rounding if one task has far larger features. Only `offset`
    changes with a shift of a task; `width` is the number of features.
    """

    interaction: Float[Array, "n m"]
    spread: Float[Array, ""]
    offset: Float[Array, ""]
    width: int

    def of(self, plan: Float[Array, "n m"]) -> Float[Array, ""]:
        """The cost of a plan."""
        return jnp.sum(plan * self.interaction) + self.spread + self.offset

    @property
    def slack(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Bounds on the rounding in the cost of any plan: in the part without the offset, and in the offset.

        A product of features has an error of d roundings of the product of their norms, whose mean under any plan is at
        most half the spread: `2 <P, |x| |y|> <= spread`. The means over samples are in blocks, as in `shallow_sum`.
        """
        depth = self.width + sum(map(sum_depth, self.interaction.shape))
        dtype = self.spread.dtype
        of_sums = rounding_allowance(depth, dtype)
        largest = jnp.max(jnp.abs(self.interaction))
        return of_sums * self.spread + rounding_allowance(0, dtype) * largest, of_sums * self.offset


def checked_pair(
    reference_features: Any,
    reference_labels: Any,
    features: Any,
    labels: Any,
    *,
    reference_weights: Any,
    weights: Any,
    reference_num_classes: Any,
    num_classes: Any,
) -> LabelledPair:
    """Two labelled samples, each of them checked.

    Raises:
        ValueError: as `checked_labelled_sample`, with the prefix "reference: " for the reference task; for features of
            different width.
    """
    reference_features, features = about_centre((reference_features, reference_weights), (features, weights))
    try:
        reference = checked_labelled_sample(
            reference_features, reference_labels, reference_weights, reference_num_classes
        )
    except ValueError as error:
        raise ValueError(f"reference: {error}") from error
    target = checked_labelled_sample(features, labels, weights, num_classes)
    widths = target.features.shape[1], reference.features.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(f"features have width {widths[0]}, reference_features {widths[1]}: pass those of one encoder.")
    dtype = jnp.promote_types(reference.features.dtype, target.features.dtype)
    return jax.tree.map(
        lambda leaf: leaf if leaf.dtype == jnp.bool_ else leaf.astype(dtype), LabelledPair(reference, target)
    )


def checked_squares(pair: LabelledPair) -> LabelledPair:
    """The pair, marked invalid if squared distances of its features overflow the dtype.

    Raises:
        ValueError: if they overflow and values are concrete.
    """
    features = pair.reference.features, pair.target.features
    largest = jnp.maximum(*(jnp.max(jnp.abs(rows)) for rows in features))
    limit = math.sqrt(float(jnp.finfo(largest.dtype).max) / (16 * features[0].shape[1]))
    if not isinstance(largest, jax.core.Tracer) and bool(largest > limit):
        raise ValueError(
            f"features reach {float(largest):g} in size, beyond {limit:g} their squared distances overflow "
            f"{largest.dtype}: divide those of both tasks by one number."
        )
    return LabelledPair(pair.reference, dataclasses.replace(pair.target, valid=pair.target.valid & ~(largest > limit)))


def checked_epsilon(epsilon: Any, unit: str, dtype: Any) -> Float[Array, ""]:
    """A regularisation as a number, 0 for None.

    Raises:
        ValueError: for a value that is neither None nor a positive number, and for an unknown unit.
    """
    if unit not in ("cost", "mean_cost"):
        raise ValueError(f'epsilon_unit must be "cost" or "mean_cost", got {unit!r}.')
    if epsilon is None:
        return jnp.zeros((), dtype)
    number = jnp.asarray(epsilon, dtype)
    if number.shape:
        raise ValueError(f"epsilon must be one number or None, got shape {number.shape}.")
    if not isinstance(number, jax.core.Tracer) and not bool(number > 0):
        raise ValueError(f"epsilon must be positive, or None for the optimal coupling, got {epsilon}.")
    return number


def checked_gap(relative_gap: Any, dtype: Any) -> Float[Array, ""] | None:
    """A relative gap as a number, or None for the optimum.

    Raises:
        ValueError: for a value that is neither None nor a positive number.
    """
    return checked_number("relative_gap", relative_gap, batch=(), dtype=dtype)


def placed(pair: LabelledPair) -> PlacedPair:
    """Both tasks relative to their means, at unit scale.

    Far from the origin a division or a mean has an error of some roundings of the offset. The scale is therefore a
    power of 2, and means are taken relative to one of the samples, from which the others differ by exact numbers.
    """
    sides = pair.reference, pair.target
    size = jnp.maximum(*(own_size(side.features) for side in sides))
    scaled = [side.features / size for side in sides]
    origin = scaled[0][jnp.argmax(pair.reference.weights)]
    moved = [jnp.where(side.weights[:, None] > 0, rows - origin, 0) for rows, side in zip(scaled, sides, strict=True)]
    means = [shallow_transposed_times(rows, share) for share, rows in zip(pair.shares, moved, strict=True)]
    about = [centred(rows, side.weights) for rows, side in zip(moved, sides, strict=True)]
    spread = jnp.maximum(*(jnp.max(jnp.abs(rows)) for rows in about))
    # Features that are equal up to rounding are treated as equal.
    largest = jnp.maximum(*(jnp.max(jnp.abs(rows)) for rows in scaled))
    apart = spread > 8 * jnp.finfo(spread.dtype).eps * largest
    spread = jnp.where(apart, spread, 1)
    reference, target = (jnp.where(apart, rows / spread, 0) for rows in about)
    squares = [
        shallow_sum(share * jnp.sum(rows**2, axis=1))
        for share, rows in zip(pair.shares, (reference, target), strict=True)
    ]
    offset = (means[0] - means[1]) / spread
    return PlacedPair(reference, target, jnp.sum(offset**2), squares[0] + squares[1], size * spread)


def sample_costs(
    pair: LabelledPair,
    place: PlacedPair,
    label_cost: Float[Array, "r t"] | None = None,
    *,
    feature_weight: Float[ArrayLike, ""] = 1.0,
    label_weight: Float[ArrayLike, ""] = 1.0,
) -> TaskCost:
    """Weighted squared distances plus weighted distances of the labels, without `offset_square`."""
    feature_weight = jnp.asarray(feature_weight, place.unit.dtype)
    interaction = -2 * feature_weight * (place.reference @ place.target.T)
    offset = feature_weight * place.offset_square
    if label_cost is not None:
        between = pair.reference.memberships @ label_cost @ pair.target.memberships.T
        interaction = interaction + label_weight * between
        offset = offset + label_weight * place.offset_square
    return TaskCost(interaction, feature_weight * place.spread_square, offset, place.reference.shape[1])


def task_coupling(
    pair: LabelledPair,
    place: PlacedPair,
    cost: TaskCost,
    *,
    epsilon: Float[ArrayLike, ""] = 0.0,
    unit: EpsilonUnit = "cost",
    relative_gap: Float[Array, ""] | None = None,
    error: Float[ArrayLike, ""] = 0.0,
) -> Coupling:
    """The coupling of two tasks, and an interval that contains the optimal cost, in the unit of the place.

    Args:
        pair, place, cost: the tasks.
        epsilon: in squared feature units or, by `unit`, relative to the mean cost; 0 for the optimum.
        relative_gap: accuracy instead of an epsilon, relative to the cost without `offset`.
        error: bound on the error in the cost of any plan, apart from rounding; the interval includes it.
    """
    a, b = pair.shares
    slack, offset_slack = cost.slack
    slack = slack + error
    if relative_gap is not None:
        coupling = certified_coupling(cost.interaction + cost.spread, a, b, relative_gap, slack)
        lower, upper = coupling.lower, coupling.upper
    else:
        mean = mean_cost(cost.interaction, a, b) + cost.spread + cost.offset
        coupling = entropic_coupling(cost.interaction, a, b, placed_epsilon(place, mean, jnp.asarray(epsilon), unit))
        lower, upper = certified_interval(cost.interaction, a, b, coupling.plan, coupling.f)
        lower, upper = lower + cost.spread - slack, upper + cost.spread + slack
    ends = lower + cost.offset - offset_slack, upper + cost.offset + offset_slack
    return dataclasses.replace(coupling, lower=jnp.maximum(ends[0], 0), upper=jnp.maximum(ends[1], 0))


def placed_epsilon(
    place: PlacedPair, mean: Float[Array, ""], epsilon: Float[Array, ""], unit: EpsilonUnit
) -> Float[Array, ""]:
    """A regularisation in the unit of the place, given the mean cost there. It is infinite for features close to 0."""
    if unit == "mean_cost":
        return epsilon * mean
    return jnp.where(epsilon > 0, epsilon / place.unit / place.unit, 0)


def label_law(pair: LabelledPair, plan: Float[Array, "n m"]) -> Float[Array, "r t"]:
    """The mass that a plan moves from each reference class to each target class."""
    return pair.reference.memberships.T @ plan @ pair.target.memberships


def conditional_entropy(law: Float[Array, "r t"]) -> Float[Array, ""]:
    """`H(column | row)` in nats of a joint distribution; rows and columns without mass have no effect."""
    rows = jnp.sum(law, axis=1)
    return jnp.sum(rows * entropy(safe_divide(law, rows[:, None])))
