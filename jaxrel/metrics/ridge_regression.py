"""R^2 of a linear probe of regression targets on held-out samples (see `jaxrel.metrics.linear_probe`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.decomposition import Components, Decomposition, principal_components
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, safe_divide
from jaxrel.metrics.linear_probe import RIDGES, checked_folds, checked_ridges, ridge_responses
from jaxrel.metrics.logme_regression import checked_targets, unit_targets
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import Sample, checked_positive_integer, checked_sample

__all__ = ["ridge_regression_score"]


@no_derivative
@pads_samples
def ridge_regression_score(
    features: Float[ArrayLike, "n d"],
    targets: Float[ArrayLike, " n"] | Float[ArrayLike, "n t"],
    *,
    num_folds: int = 5,
    folds: Int[ArrayLike, " n"] | None = None,
    ridges: Float[ArrayLike, " g"] = RIDGES,  # type: ignore[assignment]
    weights: Float[ArrayLike, " n"] | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """Cross-validated R^2 of ridge regression, at most 1, averaged over the targets; higher is better.

    `R^2 = 1 - sum_i (y_i - p_i)^2 / sum_i (y_i - mean(y))^2`, with `p_i` predicted by the folds that do not hold sample
    i. It is negative if the mean predicts better.

    Args:
        features: `(n, d)`; standardised by all samples.
        targets: `(n,)` or `(n, t)` real numbers.
        num_folds: number of folds K, at least 2.
        folds: `(n,)` integers `0 .. num_folds - 1`, the fold that holds out each sample. None assigns the samples to
            the folds in turn, in the given order: shuffle samples whose order is not random.
        ridges: `(g,)` positive penalties, in units of the variance of a standardised feature. For each target the
            penalty with the least cross-validated squared error is used.
        weights: `(n,)` counts; 0 is an absent sample, whose targets may be anything, 2 the sample twice in one fold.
        decomposition: `decompose(features, "standardised", weights=weights)`, to share it between metrics; None
            computes it.

    Returns:
        A `Score` that is invariant to the shift and scale of each feature and target. It is slightly optimistic, as all
        folds share the penalty. Undefined if a target is constant or fewer than two folds have samples.

    Raises:
        ValueError: for `num_folds < 2`, folds or ridges of wrong shape or value, targets as `logme_regression_score`,
            else see `checked_sample`.

    Source: Hoerl and Kennard, "Ridge regression", 1970; the mean over targets is that of scikit-learn. Operations and
    memory as of `ridge_probe_score`, with targets for classes.
    """
    sample = checked_sample(features, weights, shift_invariant=True)
    columns = checked_targets(targets, sample)
    num_folds = checked_positive_integer("num_folds", num_folds)
    if num_folds < 2:
        raise ValueError("num_folds must be at least 2: one fold leaves no samples to fit.")
    rows, _, finite = unit_targets(sample, columns)
    turn = jnp.cumsum(sample.weights > 0) - 1
    fold, valid = (turn % num_folds, True) if folds is None else checked_folds(folds, sample, num_folds)
    sample = Sample(sample.features, sample.weights, sample.valid & valid & finite)
    principal = principal_components(sample, "standardised", decomposition)
    return _ridge_regression(
        sample, principal, rows, fold, checked_ridges(ridges, sample.features.dtype), num_folds=num_folds
    )


def _ridge_regression_kernel(
    sample: Sample,
    principal: Components,
    targets: Float[Array, "n t"],
    fold: Int[Array, " n"],
    ridges: Float[Array, " g"],
    *,
    num_folds: int,
) -> Score:
    shares = safe_divide(sample.weights, sample.total)
    centred = targets - shares @ targets
    held_out = fold == jnp.arange(num_folds)[:, None]
    train = jnp.where(held_out, 0, sample.weights)
    means = safe_divide(train @ centred, jnp.sum(train, axis=1, keepdims=True))
    responses = jax.vmap(ridge_responses, in_axes=(None, None, 0, 0, None))(
        principal.rows, centred, train, means, ridges
    )
    own = jnp.sum(jnp.where(held_out[:, None, :, None], responses + means[:, None, None], 0), axis=0)
    errors = jnp.einsum("gnt,n->gt", (own - centred) ** 2, shares)
    variances = shares @ centred**2
    constant = (
        jnp.max(jnp.where(sample.weights[:, None] > 0, jnp.abs(centred), 0), axis=0) <= 8 * jnp.finfo(targets.dtype).eps
    )
    explained = 1 - safe_divide(jnp.min(errors, axis=0), variances)
    undefined = jnp.any(constant) | (jnp.min(jnp.sum(train, axis=1)) <= 0)
    return make_score(jnp.mean(explained), sample.status, undefined=undefined)


_ridge_regression = kernel(_ridge_regression_kernel, static=("num_folds",))
