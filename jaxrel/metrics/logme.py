r"""LogME: logarithm of the maximum evidence of a Bayesian linear model of each class indicator.

For features X of n samples, the indicator y of one class, weights `w ~ N(0, I / alpha)` and noise of precision beta,

    LogME_y = max_{alpha, beta} log p(y | X, alpha, beta) / n,   LogME = mean of LogME_y over classes.

With t = alpha / beta, the singular values s_i of X and z = U^T y, the maximum over beta has a closed form,

    LogME_y = max_t -log(S(t) / n) / 2 - (1 + log 2 pi) / 2 - sum_i log(1 + s_i^2 / t) / (2 n),
    S(t) = sum_i z_i^2 t / (t + s_i^2) + ||y - U z||^2,

in which a direction without variance contributes nothing: it holds for n < d and n > d alike.

Where the features fit an indicator exactly with fewer directions than samples, S(t) vanishes with t faster than the
volume grows, and there is no maximum: every such encoder would have +inf. The noise is then kept at the least variance
`s = (8 eps)^2 ||y||^2` that the residual resolves in the rounding eps of the dtype,

    LogME_y = max_t -(log v + S(t) / (n v) + log 2 pi) / 2 - sum_i log(1 + s_i^2 / t) / (2 n),   v = max(S(t) / n, s),

which is continuous with the evidence above, finite, and higher the fewer directions of the features and the smaller
weights (the larger margin) it takes to fit the labels.

Source: You, Liu, Wang, Long, "LogME: Practical assessment of pre-trained models for transfer learning", ICML 2021.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.decomposition import Coordinates, Decomposition, coordinates
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, safe_divide
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, Sample, checked_labelled_sample

__all__ = ["evidence_of_targets", "logme_score"]

# In log t. Every direction bends the evidence over some two units, so that two maxima are further apart.
_STEP = 0.5
_HALVINGS = 30  # of a bracket of width 1, whose square is what the evidence is off by


@no_derivative
@pads_samples
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
        no maximum: the value is the evidence at the least noise that the dtype resolves (see the module), with
        `ScoreStatus.UNBOUNDED`. It orders such encoders; compare it within one dtype only.

    Raises:
        ValueError: see `checked_labelled_sample`.

    Deviations from the authors' code, each in the direction of the definition: the evidence is maximised over t on all
    its range (grid, then bisection of the derivative) where theirs takes up to 11 fixed-point steps, which can stop
    early or at a lesser maximum; nothing is added to denominators; the term `(d - n) log alpha` that is lost in theirs
    for n < d is right; a class without samples is left out of the mean, where theirs has an infinite evidence.

    `O(n d min(n, d))` operations for the decomposition shared by all classes, `O(min(n, d))` for each class and t.

    Examples:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> features = 3 * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(60, 4))
        >>> print(f"{logme_score(features, labels).value:.3f}")
        -0.268
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes)
    return _logme(sample, coordinates(sample, "raw", sample.memberships, decomposition))


@kernel
def _logme(sample: LabelledSample, indicators: Coordinates) -> Score:
    evidence, exact = evidence_of_targets(sample, indicators)
    present = sample.class_sizes > 0
    mean = jnp.sum(jnp.where(present, evidence, 0)) / jnp.maximum(jnp.sum(present), 1)
    return make_score(mean, sample.status, unbounded=jnp.any(present & exact))


def evidence_of_targets(sample: Sample, targets: Coordinates) -> tuple[Float[Array, " t"], Bool[Array, " t"]]:
    """Log evidence per sample of each target, and whether it is fitted exactly, so that there is no maximum.

    A target that is 0 everywhere has that of noise of variance 1, and counts as exact if n exceeds the rank.
    """
    energies = targets.coefficients.T**2
    resolved = (8 * jnp.finfo(energies.dtype).eps) ** 2 * (jnp.sum(energies, axis=1) + targets.unexplained)
    fitted = targets.unexplained <= resolved * jnp.sum(sample.weights > 0)
    exact = fitted & (jnp.sum(targets.values > 0) < sample.total)
    unexplained = jnp.where(fitted, 0, targets.unexplained)
    # Relative to the largest, so that one range of t serves all features.
    eigenvalues = safe_divide(targets.values, targets.values[0]) ** 2
    least_noise = jnp.where(exact, resolved, 0)
    return _maximum_evidence(energies, eigenvalues, unexplained, least_noise, sample.total), exact


def _maximum_evidence(
    energies: Float[Array, "t r"],
    eigenvalues: Float[Array, " r"],
    unexplained: Float[Array, " t"],
    least_noise: Float[Array, " t"],
    total: Float[Array, ""],
) -> Float[Array, " t"]:
    """Evidence per sample at the best t for each target, with `energies = z^2`."""

    def evidence(discrepancy: Float[Array, "*#b"], volume: Float[Array, "*#b"]) -> Float[Array, "*b"]:
        """Where S(t) is the discrepancy and the sum of logarithms the volume."""
        variance = discrepancy / total
        noise = jnp.maximum(variance, least_noise)
        noise = jnp.where(noise > 0, noise, 1)
        return -(jnp.log(noise) + variance / noise + math.log(2 * math.pi) + volume / total) / 2

    def volume(ratio: Float[Array, " b"]) -> Float[Array, " b"]:
        return jnp.sum(jnp.log1p(eigenvalues / ratio[:, None]), axis=1)

    def discrepancy(ratio: Float[Array, " t"]) -> Float[Array, " t"]:
        return jnp.sum(energies * (ratio[:, None] / (ratio[:, None] + eigenvalues)), axis=1) + unexplained

    def slope(ratio: Float[Array, " t"]) -> Float[Array, " t"]:
        """Derivative of the evidence in log t, times 2 n."""
        shrinkage = eigenvalues / (ratio[:, None] + eigenvalues)
        weight_norm = jnp.sum(energies * shrinkage / (ratio[:, None] + eigenvalues), axis=1)
        rest = jnp.maximum(discrepancy(ratio), total * least_noise)
        return jnp.sum(shrinkage, axis=1) - total * ratio * weight_norm / jnp.where(rest > 0, rest, 1)

    def halved(
        _: Int[Array, ""], bracket: tuple[Float[Array, " t"], Float[Array, " t"]]
    ) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
        lower, upper = bracket
        middle = (lower + upper) / 2
        rising = slope(jnp.exp(middle)) > 0
        return jnp.where(rising, middle, lower), jnp.where(rising, upper, middle)

    # Beyond these ends only a square of a rounding is left of S or of the volume.
    end = -2 * math.log(jnp.finfo(eigenvalues.dtype).eps)
    grid = jnp.linspace(-end, end, math.ceil(2 * end / _STEP), dtype=eigenvalues.dtype)
    ratios = jnp.exp(grid)
    kept = ratios[:, None] / (ratios[:, None] + eigenvalues)
    on_grid = evidence(kept @ energies.T + unexplained, volume(ratios)[:, None])
    # The highest of several maxima can have the lower point next to it. Looked at are the two that are the highest by
    # the parabola through their three points; what is flat up to rounding is as high as its points.
    left, inner, right = on_grid[:-2], on_grid[1:-1], on_grid[2:]
    curvature = 2 * inner - left - right
    bent = curvature > 8 * jnp.finfo(inner.dtype).eps * (1 + jnp.abs(inner))
    peak = bent & (inner >= jnp.maximum(left, right))
    rise = safe_divide((right - left) ** 2, 8 * curvature)
    # Not written into the grid: jaxlib 0.10 would overwrite, on CPUs, what it has yet to read of it.
    heights = jnp.concatenate([on_grid[:1], jnp.where(peak, inner + rise, -jnp.inf), on_grid[-1:]])
    _, candidates = jax.lax.top_k(heights.T, 2)

    def refined(place: Int[Array, " t"]) -> Float[Array, " t"]:
        bracket = (grid[jnp.maximum(place - 1, 0)], grid[jnp.minimum(place + 1, grid.shape[0] - 1)])
        lower, upper = jax.lax.fori_loop(0, _HALVINGS, halved, bracket)
        ratio = jnp.exp((lower + upper) / 2)
        return evidence(discrepancy(ratio), volume(ratio))

    # Where all samples together weigh little, the volume counts for more than the fit, and noise alone is the best.
    noise_alone = evidence(jnp.sum(energies, axis=1) + unexplained, jnp.zeros((), energies.dtype))
    highest: Array = jnp.max(jax.vmap(refined)(candidates.T), axis=0)
    return jnp.maximum(jnp.maximum(highest, noise_alone), jnp.max(on_grid, axis=0))
