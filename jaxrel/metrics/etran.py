"""ETran: how high the energy of the features is, and how sure a discriminant analysis is of the classes."""

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
        status: `ScoreStatus` bits of both, 0 when all is well.
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
    """Energy and classification part of ETran for one model; `etran_combine` makes scores of those of a hub.

    Args: as `energy_score` and `discriminant_score`, whose values these are. Raises: as these.

    Source: Gholami, Akbari, Wang, Kamranian, Zhang, "ETran: energy-based transferability estimation", ICCV 2023, for
    classification; their part for regression is not here.
    """
    energy = energy_score(features, fraction=fraction, weights=weights)
    classification = discriminant_score(features, labels, weights=weights, num_classes=num_classes)
    return EtranComponents(energy.value, classification.value, energy.status | classification.status)


def etran_combine(
    components: EtranComponents | Sequence[EtranComponents], *, energy_weight: Float[ArrayLike, ""] = 0.15
) -> Score:
    """ETran of each model of a hub, 0 to 1; higher is better.

    Each part is scaled to 0 .. 1 over the models; the score is `energy_weight` times the energy plus
    `1 - energy_weight` times the classification part.

    Args:
        components: of one model each, or with a leading axis of models.
        energy_weight: above 0 and at most 1; 0.15 is the authors'.

    Returns:
        A `Score` for each model, which changes with the others: compare models of one call only. A part that all models
        share, up to rounding, adds 0 (NaN in the authors' code). A model whose components have a status keeps it; where
        they are NaN, so is its score, and the others are scaled without it. A model that is alone has the score 0 and
        `ScoreStatus.SINGLE_ENCODER`.

    Raises:
        ValueError: for components of one model alone, or a weight out of range.
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
    """Mean of `log sum_k exp(x_k)` over the samples where it is least; higher is better. Label-free.

    Args:
        features: `(n, d)`, taken for the logits of an energy-based model: their scale and shift matter, and how many
            they are.
        fraction: share of the samples, above 0 and at most 1, rounded down to a number of samples but at least one.
            Another number needs no compilation.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice.

    Returns:
        A `Score` that does not change when features are permuted.

    Raises:
        ValueError: for a fraction out of range, else see `checked_sample`.

    Source: the energy part of ETran (see `etran_components`), after Liu et al., "Energy-based out-of-distribution
    detection", NeurIPS 2020. For fewer than 200 samples the authors' code averages none of them and is NaN.

    `O(n (d + log n))` operations.
    """
    sample = checked_sample(features, weights)
    return _energy(sample, checked_positive_number("fraction", fraction, sample.features.dtype, largest=1))


@kernel
def _energy(sample: Sample, fraction: Float[Array, ""]) -> Score:
    energies = jax.nn.logsumexp(sample.features, axis=1)
    order = jnp.argsort(jnp.where(sample.weights > 0, energies, jnp.inf))
    available = sample.weights[order]
    # A product like 0.005 * 600 may be rounded to below the whole number that it is.
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
    """Mean probability of the right class under regularised linear discriminant analysis, 0 to 1; higher is better.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        shrinkage: weight of the identity in the covariance within classes, as in `sfda_score`, whose first of two
            analyses this is.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score` that does not change under shifts and rotations. With `shrinkage=None` it depends on the scale of the
        features. It is 1 for separable features, as most are for n < d, and for one class.

    Raises:
        ValueError: for a shrinkage out of range, else see `checked_labelled_sample`.

    Source: the classification part of ETran (see `etran_components`). The authors' code hands a matrix that is not
    symmetric to a solver for symmetric ones; the vectors it returns are orthogonal and cancel, so that their values are
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
