"""Zero mean and unit variance for each feature, by statistics that can be carried to other samples."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Standardisation", "identity_standardisation", "standardisation_of"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Standardisation:
    """`z -> (z - mean) / scale`; a feature that is constant has its size as scale and becomes 0 up to rounding."""

    mean: Float[Array, " d"]
    scale: Float[Array, " d"]

    def __call__(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Standardised features."""
        return (features - self.mean) / self.scale


def standardisation_of(features: Float[Array, "n d"], weights: Float[Array, " n"]) -> Standardisation:
    """Weighted mean and standard deviation (division by n) of each feature.

    Each feature is first divided by its largest absolute value, so that squares neither overflow nor vanish; one
    whose deviation is within rounding of its size counts as constant.
    """
    total = jnp.sum(weights)
    size = jnp.max(jnp.where(weights[:, None] > 0, jnp.abs(features), 0), axis=0)
    size = jnp.where(size > 0, size, 1)
    scaled = features / size
    mean = weights @ scaled / total
    deviation = jnp.sqrt(weights @ (scaled - mean) ** 2 / total)
    rounding = 8 * jnp.finfo(features.dtype).eps * jnp.sqrt(jnp.asarray(features.shape[0], features.dtype))
    constant = deviation <= rounding
    return Standardisation(mean=mean * size, scale=jnp.where(constant, 1, deviation) * size)


def identity_standardisation(num_features: int, dtype: jnp.dtype) -> Standardisation:
    """The one that changes nothing."""
    return Standardisation(mean=jnp.zeros(num_features, dtype), scale=jnp.ones(num_features, dtype))
