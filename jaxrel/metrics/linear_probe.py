r"""Accuracy of a linear probe on held-out samples: ridge regression on class indicators.

It is least squares, not logistic regression: every fold and penalty has a closed form. On fold k, with features X and
indicators Y centred by the other folds, `W = (X^T X / n + ridge I)^{-1} X^T Y / n`, and the class of the largest
response is predicted.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core import linalg
from jaxrel._core.programs import compiled
from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.decomposition import Components, Decomposition, principal_components
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, safe_divide
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, Sample, checked_labelled_sample, checked_positive_integer

__all__ = ["RIDGES", "checked_folds", "checked_ridges", "ridge_probe_score", "ridge_responses"]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


@no_derivative
@pads_samples
def ridge_probe_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    num_folds: int = 5,
    folds: Int[ArrayLike, " n"] | None = None,
    ridges: Float[ArrayLike, " g"] = RIDGES,  # type: ignore[assignment]
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """Cross-validated accuracy of a ridge classifier, 0 to 1; higher is better.

    Args:
        features: `(n, d)`; standardised by all samples, without their labels.
        labels: `(n,)` integers.
        num_folds: number of folds K, at least 2.
        folds: `(n,)` integers `0 .. num_folds - 1`, the fold that holds out each sample. None assigns the samples of
            each class to the folds in turn, in the given order: shuffle samples whose order is not random.
        ridges: `(g,)` positive penalties, in units of the variance of a standardised feature. The penalty with the
            least cross-validated squared error is used; new values do not recompile.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice in the same fold.
        num_classes: class count; needed inside `jit` and `vmap`.
        decomposition: `decompose(features, "standardised", weights=weights)`, to share it between metrics; None
            computes it.

    Returns:
        A `Score` that is invariant to the shift and scale of each feature. It is slightly optimistic, as all folds
        share the penalty. A class that occurs only in one fold is never predicted there. Undefined if fewer than two
        folds have samples.

    Raises:
        ValueError: for `num_folds < 2`, folds or ridges of wrong shape or value, else see `checked_labelled_sample`.

    Source: Hoerl and Kennard, "Ridge regression", 1970; probes as a transferability metric: Renggli et al., "Which
    model to transfer? Finding the needle in the growing haystack", CVPR 2022.

    Features are first rotated to `r = min(n, d)` coordinates, which changes no prediction: `O(n d r + K r^3)`
    operations, `O(K (r^2 + g n c))` memory.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    num_folds = checked_positive_integer("num_folds", num_folds)
    if num_folds < 2:
        raise ValueError("num_folds must be at least 2: one fold leaves no samples to fit.")
    fold, valid = (_dealt(sample, num_folds), True) if folds is None else checked_folds(folds, sample, num_folds)
    sample = LabelledSample(sample.features, sample.weights, sample.valid & valid, sample.memberships)
    principal = principal_components(sample, "standardised", decomposition)
    return _ridge_probe(sample, principal, fold, checked_ridges(ridges, sample.features.dtype), num_folds=num_folds)


def _ridge_probe_kernel(
    sample: LabelledSample,
    principal: Components,
    fold: Int[Array, " n"],
    ridges: Float[Array, " g"],
    *,
    num_folds: int,
) -> Score:
    coordinates = principal.rows
    held_out = fold == jnp.arange(num_folds)[:, None]
    train = jnp.where(held_out, 0, sample.weights)
    # In units of the largest weight, equal sums of equal weights are exactly equal.
    counts = safe_divide(train, jnp.max(sample.weights)) @ sample.memberships
    class_shares = safe_divide(counts, jnp.sum(counts, axis=1, keepdims=True))
    responses = jax.vmap(ridge_responses, in_axes=(None, None, 0, 0, None))(
        coordinates, sample.memberships, train, class_shares, ridges
    )
    own = jnp.sum(jnp.where(held_out[:, None, :, None], responses, 0), axis=0)
    own_shares = jnp.sum(jnp.where(held_out[:, :, None], class_shares[:, None], 0), axis=0)
    errors = jnp.sum((own + (own_shares - sample.memberships)) ** 2, axis=2) @ sample.weights
    # Between classes of equal shares the response decides, which adding the share would round away.
    behind = own_shares - jnp.max(own_shares, axis=1, keepdims=True)
    correct = jnp.argmax(own[jnp.argmin(errors)] + behind, axis=1) == jnp.argmax(sample.memberships, axis=1)
    accuracy = safe_divide(sample.weights @ correct, sample.total)
    return make_score(accuracy, sample.status, undefined=jnp.min(jnp.sum(train, axis=1)) <= 0)


_ridge_probe = kernel(_ridge_probe_kernel, static=("num_folds",))


def ridge_responses(
    coordinates: Float[Array, "n r"],
    outputs: Float[Array, "n c"],
    train: Float[Array, " n"],
    means: Float[Array, " c"],
    ridges: Float[Array, " g"],
) -> Float[Array, "g n c"]:
    """Predicted outputs of all samples minus their means, fitted to the samples of positive weight."""
    shares = safe_divide(train, jnp.sum(train))
    inputs = coordinates - shares @ coordinates
    weighted = shares[:, None] * inputs
    eigenvalues, axes = linalg.eigh(weighted.T @ inputs)
    moments = axes.T @ (weighted.T @ (outputs - means))
    # With more coordinates than samples, some have only rounding for variance, which a small ridge does not suppress.
    vary = eigenvalues > 8 * jnp.finfo(eigenvalues.dtype).eps * jnp.max(eigenvalues)
    slopes = jnp.where(vary[:, None], moments, 0) / (jnp.maximum(eigenvalues, 0) + ridges[:, None])[..., None]
    return (inputs @ axes) @ slopes


@functools.partial(compiled, static_argnames="num_folds")
def _dealt(sample: LabelledSample, num_folds: int) -> Int[Array, " n"]:
    """The j-th sample of a class goes to fold j mod K; absent samples are not counted."""
    earlier = jnp.cumsum(sample.memberships.astype(jnp.int32), axis=0) - 1
    return jnp.sum(jnp.where(sample.memberships > 0, earlier, 0), axis=1) % num_folds


def checked_folds(folds: Any, sample: Sample, num_folds: int) -> tuple[Int[Array, " n"], Bool[Array, ""]]:
    """The fold of each sample, and whether all are valid. Invalid concrete folds are a ValueError."""
    fold = jnp.asarray(folds)
    num_samples = sample.features.shape[0]
    if fold.shape != (num_samples,) or not jnp.issubdtype(fold.dtype, jnp.integer):
        raise ValueError(f"folds must be ({num_samples},) integers, got {fold.dtype} of shape {fold.shape}.")
    outside = (sample.weights > 0) & ((fold < 0) | (fold >= num_folds))
    if not isinstance(outside, jax.core.Tracer) and bool(jnp.any(outside)):
        row = int(jnp.argmax(outside))
        raise ValueError(f"folds[{row}] is {int(fold[row])}, outside 0 .. {num_folds - 1}: pass a larger num_folds.")
    return fold, ~jnp.any(outside)


def checked_ridges(ridges: Any, dtype: Any) -> Float[Array, " g"]:
    """Penalties in this dtype; penalties that are not positive and finite are a ValueError."""
    penalties = jnp.asarray(ridges, dtype)
    if penalties.ndim != 1 or penalties.size == 0:
        raise ValueError(f"ridges must be (g,) numbers with g >= 1, got shape {penalties.shape}.")
    if not isinstance(penalties, jax.core.Tracer):
        values = np.asarray(penalties)
        if not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError(f"ridges must be positive and finite, got {values.tolist()}.")
    return penalties
