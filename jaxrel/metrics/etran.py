"""ETran: the energy of the features, and the confidence of a discriminant analysis in the correct classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel._core.status import HasStatus
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.discriminant import log_posteriors, mean_own_probability
from jaxrel.metrics.hub import among_others, over_models, scaled_over_models
from jaxrel.metrics.kernels import kernel, safe_divide, unit_centred
from jaxrel.metrics.result import Score, ScoreStatus, make_score
from jaxrel.metrics.validation import (
    LabelledSample,
    Sample,
    checked_labelled_sample,
    checked_positive_number,
    checked_sample,
)

__all__ = ["EtranComponents", "discriminant_score", "energy_score", "etran_combine", "etran_components"]

_FRACTION = 0.005


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EtranComponents(HasStatus):
    """The parts of ETran, of one model or with a leading axis of models.

    Attributes:
        energy: see `energy_score`.
        classification: see `discriminant_score`.
        status: `ScoreStatus` bits of both, 0 on success.
    """

    energy: Float[Array, "*b"]
    classification: Float[Array, "*b"]
    status: Int[Array, "*b"]

    statuses: ClassVar = ScoreStatus


@no_derivative
@pads_samples
def etran_components(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    fraction: Float[ArrayLike, ""] = _FRACTION,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> EtranComponents:
    """Energy and classification part of ETran for one model. Pass those of all models to `etran_combine`.

    Args: as for `energy_score` and `discriminant_score`, which compute the two parts. Raises: as these.

    Source: Gholami, Akbari, Wang, Kamranian, Zhang, "ETran: energy-based transferability estimation", ICCV 2023, for
    classification; the part for regression is not implemented.
    """
    energy = energy_score(features, fraction=fraction, weights=weights)
    classification = discriminant_score(features, labels, weights=weights, num_classes=num_classes)
    return EtranComponents(energy.value, classification.value, energy.status | classification.status)


def etran_combine(
    components: EtranComponents | Sequence[EtranComponents], *, energy_weight: Float[ArrayLike, ""] = 0.15
) -> Score:
    """ETran of each model of a model zoo, 0 to 1; higher is better.

    Each part is scaled to 0 .. 1 over the models; the score is `energy_weight` times the energy plus
    `1 - energy_weight` times the classification part.

    Args:
        components: a sequence with the components of each model, or components with a leading axis of models.
        energy_weight: above 0 and at most 1; the authors use 0.15.

    Returns:
        A `Score` for each model. It depends on the other models, so compare only scores of the same call. A part that
        is equal for all models, up to rounding, adds 0 (NaN in the authors' code). A model keeps the status of its
        components; if they are NaN, so is its score, and the other models are scaled without it. A single model has the
        score 0 and `ScoreStatus.SINGLE_ENCODER`.

    Raises:
        ValueError: for the components of one model without a leading axis, or a weight out of range.
    """
    parts = over_models(components, EtranComponents)
    weight = checked_positive_number("energy_weight", energy_weight, parts.energy.dtype, largest=1)
    usable = jnp.isfinite(parts.energy + parts.classification)
    energy = scaled_over_models(parts.energy, usable)
    value = weight * energy + (1 - weight) * scaled_over_models(parts.classification, usable)
    return Score(jnp.where(usable, value, jnp.nan), parts.status | among_others(usable))


@pads_samples
def energy_score(
    features: Float[ArrayLike, "n d"],
    *,
    fraction: Float[ArrayLike, ""] = _FRACTION,
    weights: Float[ArrayLike, " n"] | None = None,
) -> Score:
    """Mean of `log sum_k exp(x_k)` over the samples with the smallest values; higher is better. Label-free.

    Args:
        features: `(n, d)`, interpreted as the logits of an energy-based model: their scale, shift and width matter.
        fraction: share of the samples, above 0 and at most 1, rounded down to a number of samples but at least one. A
            new value does not recompile.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice.

    Returns:
        A `Score` that is invariant to permutations of the features.

    Raises:
        ValueError: for a fraction out of range, else see `checked_sample`.

    Source: the energy part of ETran (see `etran_components`), after Liu et al., "Energy-based out-of-distribution
    detection", NeurIPS 2020. For fewer than 200 samples the authors' code averages over none and returns NaN.

    `O(n (d + log n))` operations.
    """
    sample = checked_sample(features, weights)
    return _energy(sample, checked_positive_number("fraction", fraction, sample.features.dtype, largest=1))


@kernel
def _energy(sample: Sample, fraction: Float[Array, ""]) -> Score:
    energies = jax.nn.logsumexp(sample.features, axis=1)
    order = jnp.argsort(jnp.where(sample.weights > 0, energies, jnp.inf))
    available = sample.weights[order]
    # A product such as 0.005 * 600 may be rounded to below the exact integer.
    slack = 1 + 8 * jnp.finfo(energies.dtype).eps
    count = jnp.maximum(jnp.floor(fraction * sample.total * slack), 1)
    taken = jnp.clip(count - (jnp.cumsum(available) - available), 0, available)
    return make_score(safe_divide(taken @ energies[order], jnp.sum(taken)), sample.status)


@no_derivative
@pads_samples
def discriminant_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    shrinkage: Float[ArrayLike, ""] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Mean probability of the correct class under regularised linear discriminant analysis, 0 to 1; higher is better.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        shrinkage: weight of the identity in the covariance within classes, as in `sfda_score`, which starts with the
            same analysis.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score` that is invariant to shifts and rotations. With `shrinkage=None` it depends on the scale of the
        features. It is 1 for separable features, as most are for n < d, and for a single class.

    Raises:
        ValueError: for a shrinkage out of range, else see `checked_labelled_sample`.

    Source: the classification part of ETran (see `etran_components`). The authors' code passes a matrix that is not
    symmetric to a solver for symmetric matrices. The vectors it returns are orthogonal and cancel, so its values are
    those of a covariance equal to the identity. A class without samples is left out (an error in theirs).

    `O(n d min(n, d))` operations.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    if shrinkage is not None:
        shrinkage = checked_positive_number("shrinkage", shrinkage, sample.features.dtype, largest=1)
    return _discriminant(sample, shrinkage)


@kernel
def _discriminant(sample: LabelledSample, shrinkage: Float[Array, ""] | None) -> Score:
    features, size = unit_centred(sample)
    log_probabilities, _ = log_posteriors(sample, features, size, shrinkage)
    return make_score(mean_own_probability(sample, log_probabilities), sample.status)
