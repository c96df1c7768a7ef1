r"""F-OTCE: how well reference labels predict target labels through an entropic coupling of the features.

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
    """Negative conditional entropy of the target labels in nats, `-H(labels)` to 0; higher is better.

    Args:
        reference_features, reference_labels: `(n, d)` and `(n,)` integers, of the reference task.
        features, labels: `(m, d)` and `(m,)` integers, of the target task; n and m may differ.
        epsilon: regularisation of the coupling; None gives the optimal coupling, as in `ot_nce_score`.
        epsilon_unit: "cost", as published: epsilon is in squared feature units, so the score depends on the scale;
            "mean_cost": epsilon is relative to the mean of all costs, for encoders of different scale.
        relative_gap: relative accuracy of the coupling if epsilon is None, as in `otce_components`.
        reference_weights, weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        reference_num_classes, num_classes: class counts; needed inside `jit` and `vmap`.

    Returns:
        A `Score` that is invariant to shifts of either task and common rotations of both. Classes without samples have
        no effect.

    Raises:
        ValueError: see `checked_pair`, `checked_epsilon`, `checked_gap`.

    The authors' only implementation, for segmentation, stops when the potentials change by less than 0.1 in total; here
    the coupling converges. An epsilon below the resolution of the coupling is raised to it, see `otce_components`.

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
