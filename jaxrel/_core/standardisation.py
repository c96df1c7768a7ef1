"""Zero mean and unit variance for each feature, by statistics that can be carried to other samples."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

__all__ = [
    "ROUNDINGS",
    "Spread",
    "Standardisation",
    "identity_standardisation",
    "spread_of",
    "standardisation_by",
    "standardisation_of",
]

# Units of a network that hardly ever fire have a deviation of almost 0 on the training samples; divided by it, the one
# held-out sample where such a unit does fire would be tens of thousands of deviations away and decide the whole loss.
_SMALLEST_SCALE = 0.1
# Of the size of a feature: what differs by less is constant.
ROUNDINGS = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Standardisation:
    """`z -> (z - mean) / scale`."""

    mean: Float[Array, " d"]
    scale: Float[Array, " d"]

    def __call__(self, features: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Standardised features."""
        return (features - self.mean) / self.scale


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spread:
    """How the features of some samples are spread.

    Attributes:
        total: weight of the samples.
        size: largest absolute value of each feature.
        mean, deviation: of each feature, weighted; the latter by division by n.
    """

    total: Float[Array, ""]
    size: Float[Array, " d"]
    mean: Float[Array, " d"]
    deviation: Float[Array, " d"]

    def joined(self, other: Spread) -> Spread:
        """That of the samples of both, on the host in float64, so that many joins round as little as one."""
        a, b = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one) for one in (self, other))
        share = b.total / (a.total + b.total)
        apart = np.sqrt(share * (1 - share)) * (b.mean - a.mean)
        within = np.hypot(np.sqrt(1 - share) * a.deviation, np.sqrt(share) * b.deviation)
        mean = a.mean + share * (b.mean - a.mean)
        return Spread(a.total + b.total, np.maximum(a.size, b.size), mean, np.hypot(within, apart))


def spread_of(features: Float[Array, "n d"], weights: Float[Array, " n"]) -> Spread:
    """The standardisation of the samples of positive weight; there must be at least one.

    Each feature is first divided by a power of 2 next to its largest absolute value, so that squares neither overflow
    nor vanish, and taken relative to one of the samples: both are exact, so that an offset costs no digits but those
    that the features have lost to it already.
    """
    total = jnp.sum(weights)
    live = weights[:, None] > 0
    size = jnp.max(jnp.where(live, jnp.abs(features), 0), axis=0)
    unit = _unit(size)
    origin = features[jnp.argmax(weights)]
    differences = jnp.where(live, features / unit - origin / unit, 0)
    spread = jnp.max(jnp.abs(differences), axis=0)
    spread = jnp.where(spread > 0, spread, 1)
    differences = differences / spread
    shift = weights @ differences / total
    deviation = jnp.sqrt(weights @ (differences - shift) ** 2 / total) * spread * unit
    return Spread(total=total, size=size, mean=origin + shift * spread * unit, deviation=deviation)


def standardisation_by(spread: Spread, *, smallest_scale: Float[ArrayLike, ""] = _SMALLEST_SCALE) -> Standardisation:
    """To mean 0 and deviation 1, the latter with a floor.

    No feature is divided by less than `smallest_scale` times the root mean square of all deviations; 0 switches the
    floor off. A feature that is constant up to some roundings of its size, however many samples there are, is divided
    by its size and so becomes 0 up to rounding.
    """
    size = jnp.where(spread.size > 0, spread.size, 1)
    constant = spread.deviation / _unit(size) <= ROUNDINGS * jnp.finfo(size.dtype).eps
    deviation = jnp.where(constant, 0, spread.deviation)
    largest = jnp.max(deviation)
    typical = largest * jnp.sqrt(jnp.mean((deviation / jnp.where(largest > 0, largest, 1)) ** 2))
    floored = jnp.maximum(deviation, smallest_scale * typical)
    return Standardisation(mean=spread.mean, scale=jnp.where(constant, jnp.maximum(size, floored), floored))


def _unit(size: Float[Array, " d"]) -> Float[Array, " d"]:
    """The power of 2 next below each size, 1 below 0."""
    return jnp.ldexp(jnp.ones_like(size), jnp.frexp(jnp.where(size > 0, size, 1))[1] - 1)


def standardisation_of(
    features: Float[Array, "n d"],
    weights: Float[Array, " n"],
    *,
    smallest_scale: Float[ArrayLike, ""] = _SMALLEST_SCALE,
) -> Standardisation:
    """`standardisation_by` the `spread_of` these samples."""
    return standardisation_by(spread_of(features, weights), smallest_scale=smallest_scale)


def identity_standardisation(num_features: int, dtype: jnp.dtype) -> Standardisation:
    """The one that changes nothing."""
    return Standardisation(mean=jnp.zeros(num_features, dtype), scale=jnp.ones(num_features, dtype))
