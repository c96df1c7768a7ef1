r"""LogME: logarithm of the maximum evidence of a Bayesian linear model of each class indicator.

For features X of n samples, the indicator y of one class, weights `w ~ N(0, I / alpha)` and noise of precision beta,

    LogME_y = max_{alpha, beta} log p(y | X, alpha, beta) / n,   LogME = mean of LogME_y over classes.

With t = alpha / beta, the singular values s_i of X and z = U^T y, the maximum over beta has a closed form,

    LogME_y = max_t -log(S(t) / n) / 2 - (1 + log 2 pi) / 2 - sum_i log(1 + s_i^2 / t) / (2 n),
    S(t) = sum_i z_i^2 t / (t + s_i^2) + ||y - U z||^2,

in which a direction without variance contributes nothing: it holds for n < d and n > d alike.

Source: You, Liu, Wang, Long, "LogME: Practical assessment of pre-trained models for transfer learning", ICML 2021.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.scores.decomposition import Decomposition, checked_decomposition
from jaxrel.scores.kernels import kernel, safe_divide
from jaxrel.scores.result import Score, make_score
from jaxrel.scores.validation import LabelledSample, Sample, checked_labelled_sample

__all__ = ["evidence_of_targets", "logme_score"]

_GRID = 64
_HALVINGS = 50


def logme_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """Log evidence per sample, in nats, averaged over the classes that occur; higher is better.

    Args:
        features: `(n, d)`; not centred, as published: the model has no intercept unless a feature is constant.
        labels: `(n,)` integers.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice.
        num_classes: class count; needed inside `jit` and `vmap`.
        decomposition: `decompose(features, "raw", weights=weights)`, to share it between metrics; None computes it.

    Returns:
        A `Score` that does not change with the scale of the features, nor when constant-0 features are appended. It
        has no fixed range. Where the features fit a class exactly with fewer directions than samples the evidence has
        no maximum: +inf with `ScoreStatus.UNBOUNDED`.

    Raises:
        ValueError: see `checked_labelled_sample`.

    Deviations from the authors' code, each in the direction of the definition: the evidence is maximised over t on all
    its range (grid, then bisection of the derivative) where theirs takes up to 11 fixed-point steps, which can stop
    early or at a lesser maximum; nothing is added to denominators; the term `(d - n) log alpha` that is lost in theirs
    for n < d is right; a class without samples is left out of the mean, where theirs has an infinite evidence.

    `O(n d min(n, d))` operations for the decomposition shared by all classes, `O(min(n, d))` for each class and t.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes)
    return _logme(sample, checked_decomposition(sample, "raw", decomposition))


@kernel
def _logme(sample: LabelledSample, decomposition: Decomposition) -> Score:
    evidence, exact = evidence_of_targets(sample, decomposition, sample.memberships)
    present = sample.class_sizes > 0
    mean = jnp.sum(jnp.where(present, evidence, 0)) / jnp.maximum(jnp.sum(present), 1)
    return make_score(mean, valid=sample.valid, unbounded=jnp.any(present & exact))


def evidence_of_targets(
    sample: Sample, decomposition: Decomposition, targets: Float[Array, "n t"]
) -> tuple[Float[Array, " t"], Bool[Array, " t"]]:
    """Log evidence per sample of each target, and whether it is fitted exactly, so that there is no maximum.

    Targets of weight 0 are 0. A target that is 0 everywhere has evidence 0 and counts as exact if n exceeds the rank.
    """
    vectors, values = decomposition.vectors, decomposition.values
    rows = jnp.sqrt(sample.weights)[:, None] * targets
    coefficients = vectors.T @ rows
    unexplained = jnp.sum((rows - vectors @ coefficients) ** 2, axis=0)
    rounding = (8 * jnp.finfo(vectors.dtype).eps) ** 2 * vectors.shape[0]
    fitted = unexplained <= rounding * jnp.sum(rows**2, axis=0)
    unexplained = jnp.where(fitted, 0, unexplained)
    # Relative to the largest, so that one range of t serves all features.
    eigenvalues = safe_divide(values, values[0]) ** 2
    evidence = _maximum_evidence(coefficients.T**2, eigenvalues, unexplained, sample.total)
    return evidence, fitted & (jnp.sum(decomposition.resolved) < sample.total)


def _maximum_evidence(
    energies: Float[Array, "c r"],
    eigenvalues: Float[Array, " r"],
    unexplained: Float[Array, " c"],
    total: Float[Array, ""],
) -> Float[Array, " c"]:
    """Evidence per sample at the best t for each target, with `energies = z^2`."""

    def discrepancy(ratio: Float[Array, " c"]) -> Float[Array, " c"]:
        """S(t)."""
        kept = ratio[:, None] / (ratio[:, None] + eigenvalues)
        value = jnp.sum(energies * kept, axis=1) + unexplained
        return jnp.where(value > 0, value, 1)

    def evidence(log_ratio: Float[Array, " c"]) -> Float[Array, " c"]:
        ratio = jnp.exp(log_ratio)
        volume = jnp.sum(jnp.log1p(eigenvalues / ratio[:, None]), axis=1) / total
        return -(jnp.log(discrepancy(ratio) / total) + 1 + math.log(2 * math.pi) + volume) / 2

    def slope(log_ratio: Float[Array, " c"]) -> Float[Array, " c"]:
        """Derivative of the evidence in log t, times 2 n."""
        ratio = jnp.exp(log_ratio)
        shrinkage = eigenvalues / (ratio[:, None] + eigenvalues)
        weight_norm = jnp.sum(energies * shrinkage / (ratio[:, None] + eigenvalues), axis=1)
        return jnp.sum(shrinkage, axis=1) - total * ratio * weight_norm / discrepancy(ratio)

    def halved(
        _: Int[Array, ""], bracket: tuple[Float[Array, " c"], Float[Array, " c"]]
    ) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        lower, upper = bracket
        middle = (lower + upper) / 2
        rising = slope(middle) > 0
        return jnp.where(rising, middle, lower), jnp.where(rising, upper, middle)

    # Beyond these ends only a square of a rounding is left of S or of the volume.
    end = -2 * math.log(jnp.finfo(eigenvalues.dtype).eps)
    grid = jnp.linspace(-end, end, _GRID, dtype=eigenvalues.dtype)
    on_grid = jax.lax.map(lambda point: evidence(jnp.full_like(unexplained, point)), grid)
    best = jnp.argmax(on_grid, axis=0)
    bracket = (grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _GRID - 1)])
    lower, upper = jax.lax.fori_loop(0, _HALVINGS, halved, bracket)
    return jnp.maximum(evidence((lower + upper) / 2), jnp.max(on_grid, axis=0))
