r"""OTCE: the distance of two tasks, in features by optimal transport and in labels by conditional entropy.

With an optimal coupling P between reference samples and target samples,

    W = <P, C>,  C_ij = ||x_i - y_j||^2,      H = -sum_{c, k} J_ck log(J_ck / sum_k' J_ck'),

with J_ck the mass that P moves from reference class c to target class k. Accuracy after transfer is modelled as
`w W + h H + intercept`, fitted on auxiliary tasks of known accuracy.

Source: Tan, Li, Huang, "OTCE: A transferability metric for cross-domain cross-task representations", CVPR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core import linalg
from jaxrel._core.size_classes import pads_samples
from jaxrel._core.status import HasStatus
from jaxrel.metrics.kernels import kernel, safe_divide
from jaxrel.metrics.labelled_pairs import (
    EpsilonUnit,
    LabelledPair,
    checked_epsilon,
    checked_gap,
    checked_pair,
    checked_squares,
    conditional_entropy,
    label_law,
    placed,
    sample_costs,
    task_coupling,
)
from jaxrel.metrics.result import Score, ScoreStatus, make_score

__all__ = ["OtceCombination", "OtceComponents", "otce_combination", "otce_components", "otce_score"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OtceComponents(HasStatus):
    """The two distances of OTCE, for a batch of pairs of tasks.

    Attributes:
        wasserstein: cost W of the coupling, in squared feature units; lower is better.
        lower, upper: an interval that contains the optimal, unregularised cost, rounding included.
        conditional_entropy: entropy H of the target labels given the reference labels, in nats; lower is better.
        status: `ScoreStatus` bits, 0 on success.
    """

    wasserstein: Float[Array, "*b"]
    lower: Float[Array, "*b"]
    upper: Float[Array, "*b"]
    conditional_entropy: Float[Array, "*b"]
    status: Int[Array, "*b"]

    statuses: ClassVar = ScoreStatus


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OtceCombination:
    """Coefficients of a linear model of accuracy, from `otce_combination`."""

    wasserstein: Float[Array, ""]
    conditional_entropy: Float[Array, ""]
    intercept: Float[Array, ""]


@pads_samples
def otce_components(
    reference_features: Float[ArrayLike, "n d"],
    reference_labels: Int[ArrayLike, " n"],
    features: Float[ArrayLike, "m d"],
    labels: Int[ArrayLike, " m"],
    *,
    relative_gap: Float[ArrayLike, ""] | None = 0.01,
    epsilon: Float[ArrayLike, ""] | None = None,
    epsilon_unit: EpsilonUnit = "cost",
    reference_weights: Float[ArrayLike, " n"] | None = None,
    weights: Float[ArrayLike, " m"] | None = None,
    reference_num_classes: int | None = None,
    num_classes: int | None = None,
) -> OtceComponents:
    """Transport cost and conditional entropy between two labelled tasks.

    Args:
        reference_features, reference_labels: `(n, d)` and `(n,)` integers, of the reference task.
        features, labels: `(m, d)` and `(m,)` integers, of the target task; n and m may differ.
        relative_gap: certified relative accuracy of the cost of the coupling, relative to the shift-invariant part of
            W. It is ignored if epsilon is given. None gives the optimal coupling, up to rounding, which takes about ten
            times as long.
        epsilon: regularisation of the coupling, which is in the authors' paper but not in their code. None uses the
            epsilon that `relative_gap` requires.
        epsilon_unit: "cost": epsilon is in squared feature units; "mean_cost": relative to the mean of all costs.
        reference_weights, weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        reference_num_classes, num_classes: class counts; needed inside `jit` and `vmap`.

    Returns:
        `OtceComponents`, marked as not converged if the gap was not certified. If epsilon is None, W grows with the
        square of the scale and H is invariant to it. W is invariant to common shifts and rotations of both tasks, and H
        also to shifts of one task. Classes without samples have no effect.

    Raises:
        ValueError: see `checked_pair`, `checked_epsilon`, `checked_gap`, `checked_squares`.

    Deviations from the authors' code, which uses a network simplex: the coupling is an entropic one whose cost is
    certified to be optimal within `relative_gap`, and H is that of this coupling, slightly above that of the optimal
    one. If several couplings are optimal, theirs depends on the order of the samples; this one has the largest entropy,
    so features that are all the same have H = H(labels), its largest value. With a gap of None, epsilon is 2^-22
    (float32: 2^-18) of the mean size of the cost without its terms of a single sample: costs that differ by less are
    treated as ties. If there are very many near-ties, Sinkhorn's algorithm stops before that (at 20,000 iterations; H
    of 1,797 digits has an error of 3e-5).

    `O(n m (d + s))` operations with s iterations, tens to hundreds, or up to tens of thousands without a gap; `O(n m)`
    memory.
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
    dtype = pair.target.features.dtype
    number, gap = checked_epsilon(epsilon, epsilon_unit, dtype), checked_gap(relative_gap, dtype)
    return _otce_components(checked_squares(pair), number, gap if epsilon is None else None, epsilon_unit=epsilon_unit)


