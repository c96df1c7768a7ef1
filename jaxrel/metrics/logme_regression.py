"""LogME of regression targets: the evidence of a Bayesian linear model of each target (see `jaxrel.metrics.logme`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from jaxrel._core.arrays import to_array
from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.decomposition import Coordinates, Decomposition, coordinates
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel
from jaxrel.metrics.logme import evidence_of_targets
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import Sample, checked_sample

__all__ = ["checked_targets", "logme_regression_score", "unit_targets"]


@no_derivative
@pads_samples
def logme_regression_score(
    features: Float[ArrayLike, "n d"],
    targets: Float[ArrayLike, " n"] | Float[ArrayLike, "n t"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """Log evidence per sample, in nats, averaged over the targets; higher is better.

    Args:
        features: `(n, d)`; not centred, as published: the model has no intercept unless a feature is constant.
        targets: `(n,)` or `(n, t)` real numbers: values to predict, or 0 and 1 for multi-label targets. They are not
            centred either.
        weights: `(n,)` counts; 0 is an absent sample, whose targets may be anything, 2 the sample twice.
        decomposition: `decompose(features, "raw", weights=weights)`, to share it between metrics; None computes it.

    Returns:
        A `Score` that is invariant to the scale of the features and to appended constant-0 features. Multiplying a
        target by k lowers its evidence by log k: standardise targets with different units. If a target is fitted
        exactly with fewer directions than samples, or is 0 everywhere, the evidence has no maximum: the value is finite
        as in `logme_score`, with `ScoreStatus.UNBOUNDED`.

    Raises:
        ValueError: for targets of another shape or that are not real or not finite, else see `checked_sample`.

    Source and deviations: as for `logme_score`. `O(n d min(n, d))` operations for the decomposition shared by all
    targets, `O(min(n, d))` for each target and ratio of precisions.
    """
    sample = checked_sample(features, weights)
    columns = checked_targets(targets, sample)
    rows, units, valid = unit_targets(sample, columns)
    return _logme_regression(sample, coordinates(sample, "raw", rows, decomposition), units, valid)


@kernel
def unit_targets(
    sample: Sample, targets: Float[Array, "n t"]
) -> tuple[Float[Array, "n t"], Float[Array, " t"], Bool[Array, ""]]:
    """Targets with a largest absolute value of 1 (0 for absent samples), the scales, and whether all are finite."""
    targets = jnp.where(sample.weights[:, None] > 0, targets, 0)
    units = jnp.max(jnp.abs(targets), axis=0)
    return targets / jnp.where(units == 0, 1, units), units, jnp.all(jnp.isfinite(targets))


@kernel
def _logme_regression(sample: Sample, targets: Coordinates, units: Float[Array, " t"], valid: Bool[Array, ""]) -> Score:
    evidence, exact = evidence_of_targets(sample, targets)
    zero = units == 0
    value = jnp.mean(evidence - jnp.log(jnp.where(zero, 1, units)))
    return make_score(value, sample.status, valid=valid, unbounded=jnp.any(exact | zero))


def checked_targets(targets: Any, sample: Sample) -> Float[Array, "n t"]:
    """Targets as columns in the dtype of the features."""
    num_samples = sample.features.shape[0]
    targets = to_array("targets", targets)
    shape = targets.shape
    if len(shape) not in (1, 2) or shape[0] != num_samples or 0 in shape:
        raise ValueError(
            f"targets must have shape ({num_samples},) or ({num_samples}, t), t >= 1, as features has that many rows, "
            f"got {shape}."
        )
    dtype = targets.dtype
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer) or dtype == np.bool_):
        raise ValueError(f"targets must be real numbers, got dtype {dtype}: for class names pass logme_score labels.")
    with np.errstate(over="ignore"):  # An overflow becomes inf, which is rejected below.
        columns = jnp.asarray(targets, sample.features.dtype).reshape(num_samples, -1)
    if not isinstance(columns, jax.core.Tracer) and not isinstance(sample.weights, jax.core.Tracer):
        bad = ~np.isfinite(np.asarray(columns)) & (np.asarray(sample.weights) > 0)[:, None]
        if bad.any():
            row, column = (int(axis[0]) for axis in np.nonzero(bad))
            where = f"{row}" if len(shape) == 1 else f"{row}, {column}"
            raise ValueError(
                f"targets[{where}] is {np.asarray(columns)[row, column]}, not a finite {columns.dtype} "
                f"({int(bad.sum())} such values): remove these samples, or give them weight 0."
            )
    return columns
