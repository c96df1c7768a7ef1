"""Cost functions of ott-jax as functions of two clouds."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxrel.transport.costs import CostFunction

__all__ = ["cost_function"]


class _OttCost:
    """An ott-jax cost as a function of two clouds. Instances with the same parameters give equal functions.

    The parameters are the attributes, not the leaves of the cost as a pytree: the ridge of `Cosine`, for example, is
    not a leaf and is lost when the pytree is flattened and rebuilt.
    """

    def __init__(self, cost: Any) -> None:
        self.cost = cost
        self._key = _identity(cost)

    def __call__(self, x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
        all_pairs = self.cost.all_pairs
        for _ in range(x.ndim - 2):
            all_pairs = jax.vmap(all_pairs)
        return all_pairs(x, y)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OttCost) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"cost_function({type(self.cost).__name__})"


def cost_function(cost: Any) -> CostFunction:
    """Convert an ott-jax cost function to a function from (*b, n, d) and (*b, m, d) to costs (*b, n, m).

    Two instances of one class with equal parameters give equal functions with the same hash, so a jitted function that
    takes the cost as a static argument is not traced twice. Array parameters are compared by value, traced ones by
    identity.

    Args:
        cost: any object with a method `all_pairs`, such as the instances of `ott.geometry.costs`.

    Raises:
        ValueError: for any other object.
    """
    if isinstance(cost, type) or not callable(getattr(cost, "all_pairs", None)):
        raise ValueError(f"expected an instance of an ott-jax cost function (with all_pairs), got {cost!r}.")
    return _OttCost(cost)


def _identity(value: Any) -> Any:
    """A hashable key that is equal for objects of equal type and attributes."""
    if isinstance(value, jax.core.Tracer):
        return id(value)
    if isinstance(value, jax.Array | np.ndarray):
        array = np.asarray(value)
        return (array.dtype.str, array.shape, array.tobytes())
    if isinstance(value, dict):
        return (dict, frozenset((key, _identity(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return (type(value), tuple(_identity(item) for item in value))
    hash_method: Any = type(value).__hash__
    if hash_method is not None and hash_method is not object.__hash__:
        return (type(value), value)
    if hasattr(value, "__dict__") and not callable(getattr(value, "__get__", None)):
        return (type(value), _identity(vars(value)))
    return id(value)
