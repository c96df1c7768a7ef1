"""Layers that transformers of texts share, in Flax NNX.

Matrix products take operands of the weights' type and sum in float32 at least; normalisation and softmax are float32
at least.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "Dense",
    "LayerNorm",
    "RelativeBias",
    "Rotation",
    "SelfAttention",
    "distance_buckets",
    "einsum",
    "initial_weights",
    "rotated",
    "rotation_of",
    "sum_type",
]

Rotation = tuple[Float[Array, "s pairs"], Float[Array, "s pairs"]]
"""Cosines and sines of the angles by which rotary embedding turns pairs of numbers at each position."""


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
    """Normalisation of each vector by its own mean and variance, then a gain and perhaps a bias."""

    def __init__(self, width: int, *, epsilon: float, use_bias: bool = True) -> None:
        """Start with gain 1 and bias 0."""
        self.scale = nnx.Param(jnp.asarray(np.ones(width, np.float32)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(width, np.float32))) if use_bias else None
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalise."""
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normalised = centred * lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return normalised if self.bias is None else normalised + self.bias[...]


class SelfAttention(nnx.Module):
    """Attention of each token of a text to tokens of it, by several heads.

    Args:
        width: of a token.
        num_heads: heads of queries.
        rng: draws the initial weights; None leaves them zero, to be loaded.
        num_key_heads: heads of keys and values, each of which serves equally many heads of queries. Default: as many.
        head_width: of a head. Default: the heads divide the width.
        use_bias, output_bias: whether the maps to queries, keys and values, and that of the output, have biases.
        norm_epsilon: where it is given, queries and keys have a root mean square of 1 before a gain, with it added to
            the square.
        scaled: whether products are divided by the root of the width of a head.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        rng: np.random.Generator | None,
        num_key_heads: int | None = None,
        head_width: int | None = None,
        use_bias: bool = True,
        output_bias: bool = True,
        norm_epsilon: float | None = None,
        scaled: bool = True,
    ) -> None:
        """Draw the initial weights."""
        head_width = head_width or width // num_heads
        num_key_heads = num_key_heads or num_heads
        self.query = Dense(width, num_heads * head_width, rng=rng, use_bias=use_bias)
        self.key = Dense(width, num_key_heads * head_width, rng=rng, use_bias=use_bias)
        self.value = Dense(width, num_key_heads * head_width, rng=rng, use_bias=use_bias)
        self.output = Dense(num_heads * head_width, width, rng=rng, use_bias=output_bias)
        if norm_epsilon is not None:
            self.query_norm = nnx.RMSNorm(head_width, epsilon=norm_epsilon, rngs=nnx.Rngs(0))
            self.key_norm = nnx.RMSNorm(head_width, epsilon=norm_epsilon, rngs=nnx.Rngs(0))
        self.normalised = norm_epsilon is not None
        self.head_width = head_width
        self.queries_per_key = num_heads // num_key_heads
        self.divisor = head_width**0.5 if scaled else 1.0

    def __call__(
        self,
        x: Float[Array, "b s d"],
        mask: Bool[Array, "#b #s s"],
        *,
        rotation: Rotation | None = None,
        bias: Float[Array, "h s s"] | None = None,
    ) -> Float[Array, "b s d"]:
        """Attend to the tokens that the mask shows to each, or to all of them.

        Args:
            x: the tokens.
            mask: true where the token of the second axis attends to that of the third.
            rotation: turns queries and keys.
            bias: added to the products of each head.
        """
        dtype = self.query.kernel[...].dtype
        query, key, value = (
            layer(x).reshape(*x.shape[:2], -1, self.head_width) for layer in (self.query, self.key, self.value)
        )
        if self.normalised:
            query, key = self.query_norm(query), self.key_norm(key)
        # Heads before tokens, and weights divided by their sums after the product: on a CPU half as fast otherwise.
        query, key, value = (states.transpose(0, 2, 1, 3) for states in (query, key, value))
        if rotation is not None:
            query, key = rotated(query, rotation), rotated(key, rotation)
        if self.queries_per_key > 1:
            key, value = (jnp.repeat(states, self.queries_per_key, axis=1) for states in (key, value))
        products = einsum("bhqd,bhkd->bhqk", query.astype(dtype), key.astype(dtype)) / self.divisor
        if bias is not None:
            products = products + bias
        # Not minus infinity: the softmax of a text without tokens would be NaN.
        products = jnp.where(mask[:, None], products, jnp.finfo(products.dtype).min)
        weights = jnp.exp(products - jnp.max(products, axis=-1, keepdims=True))
        mixed = einsum("bhqk,bhkd->bhqd", weights.astype(dtype), value.astype(dtype))
        mixed = mixed / jnp.sum(weights, axis=-1, keepdims=True)
        return self.output(mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))


class RelativeBias(nnx.Module):
    """What heads of attention add to the products of two tokens, by the distance between these.

    [T5](https://arxiv.org/abs/1910.10683): a quarter of the buckets is for each of the nearest distances on a side,
    another for ranges that grow geometrically up to `max_distance`.
    """

    def __init__(self, num_buckets: int, num_heads: int, *, max_distance: int) -> None:
        """Make room for the weights."""
        self.table = nnx.Param(initial_weights(None, num_buckets, num_heads))
        self.max_distance = max_distance

    def __call__(self, length: int) -> Float[Array, "h s s"]:
        """The bias of texts of this many tokens."""
        buckets = distance_buckets(np.arange(1 - length, length), len(self.table[...]), self.max_distance)
        positions = jnp.arange(length)
        return self.table[...][buckets].T[:, positions - positions[:, None] + length - 1]


def distance_buckets(distances: Int[np.ndarray, " n"], num_buckets: int, max_distance: int) -> Int[np.ndarray, " n"]:
    """The bucket of each distance of T5's relative positions, rounded as in float32, in which networks were trained."""
    per_side = num_buckets // 2
    exact = per_side // 2
    magnitude = np.abs(distances)
    ratio = np.log(np.maximum(magnitude, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (ratio * np.float32(per_side - exact)).astype(int), per_side - 1)
    return per_side * (distances > 0) + np.where(magnitude < exact, magnitude, far)


def rotation_of(length: int, frequencies: Float[np.ndarray, " pairs"], dtype: np.dtype[Any]) -> Rotation:
    """The rotation of texts of this many tokens.

    Args:
        length: number of tokens.
        frequencies: angle from one position to the next, of each pair of numbers.
        dtype: of the result.
    """
    angles = jnp.arange(length, dtype=dtype)[:, None] * jnp.asarray(frequencies, dtype)
    return jnp.cos(angles), jnp.sin(angles)


def rotated(x: Float[Array, "b h s d"], rotation: Rotation) -> Float[Array, "b h s d"]:
    """Rotary embedding, [RoFormer](https://arxiv.org/abs/2104.09864), of pairs of numbers half the width apart."""
    cosine, sine = rotation
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


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
