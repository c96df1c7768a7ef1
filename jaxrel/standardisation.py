"""Zero mean and unit variance for each feature, by statistics that can be carried to other samples."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

__all__ = ["Standardisation", "identity_standardisation", "standardisation_of"]

# Units of a network that hardly ever fire have a deviation of almost 0 on the training samples; divided by it, the one
# held-out sample where such a unit does fire would be tens of thousands of deviations away and decide the whole loss.
_SMALLEST_SCALE = 0.1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Standardisation:
    """`z -> (z - mean) / scale`."""

    mean: Float[Array, " d"]
    scale: Float[Array, " d"]

    def __call__(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
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
    floor off. A feature that is constant up to rounding is divided by its size and so becomes 0 up to rounding.

    Each feature is first divided by its largest absolute value, so that squares neither overflow nor vanish.
    """
    total = jnp.sum(weights)
    size = jnp.max(jnp.where(weights[:, None] > 0, jnp.abs(features), 0), axis=0)
    size = jnp.where(size > 0, size, 1)
    scaled = features / size
    mean = weights @ scaled / total
    deviation = jnp.sqrt(weights @ (scaled - mean) ** 2 / total)
    rounding = 8 * jnp.finfo(features.dtype).eps * jnp.sqrt(jnp.asarray(features.shape[0], features.dtype))
    constant = deviation <= rounding
    deviation = jnp.where(constant, 0, deviation) * size
    largest = jnp.max(deviation)
    typical = largest * jnp.sqrt(jnp.mean((deviation / jnp.where(largest > 0, largest, 1)) ** 2))
    floored = jnp.maximum(deviation, smallest_scale * typical)
    return Standardisation(mean=mean * size, scale=jnp.where(constant, jnp.maximum(size, floored), floored))


def identity_standardisation(num_features: int, dtype: jnp.dtype) -> Standardisation:
    """The one that changes nothing."""
    return Standardisation(mean=jnp.zeros(num_features, dtype), scale=jnp.ones(num_features, dtype))
