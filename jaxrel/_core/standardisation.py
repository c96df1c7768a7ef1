"""Zero mean and unit variance for each feature, by statistics that can be carried to other samples."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

__all__ = ["ROUNDINGS", "Standardisation", "identity_standardisation", "standardisation_of"]

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


def standardisation_of(
    features: Float[Array, "n d"],
    weights: Float[Array, " n"],
    *,
    smallest_scale: Float[ArrayLike, ""] = _SMALLEST_SCALE,
) -> Standardisation:
    """Weighted mean and standard deviation (division by n) of each feature, the latter with a floor.

    No feature is divided by less than `smallest_scale` times the root mean square of all deviations; 0 switches the
    floor off. A feature that is constant up to some roundings of its size, however many samples there are, is divided
    by its size and so becomes 0 up to rounding.

    Each feature is first divided by a power of 2 next to its largest absolute value, so that squares neither overflow
    nor vanish, and taken relative to one of the samples: both are exact, so that an offset costs no digits but those
    that the features have lost to it already.
    """
    total = jnp.sum(weights)
    live = weights[:, None] > 0
    size = jnp.max(jnp.where(live, jnp.abs(features), 0), axis=0)
    size = jnp.where(size > 0, size, 1)
    unit = jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1] - 1)
    origin = features[jnp.argmax(weights)]
    differences = jnp.where(live, features / unit - origin / unit, 0)
    spread = jnp.max(jnp.abs(differences), axis=0)
    spread = jnp.where(spread > 0, spread, 1)
    differences = differences / spread
    shift = weights @ differences / total
    deviation = jnp.sqrt(weights @ (differences - shift) ** 2 / total) * spread
    constant = deviation <= ROUNDINGS * jnp.finfo(features.dtype).eps
    deviation = jnp.where(constant, 0, deviation) * unit
    largest = jnp.max(deviation)
    typical = largest * jnp.sqrt(jnp.mean((deviation / jnp.where(largest > 0, largest, 1)) ** 2))
    floored = jnp.maximum(deviation, smallest_scale * typical)
    scale = jnp.where(constant, jnp.maximum(size, floored), floored)
    return Standardisation(mean=origin + shift * spread * unit, scale=scale)


def identity_standardisation(num_features: int, dtype: jnp.dtype) -> Standardisation:
    """The one that changes nothing."""
    return Standardisation(mean=jnp.zeros(num_features, dtype), scale=jnp.ones(num_features, dtype))
