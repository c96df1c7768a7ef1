"""CLIP's text tower, into the joint space of texts and images.

[CLIP](https://arxiv.org/abs/2103.00020): a transformer with layer normalisation before each residual branch, in which a
token attends to those before it; the state of the end-of-text token, normalised and mapped by a matrix, is the feature.
It is tested against `get_text_features` of `transformers`. The image tower with its matrix is the family "clip-image"
of
`jaxrel.encoders.images.vision_transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.encoders.activations import ACTIVATIONS
from jaxrel.encoders.checkpoints.files import CheckpointError, locate_checkpoint, read_checkpoint, read_json
from jaxrel.encoders.checkpoints.tensors import check_size, find_prefix, refuse_surplus, take
from jaxrel.encoders.encoder import Encoder, EncoderOutput
from jaxrel.encoders.texts.encoder import text_encoder
from jaxrel.encoders.texts.layers import Dense, LayerNorm, SelfAttention, initial_weights, sum_type
from jaxrel.encoders.texts.tokens import read_tokenizer

__all__ = ["ClipTextConfig", "ClipTextEncoder", "load_clip_text_encoder"]


@dataclass(frozen=True)
class ClipTextConfig:
    """The architecture of a text tower.

    Args:
        vocabulary_size, width, num_layers, num_heads, hidden_width, num_positions: as in `BertConfig`.
        projection_width: width of the joint space.
        epsilon: added to the variance in layer normalisation.
        activation: of the feed-forward networks.
        end_token: number of the end-of-text token, of which the first counts. None: the largest number in a text, as in
            configurations whose `eos_token_id` is 2, which never was that of CLIP.

    Raises:
        ValueError: a number is not positive or not an integer, the activation is unknown, or the heads do not divide
            the width.
    """

    vocabulary_size: int
    width: int
    num_layers: int
    num_heads: int
    hidden_width: int
    num_positions: int
    projection_width: int
    epsilon: float
    activation: str
    end_token: int | None

    def __post_init__(self) -> None:
        """Raise for an invalid architecture."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} is {value!r}: pass an integer of at least 1")
        if not (isinstance(self.epsilon, int | float) and self.epsilon > 0):
            raise ValueError(f"epsilon is {self.epsilon!r}: pass a positive number")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}: choose from {', '.join(ACTIVATIONS)}")
        if self.width % self.num_heads:
            raise ValueError(f"width is {self.width} and num_heads {self.num_heads}: the heads must divide the width")

    @property
    def num_weights(self) -> int:
        """Numbers in the largest of its tensors, which any checkpoint of it has."""
        embeddings = (self.vocabulary_size + self.num_positions) * self.width
        return embeddings + self.num_layers * (4 * self.width**2 + 2 * self.width * self.hidden_width)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> ClipTextConfig:
        """The architecture that a config.json describes, of both towers or of this one; what it leaves out is CLIP's.

        Raises:
            ValueError: the model is of another type, or a number makes no network.
        """
        if (model_type := config.get("model_type")) not in ("clip", "clip_text_model"):
            raise ValueError(f"model_type is {model_type!r}: clip-text is clip or clip_text_model")
        settings = {**_DEFAULTS, **config.get("text_config", config)}
        end_token = settings["eos_token_id"]
        return cls(
            **{name: settings[key] for name, key in _KEYS.items()},
            projection_width=config.get("projection_dim", 512),
            end_token=None if end_token == 2 else end_token,
        )


_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 77,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
    "eos_token_id": 49407,
}
_KEYS = {
    "vocabulary_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_width": "intermediate_size",
    "num_positions": "max_position_embeddings",
    "epsilon": "layer_norm_eps",
    "activation": "hidden_act",
}


class ClipTextLayer(nnx.Module):
    """Attention and a feed-forward network, each of its normalised input, to which it is added."""

    def __init__(self, config: ClipTextConfig) -> None:
        """Make room for the weights."""
        self.attention_norm = LayerNorm(config.width, epsilon=config.epsilon)
        self.attention = SelfAttention(config.width, config.num_heads, rng=None)
        self.expand_norm = LayerNorm(config.width, epsilon=config.epsilon)
        self.expand = Dense(config.width, config.hidden_width, rng=None)
        self.contract = Dense(config.hidden_width, config.width, rng=None)
        self.activation = config.activation

    def __call__(self, x: Float[Array, "b s d"], mask: Bool[Array, "#b #s s"]) -> Float[Array, "b s d"]:
        """Apply the layer."""
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.contract(ACTIVATIONS[self.activation](self.expand(self.expand_norm(x))))


