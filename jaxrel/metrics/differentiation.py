"""Metrics without a useful derivative raise an error instead of returning NaN gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

__all__ = ["no_derivative"]

_F = TypeVar("_F", bound=Callable[..., Any])


def no_derivative(function: _F) -> _F:
    """Make differentiation of a metric raise a ValueError that names it.

    Sorts, counts and eigenvectors of rank-deficient features, such as those after a ReLU, have no derivative.
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
