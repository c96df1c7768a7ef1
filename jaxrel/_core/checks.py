"""Checks of common arguments."""

from __future__ import annotations

import operator
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

__all__ = ["Key", "checked_key", "host_generator", "is_traced", "positive_number"]


Key = int | Int[Array, ""] | PRNGKeyArray


def is_traced(*trees: Any) -> bool:
    """Whether any of the arrays is traced, so that its values are unknown."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def checked_key(key: Key) -> PRNGKeyArray:
    """A key of `jax.random`, made from an integer if one is passed. Invalid keys are a ValueError.

    Old-style keys, `jax.random.PRNGKey(0)`, are accepted too; an integer may be traced.
    """
    if isinstance(key, jax.Array) and key.dtype == jnp.uint32 and key.ndim == 1:
        key = jax.random.wrap_key_data(key)
    if not _is_key(key):
        return jax.random.key(key if is_traced(key) else np.uint32(_checked_integer(key)))
    if key.shape != ():
        raise ValueError(f"key must be one key, got an array of shape {key.shape}: pass one of them.")
    return key


def host_generator(key: Key, *stream: int) -> np.random.Generator:
    """NumPy's generator of a key, and of one of its streams."""
    numbers = np.asarray(jax.random.key_data(key)).ravel().tolist() if _is_key(key) else [_checked_integer(key)]
    return np.random.default_rng([*numbers, *stream])


def _is_key(key: Any) -> TypeGuard[PRNGKeyArray]:
    return isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def _checked_integer(key: Any) -> int:
    try:
        number = operator.index(key)
    except TypeError as error:
        raise ValueError(f"key must be a key of jax.random or an integer, got {key!r}.") from error
    if not 0 <= number < 2**32:  # JAX without 64-bit types would silently keep the low 32 bits only.
        raise ValueError(f"key must be a key of jax.random or an integer from 0 to 2**32 - 1, got {number}.")
    return number


def positive_number(name: str, value: Float[ArrayLike, ""], advice: str, dtype: jnp.dtype) -> Float[Array, ""]:
    """The number as an array of the type; a ValueError with its name and an advice where it is none."""
    if not isinstance(value, jax.core.Tracer):
        number = np.asarray(value)
        if number.shape != () or not (np.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be one positive finite number, got {value}: {advice}.")
    return jnp.asarray(value, dtype)
