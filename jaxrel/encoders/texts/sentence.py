"""The modules of sentence-transformers after pooling, in Flax NNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.encoders.activations import ACTIVATIONS
from jaxrel.encoders.checkpoints.tensors import refuse_surplus, take
from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.texts.bert import BertEncoder
from jaxrel.encoders.texts.layers import Dense
from jaxrel.encoders.texts.pooling import unit_length
from jaxrel.encoders.texts.sentence_transformers import DenseModule
from jaxrel.encoders.texts.transformer import Transformer

__all__ = ["SentenceEncoder", "sentence_encoder"]


class SentenceEncoder(nnx.Module):
    """A network of texts, then dense layers; of the features the first `width`, perhaps of unit length.

    Args:
        network: gives the pooled features.
        layers: a linear map and the name of the activation after it, of each dense layer.
        width: how many features are kept.
        normalise: whether these are scaled to unit length.
    """

    def __init__(
        self,
        network: BertEncoder | Transformer,
        layers: Sequence[tuple[Dense, str]],
        *,
        width: int | None,
        normalise: bool,
    ) -> None:
        """Take the parts as they are."""
        self.network = network
        self.layers = nnx.List(layer for layer, _ in layers)
        self.activations = tuple(activation for _, activation in layers)
        self.width = width
        self.normalise = normalise

    def __call__(
        self,
        ids: Int[ArrayLike, "b s"],
        mask: Bool[ArrayLike, "b s"],
        types: Int[ArrayLike, "b s"] | None = None,
        pooled: Bool[ArrayLike, "b s"] | None = None,
    ) -> EncoderOutput:
        """Features of a batch of texts, as those of the network."""
        return EncoderOutput(self._after(self.network(ids, mask, types, pooled).features), None)

    def features_of_layers(
        self,
        ids: Int[ArrayLike, "b s"],
        mask: Bool[ArrayLike, "b s"],
        types: Int[ArrayLike, "b s"] | None = None,
        pooled: Bool[ArrayLike, "b s"] | None = None,
        *,
        layers: Sequence[int],
    ) -> tuple[Float[Array, "b d"], ...]:
        """Features after each of the network's layers, in one pass."""
        return tuple(map(self._after, self.network.features_of_layers(ids, mask, types, pooled, layers=layers)))

    def stopped_after(self, layer: int) -> SentenceEncoder:
        """The same with a network that stops after a layer; ValueError where there is no such layer."""
        encoder: SentenceEncoder = nnx.merge(*nnx.split(self))
        encoder.network = encoder.network.stopped_after(layer)
        return encoder

    def _after(self, features: Float[Array, "b d"]) -> Float[Array, "b e"]:
        for layer, activation in zip(self.layers, self.activations, strict=True):
            features = ACTIVATIONS[activation](layer(features))
        features = features[:, : self.width]
        return unit_length(features) if self.normalise else features

    @property
    def description(self) -> str:
        """Everything besides its variables that determines the features."""
        return f"{self.network.description} {self.activations} width={self.width} normalise={self.normalise}"


def sentence_encoder(
    network: BertEncoder | Transformer,
    modules: Sequence[DenseModule],
    *,
    width: int | None,
    normalise: bool,
    dtype: np.dtype[Any] | type,
) -> SentenceEncoder:
    """The network with dense layers of a checkpoint after it.

    Raises:
        ValueError: tensors are not those of such layers, one does not take what comes before it, or there are fewer
            features than `width`.
    """
    layers, features = list[tuple[Dense, str]](), network.config.width
    for module in modules:
        if module.in_width != features:
            raise ValueError(f"{module.folder} takes {module.in_width} features, but before it there are {features}")
        layer = Dense(features, module.out_width, rng=None, use_bias=module.use_bias)
        remaining = dict(module.tensors)
        kernel = take(remaining, "linear.weight", layer.kernel.shape, dtype, layout=np.transpose)
        layer.kernel.set_value(jnp.asarray(kernel))
        if layer.bias is not None:
            layer.bias.set_value(jnp.asarray(take(remaining, "linear.bias", layer.bias.shape, dtype)))
        refuse_surplus(remaining)
        layers.append((layer, module.activation))
        features = module.out_width
    if width is not None and not 1 <= width <= features:
        raise ValueError(f"width is {width}, but there are {features} features: pass a number from 1 to {features}")
    return SentenceEncoder(network, layers, width=width, normalise=normalise)
