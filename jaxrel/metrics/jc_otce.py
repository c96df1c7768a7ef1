r"""JC-OTCE: F-OTCE with a coupling whose cost includes distances between the classes.

    C_ij = (1 - lambda) ||x_i - y_j||^2 + lambda W_2^2(class of x_i, class of y_j)

Source: Tan, Zhang, Li, Huang, Zhang, "Transferability-guided cross-domain cross-task transfer learning", IEEE TNNLS
2024; JC-NCE in Tan, Li, Huang, "Practical transferability estimation for image classification tasks", 2021.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel
from jaxrel.metrics.label_distances import Inner, checked_blocks, label_distances
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

__all__ = ["jc_otce_score"]

Gaps = tuple[Float[Array, ""] | None, Float[Array, ""] | None]


@no_derivative
@pads_samples
def jc_otce_score(
    reference_features: Float[ArrayLike, "n d"],
    reference_labels: Int[ArrayLike, " n"],
    features: Float[ArrayLike, "m d"],
    labels: Int[ArrayLike, " m"],
    *,
    label_weight: Float[ArrayLike, ""] = 0.5,
    inner: Inner = "exact",
    relative_gap: Float[ArrayLike, ""] | None = 0.01,
    epsilon: Float[ArrayLike, ""] | None = 0.1,
    epsilon_unit: EpsilonUnit = "cost",
    reference_weights: Float[ArrayLike, " n"] | None = None,
    weights: Float[ArrayLike, " m"] | None = None,
    reference_num_classes: int | None = None,
    num_classes: int | None = None,
    block_sizes: tuple[int, int] | None = None,
) -> Score:
    """Negative conditional entropy of the target labels in nats, `-H(labels)` to 0; higher is better.

    Args:
        reference_features, reference_labels: `(n, d)` and `(n,)` integers, of the reference task.
        features, labels: `(m, d)` and `(m,)` integers, of the target task; n and m may differ.
        label_weight: lambda, 0 to 1; 0 is `f_otce_score`.
        inner: "exact": W_2 between the samples of two classes; "gaussian": between Gaussians with their moments.
        relative_gap: relative accuracy of the distances between classes and, if epsilon is None, of the coupling. None
            is as accurate as the dtype permits, see below.
        epsilon, epsilon_unit: as in `f_otce_score`, for the whole cost.
        reference_weights, weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        reference_num_classes, num_classes: class counts; needed inside `jit` and `vmap`.
        block_sizes: sizes of the largest class of the reference and of the target; required for "exact" with traced
            labels. With traced labels "gaussian" is faster with sizes below d.

    Returns:
        A `Score` that is invariant to shifts of either task and common rotations of both. Classes without samples have
        no effect.

    Raises:
        ValueError: see `checked_pair`, `checked_epsilon`, `checked_gap`, `checked_blocks`; for a `label_weight` outside
            0 .. 1.

    Deviations: the distance between labels is the squared 2-Wasserstein distance of the paper, to a certified relative
    gap: 1e-3 (float64: 1e-7) if `relative_gap` is None, and half of `relative_gap` if epsilon is None. The only other
    implementation, by third parties, uses entries of plan times cost between class means. These are not a distance:
    they shrink as classes are added and are 0 between all but a few classes.

    Complexity: that of `otce_components`, and for "exact" the same again between classes, with `r t s q` entries for r
    and t classes of at most s and q samples; for "gaussian" `O((r t + n + m) d^2 + r t d^3)`, or
    `O(r t s q (d + min(s, q)))` if s and q are below d.
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
    share = jnp.asarray(label_weight, dtype)
    if share.shape or not (isinstance(share, jax.core.Tracer) or 0 <= float(share) <= 1):
        raise ValueError(f"label_weight must be one number, 0 to 1, got {label_weight}.")
    pair, sizes = checked_blocks(pair, reference_labels, labels, inner, block_sizes)
    gaps = (gap, None) if epsilon is not None or gap is None else (gap / 2, gap)
    return _jc_otce(pair, share, number, gaps, inner=inner, epsilon_unit=epsilon_unit, block_sizes=sizes)


def _jc_otce_kernel(
    pair: LabelledPair,
    label_weight: Float[Array, ""],
    epsilon: Float[Array, ""],
    relative_gaps: Gaps,
    *,
    inner: Inner,
    epsilon_unit: EpsilonUnit,
    block_sizes: tuple[int, int],
) -> Score:
    place = placed(pair)
    of_labels, of_samples = relative_gaps
    distances = label_distances(pair, place, inner=inner, block_sizes=block_sizes, relative_gap=of_labels)
    cost = sample_costs(pair, place, distances.value, feature_weight=1 - label_weight, label_weight=label_weight)
    coupling = task_coupling(
        pair,
        place,
        cost,
        epsilon=epsilon,
        unit=epsilon_unit,
        relative_gap=of_samples,
        error=label_weight * distances.error_of_plans(pair),
    )
    entropy = conditional_entropy(label_law(pair, coupling.plan))
    return make_score(-entropy, pair.status, converged=coupling.converged)


_jc_otce = kernel(_jc_otce_kernel, static=("inner", "epsilon_unit", "block_sizes"))
