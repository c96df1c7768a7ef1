r"""Linear CKA, centred kernel alignment: the similarity of two encoders on the same samples.

For centred features X and Y of the same n samples, `CKA = h(X, Y) / sqrt(h(X, X) h(Y, Y))` with

    h(X, Y) = ||X^T Y||^2 = sum_ij <x_i, x_j> <y_i, y_j>,

which is biased upwards: independent features with d >> n have a CKA near 1. The unbiased form, with k_i = ||x_i||^2 and
l_i = ||y_i||^2 (sums only over pairs of different samples, with row and column means removed), is

    h(X, Y) = ||X^T Y||^2 - n / (n - 2) sum_i k_i l_i + sum_i k_i sum_i l_i / ((n - 1) (n - 2)).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxrel._core.arrays import real_array
from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.kernels import gram_product, kernel, safe_divide, unit_centred
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import Sample, checked_sample

__all__ = ["cka_score"]


@pads_samples
def cka_score(
    features: Float[ArrayLike, "n d"],
    aligned_features: Float[ArrayLike, "n e"],
    *,
    debiased: bool = False,
    weights: Float[ArrayLike, " n"] | None = None,
) -> Score:
    """Linear CKA of two feature matrices of the same samples, 0 to 1; higher is more similar.

    Args:
        features, aligned_features: `(n, d)` and `(n, e)`. Row i of both is the same sample under two encoders (or under
            heads of two tasks). Widths may differ.
        debiased: remove the bias of small samples. The value is then from -1 to 1, and about 0 for independent
            features.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter, unless debiased).

    Returns:
        A `Score` that is symmetric and invariant to shifts, scale and rotations of either side. It is 0 if the features
        of an encoder are the same for all samples (or, if debiased, all at the same distance from each other). If
        debiased, it is undefined for a total weight of 3 or less.

    Raises:
        ValueError: for different numbers of samples, else see `checked_sample`.

    Source: Kornblith, Norouzi, Lee, Hinton, "Similarity of neural network representations revisited", ICML 2019;
    unbiased h of Song et al., "Feature selection via dependence maximization", JMLR 2012, first used in CKA by Nguyen,
    Raghu, Kornblith, "Do wide and deep networks learn the same things?", ICLR 2021.

    `O(n d e)` operations and `O(n (d + e) + d e)` memory, or `O(n^2 (d + e))` and `O(n (n + d + e))` if that is less
    work, and the same for each encoder with itself.
    """
    sample = checked_sample(features, weights, shift_invariant=True)
    aligned_features = real_array("aligned_features", aligned_features)
    rows, shape = sample.weights.shape[0], aligned_features.shape
    if len(shape) == 2 and shape[0] != rows:
        raise ValueError(
            f"features have {rows} rows, aligned_features {shape[0]}: pass both for the same samples, row by row."
        )
    reference = checked_sample(aligned_features, weights, shift_invariant=True)
    return _cka(sample, reference, debiased=bool(debiased))


def _cka_kernel(sample: Sample, reference: Sample, *, debiased: bool) -> Score:
    shares, total = sample.weights / sample.total, sample.total
    x, y = (unit_centred(side)[0] for side in (sample, reference))

    def product(x: Float[Array, "n d"], y: Float[Array, "n e"]) -> Float[Array, ""]:
        """`h / n^2`, or 0 if a norm is only rounding."""
        root = jnp.sqrt(shares)[:, None]
        biased = gram_product(root * x, root * y)
        if not debiased:
            return biased
        k, left = jnp.sum(x**2, axis=1), total - 2
        own = safe_divide(shares @ (k * jnp.sum(y**2, axis=1)), left)
        means = safe_divide((shares @ k) * (shares @ jnp.sum(y**2, axis=1)), left * (total - 1))
        return biased - own + means

    def norm(x: Float[Array, "n d"]) -> Float[Array, ""]:
        squared = product(x, x)
        resolved = squared > 8 * jnp.finfo(x.dtype).eps * (shares @ jnp.sum(x**2, axis=1)) ** 2
        # A double `where`, as the root of 0 has no derivative.
        return jnp.where(resolved, jnp.sqrt(jnp.where(resolved, squared, 1)), 0)

    value = safe_divide(product(x, y), norm(x) * norm(y))
    status = sample.status | reference.status
    return make_score(jnp.clip(value, -1, 1), status, undefined=debiased & (total <= 3))


_cka = kernel(_cka_kernel, static=("debiased",))
