"""N-LEEP: LEEP with the components of a Gaussian mixture on the features instead of source classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel._core.arrays import real_array
from jaxrel._core.checks import Key, checked_key, is_traced
from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.decomposition import Components, Decomposition, principal_components
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel
from jaxrel.metrics.leep import leep_score, mean_log_prediction
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample, checked_positive_integer
from jaxrel.pseudo_labels.gaussian_mixture import gaussian_mixture

__all__ = ["nleep_score"]

_COMPONENTS_A_CLASS = 5
# Fraction of the mean variance of a principal direction that is added to the variances of every component.
_REGULARISATION = 1e-3
# Fewer than these save no time.
_LEAST_DIRECTIONS = 32


@no_derivative
@pads_samples
def nleep_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    num_components: int | None = None,
    explained_variance: Float[ArrayLike, ""] = 0.8,
    max_directions: int | None = None,
    responsibilities: Float[ArrayLike, "n k"] | None = None,
    key: Key = 0,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """Mean log probability of the labels as predicted by mixture components, in nats; higher is better.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        num_components: number of components k of the mixture. None uses five for each class that occurs, as published
            (for each of `num_classes` inside `jit` and `vmap`, where labels are unknown). With about as many components
            as samples, each sample has its own component, and the score approaches 0 for any features.
        explained_variance: the mixture is fitted in the fewest principal directions with more than this share of the
            variance, above 0 and at most 1. A new value recompiles only if it needs far more or far fewer directions.
        max_directions: the largest number of directions; None is `min(n, d)`. Inside `jit` and `vmap` every direction
            takes time, used or not; otherwise the used directions, rounded up to a power of 2.
        responsibilities: `(n, k)`, rows of sum 1, of a mixture of your own. The score is then their `leep_score`, and
            the features and the options above are ignored.
        key: a key of `jax.random` or an integer; it draws the initial mixtures.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`. Absent classes have no effect if labels are concrete.
        decomposition: `decompose(features, "centred", weights=weights)`, to share it between metrics; None computes it.

    Returns:
        A `Score` between minus the entropy of the labels and 0 that is invariant to shifts, scale and rotation. If all
        samples are equal it is minus the entropy of the labels. The mixture is a local maximum of the likelihood found
        by iteration: another key, dtype or rounding can lead to a different one.

    Raises:
        ValueError: for options out of range, else see `checked_labelled_sample`.

    Source: Li, Jia, Sang, Zhu, Green, Wang, Gong, "Ranking neural checkpoints", CVPR 2021. Deviations: components have
    diagonal covariances along the principal directions of all samples, not full ones, with 1e-3 of the mean variance
    of a direction added (full covariances of wide features have more numbers than there are samples); samples are
    sorted by their distance from the mean before initial means are drawn, so the given order is irrelevant. No two
    implementations agree: they differ in components, covariances and seeds, and some omit the logarithm.

    `O(n d min(n, d))` operations for the directions, `O(n k r)` for each iteration in r directions; `O(n (d + k))`
    memory.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    if responsibilities is not None:
        responsibilities = real_array("responsibilities", responsibilities)
        shape, num_samples = responsibilities.shape, sample.weights.shape[0]
        if len(shape) != 2 or shape[0] != num_samples:
            raise ValueError(f"responsibilities must have shape ({num_samples}, k), one row a sample, got {shape}.")
        return leep_score(responsibilities, labels, weights=weights, num_classes=num_classes)
    if num_components is None:
        num_components = _COMPONENTS_A_CLASS * _num_classes(sample)
    most = min(sample.features.shape)
    if max_directions is not None:
        most = min(most, checked_positive_integer("max_directions", max_directions))
    share = _checked_share(explained_variance, sample.features.dtype)
    principal = principal_components(sample, "centred", decomposition, most)
    return _nleep(
        sample,
        principal,
        share,
        checked_key(key),
        num_components=checked_positive_integer("num_components", num_components),
        max_directions=_most_directions(principal, share, most),
    )


def _num_classes(sample: LabelledSample) -> int:
    """The number of classes that occur, if it is known."""
    sizes = sample.class_sizes
    return sizes.size if isinstance(sizes, jax.core.Tracer) else int(jnp.sum(sizes > 0))


def _nleep_kernel(
    sample: LabelledSample,
    principal: Components,
    explained_variance: Float[Array, ""],
    key: PRNGKeyArray,
    *,
    num_components: int,
    max_directions: int,
) -> Score:
    kept = _kept(principal, explained_variance)[:max_directions]
    coordinates = jnp.where(kept, principal.rows[:, :max_directions], 0)
    order = jnp.argsort(jnp.sum(coordinates**2, axis=1))
    # The mixture scales by the variance averaged over all directions, including unused ones.
    regularisation = _REGULARISATION * max_directions / jnp.maximum(jnp.sum(kept), 1)
    mixture = gaussian_mixture(
        coordinates[order],
        sample.weights[order],
        key,
        num_components=num_components,
        covariance="diagonal",
        regularisation=regularisation,
    )
    shares = jnp.zeros_like(mixture.responsibilities).at[order].set(mixture.responsibilities)
    shares = jnp.where(sample.weights[:, None] > 0, shares, 0)
    return make_score(mean_log_prediction(sample, shares), sample.status)


_nleep = kernel(_nleep_kernel, static=("num_components", "max_directions"))


def _kept(principal: Components, explained_variance: Float[Array, ""]) -> Bool[Array, " r"]:
    """The leading directions that are needed; the others are set to 0.

    With diagonal covariances, a direction in which all samples are 0 gives all components the same factor.
    """
    energies = principal.values**2
    before = jnp.cumsum(energies) - energies
    return (energies > 0) & (before <= explained_variance * jnp.sum(energies))


def _most_directions(principal: Components, explained_variance: Float[Array, ""], most: int) -> int:
    """Number of directions in the compiled mixture: those in use, if known, rounded up to a power of 2."""
    if is_traced(principal, explained_variance):
        return most
    kept = int(jnp.sum(_kept(principal, explained_variance)))
    return min(most, max(_LEAST_DIRECTIONS, 1 << (kept - 1).bit_length()))


def _checked_share(explained_variance: Any, dtype: Any) -> Float[Array, ""]:
    share = jnp.asarray(explained_variance, dtype)
    if not isinstance(share, jax.core.Tracer) and not (share.shape == () and 0 < float(share) <= 1):
        raise ValueError(f"explained_variance must be a number above 0 and at most 1, got {explained_variance!r}.")
    return share
