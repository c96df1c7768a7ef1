"""Leave-one-out accuracy of the k nearest neighbours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import about_median, kernel, least_reaching, safe_divide
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample, checked_positive_integer

__all__ = ["nearest_neighbours_score"]

# Number of samples whose distances to all others are formed at a time.
_BLOCK = 256


@no_derivative
@pads_samples
def nearest_neighbours_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    num_neighbours: int = 1,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Leave-one-out accuracy of the k nearest neighbours, 0 to 1; higher is better.

    Args:
        features: `(n, d)`; Euclidean distance.
        labels: `(n,)` integers.
        num_neighbours: number of neighbours k that vote, at least 1; a new value does not recompile.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice, each a neighbour of the other.
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score`. Samples at the distance of the last neighbour (up to rounding of this distance and of that to the
        centre of the samples) share the remaining votes in proportion to their weights, so the order of samples is
        irrelevant. Among classes with equal votes the smallest label wins. If there are fewer other samples than
        `num_neighbours`, all vote; undefined if a sample has no other.

    Raises:
        ValueError: for `num_neighbours < 1`, else see `checked_labelled_sample`.

    Source: Renggli et al., "Which model to transfer? Finding the needle in the growing haystack", CVPR 2022.

    `O(n^2 d)` operations, `O(256 n + n d)` memory.

    Examples:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> features = 3 * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(60, 4))
        >>> print(f"{nearest_neighbours_score(features, labels).value:.3f}")
        0.967
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    votes = checked_positive_integer("num_neighbours", num_neighbours)
    return _nearest_neighbours(sample, jnp.asarray(votes, sample.features.dtype))


@kernel
def _nearest_neighbours(sample: LabelledSample, num_neighbours: Float[Array, ""]) -> Score:
    features = about_median(sample.features, sample.weights)
    norms = jnp.sum(features**2, axis=1)
    index = jnp.arange(norms.shape[0])
    rounding = 64 * float(jnp.finfo(features.dtype).eps)

    def hit(
        row: tuple[Float[Array, " d"], Float[Array, ""], Int[Array, ""]],
    ) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
        point, norm, position = row
        distances = jnp.maximum(norm + norms - 2 * (features @ point), 0)
        # One of the copies of a sample is itself.
        others = jnp.where(index == position, jnp.maximum(sample.weights - 1, 0), sample.weights)
        votes = _vote_shares(distances, others, num_neighbours, rounding, norm) @ sample.memberships
        # The first of the classes with equal votes up to rounding.
        is_right = jnp.argmax(votes >= (1 - rounding) * jnp.max(votes)) == jnp.argmax(sample.memberships[position])
        return is_right, (sample.weights[position] > 0) & (jnp.sum(others) == 0)

    correct, alone = jax.lax.map(hit, (features, norms, index), batch_size=_BLOCK)
    accuracy = safe_divide(sample.weights @ correct, sample.total)
    return make_score(accuracy, sample.status, undefined=jnp.any(alone))


def _vote_shares(
    distances: Float[Array, " n"],
    available: Float[Array, " n"],
    num_neighbours: Float[Array, ""],
    rounding: float,
    norm: Float[Array, ""],
) -> Float[Array, " n"]:
    """The votes of each sample: its whole weight within the radius, an equal part of its weight on the radius."""
    distances = jnp.where(available > 0, distances, jnp.inf)
    radius = least_reaching(distances, lambda inside: jnp.sum(jnp.where(inside, available, 0)), num_neighbours)
    # Samples this close have a norm of at most twice this sum.
    width = rounding * (norm + radius)
    inside = jnp.where(distances < radius - width, available, 0)
    on_radius = jnp.where(jnp.abs(distances - radius) <= width, available, 0)
    remaining = num_neighbours - jnp.sum(inside)
    return inside + on_radius * jnp.clip(safe_divide(remaining, jnp.sum(on_radius)), 0, 1)
