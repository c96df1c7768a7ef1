r"""H-score: how much of the variance of the whitened features lies between classes.

With the covariance `C_f` of the features and the covariance `C_g` of their class means,

    H = tr(C_f^+ C_g),    H_lambda = tr(((1 - lambda) C_f + lambda mu I)^{-1} (1 - lambda) C_g),   mu = tr(C_f) / d.

Both are sums over left singular vectors u_i of the centred features: `tr(C_f^+ C_g) = sum_i sum_c (u_i^T y_c)^2 / n_c`
for class indicators y_c, and a factor of at most 1 for each i under shrinkage.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.decomposition import Coordinates, Decomposition, coordinates
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, safe_divide, unit_centred
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample

__all__ = ["h_score", "regularised_h_score"]


@no_derivative
@pads_samples
def h_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """H-score `tr(C_f^+ C_g)`, from 0 to the number of classes with samples minus 1; higher is better.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`.
        decomposition: `decompose(features, "standardised", weights=weights)`, to share it between metrics; None
            computes it.

    Returns:
        A `Score` that is invariant to invertible affine maps of the features. Constant features and classes without
        samples have no effect. For n <= d nearly every encoder reaches the upper end: use `regularised_h_score`.

    Raises:
        ValueError: see `checked_labelled_sample`.

    Source: Bao et al., "An information-theoretic approach to transferability in task transfer learning", ICIP 2019.
    The pseudo-inverse is computed from standardised features, with a cut-off of 16 roundings of the largest singular
    value. In exact arithmetic standardisation changes nothing.

    `O(n d min(n, d))` operations.

    Examples:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> features = 3 * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(60, 4))
        >>> print(f"{h_score(features, labels).value:.3f}")
        1.632
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    return _h_score(sample, coordinates(sample, "standardised", sample.memberships, decomposition))


@kernel
def _h_score(sample: LabelledSample, indicators: Coordinates) -> Score:
    return make_score(jnp.sum(_between_classes(sample, indicators)), sample.status)


@no_derivative
@pads_samples
def regularised_h_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    decomposition: Decomposition | None = None,
    fourth_moment: Float[ArrayLike, ""] | None = None,
) -> Score:
    """H-score with the covariance shrunk towards a multiple of the identity; higher is better. Use it for d > n.

    Args, raises, complexity: as for `h_score`, but the decomposition is "centred", and weights are counts because the
    shrinkage depends on their sum. The shrinkage also depends on the mean of `||x - mean||^4`. Pass `fourth_moment` if
    the samples only replace others with the same class means and covariance; None computes it.

    Returns:
        A `Score` that is invariant to shifts, rotations and one common scale of the features. A constant feature
        matters through d, as it does in the shrinkage. Undefined for a total weight of 1 or less.

    Source: Ibrahim, Ponomareva, Mazumder, "Newer is not always better: rethinking transferability metrics, their
    peculiarities, stability and performance", ECML 2022; shrinkage of Ledoit and Wolf, "A well-conditioned estimator
    for large-dimensional covariance matrices", 2004. As in every implementation the covariance of class means is
    divided by n - 1 and that of the features by n, so the upper end is `(C - 1) n / (n - 1)`.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    return _regularised_h_score(
        sample, coordinates(sample, "centred", sample.memberships, decomposition), fourth_moment
    )


@kernel
def _regularised_h_score(
    sample: LabelledSample, indicators: Coordinates, fourth_moment: Float[ArrayLike, ""] | None
) -> Score:
    features, size = unit_centred(sample)
    if fourth_moment is None:
        fourth_moment = sample.weights @ jnp.sum(features**2, axis=1) ** 2 / sample.total
    else:
        fourth_moment = jnp.asarray(fourth_moment) / size**4
    num_features = features.shape[1]
    eigenvalues = indicators.values**2 / sample.total
    shrinkage = _ledoit_wolf_shrinkage(eigenvalues, num_features, fourth_moment, sample.total)
    signal = (1 - shrinkage) * eigenvalues
    gains = safe_divide(signal, signal + shrinkage * jnp.sum(eigenvalues) / num_features)
    value = gains @ _between_classes(sample, indicators)
    # Sum the light samples apart from one of weight 1, so that they are not lost in the rounding of the total.
    heaviest = jnp.arange(sample.weights.shape[0]) == jnp.argmax(sample.weights)
    degrees = jnp.sum(sample.weights - heaviest)
    return make_score(safe_divide(value * sample.total, degrees), sample.status, undefined=degrees <= 0)


def _between_classes(sample: LabelledSample, indicators: Coordinates) -> Float[Array, " r"]:
    """Share of each direction of unit variance that lies between classes, 0 to 1."""
    return jnp.sum(safe_divide(indicators.coefficients**2, sample.class_sizes[None]), axis=1)


def _ledoit_wolf_shrinkage(
    eigenvalues: Float[Array, " r"], num_features: int, fourth_moment: Float[Array, ""], total: Float[Array, ""]
) -> Float[Array, ""]:
    """Weight of the identity: error of the sample covariance over its distance to the identity, at most 1.

    The eigenvalues are those of the covariance; any that are omitted are 0.
    """
    mean = jnp.sum(eigenvalues) / num_features
    missing = num_features - eigenvalues.shape[0]
    distance = (jnp.sum((eigenvalues - mean) ** 2) + missing * mean**2) / num_features
    error = (fourth_moment - jnp.sum(eigenvalues**2)) / (num_features * total)
    return safe_divide(jnp.clip(error, 0, distance), distance)
