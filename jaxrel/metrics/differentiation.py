"""Metrics that have no useful derivative say so, instead of returning NaN."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

__all__ = ["no_derivative"]

_F = TypeVar("_F", bound=Callable[..., Any])


def no_derivative(function: _F) -> _F:
    """Refuse differentiation of a metric by a ValueError that names it.

    Eigenvectors of features that are rank deficient, as those behind a ReLU are, sorts and counts have none.
    """

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> Any:
        guard = _guard(function.__name__)
        arguments, options = jax.tree.map(
            lambda leaf: guard(leaf) if _may_be_differentiated(leaf) else leaf, (arguments, options)
        )
        return function(*arguments, **options)

    return guarded  # type: ignore[return-value]


@functools.cache
def _guard(name: str) -> Callable[[Any], Any]:
    """The identity, without a derivative."""

    @jax.custom_jvp
    def identity(value: Any) -> Any:
        return value

    @identity.defjvp
    def refuse(_: Any, __: Any) -> Any:
        raise ValueError(
            f"{name} has no derivative: wrap its input in jax.lax.stop_gradient, or differentiate a metric of which "
            "jaxrel.metrics.METRICS[...].differentiable is true, such as lfc_score, silhouette_score or cka_score."
        )

    return identity


def _may_be_differentiated(leaf: Any) -> bool:
    return isinstance(leaf, jax.core.Tracer) and jnp.issubdtype(leaf.dtype, jnp.inexact)
