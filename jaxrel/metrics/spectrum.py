"""Label-free scores from the spectrum of the features: effective rank and power-law decay."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.decomposition import Decomposition, singular_values
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import entropy, kernel, safe_divide
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import Sample, checked_sample

__all__ = ["alpha_req_score", "rankme_score", "spectral_decay"]


@no_derivative
@pads_samples
def rankme_score(
    features: Float[ArrayLike, "n d"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    r"""RankMe, the effective rank `exp(-sum_i p_i log p_i)` with `p_i = s_i / sum_j s_j`; higher is better.

    Args:
        features: `(n, d)`; s_i are their singular values, not centred, as published.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        decomposition: `decompose(features, "raw", weights=weights)`, to share it between metrics; None computes it.

    Returns:
        A `Score` between 1 and `min(n, d)` that is invariant to scale and rotation; 0 if all features are 0.

    Raises:
        ValueError: see `checked_sample`.

    Source: Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations
    by their rank", ICML 2023. Their 1e-7 added to p is left out: `0 log 0 = 0`.

    `O(n d min(n, d))` operations.
    """
    sample = checked_sample(features, weights)
    return _rankme(sample, singular_values(sample, "raw", decomposition))


@kernel
def _rankme(sample: Sample, values: Float[Array, " r"]) -> Score:
    total = jnp.sum(values)
    rank = jnp.where(total > 0, jnp.exp(entropy(safe_divide(values, total))), 0)
    return make_score(rank, sample.status)


@no_derivative
@pads_samples
def alpha_req_score(
    features: Float[ArrayLike, "n d"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """alpha-ReQ, `-|alpha - 1|` for the power-law decay alpha of the spectrum; higher (nearer to 0) is better.

    Args, returns, raises: as `spectral_decay`.

    Source: Agrawal et al., "alpha-ReQ: assessing representation quality in self-supervised learning by measuring
    eigenspectrum decay", NeurIPS 2022, where alpha near 1 generalises best: faster decay loses information, slower
    decay is not smooth. They report alpha itself; the distance makes higher better.
    """
    decay = spectral_decay(features, weights=weights, decomposition=decomposition)
    return Score(-jnp.abs(decay.value - 1), decay.status)


@no_derivative
@pads_samples
def spectral_decay(
    features: Float[ArrayLike, "n d"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """The alpha of `lambda_i ~ i^-alpha` for the eigenvalues of the covariance, in descending order.

    Args:
        features: `(n, d)`.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        decomposition: `decompose(features, "centred", weights=weights)`, to share it between metrics; None computes it.

    Returns:
        A `Score` that is invariant to shifts, scale and rotation: minus the slope of the least-squares line of
        `log lambda_i` on `log i` over all eigenvalues above rounding, with weights 1 / i (uniform in log i).
        Undefined for fewer than two such eigenvalues.

    Raises:
        ValueError: see `checked_sample`.

    Source: Stringer et al., "High-dimensional geometry of population responses in visual cortex", Nature 2019, who fit
    a range of i that they choose by eye; here it is the whole spectrum.

    `O(n d min(n, d))` operations.
    """
    sample = checked_sample(features, weights, shift_invariant=True)
    return _spectral_decay(sample, singular_values(sample, "centred", decomposition))


@kernel
def _spectral_decay(sample: Sample, values: Float[Array, " r"]) -> Score:
    resolved = values > 0
    index = jnp.arange(1, values.shape[0] + 1, dtype=values.dtype)
    slope = _slope(jnp.log(index), 2 * jnp.log(jnp.where(resolved, values, 1)), resolved / index)
    return make_score(-slope, sample.status, undefined=jnp.sum(resolved) < 2)


def _slope(x: Float[Array, " r"], y: Float[Array, " r"], weights: Float[Array, " r"]) -> Float[Array, ""]:
    """Slope of the weighted least-squares line of y on x."""
    total = jnp.sum(weights)
    x = x - safe_divide(weights @ x, total)
    return safe_divide(weights @ (x * y), weights @ x**2)
