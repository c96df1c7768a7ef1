r"""OT-NCE: how well the labels of a reference task tell those of the target, through an optimal coupling of features.

The score that the authors of OTCE recommend where no auxiliary tasks are at hand: minus the conditional entropy alone.

Source: Tan, Li, Huang, "OTCE: A transferability metric for cross-domain cross-task representations", CVPR 2021,
appendix.
"""

from __future__ import annotations

from jaxtyping import ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.f_otce import f_otce_score
from jaxrel.metrics.result import Score

__all__ = ["ot_nce_score"]


@no_derivative
@pads_samples
def ot_nce_score(
    reference_features: Float[ArrayLike, "n d"],
    reference_labels: Int[ArrayLike, " n"],
    features: Float[ArrayLike, "m d"],
    labels: Int[ArrayLike, " m"],
    *,
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
        relative_gap: how near the optimum the transport cost of the coupling is certified to be, as in
            `otce_components`, which has that cost. None couples optimally, up to rounding.
        reference_weights, weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        reference_num_classes, num_classes: class counts; needed inside `jit` and `vmap`.

    Returns:
        A `Score`, not converged where the gap was not certified. It does not change under shifts of either task,
        rotations and one common scale of both. Features that are all the same have the lowest value.

    Raises:
        ValueError: see `checked_pair`, `checked_gap`.

    Deviations from the authors' code, complexity: see `otce_components`, whose `conditional_entropy` this is, negated.
    """
    return f_otce_score(
        reference_features,
        reference_labels,
        features,
        labels,
        epsilon=None,
        relative_gap=relative_gap,
        reference_weights=reference_weights,
        weights=weights,
        reference_num_classes=reference_num_classes,
        num_classes=num_classes,
    )
