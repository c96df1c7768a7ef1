"""BERT and its relatives (RoBERTa, DistilBERT, MiniLM) in Flax NNX, for inference.

They are transformer encoders with layer normalisation after each residual sum and learned positions:
[BERT](https://arxiv.org/abs/1810.04805), [RoBERTa](https://arxiv.org/abs/1907.11692), whose positions start at 2,
[DistilBERT](https://arxiv.org/abs/1910.01108), which has no token types, and
[MiniLM](https://arxiv.org/abs/2002.10957), which is a small BERT.

Weights may be bfloat16, float32 or float64. Matrix products take operands of that type and sum in float32 at least;
residual sums, normalisation and softmax are float32 at least, and so are the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxrel.encoders.texts.layers import Dense, LayerNorm, SelfAttention, initial_weights, sum_type
from jaxrel.encoders.texts.network import TextNetwork
from jaxrel.encoders.texts.pooling import TokenPooling

__all__ = ["MODEL_TYPES", "BertConfig", "BertEncoder", "Family", "Pooling"]

Family = Literal["bert", "roberta", "distilbert"]

Pooling = TokenPooling | Literal["pooler"]
"""Pooling of the hidden states of a text; pooler: the first token's state, through the linear map and tanh of BERT's
pre-training."""

_POOLINGS = (*get_args(TokenPooling), "pooler")


@dataclass(frozen=True)
class BertConfig:
    """The architecture of a network of the BERT family.

    Args:
        family: which names its tensors have, and whether there is a pooler.
        vocabulary_size: number of tokens.
        width: length of the vector of a token.
        num_layers: number of transformer layers.
        num_heads: attention heads of each layer; they divide the width.
        hidden_width: width of the feed-forward network inside a layer.
        num_positions: rows of the table of positions.
        num_token_types: rows of the table of token types; 0 for none. Tokens of the second text of a pair are of type
            1, all others of type 0.
        first_position: the row of the first token's position.
        epsilon: added to the variance in layer normalisation.

    Raises:
        ValueError: a number is not positive or not an integer, or the heads do not divide the width.
    """

    family: Family
    vocabulary_size: int
    width: int
    num_layers: int
    num_heads: int
    hidden_width: int
    num_positions: int
    num_token_types: int
    first_position: int = 0
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        """Raise for an invalid architecture."""
        for field in fields(self):
            value = getattr(self, field.name)
            smallest = 0 if field.name in ("num_token_types", "first_position") else 1
            if field.type == "int" and (type(value) is not int or value < smallest):
                raise ValueError(f"{field.name} is {value!r}: pass an integer of at least {smallest}")
        if not (isinstance(self.epsilon, int | float) and self.epsilon > 0):
            raise ValueError(f"epsilon is {self.epsilon!r}: pass a positive number")
        if self.width % self.num_heads:
            raise ValueError(f"width is {self.width} and num_heads {self.num_heads}: the heads must divide the width")
        if self.max_length < 1:
            raise ValueError(f"positions from {self.first_position} on leave none of {self.num_positions} for tokens")

    @property
    def max_length(self) -> int:
        """Tokens of the longest text the network takes."""
        return self.num_positions - self.first_position

    @property
    def num_weights(self) -> int:
        """Numbers in the largest of its tensors, which any checkpoint of it has."""
        embeddings = (self.vocabulary_size + self.num_positions + self.num_token_types) * self.width
        return embeddings + self.num_layers * (4 * self.width**2 + 2 * self.width * self.hidden_width)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> BertConfig:
        """The architecture that a Hugging Face config.json describes.

        Args:
            config: its content; `model_type` is bert, roberta, xlm-roberta or distilbert.

        Raises:
            ValueError: the model is of another type, lacks a size, or is a variant that this network is not.
        """
        model_type = config.get("model_type")
        family = MODEL_TYPES.get(str(model_type))
        if family is None:
            raise ValueError(f"model_type is {model_type!r}: only {', '.join(MODEL_TYPES)} are read")
        keys = _DISTILBERT_KEYS if family == "distilbert" else _BERT_KEYS
        if missing := [key for key in keys.values() if key not in config]:
            raise ValueError(f"the configuration of a {model_type} lacks {', '.join(missing)}")
        activation = config.get("activation" if family == "distilbert" else "hidden_act", "gelu")
        variant = {
            "activation": (activation, "gelu"),
            "position_embedding_type": (config.get("position_embedding_type", "absolute"), "absolute"),
            "is_decoder": (config.get("is_decoder", False), False),
        }
        for name, (value, supported) in variant.items():
            if value != supported:
                raise ValueError(f"{name} is {value!r}: only networks with {supported!r} are read")
        sizes = {name: config[key] for name, key in keys.items()}
        if family == "distilbert":
            return cls(family, **sizes, num_token_types=0)
        # RoBERTa counts positions from the one after that of padding.
        first_position = config.get("pad_token_id", 1) + 1 if family == "roberta" else 0
        epsilon = config.get("layer_norm_eps", 1e-12)
        return cls(family, **sizes, first_position=first_position, epsilon=epsilon)


MODEL_TYPES: Mapping[str, Family] = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "distilbert": "distilbert",
}
_BERT_KEYS = {
    "vocabulary_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_width": "intermediate_size",
    "num_positions": "max_position_embeddings",
    "num_token_types": "type_vocab_size",
}
_DISTILBERT_KEYS = {
    "vocabulary_size": "vocab_size",
    "width": "dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "hidden_width": "hidden_dim",
    "num_positions": "max_position_embeddings",
}


class TransformerLayer(nnx.Module):
    """Attention and a feed-forward network, each added to its input and then normalised."""

    def __init__(self, config: BertConfig, *, rng: np.random.Generator | None) -> None:
        """Draw the initial weights."""
        self.attention = SelfAttention(config.width, config.num_heads, rng=rng)
        self.attention_norm = LayerNorm(config.width, epsilon=config.epsilon)
        self.expand = Dense(config.width, config.hidden_width, rng=rng)
        self.contract = Dense(config.hidden_width, config.width, rng=rng)
        self.output_norm = LayerNorm(config.width, epsilon=config.epsilon)

    def __call__(self, x: Float[Array, "b s d"], mask: Bool[Array, "b s"]) -> Float[Array, "b s d"]:
        """Apply the layer."""
        x = self.attention_norm(x + self.attention(x, mask[:, None]))
        return self.output_norm(x + self.contract(jax.nn.gelu(self.expand(x), approximate=False)))


class BertEncoder(TextNetwork):
    """A network of the BERT family with pooled features.

    Args:
        config: the architecture.
        rng: draws the initial weights; None leaves them zero, to be loaded.
        pooling: how the hidden states of a text become its features.
        layer: take the hidden states after this many layers, 0 for the embeddings. Default: after the last.
        normalise: whether features are scaled to unit length.

    Raises:
        ValueError: unknown pooling, a pooler where the family has none or not after the last layer, or no such layer.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        rng: np.random.Generator | None = None,
        pooling: Pooling = "mean",
        layer: int | None = None,
        normalise: bool = False,
    ) -> None:
        """Draw the initial weights."""
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling is {pooling!r}: choose from {', '.join(_POOLINGS)}")
        if pooling == "pooler" and config.family == "distilbert":
            raise ValueError("a distilbert has no pooler: choose pooling='mean' or 'cls'")
        super().__init__(config, pooling=pooling, layer=layer, normalise=normalise)
        self.words = nnx.Param(initial_weights(rng, config.vocabulary_size, config.width))
        self.positions = nnx.Param(initial_weights(rng, config.num_positions, config.width))
        types = config.num_token_types
        self.token_types = nnx.Param(initial_weights(rng, types, config.width)) if types else None
        self.norm = LayerNorm(config.width, epsilon=config.epsilon)
        self.layers = nnx.List(TransformerLayer(config, rng=rng) for _ in range(config.num_layers))
        self.pooler = Dense(config.width, config.width, rng=rng) if pooling == "pooler" else None

    @property
    def description(self) -> str:
        """Everything besides its variables that determines the features."""
        return f"{self.config} pooling={self.pooling} layer={self.layer} normalise={self.normalise}"

    def _checked(self, layer: int) -> int:
        if self.pooling == "pooler" and layer != self.config.num_layers:
            raise ValueError(f"the pooler is for the last layer, got layer={layer}: choose pooling='mean' or 'cls'")
        return super()._checked(layer)

    def _states(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"], types: Int[Array, "b s"] | None, last: int
    ) -> list[Float[Array, "b s d"]]:
        states = [self._embed(ids, types)]
        for layer in self.layers[:last]:
            states.append(layer(states[-1], mask))
        return states

    def _embed(self, ids: Int[Array, "b s"], types: Int[Array, "b s"] | None) -> Float[Array, "b s d"]:
        dtype = sum_type(self.words[...].dtype)
        first = self.config.first_position
        # Ids outside the table give NaN rather than another token.
        x = jnp.take(self.words[...], ids, axis=0, mode="fill").astype(dtype)
        x = x + self.positions[first : first + ids.shape[1]]
        if self.token_types is None:
            return self.norm(x)
        # A network with one type, such as RoBERTa, was trained without others.
        if types is None or self.config.num_token_types == 1:
            return self.norm(x + self.token_types[0])
        return self.norm(x + jnp.take(self.token_types[...], types, axis=0, mode="fill"))

    def _pool(self, x: Float[Array, "b s d"], mask: Bool[Array, "b s"]) -> Float[Array, "b d"]:
        return super()._pool(x, mask) if self.pooler is None else jnp.tanh(self.pooler(x[:, 0]))
