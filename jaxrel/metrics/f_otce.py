r"""F-OTCE: how well the labels of a reference task tell those of the target, through an entropic coupling of features.

    F-OTCE = -H(Y_T | Y_R) = sum_{c, k} J_ck log(J_ck / sum_k' J_ck'),    J = label law of the coupling

Source: Tan, Zhang, Li, Huang, Zhang, "Transferability-guided cross-domain cross-task transfer learning", IEEE TNNLS
2024.
"""

from __future__ import annotations

from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel
from jaxrel.metrics.labelled_pairs import (
    EpsilonUnit,
    LabelledPair,
    checked_epsilon,
    checked_gap,
    checked_pair,
    conditional_entropy,
    label_law,
    placed,
    sample_costs,
    task_coupling,
)
from jaxrel.metrics.result import Score, make_score

__all__ = ["f_otce_score"]


@no_derivative
@pads_samples
def f_otce_score(
    reference_features: Float[ArrayLike, "n d"],
    reference_labels: Int[ArrayLike, " n"],
    features: Float[ArrayLike, "m d"],
    labels: Int[ArrayLike, " m"],
    *,
    epsilon: Float[ArrayLike, ""] | None = 0.1,
    epsilon_unit: EpsilonUnit = "cost",
    relative_gap: Float[ArrayLike, ""] | None = 0.01,
    reference_weights: Float[ArrayLike, " n"] | None = None,
    weights: Float[ArrayLike, " m"] | None = None,
    reference_num_classes: int | None = None,
    num_classes: int | None = None,
) -> Score:
    """Minus the conditional entropy of the target's labels in nats, `-H(labels)` to 0; higher is better.

    Args:
        reference_features, reference_labels: `(n, d)` and `(n,)` integers, of the reference task.
        features, labels: `(m, d)` and `(m,)` integers, of the target task; n and m may differ.
        epsilon: regularisation of the coupling; None couples optimally, which is `ot_nce_score`.
        epsilon_unit: "cost", as published: epsilon is in squares of the features, so that the score depends on their
            scale; "mean_cost": relative to the mean of all costs, for encoders of different scale.
        relative_gap: with an epsilon of None, how near the optimum the coupling is, as in `otce_components`.
        reference_weights, weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        reference_num_classes, num_classes: class counts; needed inside `jit` and `vmap`.

    Returns:
        A `Score` that does not change under shifts of either task and rotations of both. Classes without samples count
        for nothing.

    Raises:
        ValueError: see `checked_pair`, `checked_epsilon`, `checked_gap`.

    The authors' one implementation, for segmentation, stops where potentials change by less than 0.1 in all; this
    coupling has converged. An epsilon below what the coupling resolves is raised to that, see `otce_components`.

    Complexity: see `otce_components`.
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
    return _f_otce(pair, number, gap if epsilon is None else None, epsilon_unit=epsilon_unit)


def _f_otce_kernel(
    pair: LabelledPair, epsilon: Float[Array, ""], relative_gap: Float[Array, ""] | None, *, epsilon_unit: EpsilonUnit
) -> Score:
    place = placed(pair)
    cost = sample_costs(pair, place)
    coupling = task_coupling(pair, place, cost, epsilon=epsilon, unit=epsilon_unit, relative_gap=relative_gap)
    entropy = conditional_entropy(label_law(pair, coupling.plan))
    return make_score(-entropy, pair.status, converged=coupling.converged)


_f_otce = kernel(_f_otce_kernel, static=("epsilon_unit",))
