"""Layers that transformers of texts share, in Flax NNX.

Matrix products take operands of the weights' type and sum in float32 at least; normalisation and softmax are float32
at least.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

__all__ = ["Dense", "LayerNorm", "SelfAttention", "einsum", "initial_weights", "sum_type"]


class Dense(nnx.Module):
    """A linear map; its input is brought to the kernel's type, its output is float32 at least."""

    def __init__(
        self, in_width: int, out_width: int, *, rng: np.random.Generator | None, use_bias: bool = True
    ) -> None:
        """Draw the initial weights."""
        self.kernel = nnx.Param(initial_weights(rng, in_width, out_width))
        self.bias = nnx.Param(jnp.asarray(np.zeros(out_width, np.float32))) if use_bias else None

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... c"]:
        """Apply the map."""
        kernel = self.kernel[...]
        product = jnp.matmul(
            x.astype(kernel.dtype),
            kernel,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=sum_type(kernel.dtype),
        )
        return product if self.bias is None else product + self.bias[...]


class LayerNorm(nnx.Module):
    """Normalisation of each vector by its own mean and variance, then a gain and a bias."""

    def __init__(self, width: int, *, epsilon: float) -> None:
        """Start with gain 1 and bias 0."""
        self.scale = nnx.Param(jnp.asarray(np.ones(width, np.float32)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(width, np.float32)))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalise."""
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


class SelfAttention(nnx.Module):
    """Attention of each token of a text to tokens of it, by several heads."""

    def __init__(self, width: int, num_heads: int, *, rng: np.random.Generator | None) -> None:
        """Draw the initial weights."""
        self.query = Dense(width, width, rng=rng)
        self.key = Dense(width, width, rng=rng)
        self.value = Dense(width, width, rng=rng)
        self.output = Dense(width, width, rng=rng)
        self.num_heads = num_heads

    def __call__(self, x: Float[Array, "b s d"], mask: Bool[Array, "#b #s s"]) -> Float[Array, "b s d"]:
        """Attend to the tokens that the mask shows to each, or to all of them."""
        dtype = self.query.kernel[...].dtype
        heads = (*x.shape[:2], self.num_heads, -1)
        # Heads before tokens, and weights divided by their sums after the product: on a CPU half as fast otherwise.
        query, key, value = (
            layer(x).reshape(heads).transpose(0, 2, 1, 3).astype(dtype) for layer in (self.query, self.key, self.value)
        )
        products = einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
        # Not minus infinity: the softmax of a text without tokens would be NaN.
        products = jnp.where(mask[:, None], products, jnp.finfo(products.dtype).min)
        weights = jnp.exp(products - jnp.max(products, axis=-1, keepdims=True))
        mixed = einsum("bhqk,bhkd->bhqd", weights.astype(dtype), value) / jnp.sum(weights, axis=-1, keepdims=True)
        return self.output(mixed.transpose(0, 2, 1, 3).reshape(x.shape))


def initial_weights(rng: np.random.Generator | None, rows: int, columns: int) -> jax.Array:
    """BERT's initial weights, of deviation 0.02, or zeros. Drawn by NumPy, which compiles nothing."""
    if rng is None:
        return jnp.asarray(np.zeros((rows, columns), np.float32))
    return jnp.asarray(rng.standard_normal((rows, columns), np.float32) * np.float32(0.02))


def sum_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which products of this type are summed."""
    return jnp.promote_types(dtype, jnp.float32)


def einsum(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product, summed in float32 at least."""
    # Rather than jax.nn.dot_product_attention, which has no precision to choose and rounds float32 to TF32 on a GPU.
    return jnp.einsum(equation, a, b, precision=lax.Precision.HIGHEST, preferred_element_type=sum_type(a.dtype))
