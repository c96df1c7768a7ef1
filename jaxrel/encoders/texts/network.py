"""What transformers of texts have in common: pooled features after any layer, of one pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.texts.pooling import pool, unit_length

__all__ = ["TextNetwork"]


class TextNetwork(nnx.Module):
    """A network of tokens with pooled features.

    Args:
        config: the architecture; it has `num_layers` and `max_length`.
        pooling: how the states of the tokens of a text become its features.
        layer: the layer after which states are taken, 0 for the embeddings. Default: the last.
        normalise: whether features are scaled to unit length.

    Raises:
        ValueError: there is no such layer.
    """

    positions: Any

    def __init__(self, config: Any, *, pooling: Any, layer: int | None, normalise: bool) -> None:
        """Keep the settings."""
        self.config = config
        self.pooling = pooling
        self.layer = self._checked(config.num_layers if layer is None else layer)
        self.normalise = normalise

    def __call__(
        self,
        ids: Int[ArrayLike, "b s"],
        mask: Bool[ArrayLike, "b s"],
        types: Int[ArrayLike, "b s"] | None = None,
        pooled: Bool[ArrayLike, "b s"] | None = None,
    ) -> EncoderOutput:
        """Features of a batch of texts.

        Args:
            ids: `(b, s)` tokens of each text, then anything below the vocabulary size as padding.
            mask: `(b, s)`, true for the tokens of a text, false for its padding.
            types: `(b, s)`, 0 for the tokens of the first text of a pair and 1 for those of the second. Networks that
                were trained without types ignore them. Default: 0 for all.
            pooled: `(b, s)`, true for the tokens whose states are pooled. Default: all of them.

        Returns:
            Features `(b, width)`, in float32 (float64 for float64 variables); no logits.

        Raises:
            ValueError: the texts are longer than the table of positions, the shapes differ, or the pooling is of the
                first token alone and `pooled` is passed.
        """
        return EncoderOutput(self.features_of_layers(ids, mask, types, pooled, layers=(self.layer,))[0], None)

    def features_of_layers(
        self,
        ids: Int[ArrayLike, "b s"],
        mask: Bool[ArrayLike, "b s"],
        types: Int[ArrayLike, "b s"] | None = None,
        pooled: Bool[ArrayLike, "b s"] | None = None,
        *,
        layers: Sequence[int],
    ) -> tuple[Float[Array, "b d"], ...]:
        """Features of a batch of texts after each of the layers, in one pass; see :meth:`__call__`."""
        ids, mask = jnp.asarray(ids), jnp.asarray(mask, bool)
        shapes = {np.shape(each) for each in (ids, mask, types, pooled) if each is not None}
        if len(shapes) > 1 or ids.ndim != 2:
            listed = " and ".join(map(str, sorted(shapes)))
            raise ValueError(f"ids, mask, types and pooled must all have shape (batch, tokens), got {listed}")
        if self.positions is not None and ids.shape[1] > self.config.max_length:
            raise ValueError(f"{ids.shape[1]} tokens are too many: this network takes {self.config.max_length}")
        if pooled is not None and self.pooling == "pooler":
            raise ValueError("the pooler is of the first token alone: choose pooling='mean' or 'cls' for words")
        states = self._states(ids, mask, None if types is None else jnp.asarray(types), max(layers))
        counted = mask if pooled is None else mask & jnp.asarray(pooled, bool)
        found = [self._pool(states[layer], counted) for layer in layers]
        return tuple(unit_length(features) if self.normalise else features for features in found)

    def stopped_after(self, layer: int) -> Self:
        """The network of the same variables that stops after a layer; ValueError if there is no such layer."""
        network: Self = nnx.merge(*nnx.split(self))
        network.layer = self._checked(layer)
        return network

    @abstractmethod
    def _states(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"], types: Int[Array, "b s"] | None, last: int
    ) -> list[Float[Array, "b s d"]]:
        """The states of all tokens before the first layer and after each one up to `last`."""

    def _pool(self, x: Float[Array, "b s d"], mask: Bool[Array, "b s"]) -> Float[Array, "b d"]:
        return pool(x, mask, self.pooling)

    def _checked(self, layer: int) -> int:
        last = self.config.num_layers
        if not 0 <= layer <= last:
            raise ValueError(f"layer is {layer}: this network has layers 1 to {last}, and 0 for its embeddings")
        return layer
