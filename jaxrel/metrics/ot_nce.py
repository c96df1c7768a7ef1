r"""OT-NCE: how well reference labels predict target labels through an optimal coupling of the features.

It is the negative conditional entropy of OTCE, which the authors recommend if there are no auxiliary tasks.

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
    """Negative conditional entropy of the target labels in nats, `-H(labels)` to 0; higher is better.

    Args:
        reference_features, reference_labels: `(n, d)` and `(n,)` integers, of the reference task.
        features, labels: `(m, d)` and `(m,)` integers, of the target task; n and m may differ.
        relative_gap: certified relative accuracy of the transport cost, as in `otce_components`, which returns this
            cost. None gives the optimal coupling, up to rounding.
        reference_weights, weights: counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        reference_num_classes, num_classes: class counts; needed inside `jit` and `vmap`.

    Returns:
        A `Score`, marked as not converged if the gap was not certified. It is invariant to shifts of either task and to
        common rotations and scales of both. Features that are all the same have the lowest value.

    Raises:
        ValueError: see `checked_pair`, `checked_gap`.

    For deviations from the authors' code and complexity see `otce_components`; the score is minus its
    `conditional_entropy`.
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
