"""Checks of arguments that several functions have."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

__all__ = ["checked_seed", "positive_number"]


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
