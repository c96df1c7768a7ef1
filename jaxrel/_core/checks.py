"""Checks of arguments that several functions have."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

__all__ = ["Seed", "checked_seed", "host_generator", "is_traced", "positive_number", "random_key"]


Seed = int | Int[Array, ""] | PRNGKeyArray


def is_traced(*trees: Any) -> bool:
    """Whether any array in them is traced, so that its values are unknown."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def random_key(seed: Seed) -> PRNGKeyArray:
    """The key of a seed, which is checked unless it is traced; a key is taken as it is."""
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        return seed
    return jax.random.key(seed if is_traced(seed) else checked_seed(seed))


def checked_seed(seed: Any) -> int:
    """The seed; a ValueError says what is wrong."""
    try:
        seed = operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed must be an integer, got {seed!r}.") from error
    if not 0 <= seed < 2**32:  # JAX without 64-bit types would silently keep the low 32 bits only.
        raise ValueError(f"seed must be between 0 and 2**32 - 1, got {seed}.")
    return int(seed)


def host_generator(seed: Seed, *stream: int) -> np.random.Generator:
    """NumPy's generator of a seed or key, and of one of its streams."""
    is_key = isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
    numbers = np.asarray(jax.random.key_data(seed)).ravel().tolist() if is_key else [checked_seed(seed)]
    return np.random.default_rng([*numbers, *stream])


def positive_number(name: str, value: Float[ArrayLike, ""], advice: str, dtype: jnp.dtype) -> Float[Array, ""]:
    """The number as an array of the type; a ValueError with its name and an advice where it is none."""
    if not isinstance(value, jax.core.Tracer):
        number = np.asarray(value)
        if number.shape != () or not (np.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be one positive finite number, got {value}: {advice}.")
    return jnp.asarray(value, dtype)
