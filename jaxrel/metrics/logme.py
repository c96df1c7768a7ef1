r"""LogME: the logarithm of the maximum evidence of a Bayesian linear model of each class indicator.

For features X of n samples, the indicator y of one class, weights `w ~ N(0, I / alpha)` and noise of precision beta,

    LogME_y = max_{alpha, beta} log p(y | X, alpha, beta) / n,   LogME = mean of LogME_y over classes.

With t = alpha / beta, the singular values s_i of X and z = U^T y, the maximum over beta has a closed form,

    LogME_y = max_t -log(S(t) / n) / 2 - (1 + log 2 pi) / 2 - sum_i log(1 + s_i^2 / t) / (2 n),
    S(t) = sum_i z_i^2 t / (t + s_i^2) + ||y - U z||^2,

in which directions without variance contribute nothing. It is valid both for n < d and for n > d.

If the features fit an indicator exactly with fewer directions than samples, S(t) vanishes with t faster than the volume
grows. There is then no maximum, and the evidence would be +inf. In this case the noise is held at the smallest variance
`s = (8 eps)^2 ||y||^2` that the residual resolves at the rounding eps of the dtype,

    LogME_y = max_t -(log v + S(t) / (n v) + log 2 pi) / 2 - sum_i log(1 + s_i^2 / t) / (2 n),   v = max(S(t) / n, s),

which is continuous with the evidence above and finite. It is higher if fewer directions of the features and smaller
weights (a larger margin) fit the labels.

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

# In log t. Every direction bends the evidence over about two units, so two maxima are further apart than that.
_STEP = 0.5
_HALVINGS = 30  # of a bracket of width 1; the error of the evidence is its final width squared


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
        A `Score` that is invariant to the scale of the features and to appended constant-0 features. It has no fixed
        range. If the features fit a class exactly with fewer directions than samples, the evidence has no maximum: the
        value is the evidence at the least noise that the dtype resolves (see the module docstring), with
        `ScoreStatus.UNBOUNDED`. It still orders such encoders, but only within one dtype.

    Raises:
        ValueError: see `checked_labelled_sample`.

    Deviations from the authors' code, which follow the definition: the evidence is maximised over the whole range of t
    (grid, then bisection of the derivative), where theirs takes up to 11 fixed-point steps, which can stop early or at
    a lower maximum; nothing is added to denominators; the term `(d - n) log alpha`, which theirs omits for n < d, is
    included; a class without samples is left out of the mean, where theirs has infinite evidence.

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
    """Log evidence per sample of each target, and whether the target is fitted exactly, so that it has no maximum.

    A target that is 0 everywhere has the evidence of noise of variance 1, and counts as exact if n exceeds the rank.
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
        """The two parts of the evidence: S(t) is the discrepancy, and the sum of logarithms the volume."""
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

    # Beyond these ends S or the volume is below the square of a rounding.
    end = -2 * math.log(jnp.finfo(eigenvalues.dtype).eps)
    grid = jnp.linspace(-end, end, math.ceil(2 * end / _STEP), dtype=eigenvalues.dtype)
    ratios = jnp.exp(grid)
    kept = ratios[:, None] / (ratios[:, None] + eigenvalues)
    on_grid = evidence(kept @ energies.T + unexplained, volume(ratios)[:, None])
    # The highest of several maxima can be next to a lower grid point. Refine the two that are highest by the parabola
    # through their three points; a maximum that is flat up to rounding is as high as its points.
    left, inner, right = on_grid[:-2], on_grid[1:-1], on_grid[2:]
    curvature = 2 * inner - left - right
    bent = curvature > 8 * jnp.finfo(inner.dtype).eps * (1 + jnp.abs(inner))
    peak = bent & (inner >= jnp.maximum(left, right))
    rise = safe_divide((right - left) ** 2, 8 * curvature)
    # Do not write into the grid: on CPUs, jaxlib 0.10 would overwrite entries before it reads them.
    heights = jnp.concatenate([on_grid[:1], jnp.where(peak, inner + rise, -jnp.inf), on_grid[-1:]])
    _, candidates = jax.lax.top_k(heights.T, 2)

    def refined(place: Int[Array, " t"]) -> Float[Array, " t"]:
        bracket = (grid[jnp.maximum(place - 1, 0)], grid[jnp.minimum(place + 1, grid.shape[0] - 1)])
        lower, upper = jax.lax.fori_loop(0, _HALVINGS, halved, bracket)
        ratio = jnp.exp((lower + upper) / 2)
        return evidence(discrepancy(ratio), volume(ratio))

    # If the total weight is small, the volume outweighs the fit, and pure noise is the best model.
    noise_alone = evidence(jnp.sum(energies, axis=1) + unexplained, jnp.zeros((), energies.dtype))
    highest: Array = jnp.max(jax.vmap(refined)(candidates.T), axis=0)
    return jnp.maximum(jnp.maximum(highest, noise_alone), jnp.max(on_grid, axis=0))
