"""Label-free scores from class probabilities: how confident a head is, and over how many classes.

The probabilities are predictions of a source head, or of any classifier, on target samples. The scores are
differentiable in the probabilities.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.kernels import entropy, kernel, safe_divide
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import Sample, checked_probabilities

__all__ = ["information_maximisation_score", "maximum_probability_score", "negative_entropy_score"]


@pads_samples
def maximum_probability_score(
    probabilities: Float[ArrayLike, "n c"], *, weights: Float[ArrayLike, " n"] | None = None
) -> Score:
    """Mean over samples of the largest class probability, 1 / c to 1; higher is better.

    Args:
        probabilities: `(n, c)`, rows of sum 1.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).

    Raises:
        ValueError: see `checked_probabilities`.

    Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural
    networks", ICLR 2017. `O(n c)` operations.
    """
    return _maximum_probability(checked_probabilities(probabilities, weights))


@kernel
def _maximum_probability(sample: Sample) -> Score:
    largest = jnp.max(sample.features, axis=1)
    return make_score(safe_divide(sample.weights @ largest, sample.total), sample.status)


@pads_samples
def negative_entropy_score(
    probabilities: Float[ArrayLike, "n c"], *, weights: Float[ArrayLike, " n"] | None = None
) -> Score:
    """Negative mean entropy of the rows, `-log c` to 0 nats; higher is better.

    Args, raises: as `maximum_probability_score`.

    Source: Grandvalet and Bengio, "Semi-supervised learning by entropy minimization", NeurIPS 2004. `O(n c)`
    operations.
    """
    return _negative_entropy(checked_probabilities(probabilities, weights))


@kernel
def _negative_entropy(sample: Sample) -> Score:
    mean = safe_divide(sample.weights @ entropy(sample.features), sample.total)
    return make_score(-mean, sample.status)


@pads_samples
def information_maximisation_score(
    probabilities: Float[ArrayLike, "n c"], *, weights: Float[ArrayLike, " n"] | None = None
) -> Score:
    """Mutual information of sample and predicted class, 0 to `log c` nats; higher is better.

    It is the entropy of the mean row minus the mean entropy of the rows: high if each prediction is confident and all
    classes are predicted, and 0 if all rows are the same.

    Args, raises: as `maximum_probability_score`.

    Source: Bridle, Heading, MacKay, "Unsupervised classifiers, mutual information and phantom targets", NeurIPS 1991.
    `O(n c)` operations.
    """
    return _information_maximisation(checked_probabilities(probabilities, weights))


@kernel
def _information_maximisation(sample: Sample) -> Score:
    mean = safe_divide(sample.weights, sample.total) @ sample.features
    # Computed as the mean divergence from the mean row, because a difference of two entropies would cancel.
    positive = sample.features > 0
    ratio = jnp.where(positive, sample.features, 1) / jnp.where(positive, mean, 1)
    divergence = jnp.sum(jnp.where(positive, sample.features * jnp.log(ratio), 0), axis=1)
    value = safe_divide(sample.weights @ divergence, sample.total)
    return make_score(jnp.clip(value, 0, math.log(sample.features.shape[1])), sample.status)
