"""Activations by their names in Hugging Face configurations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax

__all__ = ["ACTIVATIONS"]


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def _identity(x: jax.Array) -> jax.Array:
    return x


# Module-level functions, so that networks of one architecture compare equal.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "linear": _identity,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jax.nn.tanh,
}
