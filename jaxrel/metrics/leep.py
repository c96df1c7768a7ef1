r"""LEEP: how well the classes of a source head predict target labels.

With the probabilities `p_i(z)` that a source head predicts for target sample i, and their empirical joint distribution
with the labels, `P(y, z) = mean_i [y_i = y] p_i(z)`,

    LEEP = mean_i log sum_z P(y_i | z) p_i(z).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.kernels import kernel, safe_divide
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_probabilities

__all__ = ["leep_score", "mean_log_prediction"]


@pads_samples
def leep_score(
    source_probabilities: Float[ArrayLike, "n s"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Mean log probability of the labels under the expected empirical predictor, in nats; higher is better.

    Args:
        source_probabilities: `(n, s)`, rows of sum 1: predictions of a source head for the target samples.
        labels: `(n,)` integers.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score` between minus the entropy of the labels, if source classes are independent of them, and 0, if source
        classes determine them. For one-hot probabilities it equals `nce_score`. Absent classes have no effect.

    Raises:
        ValueError: see `checked_labelled_probabilities`.

    Source: Nguyen, Hassner, Seeger, Archambeau, "LEEP: a new measure to evaluate transferability of learned
    representations", ICML 2020. A source class of probability 0 for all samples is left out, where the authors divide 0
    by 0; each row is divided by its sum. Implementations that return the mean probability instead of the mean log
    probability compute a different score, which can order encoders differently.

    `O(n s c)` operations, `O(n (s + c))` memory.

    Examples:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> print(f"{leep_score(0.7 * np.eye(3)[labels] + 0.1, labels).value:.3f}")
        -0.416
    """
    return _leep(checked_labelled_probabilities(source_probabilities, labels, weights, num_classes))


@kernel
def _leep(sample: LabelledSample) -> Score:
    return make_score(mean_log_prediction(sample, sample.features), sample.status)


def mean_log_prediction(sample: LabelledSample, shares: Float[Array, "n s"]) -> Float[Array, ""]:
    """LEEP of a sample with these source probabilities."""
    weighted = sample.weights[:, None] * sample.memberships
    joint = shares.T @ weighted
    conditional = safe_divide(joint, jnp.sum(joint, axis=1, keepdims=True))
    predicted = jnp.sum((shares @ conditional) * sample.memberships, axis=1)
    # Each sample is part of the joint distribution, so only absent samples have a prediction of 0.
    logarithms = jnp.log(jnp.where(predicted > 0, predicted, 1))
    return jnp.minimum(safe_divide(sample.weights @ logarithms, sample.total), 0)
