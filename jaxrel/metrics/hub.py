"""Scores that are relative to the other models of a model zoo: their parts are scaled to 0 .. 1 over the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrel.metrics.result import ScoreStatus

__all__ = ["among_others", "over_models", "scaled_over_models"]


def over_models(components: Any, kind: type) -> Any:
    """Components with a leading axis of models; a sequence is stacked.

    Raises:
        ValueError: for another type, no models, or components of one model.
    """
    if isinstance(components, Sequence) and components and all(isinstance(each, kind) for each in components):
        components = jax.tree.map(lambda *leaves: jnp.stack(leaves), *components)
    advice = f"pass a sequence of {kind.__name__}, one for each model, or one whose arrays have a leading model axis."
    if not isinstance(components, kind):
        raise ValueError(f"components must be {kind.__name__}, got {type(components).__name__}: {advice}")
    if any(jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] == 0 for leaf in jax.tree.leaves(components)):
        raise ValueError(f"components have no leading axis of models, or an empty one: {advice}")
    return components


def among_others(usable: Bool[Array, "*b"]) -> Int[Array, "*b"]:
    """`ScoreStatus.SINGLE_ENCODER` for the only usable model."""
    alone = usable & (jnp.sum(usable, axis=0) < 2)
    return jnp.where(alone, ScoreStatus.SINGLE_ENCODER, 0).astype(jnp.int32)


def scaled_over_models(values: Float[Array, "*b"], usable: Bool[Array, "*b"]) -> Float[Array, "*b"]:
    """`(value - least) / (largest - least)` over the leading axis; 0 if all usable values are equal up to rounding."""
    least = jnp.min(jnp.where(usable, values, jnp.inf), axis=0)
    largest = jnp.max(jnp.where(usable, values, -jnp.inf), axis=0)
    spread = largest - least
    rounding = 8 * jnp.finfo(values.dtype).eps * jnp.maximum(jnp.abs(least), jnp.abs(largest))
    differ = jnp.isfinite(spread) & (spread > rounding)
    return jnp.where(usable & differ, (values - least) / jnp.where(differ, spread, 1), 0)
