"""A transformer of texts with the options by which its families differ, in Flax NNX, for inference.

`jaxrel.encoders.texts.families` says which options and names of tensors each family has. Weights may be bfloat16,
float32 or float64; matrix products take operands of that type and sum in float32 at least, everything else is float32
at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import get_args

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxrel.encoders.activations import ACTIVATIONS
from jaxrel.encoders.texts.layers import (
    Dense,
    LayerNorm,
    RelativeBias,
    Rotation,
    SelfAttention,
    initial_weights,
    rotation_of,
    sum_type,
)
from jaxrel.encoders.texts.network import TextNetwork
from jaxrel.encoders.texts.pooling import TokenPooling

__all__ = ["Rotary", "Transformer", "TransformerConfig"]


Norm = Callable[[Float[Array, "b s d"]], Float[Array, "b s d"]]


@dataclass(frozen=True)
class Rotary:
    """Rotary positions, whose angles fall geometrically from one pair of numbers of a head to the next.

    Args:
        theta: the ratio of the first angle to that after the last.
        factor: what low frequencies are divided by, as Llama 3 does it; 1 for none.
        low, high: frequencies that make fewer than `low` turns in `context` tokens are divided, those of more than
            `high` are not, and between these it is interpolated.
        context: tokens of the texts before the context was lengthened.
    """

    theta: float
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    context: int = 8192

    def frequencies(self, head_width: int) -> Float[np.ndarray, " pairs"]:
        """The angle from one position to the next of each pair of numbers."""
        frequencies = self.theta ** -(np.arange(0, head_width, 2) / head_width)
        turns = self.context * frequencies / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True)
class TransformerConfig:
    """The architecture of a transformer of texts.

    Args:
        vocabulary_size: number of tokens.
        width: length of the vector of a token.
        num_layers: number of layers.
        num_heads, num_key_heads: heads of queries, and of keys and values.
        head_width: width of a head.
        hidden_width: width of the feed-forward networks.
        max_length: tokens of the longest text that it was made for; without learned positions it takes longer ones.
        activation: of the feed-forward networks.
        epsilon: added to what normalisation takes the root of.
        causal: whether tokens attend only to earlier tokens and themselves.
        norm_first: whether what attention and feed-forward networks take is normalised, and the states after the last
            layer; otherwise what the layers have become of it is.
        root_mean_square: whether normalisation is by the root mean square, without a bias; otherwise by mean and
            variance.
        norm_bias: whether normalisation by mean and variance has a bias.
        gated: whether feed-forward networks have a gate.
        query_bias, output_bias, hidden_bias: which maps have biases: to queries, keys and values; from them; those of
            feed-forward networks.
        query_norm: whether queries and keys are normalised.
        scaled_products: whether products of queries and keys are divided by the root of the width of a head.
        num_positions: rows of the table of learned positions; 0 for none.
        first_position: the row of the first token's position.
        relative_buckets: rows of the table of relative positions; 0 for none.
        relative_distance: from which distance on they are all one.
        rotary: of each layer, or none.
        windows: how far apart tokens that attend to one another are at most, of each layer; None for any distance.
        embedding_norm: whether embeddings are normalised; the first layer's attention then takes them as they are where
            `norm_first`.
        embedding_scale: what embeddings of tokens are multiplied by.

    Raises:
        ValueError: a number is not positive or not an integer, the activation is unknown, or heads do not fit.
    """

    vocabulary_size: int
    width: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    head_width: int
    hidden_width: int
    max_length: int
    activation: str
    epsilon: float
    causal: bool = False
    norm_first: bool = False
    root_mean_square: bool = False
    norm_bias: bool = True
    gated: bool = False
    query_bias: bool = True
    output_bias: bool = True
    hidden_bias: bool = True
    query_norm: bool = False
    scaled_products: bool = True
    num_positions: int = 0
    first_position: int = 0
    relative_buckets: int = 0
    relative_distance: int = 128
    rotary: tuple[Rotary, ...] = ()
    windows: tuple[int | None, ...] = ()
    embedding_norm: bool = False
    embedding_scale: float = 1.0

    def __post_init__(self) -> None:
        """Raise for an invalid architecture."""
        for field in fields(self):
            value = getattr(self, field.name)
            smallest = 0 if field.name in ("num_positions", "first_position", "relative_buckets") else 1
            if field.type == "int" and (type(value) is not int or value < smallest):
                raise ValueError(f"{field.name} is {value!r}: pass an integer of at least {smallest}")
            if field.type == "bool" and type(value) is not bool:
                raise ValueError(f"{field.name} is {value!r}: pass True or False")
        for name in ("epsilon", "embedding_scale"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{name} is {value!r}: pass a positive number")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}: choose from {', '.join(ACTIVATIONS)}")
        if self.num_heads % self.num_key_heads:
            raise ValueError(f"num_heads is {self.num_heads}: pass a multiple of num_key_heads, {self.num_key_heads}")
        if self.rotary and self.head_width % 2:
            raise ValueError(f"head_width is {self.head_width}: rotary positions turn pairs, pass an even number")
        if self.relative_buckets and (self.relative_buckets < 4 or self.relative_distance <= self.relative_buckets / 4):
            raise ValueError(
                f"relative_buckets is {self.relative_buckets}, relative_distance {self.relative_distance}: pass at "
                "least 4 buckets, and a distance of more than a quarter of them"
            )

    @property
    def num_weights(self) -> int:
        """Numbers in the largest of its tensors, which any checkpoint of it has."""
        heads = 2 * (self.num_heads + self.num_key_heads) * self.head_width
        layer = self.width * (heads + (2 + self.gated) * self.hidden_width)
        return (self.vocabulary_size + self.num_positions) * self.width + self.num_layers * layer

    def norm(self) -> Norm:
        """A layer that normalises tokens."""
        if self.root_mean_square:
            return nnx.RMSNorm(self.width, epsilon=self.epsilon, rngs=nnx.Rngs(0))
        return LayerNorm(self.width, epsilon=self.epsilon, use_bias=self.norm_bias)


def _unchanged(x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    return x


class TransformerLayer(nnx.Module):
    """Attention and a feed-forward network, each added to what it takes; weights are 0, to be loaded."""

    def __init__(self, config: TransformerConfig, *, attention_norm: bool) -> None:
        """Make room for the weights."""
        self.attention_norm = config.norm() if attention_norm else _unchanged
        self.attention = SelfAttention(
            config.width,
            config.num_heads,
            rng=None,
            num_key_heads=config.num_key_heads,
            head_width=config.head_width,
            use_bias=config.query_bias,
            output_bias=config.output_bias,
            norm_epsilon=config.epsilon if config.query_norm else None,
            scaled=config.scaled_products,
        )
        self.hidden_norm = config.norm()
        self.expand = Dense(config.width, config.hidden_width, rng=None, use_bias=config.hidden_bias)
        gated, bias = config.gated, config.hidden_bias
        self.gate = Dense(config.width, config.hidden_width, rng=None, use_bias=bias) if gated else None
        self.contract = Dense(config.hidden_width, config.width, rng=None, use_bias=config.hidden_bias)
        self.activation = config.activation
        self.norm_first = config.norm_first

    def __call__(
        self,
        x: Float[Array, "b s d"],
        mask: Bool[Array, "#b #s s"],
        *,
        rotation: Rotation | None,
        bias: Float[Array, "h s s"] | None,
    ) -> Float[Array, "b s d"]:
        """Apply the layer; mask, rotation and bias are those of the attention."""
        if not self.norm_first:
            x = self.attention_norm(x + self.attention(x, mask, rotation=rotation, bias=bias))
            return self.hidden_norm(x + self._feed_forward(x))
        x = x + self.attention(self.attention_norm(x), mask, rotation=rotation, bias=bias)
        return x + self._feed_forward(self.hidden_norm(x))

    def _feed_forward(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        activation = ACTIVATIONS[self.activation]
        hidden = activation(self.expand(x)) if self.gate is None else activation(self.gate(x)) * self.expand(x)
        return self.contract(hidden)


class Transformer(TextNetwork):
    """A transformer of texts with pooled features; its weights are 0, to be loaded.

    Args:
        config: the architecture.
        pooling: how the states of the tokens of a text become its features.
        layer: take the states after this many layers, 0 for the embeddings; those after the last are normalised where
            the network does so. Default: after the last.
        normalise: whether features are scaled to unit length.

    Raises:
        ValueError: unknown pooling, or no such layer.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        pooling: TokenPooling = "mean",
        layer: int | None = None,
        normalise: bool = False,
    ) -> None:
        """Make room for the weights."""
        if pooling not in get_args(TokenPooling):
            raise ValueError(f"pooling is {pooling!r}: choose from {', '.join(get_args(TokenPooling))}")
        super().__init__(config, pooling=pooling, layer=layer, normalise=normalise)
        self.words = nnx.Param(initial_weights(None, config.vocabulary_size, config.width))
        positions, buckets = config.num_positions, config.relative_buckets
        self.positions = nnx.Param(initial_weights(None, positions, config.width)) if positions else None
        self.embedding_norm = config.norm() if config.embedding_norm else None
        self.relative_bias = (
            RelativeBias(buckets, config.num_heads, max_distance=config.relative_distance) if buckets else None
        )
        bare_first = config.norm_first and config.embedding_norm
        self.layers = nnx.List(
            TransformerLayer(config, attention_norm=number > 0 or not bare_first) for number in range(config.num_layers)
        )
        self.norm = config.norm() if config.norm_first else None

    @property
    def description(self) -> str:
        """Everything besides its variables that determines the features."""
        return f"{self.config} pooling={self.pooling} layer={self.layer} normalise={self.normalise}"

    def _states(
        self,
        ids: Int[Array, "b s"],
        mask: Bool[Array, "b s"],
        types: Int[Array, "b s"] | None,  # noqa: ARG002  no family here has types of tokens
        last: int,
    ) -> list[Float[Array, "b s d"]]:
        config, length = self.config, ids.shape[1]
        states = [self._embed(ids)]
        bias = None if self.relative_bias is None else self.relative_bias(length)
        rotations = {
            rotary: rotation_of(length, rotary.frequencies(config.head_width), states[0].dtype)
            for rotary in config.rotary
        }
        masks = {window: self._mask(mask, window) for window in config.windows or (None,)}
        for number, layer in enumerate(self.layers[:last]):
            rotation = rotations[config.rotary[number]] if config.rotary else None
            shown = masks[config.windows[number] if config.windows else None]
            states.append(layer(states[-1], shown, rotation=rotation, bias=bias))
        if self.norm is not None and last == config.num_layers:
            states[-1] = self.norm(states[-1])
        return states

    def _embed(self, ids: Int[Array, "b s"]) -> Float[Array, "b s d"]:
        dtype, first = sum_type(self.words[...].dtype), self.config.first_position
        # Ids outside the table give NaN rather than another token.
        x = jnp.take(self.words[...], ids, axis=0, mode="fill").astype(dtype) * self.config.embedding_scale
        if self.positions is not None:
            x = x + self.positions[first : first + ids.shape[1]]
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def _mask(self, mask: Bool[Array, "b s"], window: int | None) -> Bool[Array, "b q s"]:
        """Which tokens each attends to."""
        positions = jnp.arange(mask.shape[1])
        distance = positions[:, None] - positions
        shown = mask[:, None]
        if self.config.causal:
            shown = shown & (distance >= 0)
        return shown if window is None else shown & (jnp.abs(distance) <= window)