def _otce_components_kernel(
    pair: LabelledPair, epsilon: Float[Array, ""], relative_gap: Float[Array, ""] | None, *, epsilon_unit: EpsilonUnit
) -> OtceComponents:
    place = placed(pair)
    cost = sample_costs(pair, place)
    coupling = task_coupling(pair, place, cost, epsilon=epsilon, unit=epsilon_unit, relative_gap=relative_gap)
    amounts = jnp.stack([jnp.maximum(cost.of(coupling.plan), 0), coupling.lower, coupling.upper])
    wasserstein, lower, upper = place.squared(amounts)
    status = make_score(wasserstein, pair.status, converged=coupling.converged).status
    defined = jnp.where(pair.valid, 0, jnp.nan)
    entropy = conditional_entropy(label_law(pair, coupling.plan))
    return OtceComponents(wasserstein + defined, lower + defined, upper + defined, entropy + defined, status)


_otce_components = kernel(_otce_components_kernel, static=("epsilon_unit",))


def otce_combination(components: OtceComponents, accuracies: Float[ArrayLike, " k"]) -> OtceCombination:
    """Fit `accuracy = w W + h H + intercept` on auxiliary tasks by least squares.

    Args:
        components: components of k >= 3 auxiliary tasks, stacked by
            `jax.tree.map(lambda *x: jnp.stack(x), *components)`.
        accuracies: `(k,)`, accuracy after transfer to each of them.

    Returns:
        The coefficients. If several fit equally well, they have the least norm for standardised components. They are
        NaN if a component is.

    Raises:
        ValueError: for shapes that do not match, fewer than 3 tasks, and concrete numbers that are not finite.

    The authors standardise the components first, which does not change the fitted accuracies.
    """
    truth = jnp.asarray(accuracies)
    shape = components.wasserstein.shape
    if truth.shape != shape or len(shape) != 1 or shape[0] < 3:
        raise ValueError(
            f"components must be those of k >= 3 auxiliary tasks and accuracies (k,), got {shape} and {truth.shape}: "
            "stack components by jax.tree.map(lambda *x: jnp.stack(x), *components)."
        )
    inputs = jnp.stack([components.wasserstein, components.conditional_entropy], axis=1)
    truth = truth.astype(inputs.dtype)
    for name, values in (("accuracies", truth), ("components", inputs)):
        if not isinstance(values, jax.core.Tracer) and not np.all(np.isfinite(values)):
            row = int(np.argwhere(~np.isfinite(np.asarray(values)))[0][0])
            raise ValueError(f"{name}[{row}] is {values[row]}: leave out the tasks that have no number.")
    return _otce_combination(inputs, truth)


@kernel
def _otce_combination(inputs: Float[Array, "k 2"], truth: Float[Array, " k"]) -> OtceCombination:
    mean = jnp.mean(inputs, axis=0)
    about = inputs - mean
    largest = jnp.max(jnp.abs(about), axis=0)
    # A component that is the same for all tasks up to rounding carries no information.
    largest = jnp.where(largest > 8 * jnp.finfo(inputs.dtype).eps * jnp.abs(mean), largest, 0)
    unit = safe_divide(about, jnp.broadcast_to(largest, about.shape))
    deviation = jnp.sqrt(jnp.mean(unit**2, axis=0))
    standardised = safe_divide(unit, jnp.broadcast_to(deviation, unit.shape))
    solution = linalg.least_squares(standardised, truth - jnp.mean(truth))
    slopes = safe_divide(solution, deviation * largest)
    undefined = jnp.where(jnp.all(jnp.isfinite(inputs)), 0, jnp.nan)
    intercept = jnp.mean(truth) - slopes @ mean
    return OtceCombination(slopes[0] + undefined, slopes[1] + undefined, intercept + undefined)


def otce_score(components: OtceComponents, combination: OtceCombination) -> Score:
    """Predict the accuracy after transfer by the fitted combination, for each pair of tasks; higher is better.

    The status is that of the components.
    """
    value = (
        combination.wasserstein * components.wasserstein
        + combination.conditional_entropy * components.conditional_entropy
        + combination.intercept
    )
    return Score(value, components.status)
