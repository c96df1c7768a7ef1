"""The network, built from layers of `jax-image-models`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrel.encoders.activations import ACTIVATIONS
from jaxrel.encoders.checkpoints.files import import_extra
from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.vision_transformers.config import VisionTransformerConfig
from jaxrel.encoders.images.vision_transformers.families import FAMILIES

__all__ = ["VisionTransformer"]


class VisionTransformer(nnx.Module):
    """A vision transformer that maps preprocessed images to an :class:`EncoderOutput`.

    Args:
        config: its architecture.
        dtype: type of its variables and of products; features and logits are float32 at least.

    Raises:
        ImportError: the extra "vit" is not installed.
    """

    def __init__(self, config: VisionTransformerConfig, *, dtype: DTypeLike = np.float32) -> None:
        """Make the network with the initial weights of Flax; :func:`load_vision_transformer_network` sets them."""
        parts, width = FAMILIES[config.family].tensors, config.width
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
        norm = functools.partial(nnx.LayerNorm, width, epsilon=config.epsilon, **options)
        activation = ACTIVATIONS[config.activation]
        self.config = config
        self.patches = nnx.Conv(
            3,
            width,
            (config.patch_size,) * 2,
            strides=config.patch_size,
            padding="VALID",
            use_bias=FAMILIES[config.family].patch_bias,
            **options,
        )
        if "class_token" in parts:
            self.class_token = nnx.Param(jnp.zeros((1, 1, width), dtype))
        if config.num_registers:
            self.registers = nnx.Param(jnp.zeros((1, config.num_registers, width), dtype))
        if "positions" in parts:
            self.positions = nnx.Param(jnp.zeros((1, config.grid**2 + ("class_token" in parts), width), dtype))
        if "norm_before" in parts:
            self.norm_before = norm()
        # The blocks name axes of a mesh, which there need not be.
        with nnx.use_eager_sharding(False):  # type: ignore[no-untyped-call]
            transformer = import_extra("jimm.common.transformer", extra="vit").Transformer(
                width,
                config.hidden_width,
                config.num_layers,
                config.num_heads,
                layernorm_epsilon=config.epsilon,
                use_layer_scale="blocks.layer_scale1" in parts,
                use_gated_mlp=config.gated,
                **options,
            )
            self.blocks = transformer.layers
            if "pool.probe" in parts:
                self.pool = import_extra("jimm.common.vit", extra="vit").MultiHeadAttentionPoolingHead(
                    width, config.hidden_width, config.num_heads, config.epsilon, **options
                )
        self.norm_after = norm()
        if config.projection_width is not None:
            self.projection = nnx.Linear(width, config.projection_width, use_bias=False, **options)
        if config.num_logits is not None:
            self.classifier = nnx.Linear(width, config.num_logits, **options)
        if "blocks.position_biases" in parts:
            places = (2 * config.grid - 1) ** 2 + 3
            self.blocks.position_biases = nnx.Param(jnp.zeros((config.num_layers, places, config.num_heads), dtype))
        self.blocks._act_fn = activation
        if not config.gated:
            self.blocks.mlp.layers[1] = activation
        if "pool.probe" in parts:
            self.pool.mlp.layers[1] = activation
        for path, node in list(nnx.iter_graph(self)):
            if isinstance(node, nnx.Dropout):
                node.rngs = None  # no layer drops anything
            if ".".join(map(str, path)) in config.without_bias:
                node.bias, node.use_bias = None, False

    def __call__(self, images: Float[Array, "b s s 3"]) -> EncoderOutput:
        """Features and, where there is a classifier, logits of images of the network's size."""
        tokens, _ = _apply_blocks(self.blocks, self._embed(images), self.config)
        features = self._features(tokens)
        logits = None if self.config.num_logits is None else self.classifier(features)
        accurate = jnp.promote_types(features.dtype, jnp.float32)
        return EncoderOutput(features.astype(accurate), None if logits is None else logits.astype(accurate))

    def features_of_layers(
        self, images: Float[Array, "b s s 3"], *, layers: Sequence[int]
    ) -> tuple[Float[Array, "b d"], ...]:
        """Features after each of the blocks, in one pass."""
        blocks = self.stopped_after(max(layers)).blocks
        _, features = _apply_blocks(blocks, self._embed(images), self.config, self._features)
        assert features is not None  # noqa: S101 (for the type checker)
        return tuple(features[layer - 1].astype(jnp.promote_types(features.dtype, jnp.float32)) for layer in layers)

    def stopped_after(self, layer: int) -> VisionTransformer:
        """The network without the blocks after one, and without a classifier that was trained on these.

        Raises:
            ValueError: there is no such block.
        """
        config = self.config.stopped_after(layer)
        network: VisionTransformer = nnx.merge(*nnx.split(self))
        if config is not self.config:
            graph, state = nnx.split(network.blocks)
            network.blocks = nnx.merge(graph, jax.tree.map(lambda variable: variable[:layer], state))
            if self.config.num_logits is not None:
                del network.classifier
            network.config = config
        return network

    def _embed(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b n d"]:
        config, parts = self.config, FAMILIES[self.config.family].tensors
        tokens = self.patches(images).reshape(len(images), config.grid**2, config.width)
        tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
        if "class_token" in parts:
            tokens = jnp.concatenate([_repeated(self.class_token, tokens), tokens], axis=1)
        if "positions" in parts:
            tokens = tokens + self.positions[...]
        if config.num_registers:
            tokens = jnp.concatenate([tokens[:, :1], _repeated(self.registers, tokens), tokens[:, 1:]], axis=1)
        if "norm_before" in parts:
            tokens = self.norm_before(tokens).astype(tokens.dtype)
        return tokens

    def _features(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        if "pool.probe" in FAMILIES[self.config.family].tensors:
            tokens = self.norm_after(tokens)
            pooled = _attend(self.pool.attn, _repeated(self.pool.probe, tokens), tokens, None)
            features = (pooled + self.pool.mlp(self.pool.layernorm(pooled)))[:, 0]
        else:
            features = self.norm_after(tokens[:, 1:].mean(1) if self.config.mean_pooling else tokens[:, 0])
        return features if self.config.projection_width is None else self.projection(features)


def _apply_blocks(
    blocks: nnx.Module,
    tokens: Float[Array, "b n d"],
    config: VisionTransformerConfig,
    read_out: Callable[[Float[Array, "b n d"]], Float[Array, "b d"] | None] = lambda _: None,
) -> tuple[Float[Array, "b n d"], Float[Array, "l b d"] | None]:
    """All blocks, whose variables are stacked: the tokens after the last, and what `read_out` returns after each."""
    graph, state = nnx.split(blocks)
    rotations = None if config.rotary_base is None else _rotations(config, config.rotary_base, tokens.dtype)
    has_biases = "blocks.position_biases" in FAMILIES[config.family].tensors
    pairs = _relative_places(config.grid) if has_biases else None

    def apply(
        tokens: Float[Array, "b n d"], state: nnx.State[Any, Any]
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b d"] | None]:
        block: Any = nnx.merge(graph, state)
        normed = block.norm1(tokens)
        biases = 0.0 if pairs is None else block.position_biases[...][pairs].transpose(2, 0, 1)
        attended = _attend(block.attn, normed, normed, rotations, biases)
        tokens = tokens + (block.layer_scale1[...] * attended if block.use_layer_scale else attended)
        changed = block._mlp(block.norm2(tokens))
        tokens = tokens + (block.layer_scale2[...] * changed if block.use_layer_scale else changed)
        return tokens, read_out(tokens)

    return jax.lax.scan(apply, tokens, state)


def _attend(
    layer: Any,
    queries: Float[Array, "b q d"],
    tokens: Float[Array, "b n d"],
    rotations: tuple[Float[Array, "p h"], Float[Array, "p h"]] | None,
    biases: Float[Array, "h q n"] | float = 0.0,
) -> Float[Array, "b q d"]:
    """Attention of queries to tokens, those of patches turned by their positions, and biased by each head."""
    query, key, value = layer.query(queries), layer.key(tokens), layer.value(tokens)
    if rotations is not None:
        apply_rope = import_extra("jimm.common.transformer", extra="vit").apply_rope
        turned = apply_rope(query.swapaxes(1, 2), key.swapaxes(1, 2), *rotations)
        query, key = (each.swapaxes(1, 2).astype(value.dtype) for each in turned)
    # jax.nn.dot_product_attention has its softmax in float32, whatever the type of the products.
    accurate = jnp.promote_types(value.dtype, jnp.float32)
    logits = jnp.einsum("bqhw,bkhw->bhqk", query, key, preferred_element_type=accurate)
    weights = jax.nn.softmax(logits / math.sqrt(query.shape[-1]) + biases).astype(value.dtype)
    return layer.out(jnp.einsum("bhqk,bkhw->bqhw", weights, value))


def _repeated(token: nnx.Param[jax.Array], tokens: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
    return jnp.broadcast_to(token[...], (len(tokens), *token.shape[1:]))


def _relative_places(grid: int) -> Int[np.ndarray, "n n"]:
    """Where BEiT's table has the bias of a pair of tokens: by how far their patches are apart along each axis.

    The last three entries are for the token of the class with a patch, a patch with it, and with itself.
    """
    places = np.indices((grid, grid)).reshape(2, -1).T
    apart = places[:, None] - places + grid - 1
    last = (2 * grid - 1) ** 2
    pairs = np.empty((grid**2 + 1,) * 2, np.int32)
    pairs[1:, 1:] = apart[..., 0] * (2 * grid - 1) + apart[..., 1]
    pairs[0, :], pairs[:, 0], pairs[0, 0] = last, last + 1, last + 2
    return pairs


def _rotations(
    config: VisionTransformerConfig, base: float, dtype: DTypeLike
) -> tuple[Float[Array, "p h"], Float[Array, "p h"]]:
    """Cosines and sines of DINOv3's rotary positions, for each patch and each number of a head.

    Patches are at -1 to 1 along each axis; a quarter of a head turns by 2 pi times the place over base^(j / quarter).
    """
    quarter = config.width // config.num_heads // 4
    places = 2 * (jnp.arange(config.grid, dtype=dtype) + 0.5) / config.grid - 1
    both = jnp.stack(jnp.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    periods = base ** (jnp.arange(quarter, dtype=dtype) / quarter)
    angles = jnp.tile((2 * jnp.pi * both / periods).reshape(-1, 2 * quarter), 2)
    return jnp.cos(angles), jnp.sin(angles)
