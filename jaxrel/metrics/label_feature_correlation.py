r"""LFC: correlation of the similarities of samples in features and in labels.

    LFC = corr(K, Y) over all n^2 pairs,   K_ij = <f_i, f_j>,   Y_ij = 1 where y_i = y_j, else -1.

With the mean feature m, deviations `g_i = f_i - m` and `a_i = <g_i, m>`, K has the mean `||m||^2` and
`K_ij - ||m||^2 = a_i + a_j + <g_i, g_j>`, where the three terms are uncorrelated. With class shares `q_c` and the sums
`S_c = sum_{i in c} g_i / n`,

    LFC = sum_c (2 q_c <S_c, m> + ||S_c||^2) / sqrt(var(K) s (1 - s)),   s = sum_c q_c^2,
    var(K) = 2 mean_i a_i^2 + mean_ij <g_i, g_j>^2,

so that no matrix of pairs is needed.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.kernels import centred, gram_product, kernel, safe_divide, unit_scale
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample

__all__ = ["lfc_score"]


@pads_samples
def lfc_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Pearson's correlation of feature products and label agreement over all pairs, -1 to 1; higher is better.

    Args:
        features: `(n, d)`; not centred, as published.
        labels: `(n,)` integers.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`. Absent classes have no effect.

    Returns:
        A `Score` that is invariant to scale and rotation, but not to shifts: the mean feature weights the directions.
        Pairs of a sample with itself count, as published. It is 0 if all samples have equal features, and undefined if
        all have the same class.

    Raises:
        ValueError: see `checked_labelled_sample`.

    Source: Deshpande et al., "A linearized framework and a new benchmark for model selection for fine-tuning", 2021.

    `O(n d min(n, d) + n c d)` operations, `O(n d + min(n, d)^2)` memory.
    """
    return _lfc(checked_labelled_sample(features, labels, weights, num_classes))


@kernel
def _lfc(sample: LabelledSample) -> Score:
    features = unit_scale(sample.features)
    shares = sample.weights / sample.total
    mean = shares @ features
    deviations = centred(features, sample.weights)
    class_shares = shares @ sample.memberships
    class_sums = (shares[:, None] * sample.memberships).T @ deviations
    # The deviation of the largest class follows from the other classes, which may be only rounding next to it.
    largest = jnp.arange(class_shares.shape[0]) == jnp.argmax(class_shares)
    others = jnp.where(largest, jnp.sum(jnp.where(largest, 0, class_shares)), 1 - class_shares)
    outside = jnp.where(largest[:, None], 0, class_sums)
    class_sums = jnp.where(largest[:, None], -jnp.sum(outside, axis=0), outside)
    covariance = jnp.sum(2 * class_shares * (class_sums @ mean)) + jnp.sum(class_sums**2)
    rows = jnp.sqrt(shares)[:, None] * deviations
    variance = 2 * jnp.sum((rows @ mean) ** 2) + gram_product(rows, rows)
    agreement = jnp.sum(class_shares**2)
    disagreement = jnp.sum(class_shares * others)
    # For equal features this is the root of 0, which has no derivative.
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    value = safe_divide(covariance, deviation * jnp.sqrt(agreement * disagreement))
    one_class = jnp.sum(class_shares > 0) < 2
    return make_score(jnp.clip(value, -1, 1), sample.status, undefined=one_class)
