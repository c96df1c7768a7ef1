"""Vision transformers of Hugging Face checkpoints: ViT, the image towers of CLIP and SigLIP, DINOv2 and DINOv3.

[ViT](https://arxiv.org/abs/2010.11929), [CLIP](https://arxiv.org/abs/2103.00020),
[SigLIP](https://arxiv.org/abs/2303.15343), [DINOv2](https://arxiv.org/abs/2304.07193) with and without
[registers](https://arxiv.org/abs/2309.16588), and [DINOv3](https://arxiv.org/abs/2508.10104), of any size.

The layers of a block, rotary positions and attention pooling are those of the package `jax-image-models` (Flax NNX).
What it does with them is done here, in plain JAX operations on any device: its own calls need a mesh with explicit axes
around them, take 64 numbers for the width of every attention head, have another activation than SigLIP, and its loaders
leave tensors that they do not find at random.

Features are the pooled output before any projection: the class token after the last normalisation (ViT, CLIP, DINOv2,
DINOv3), or SigLIP's attention pooling. They are held to those of `transformers`, within 1e-9 in float64. Rotary angles
are computed in the type of the network, where `transformers` has float32. Weights may be bfloat16, float32 or float64;
products take operands of that type, residual sums, normalisation and softmax are float32 at least.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from jaxrel.encoders.checkpoints.files import (
    CheckpointError,
    as_weights,
    check_size,
    find_prefix,
    import_extra,
    locate_checkpoint,
    read_checkpoint,
    read_json,
)
from jaxrel.encoders.encoder import Encoder, EncoderOutput, fingerprint, from_network
from jaxrel.encoders.preprocessing import Preprocessing

__all__ = [
    "CroppedPreprocessing",
    "VisionTransformer",
    "VisionTransformerConfig",
    "load_vision_transformer",
    "load_vision_transformer_network",
]


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


# Functions of the module, so that networks of one architecture compare equal.
_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": _quick_gelu,
    "silu": jax.nn.silu,
}

_LARGEST_IMAGE = 4096

_METHODS: Mapping[int, str] = {1: "lanczos3", 2: "linear", 3: "cubic"}  # by Pillow's numbers

_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class _FamilyEntry:
    """What the checkpoints of a family have in common.

    Args:
        model_types: what their config.json may say that they are.
        defaults: settings that it may leave out, as `transformers` has them.
        tensors: names of the tensors for each layer and variable of the network, which has those named here only; {} is
            the number of a block.
        prefixes: what the names of tensors may begin with beside these.
        unused: beginnings of names of tensors that the features do not need.
        scaling: mean and standard deviation of pixels 0..1 in the published preprocessing.
        resample: Pillow's number of its interpolation.
        patch_bias: whether the embedding of patches has a bias.
    """

    model_types: tuple[str, ...]
    defaults: Mapping[str, Any]
    tensors: Mapping[str, str]
    prefixes: tuple[str, ...]
    unused: tuple[str, ...]
    scaling: tuple[tuple[float, ...], tuple[float, ...]]
    resample: int
    patch_bias: bool = True


def _block_tensors(block: str, *, norms: str, attention: str, out: str, mlp: Mapping[str, str]) -> dict[str, str]:
    names = {"norm1": norms.format(1), "norm2": norms.format(2), "attn.out": out, **mlp}
    names |= {f"attn.{role}": attention.format(role, role[0]) for role in ("query", "key", "value")}
    return {f"blocks.{layer}": f"{block}.{name}" for layer, name in names.items()}


_BERT_ATTENTION = {"attention": "attention.attention.{0}", "out": "attention.output.dense"}
_FC = {"mlp.layers.0": "mlp.fc1", "mlp.layers.3": "mlp.fc2"}
_GATED = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_SCALES = {"layer_scale1": "layer_scale1.lambda1", "layer_scale2": "layer_scale2.lambda1"}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3, "image_size": 224}
_TOWER = {
    "positions": "embeddings.position_embedding.weight",
    "patches": "embeddings.patch_embedding",
    "norm_after": "post_layernorm",
    **_block_tensors(
        "encoder.layers.{}",
        norms="layer_norm{}",
        attention="self_attn.{1}_proj",
        out="self_attn.out_proj",
        mlp=_FC,
    ),
}
_TEXT_TOWER = ("text_model.", "text_projection.", "visual_projection.", "logit_", "embeddings.position_ids")

_FAMILIES: Mapping[str, _FamilyEntry] = {
    "vit": _FamilyEntry(
        model_types=("vit",),
        defaults=_BASE | {"intermediate_size": 3072, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
        tensors={
            "class_token": "embeddings.cls_token",
            "positions": "embeddings.position_embeddings",
            "patches": "embeddings.patch_embeddings.projection",
            "norm_after": "layernorm",
            "classifier": "classifier",
            **_block_tensors(
                "encoder.layer.{}",
                norms="layernorm_{}",
                mlp={"mlp.layers.0": "intermediate.dense", "mlp.layers.3": "output.dense"},
                **_BERT_ATTENTION,
            ),
            "blocks.norm1": "encoder.layer.{}.layernorm_before",
            "blocks.norm2": "encoder.layer.{}.layernorm_after",
        },
        prefixes=("vit.",),
        unused=("pooler.", "decoder.", "embeddings.mask_token"),
        scaling=_HALF,
        resample=2,
    ),
    "clip": _FamilyEntry(
        model_types=("clip", "clip_vision_model"),
        defaults=_BASE
        | {"intermediate_size": 3072, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
        tensors=_TOWER | {"class_token": "embeddings.class_embedding", "norm_before": "pre_layrnorm"},
        prefixes=("vision_model.",),
        unused=_TEXT_TOWER,
        scaling=_OPENAI,
        resample=3,
        patch_bias=False,
    ),
    "siglip": _FamilyEntry(
        model_types=("siglip", "siglip_vision_model"),
        defaults=_BASE
        | {"intermediate_size": 3072, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
        tensors=_TOWER
        | {
            "pool.probe": "head.probe",
            "pool.attn.query": "head.attention.query",
            "pool.attn.key": "head.attention.key",
            "pool.attn.value": "head.attention.value",
            "pool.attn.out": "head.attention.out_proj",
            "pool.layernorm": "head.layernorm",
            "pool.mlp.layers.0": "head.mlp.fc1",
            "pool.mlp.layers.2": "head.mlp.fc2",
        },
        prefixes=("vision_model.",),
        unused=_TEXT_TOWER,
        scaling=_HALF,
        resample=3,
    ),
    "dinov2": _FamilyEntry(
        model_types=("dinov2", "dinov2_with_registers"),
        defaults=_BASE | {"mlp_ratio": 4, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
        tensors={
            "class_token": "embeddings.cls_token",
            "registers": "embeddings.register_tokens",
            "positions": "embeddings.position_embeddings",
            "patches": "embeddings.patch_embeddings.projection",
            "norm_after": "layernorm",
            **_block_tensors("encoder.layer.{}", norms="norm{}", mlp=_SCALES | _FC | _GATED, **_BERT_ATTENTION),
        },
        prefixes=("dinov2.", "dinov2_with_registers."),
        unused=("embeddings.mask_token", "classifier."),  # the classifier is of more than the class token
        scaling=_IMAGENET,
        resample=3,
    ),
    "dinov3": _FamilyEntry(
        model_types=("dinov3_vit",),
        defaults=_BASE
        | {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "patch_size": 16}
        | {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "rope_theta": 100.0, "key_bias": False},
        tensors={
            "class_token": "embeddings.cls_token",
            "registers": "embeddings.register_tokens",
            "patches": "embeddings.patch_embeddings",
            "norm_after": "norm",
            **_block_tensors(
                "layer.{}",
                norms="norm{}",
                attention="attention.{1}_proj",
                out="attention.o_proj",
                mlp=_SCALES | _GATED | {"mlp.layers.0": "mlp.up_proj", "mlp.layers.3": "mlp.down_proj"},
            ),
        },
        prefixes=("model.",),
        unused=("embeddings.mask_token",),
        scaling=_IMAGENET,
        resample=2,
    ),
}

_MLP = ("blocks.mlp.layers.0", "blocks.mlp.layers.3", "blocks.gate", "blocks.up", "blocks.down")
_BIASES: Mapping[str, tuple[str, ...]] = {  # layers that have none where the setting is false
    "qkv_bias": ("blocks.attn.query", "blocks.attn.key", "blocks.attn.value"),
    "query_bias": ("blocks.attn.query",),
    "key_bias": ("blocks.attn.key",),
    "value_bias": ("blocks.attn.value",),
    "proj_bias": ("blocks.attn.out",),
    "mlp_bias": _MLP,
}


@dataclass(frozen=True)
class VisionTransformerConfig:
    """The architecture of a vision transformer.

    Args:
        family: which names its tensors have, and which parts there are.
        width: length of the vector of a token.
        num_layers: number of transformer blocks.
        num_heads: attention heads of each block; they divide the width.
        hidden_width: width of the feed-forward network inside a block.
        image_size: height and width of an image in pixels.
        patch_size: height and width of a patch; it divides the image size.
        epsilon: added to the variance in layer normalisation.
        activation: of the feed-forward networks.
        num_registers: tokens beside those of the class and of the patches.
        gated: whether the feed-forward networks are gated linear units.
        rotary_base: longest period of the rotary positions, in halves of an image; None: positions are learned.
        without_bias: layers that have no bias.
        num_logits: classes of the classifier; None where there is none.

    Raises:
        ValueError: a number is not positive or not an integer, or numbers do not fit one another.
    """

    family: str
    width: int
    num_layers: int
    num_heads: int
    hidden_width: int
    image_size: int
    patch_size: int
    epsilon: float
    activation: str
    num_registers: int = 0
    gated: bool = False
    rotary_base: float | None = None
    without_bias: frozenset[str] = field(default=frozenset())
    num_logits: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no network."""
        for each in fields(self):
            value = getattr(self, each.name)
            smallest = 0 if each.name == "num_registers" else 1
            if each.type == "int" and (type(value) is not int or value < smallest):
                raise ValueError(f"{each.name} is {value!r}: pass an integer of at least {smallest}")
        if not (isinstance(self.epsilon, int | float) and self.epsilon > 0):
            raise ValueError(f"epsilon is {self.epsilon!r}: pass a positive number")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}: choose from {', '.join(_ACTIVATIONS)}")
        if self.width % self.num_heads:
            raise ValueError(f"width is {self.width} and num_heads {self.num_heads}: the heads must divide the width")
        if self.rotary_base is not None and self.width // self.num_heads % 4:
            raise ValueError(f"heads have width {self.width // self.num_heads}: rotary positions need a multiple of 4")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size is {self.image_size}: pass a multiple of the {self.patch_size} pixels of a patch"
            )

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any], *, family: str) -> VisionTransformerConfig:
        """The architecture that a Hugging Face config.json describes, but for the classifier.

        Args:
            config: its content.
            family: the family it must be of.

        Raises:
            ValueError: the model is of another type, or a variant that this network is not.
        """
        if family not in _FAMILIES:
            raise ValueError(f"there is no family {family!r}; choose from {', '.join(_FAMILIES)}")
        entry = _FAMILIES[family]
        if (model_type := config.get("model_type")) not in entry.model_types:
            raise ValueError(f"model_type is {model_type!r}: {family} is {' or '.join(entry.model_types)}")
        settings = {**entry.defaults, **config.get("vision_config", config)}
        if settings["num_channels"] != 3:
            raise ValueError(f"num_channels is {settings['num_channels']!r}: only networks of RGB images are read")
        if settings.get("vision_use_head", True) is not True:
            raise ValueError("vision_use_head is false: only networks that pool their tokens are read")
        width, activation = settings["hidden_size"], settings["hidden_act"]
        gated = settings.get("use_gated_mlp", False)
        hidden_width = settings.get("intermediate_size", 0)
        if family == "dinov2":  # it says how many times wider, and two thirds of that to the next 8 where gated
            hidden_width = int(width * settings["mlp_ratio"])
            if gated := settings.get("use_swiglu_ffn", False):
                hidden_width, activation = (hidden_width * 2 // 3 + 7) // 8 * 8, "silu"
        registers = 0 if model_type == "dinov2" else 4 if model_type == "dinov2_with_registers" else 0
        return cls(
            family,
            width=width,
            num_layers=settings["num_hidden_layers"],
            num_heads=settings["num_attention_heads"],
            hidden_width=hidden_width,
            image_size=settings["image_size"],
            patch_size=settings["patch_size"],
            epsilon=settings["layer_norm_eps"],
            activation=activation,
            num_registers=settings.get("num_register_tokens", registers),
            gated=gated,
            rotary_base=settings.get("rope_theta"),
            without_bias=frozenset(
                layer for switch, layers in _BIASES.items() if settings.get(switch) is False for layer in layers
            ),
        )

    @property
    def num_weights(self) -> int:
        """Numbers in the matrices of its blocks, which any checkpoint of it has."""
        return self.num_layers * (4 * self.width**2 + 2 * self.width * self.hidden_width)

    @property
    def grid(self) -> int:
        """Patches along a side of an image."""
        return self.image_size // self.patch_size


class VisionTransformer(nnx.Module):
    """A vision transformer that maps preprocessed images to an :class:`EncoderOutput`.

    Args:
        config: its architecture.
        dtype: of its variables and of what is multiplied; features and logits are float32 at least.

    Raises:
        ImportError: the extra "vit" is not installed.
    """

    def __init__(self, config: VisionTransformerConfig, *, dtype: DTypeLike = np.float32) -> None:
        """Make the network with the initial weights of Flax; :func:`load_vision_transformer_network` sets them."""
        parts, width = _FAMILIES[config.family].tensors, config.width
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
        norm = functools.partial(nnx.LayerNorm, width, epsilon=config.epsilon, **options)
        activation = _ACTIVATIONS[config.activation]
        self.config = config
        self.patches = nnx.Conv(
            3,
            width,
            (config.patch_size,) * 2,
            strides=config.patch_size,
            padding="VALID",
            use_bias=_FAMILIES[config.family].patch_bias,
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
        if config.num_logits is not None:
            self.classifier = nnx.Linear(width, config.num_logits, **options)
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
        config, parts = self.config, _FAMILIES[self.config.family].tensors
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
        tokens = _apply_blocks(self.blocks, tokens, config)
        if "pool.probe" in parts:
            tokens = self.norm_after(tokens)
            pooled = _attend(self.pool.attn, _repeated(self.pool.probe, tokens), tokens, None)
            features = (pooled + self.pool.mlp(self.pool.layernorm(pooled)))[:, 0]
        else:
            features = self.norm_after(tokens[:, 0])
        logits = None if config.num_logits is None else self.classifier(features)
        accurate = jnp.promote_types(features.dtype, jnp.float32)
        return EncoderOutput(features.astype(accurate), None if logits is None else logits.astype(accurate))


def _apply_blocks(
    blocks: nnx.Module, tokens: Float[Array, "b n d"], config: VisionTransformerConfig
) -> Float[Array, "b n d"]:
    """All blocks, whose variables are stacked."""
    graph, state = nnx.split(blocks)
    rotations = None if config.rotary_base is None else _rotations(config, config.rotary_base, tokens.dtype)

    def apply(tokens: Float[Array, "b n d"], state: nnx.State[Any, Any]) -> tuple[Float[Array, "b n d"], None]:
        block: Any = nnx.merge(graph, state)
        normed = block.norm1(tokens)
        attended = _attend(block.attn, normed, normed, rotations)
        tokens = tokens + (block.layer_scale1[...] * attended if block.use_layer_scale else attended)
        changed = block._mlp(block.norm2(tokens))
        return tokens + (block.layer_scale2[...] * changed if block.use_layer_scale else changed), None

    return jax.lax.scan(apply, tokens, state)[0]


def _attend(
    layer: Any,
    queries: Float[Array, "b q d"],
    tokens: Float[Array, "b n d"],
    rotations: tuple[Float[Array, "p h"], Float[Array, "p h"]] | None,
) -> Float[Array, "b q d"]:
    """Attention of queries to tokens, those of patches turned by their positions."""
    query, key, value = layer.query(queries), layer.key(tokens), layer.value(tokens)
    if rotations is not None:
        apply_rope = import_extra("jimm.common.transformer", extra="vit").apply_rope
        turned = apply_rope(query.swapaxes(1, 2), key.swapaxes(1, 2), *rotations)
        query, key = (each.swapaxes(1, 2).astype(value.dtype) for each in turned)
    # jax.nn.dot_product_attention has its softmax in float32, whatever the type of the products.
    accurate = jnp.promote_types(value.dtype, jnp.float32)
    logits = jnp.einsum("bqhw,bkhw->bhqk", query, key, preferred_element_type=accurate)
    weights = jax.nn.softmax(logits / math.sqrt(query.shape[-1])).astype(value.dtype)
    return layer.out(jnp.einsum("bhqk,bkhw->bqhw", weights, value))


def _repeated(token: nnx.Param[jax.Array], tokens: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
    return jnp.broadcast_to(token[...], (len(tokens), *token.shape[1:]))


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


@dataclass(frozen=True)
class CroppedPreprocessing(Preprocessing):
    """Central square, resized with anti-aliasing, cropped in its middle, then `(pixels - mean) / std`.

    Args:
        image_size: height and width of the result.
        mean: subtracted from the pixels 0..255, one number for each channel.
        std: divides the difference.
        resized: height and width before the crop, at least `image_size`.
        method: interpolation, of :func:`jax.image.resize`.
    """

    resized: int
    method: str

    def __call__(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b s s d"]:
        """Preprocessed images, float32. Grey images become as many channels as `mean` has."""
        batch, height, width, channels = images.shape
        side, margin = min(height, width), (self.resized - self.image_size) // 2
        top, left = (height - side) // 2, (width - side) // 2
        square = images[:, top : top + side, left : left + side].astype(jnp.float32)
        resized = jax.image.resize(square, (batch, self.resized, self.resized, channels), self.method, antialias=True)
        inner = slice(margin, margin + self.image_size)
        pixels = jnp.clip(resized[:, inner, inner], 0, 255)  # cubic interpolation overshoots
        scaled: jax.Array = (pixels - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
        return scaled


def load_vision_transformer(
    checkpoint: str | Path,
    *,
    family: str,
    name: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    layer: int | None = None,
    dtype: DTypeLike = np.float32,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder of a checkpoint of a vision transformer.

    Args:
        checkpoint: a local folder with config.json and weights, a file of weights beside it, or the name of a
            repository of the Hugging Face hub.
        family: "vit", "clip", "siglip", "dinov2" or "dinov3".
        name: the encoder's name, part of its fingerprint. Default: `checkpoint`.
        revision: branch, tag or commit of the repository.
        image_size: height and width in pixels to which images are brought, a multiple of the patch size; learned
            positions are interpolated as `transformers` does. Default: that of the checkpoint's
            preprocessor_config.json, which also says how images are resized, cropped and scaled; where there is none,
            that of config.json, with the preprocessing the family was published with. Images that are not square are
            cropped, where `transformers` squeezes those for ViT, SigLIP and DINOv3.
        layer: take the tokens after this many blocks, normalised and pooled as at the end; then there are no logits but
            after the last. Default: after the last.
        dtype: type of the weights and of what is computed, e.g. `jnp.bfloat16`; features are float32 in any case.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: the checkpoint cannot be had or read (`CheckpointError`), is of
            another architecture, or the image size does not fit it; it has fewer blocks than `layer`.
        ImportError: the extra "vit" is not installed.
    """
    network, preprocessing = load_vision_transformer_network(
        checkpoint, family=family, revision=revision, image_size=image_size, layer=layer, dtype=dtype
    )
    encoder = from_network(
        network,
        preprocessing,
        name=str(checkpoint) if name is None else name,
        pretraining=pretraining,
        licence=licence,
    )
    # Its variables do not show its heads, epsilon and activation.
    return replace(encoder, fingerprint=fingerprint(f"{encoder.fingerprint} {_description(network.config)}", ()))


def load_vision_transformer_network(
    checkpoint: str | Path,
    *,
    family: str,
    revision: str | None = None,
    image_size: int | None = None,
    layer: int | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[VisionTransformer, CroppedPreprocessing]:
    """The network of :func:`load_vision_transformer` and its preprocessing, for fine-tuning."""
    path = locate_checkpoint(checkpoint, revision=revision, files=("config.json", "preprocessor_config.json"))
    folder = path if path.is_dir() else path.parent
    try:
        config = VisionTransformerConfig.from_hugging_face(read_json(folder / "config.json"), family=family)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    preprocessing = _preprocessing(folder / "preprocessor_config.json", config)
    if image_size is not None:
        resized = round(image_size * preprocessing.resized / preprocessing.image_size)
        preprocessing = replace(preprocessing, image_size=image_size, resized=resized)
    config = replace(config, image_size=preprocessing.image_size)
    tensors = read_checkpoint(path)
    check_size(config.num_weights, tensors, folder)
    tensors = _tower(tensors, config)
    if family == "vit" and "classifier.weight" in tensors:
        config = replace(config, num_logits=len(tensors["classifier.weight"]))
    if layer is not None:
        tensors, config = _up_to(layer, tensors, config)
    return _network_of(tensors, config, dtype), preprocessing


def _up_to(
    layer: int, tensors: Mapping[str, np.ndarray], config: VisionTransformerConfig
) -> tuple[dict[str, np.ndarray], VisionTransformerConfig]:
    """Without the blocks after the one of this number, and without a classifier that was trained on these."""
    if layer not in range(1, config.num_layers + 1):
        raise ValueError(f"layer is {layer!r}: the network has {config.num_layers} blocks, pass 1 to that.")
    if layer == config.num_layers:
        return dict(tensors), config
    # As all names of a block begin alike.
    block = next(name for name in _FAMILIES[config.family].tensors.values() if "{}" in name).partition("{}")[0]
    left_out = ("classifier.", *(f"{block}{number}." for number in range(layer, config.num_layers)))
    kept = {name: value for name, value in tensors.items() if not name.startswith(left_out)}
    return kept, replace(config, num_layers=layer, num_logits=None)


def _description(config: VisionTransformerConfig) -> str:
    """The same text in every process, as that of a set is not."""
    return repr(replace(config, without_bias=frozenset())) + " ".join(sorted(config.without_bias))


def _preprocessing(path: Path, config: VisionTransformerConfig) -> CroppedPreprocessing:
    """What a preprocessor_config.json says, or else the family's own."""
    entry = _FAMILIES[config.family]
    settings = read_json(path) if path.is_file() else {}
    try:
        size = _side(settings.get("size"), config.image_size) if settings.get("do_resize", True) else config.image_size
        cropped = settings.get("do_center_crop", settings.get("crop_size") is not None)
        image_size = _side(settings.get("crop_size"), size) if cropped else size
        if size > _LARGEST_IMAGE:
            raise ValueError(f"images of {size} pixels: at most {_LARGEST_IMAGE} are taken from a file")
        if image_size > size:
            raise ValueError(f"crop_size {image_size} is more than the size {size}")
        method = _METHODS.get(settings.get("resample", entry.resample))
        if method is None:
            raise ValueError(f"resample is {settings['resample']!r}: {_METHODS} are known, by their numbers")
        mean, std = settings.get("image_mean", entry.scaling[0]), settings.get("image_std", entry.scaling[1])
        if not settings.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        # (factor * pixels - mean) / std
        factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
        if not (len(mean) == len(std) == 3 and min(std) > 0 and factor > 0):
            raise ValueError(f"image_mean {mean}, image_std {std} and rescale_factor {factor} are no scaling of RGB")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    mean, std = (tuple(float(number / factor) for number in each) for each in (mean, std))
    return CroppedPreprocessing(image_size, mean, std, resized=size, method=method)


def _side(size: Any, default: int) -> int:
    """The side of a square: its number, its height and width, or the shortest edge of what it is cut from."""
    if isinstance(size, dict):
        height, width = (size.get("shortest_edge", size.get(axis)) for axis in ("height", "width"))
        side = height if height == width else size
    else:
        side = default if size is None else size
    if type(side) is not int or side < 1:
        raise ValueError(f"the size {size!r} is no square")
    return side


# Tensors of a checkpoint into the network


def _tower(tensors: Mapping[str, np.ndarray], config: VisionTransformerConfig) -> dict[str, np.ndarray]:
    """Tensors of the image tower, without prefix: joint matrices taken apart, positions brought to the image size."""
    entry = _FAMILIES[config.family]
    plain: dict[str, np.ndarray] = {}
    wrapper = find_prefix(tensors, f"{entry.tensors['patches']}.weight")  # "module.", say; heads lie beside the tower
    wrapper = wrapper.removesuffix(next((each for each in entry.prefixes if wrapper.endswith(each)), ""))
    for name, value in tensors.items():
        if not name.startswith(wrapper):
            continue
        name = name.removeprefix(wrapper)
        short = name.removeprefix(next((each for each in entry.prefixes if name.startswith(each)), ""))
        if short.startswith(entry.unused):
            continue
        for joint, parts in _JOINT.items():
            if joint in short:
                pieces = np.split(value, len(parts)) if value.ndim and len(value) % len(parts) == 0 else ()
                names = (short.replace(joint, part) for part in parts)
                plain |= dict(zip(names, pieces, strict=False))
                break
        else:
            plain[short] = value
    if (name := entry.tensors.get("positions", "")) in plain:
        plain[name] = _positions(plain[name], config)
    return plain


_JOINT: Mapping[str, tuple[str, ...]] = {  # matrices one above the other, in PyTorch's attention and DINOv2's gates
    "attention.in_proj_": ("attention.query.", "attention.key.", "attention.value."),
    "mlp.weights_in.": ("mlp.gate_proj.", "mlp.up_proj."),
    "mlp.weights_out.": ("mlp.down_proj.",),
}


def _positions(positions: np.ndarray, config: VisionTransformerConfig) -> np.ndarray:
    """Learned positions, those of patches interpolated from the grid they were learned on."""
    flat = positions.reshape(-1, positions.shape[-1])
    prefix = int("class_token" in _FAMILIES[config.family].tensors)
    old = math.isqrt(len(flat) - prefix)
    if old == config.grid or old**2 != len(flat) - prefix:
        return flat
    accurate = np.promote_types(flat.dtype, np.float32) if flat.dtype.kind == "f" else np.dtype(np.float32)
    grid = flat[prefix:].astype(accurate).reshape(old, old, -1)
    rows = _cubic_weights(old, config.grid, antialias=config.num_registers > 0).astype(accurate)
    resized = np.einsum("ai,bj,ijd->abd", rows, rows, grid, optimize=True)
    return np.concatenate([flat[:prefix].astype(accurate), resized.reshape(config.grid**2, -1)])


def _cubic_weights(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """Weights `(new, old)` of PyTorch's bicubic interpolation along an axis.

    Keys' kernel with a = -3/4 and repeated edges; with anti-aliasing a = -1/2, widened where there are fewer points
    than before, and edges left out.
    """
    a = -0.5 if antialias else -0.75
    stretch = max(old / new, 1.0) if antialias else 1.0
    margin = 0 if antialias else 2
    places = np.arange(-margin, old + margin)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.abs(places - centres[:, None]) / stretch
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    kernel = np.where(x <= 1, near, np.where(x < 2, far, 0))
    weights: np.ndarray = kernel @ np.eye(old)[places.clip(0, old - 1)]
    return weights / weights.sum(1, keepdims=True)


@functools.cache
def _architecture(config: VisionTransformerConfig, dtype: np.dtype[Any]) -> tuple[Any, nnx.State[Any, Any]]:
    """The network without numbers: made once, so that encoders of one architecture share what is compiled."""
    network = nnx.eval_shape(lambda: VisionTransformer(config, dtype=dtype))
    return nnx.split(network)


def _network_of(
    tensors: Mapping[str, np.ndarray], config: VisionTransformerConfig, dtype: DTypeLike
) -> VisionTransformer:
    """The network with the tensors of a checkpoint.

    Raises:
        CheckpointError: a tensor is missing, has another shape than its variable, or is left over.
    """
    graph, state = _architecture(config, np.dtype(dtype))
    remaining = dict(tensors)
    names = _FAMILIES[config.family].tensors
    if not config.num_registers:
        remaining.pop(names.get("registers", ""), None)  # DINOv3 keeps a table of none
    filled = []
    for path, variable in nnx.to_flat_state(state):
        *parts, last = map(str, path)
        layer = ".".join(parts)
        tensor = names[".".join((layer, last)).lstrip(".")] if layer not in names else None
        if tensor is None:
            tensor = f"{names[layer]}.{'bias' if last == 'bias' else 'weight'}"
        stacked = "{}" in tensor
        shape = variable.shape[1:] if stacked else variable.shape
        values = [
            as_weights(tensor.format(i), _take(remaining, tensor.format(i), shape, is_kernel=last == "kernel"), dtype)
            for i in range(config.num_layers if stacked else 1)
        ]
        value = np.stack(values) if stacked else values[0]
        filled.append((path, variable.replace(jnp.asarray(value))))
    if remaining:
        raise CheckpointError(f"the checkpoint has tensors this architecture lacks: {', '.join(list(remaining)[:5])}")
    network: VisionTransformer = nnx.merge(graph, nnx.from_flat_state(filled))
    return network


def _take(remaining: dict[str, np.ndarray], name: str, shape: tuple[int, ...], *, is_kernel: bool) -> np.ndarray:
    """The tensor of that name, removed from `remaining`, in the layout of its variable."""
    if name not in remaining:
        raise CheckpointError(f"the checkpoint has no tensor {name!r}; it is not of this architecture")
    value = remaining.pop(name)
    if is_kernel:
        value = value.transpose((2, 3, 1, 0)) if value.ndim == 4 else value.T
    # Attention keeps its heads on an axis of their own, and tokens have an axis for the batch.
    if value.shape != shape and (value.size != math.prod(shape) or value.ndim == len(shape)):
        raise CheckpointError(
            f"tensor {name!r} has shape {value.shape} (channels last), expected {shape}; "
            "it is not of this architecture, or config.json describes another"
        )
    return value.reshape(shape)
