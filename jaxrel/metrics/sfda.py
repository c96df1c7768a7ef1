"""SFDA: the confidence of a discriminant analysis in the correct classes, after making hard samples harder."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.discriminant import log_posteriors, mean_own_probability
from jaxrel.metrics.kernels import class_means, kernel, unit_centred
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample, checked_positive_number

__all__ = ["sfda_score"]


@no_derivative
@pads_samples
def sfda_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    shrinkage: Float[ArrayLike, ""] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    r"""Mean probability of the correct class under regularised discriminant analysis of mixed features, 0 to 1.

    Discriminant analysis with covariance `(1 - lambda) S + lambda tr(S) / d I` gives `p(c | x)`. With the softmax q of
    those probabilities, each sample of class y moves towards the mean of the means of the other classes,

        x <- q_y x + (1 - q_y) sum_{c != y} m_c / (C - 1),

    and a second analysis with the same lambda, of the moved samples, gives the score. Higher is better.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        shrinkage: lambda, above 0 and at most 1; None for `exp(-5 s)`, but at least 1e-10, where s is the largest
            eigenvalue of S, the covariance within classes. A new value does not recompile.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score` that is invariant to shifts and rotations. With `shrinkage=None` lambda depends on the scale of the
        features. It is 1 for separable features, as most are for n < d, and for a single class.

    Raises:
        ValueError: for a shrinkage out of range, else see `checked_labelled_sample`.

    Source: Shao et al., "Not all models are equal: predicting model transferability in a self-challenging Fisher
    space", ECCV 2022. s is exact: the authors' code takes six steps of a power iteration that starts from the row sums
    of S, so theirs depends on the axes and is slightly too small (scores differ by less than 1e-4). With their lambda
    passed as `shrinkage` the scores are equal. A class without samples is left out (an error in theirs). Their
    eigenvectors cancel: only the inverse of the covariance remains.

    `O(n d min(n, d))` operations.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    if shrinkage is not None:
        shrinkage = checked_positive_number("shrinkage", shrinkage, sample.features.dtype, largest=1)
    return _sfda(sample, shrinkage)


@kernel
def _sfda(sample: LabelledSample, shrinkage: Float[Array, ""] | None) -> Score:
    features, size = unit_centred(sample)
    first, shrinkage = log_posteriors(sample, features, size, shrinkage)
    second, _ = log_posteriors(sample, _mixed(sample, features, first), size, shrinkage)
    return make_score(mean_own_probability(sample, second), sample.status)


def _mixed(
    sample: LabelledSample, features: Float[Array, "n d"], log_probabilities: Float[Array, "n c"]
) -> Float[Array, "n d"]:
    present = sample.class_sizes > 0
    softened = jax.nn.softmax(jnp.where(present, jnp.exp(log_probabilities), -jnp.inf))
    confidence = jnp.sum(sample.memberships * softened, axis=1, keepdims=True)
    means = class_means(sample, features)
    others = (jnp.sum(means, axis=0) - means) / jnp.maximum(jnp.sum(present) - 1, 1)
    return confidence * features + (1 - confidence) * (sample.memberships @ others)