class ClipTextEncoder(nnx.Module):
    """The text tower with the matrix to the joint space; its weights are 0, to be loaded."""

    def __init__(self, config: ClipTextConfig) -> None:
        """Make room for the weights."""
        self.config = config
        self.words = nnx.Param(initial_weights(None, config.vocabulary_size, config.width))
        self.positions = nnx.Param(initial_weights(None, config.num_positions, config.width))
        self.layers = nnx.List(ClipTextLayer(config) for _ in range(config.num_layers))
        self.norm = LayerNorm(config.width, epsilon=config.epsilon)
        self.projection = Dense(config.width, config.projection_width, rng=None, use_bias=False)

    def __call__(self, ids: Int[ArrayLike, "b s"], mask: Bool[ArrayLike, "b s"]) -> EncoderOutput:
        """Features `(b, projection_width)` of texts; the mask is true for their tokens, false for padding after them.

        Raises:
            ValueError: the texts are longer than the network allows.
        """
        ids, mask = jnp.asarray(ids), jnp.asarray(mask, bool)
        length = ids.shape[1]
        if length > self.config.num_positions:
            raise ValueError(f"{length} tokens are too many: this network takes {self.config.num_positions}")
        # Ids outside the table give NaN rather than another token.
        x = jnp.take(self.words[...], ids, axis=0, mode="fill").astype(sum_type(self.words[...].dtype))
        x = x + self.positions[:length]
        before = jnp.tril(jnp.ones((1, length, length), bool))  # which leaves no padding for the token of the end
        for layer in self.layers:
            x = layer(x, before)
        end = self.config.end_token
        ends = jnp.argmax(jnp.where(mask, ids if end is None else ids == end, -1), axis=1)
        return EncoderOutput(self.projection(self.norm(x[jnp.arange(len(x)), ends])), None)


_LAYER = {
    "attention_norm": "layer_norm1",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.out_proj",
    "expand_norm": "layer_norm2",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
}
_TENSORS = {
    "words": "text_model.embeddings.token_embedding",
    "positions": "text_model.embeddings.position_embedding",
    "norm": "text_model.final_layer_norm",
    "projection": "text_projection",
}
_UNUSED = ("vision_model.", "visual_projection.", "logit_scale", "text_model.embeddings.position_ids")


def load_clip_text_encoder(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    dtype: np.dtype[Any] | type = np.float32,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make a text encoder from a CLIP checkpoint: features in the joint space, as returned by `get_text_features`.

    Args:
        checkpoint: a local folder with config.json, tokenizer.json and weights, a file of weights beside the other
            two, or the name of a repository of the Hugging Face Hub.
        name: the encoder's name, part of its fingerprint. Default: `checkpoint`.
        revision: branch, tag or commit of the repository.
        dtype: type of the weights; features are always float32.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: the checkpoint cannot be obtained or read, or is of another architecture (`CheckpointError`); its
            tokenizer does not end texts by the token that the network looks for.
        ImportError: the extra "text" is not installed.
    """
    path = locate_checkpoint(checkpoint, revision=revision)
    folder = path if path.is_dir() else path.parent
    try:
        config = ClipTextConfig.from_hugging_face(read_json(folder / "config.json"))
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    tensors = read_checkpoint(path)
    check_size(config.num_weights, tensors, folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json", vocabulary_size=config.vocabulary_size)
    of_no_text = tokenizer.encode("").ids
    end = max(of_no_text, default=None) if config.end_token is None else config.end_token
    if of_no_text[-1:] != [end]:
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} ends texts by {of_no_text[-1:] or 'no token'}, where the network looks for "
            f"{'the largest' if config.end_token is None else end}: they do not belong together"
        )
    network = ClipTextEncoder(config)
    _load_tensors(network, tensors, dtype)
    return text_encoder(
        network,
        tokenizer,
        name=str(checkpoint) if name is None else name,
        max_length=config.num_positions,
        description=repr(config),
        pretraining=pretraining,
        licence=licence,
    )


def _load_tensors(network: ClipTextEncoder, tensors: Mapping[str, np.ndarray], dtype: np.dtype[Any] | type) -> None:
    prefix = find_prefix(tensors, f"{_TENSORS['words']}.weight")
    remaining = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    for path, variable in nnx.iter_graph(network):
        if isinstance(variable, nnx.Variable):
            if path[0] == "layers":
                name = f"text_model.encoder.layers.{path[1]}.{_LAYER['.'.join(map(str, path[2:-1]))]}"
            else:
                name = _TENSORS[str(path[0])]
            end = "bias" if path[-1] == "bias" else "weight"
            layout = np.transpose if path[-1] == "kernel" else np.asarray
            variable.set_value(jnp.asarray(take(remaining, f"{name}.{end}", variable.shape, dtype, layout=layout)))
    refuse_surplus(name for name in remaining if not name.startswith(_UNUSED))
