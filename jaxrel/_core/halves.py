"""Random halves of the samples: a model fitted to one half is evaluated on the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

__all__ = ["second_half"]


def second_half(labels: Int[Array, " n"], weights: Float[Array, " n"], key: PRNGKeyArray) -> Bool[Array, " n"]:
    """Every other sample of each class, in random order; an odd class has one more in the first half.

    What is drawn for a sample depends on the number of samples before it alone, not on absent ones or on the dtype.
    """

    def drawn(position: Int[Array, ""]) -> UInt32[Array, ""]:
        return jax.random.bits(jax.random.fold_in(key, position), dtype=jnp.uint32)

    exists = weights > 0
    order = jnp.lexsort((jax.vmap(drawn)(jnp.cumsum(exists)), ~exists, labels))
    ordered = labels[order]
    rank = jnp.arange(labels.shape[0]) - jnp.searchsorted(ordered, ordered)
    return jnp.zeros_like(exists).at[order].set(rank % 2 == 1)
