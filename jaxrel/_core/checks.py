"""Checks of arguments that several functions have."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

__all__ = ["checked_key", "checked_seed", "positive_number"]


def checked_key(key: Any) -> PRNGKeyArray:
    """A key of `jax.random`, made from an integer where one is given; a ValueError says what is wrong.

    Keys of the old style, `jax.random.PRNGKey(0)`, are taken too; an integer may be traced.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jnp.uint32) and key.ndim == 1:
        key = jax.random.wrap_key_data(key)
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(f"key must be one key, got an array of shape {key.shape}: pass one of them.")
        return key
    if isinstance(key, jax.core.Tracer):
        return jax.random.key(key)
    try:
        number = operator.index(key)
    except TypeError as error:
        raise ValueError(f"key must be a key of jax.random or an integer, got {key!r}.") from error
    if not 0 <= number < 2**32:  # JAX without 64-bit types would silently keep the low 32 bits only.
        raise ValueError(f"key must be a key of jax.random or an integer from 0 to 2**32 - 1, got {number}.")
    return jax.random.key(np.uint32(number))


def checked_seed(seed: Any) -> int:
    """The seed; a ValueError says what is wrong."""
    try:
        seed = operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed must be an integer, got {seed!r}.") from error
    if not 0 <= seed < 2**32:  # JAX without 64-bit types would silently keep the low 32 bits only.
        raise ValueError(f"seed must be between 0 and 2**32 - 1, got {seed}.")
    return int(seed)


def positive_number(name: str, value: Float[ArrayLike, ""], advice: str, dtype: jnp.dtype) -> Float[Array, ""]:
    """The number as an array of the type; a ValueError with its name and an advice where it is none."""
    if not isinstance(value, jax.core.Tracer):
        number = np.asarray(value)
        if number.shape != () or not (np.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be one positive finite number, got {value}: {advice}.")
    return jnp.asarray(value, dtype)
