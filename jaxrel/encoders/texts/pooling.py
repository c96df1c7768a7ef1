"""Pooling of the states of a text's tokens to its features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["POOLINGS", "TokenPooling", "pool", "unit_length"]

TokenPooling = Literal["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
"""Kinds of pooling, by sentence-transformers' names. mean: their mean. cls: the first.
max: the largest of each number. lasttoken: the last, which alone has seen all others in a causal network.
mean_sqrt_len_tokens: their sum over the root of their number. weightedmean: their mean, weighted by 1, 2, 3, ..."""

States = Float[Array, "b s d"]
Mask = Bool[Array, "b s"]


def pool(states: States, mask: Mask, pooling: str) -> Float[Array, "b d"]:
    """The features of each text, 0 for one without tokens.

    Args:
        states: of its tokens.
        mask: true for those of them that count.
        pooling: one of `TokenPooling`.
    """
    return POOLINGS[pooling](states, mask)


def unit_length(features: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """The features, scaled to unit length."""
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _sum(states: States, mask: Mask) -> Float[Array, "b d"]:
    return (states * mask[..., None]).sum(1)


def _count(mask: Mask) -> Int[Array, "b 1"]:
    return jnp.maximum(mask.sum(1, keepdims=True), 1)


def _mean(states: States, mask: Mask) -> Float[Array, "b d"]:
    return _sum(states, mask) / _count(mask)


def _first(states: States, mask: Mask) -> Float[Array, "b d"]:
    return _state_at(jnp.argmax(mask, axis=1), states, mask)


def _last(states: States, mask: Mask) -> Float[Array, "b d"]:
    return _state_at(mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1), states, mask)


def _state_at(position: Int[Array, " b"], states: States, mask: Mask) -> Float[Array, "b d"]:
    return states[jnp.arange(len(states)), position] * mask.any(1, keepdims=True)


def _max(states: States, mask: Mask) -> Float[Array, "b d"]:
    largest = jnp.where(mask[..., None], states, jnp.finfo(states.dtype).min).max(1)
    return jnp.where(mask.any(1, keepdims=True), largest, 0)


def _mean_by_root(states: States, mask: Mask) -> Float[Array, "b d"]:
    return _sum(states, mask) / jnp.sqrt(_count(mask).astype(states.dtype))


def _weighted_mean(states: States, mask: Mask) -> Float[Array, "b d"]:
    weights = mask * jnp.arange(1, mask.shape[1] + 1)
    return (states * weights[..., None]).sum(1) / jnp.maximum(weights.sum(1, keepdims=True), 1)


POOLINGS: Mapping[str, Callable[[States, Mask], Float[Array, "b d"]]] = {
    "mean": _mean,
    "cls": _first,
    "max": _max,
    "lasttoken": _last,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
}
