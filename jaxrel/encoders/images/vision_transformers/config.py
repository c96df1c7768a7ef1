"""The architecture of a vision transformer, as a config.json describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from jaxrel.encoders.activations import ACTIVATIONS
from jaxrel.encoders.images.vision_transformers.families import FAMILIES

__all__ = ["VisionTransformerConfig"]

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
        family: determines the names of its tensors and its parts.
        width: length of the vector of a token.
        num_layers: number of transformer blocks.
        num_heads: attention heads of each block; they divide the width.
        hidden_width: width of the feed-forward network inside a block.
        image_size: height and width of an image in pixels.
        patch_size: height and width of a patch; it divides the image size.
        epsilon: added to the variance in layer normalisation.
        activation: activation of the feed-forward networks.
        num_registers: number of register tokens beside the class token and the patches.
        gated: whether the feed-forward networks are gated linear units.
        rotary_base: longest period of the rotary positions, in halves of an image; None: positions are learned.
        without_bias: layers that have no bias.
        num_logits: classes of the classifier; None if there is none.
        projection_width: width of the features in a joint space of images and texts, if any.
        mean_pooling: whether features are the mean of the patches instead of the class token.

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
    projection_width: int | None = field(default=None, repr=False)  # in no fingerprint but by the variables
    mean_pooling: bool = field(default=False, repr=False)  # in fingerprints where it is true

    def __post_init__(self) -> None:
        """Raise for an invalid architecture."""
        for each in fields(self):
            value = getattr(self, each.name)
            smallest = 0 if each.name == "num_registers" else 1
            given = each.type == "int" or (each.type == "int | None" and value is not None)
            if given and (type(value) is not int or value < smallest):
                raise ValueError(f"{each.name} is {value!r}: pass an integer of at least {smallest}")
        if not (isinstance(self.epsilon, int | float) and self.epsilon > 0):
            raise ValueError(f"epsilon is {self.epsilon!r}: pass a positive number")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}: choose from {', '.join(ACTIVATIONS)}")
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
        """The architecture described by a Hugging Face config.json, without the classifier.

        Args:
            config: its content.
            family: the family it must be of.

        Raises:
            ValueError: the model has another type, or is an unsupported variant.
        """
        if family not in FAMILIES:
            raise ValueError(f"there is no family {family!r}; choose from {', '.join(FAMILIES)}")
        entry = FAMILIES[family]
        if (model_type := config.get("model_type")) not in entry.model_types:
            raise ValueError(f"model_type is {model_type!r}: {family} is {' or '.join(entry.model_types)}")
        settings = {**entry.defaults, **config.get("vision_config", config)}
        if settings["num_channels"] != 3:
            raise ValueError(f"num_channels is {settings['num_channels']!r}: only networks of RGB images are read")
        if settings.get("vision_use_head", True) is not True:
            raise ValueError("vision_use_head is false: only networks that pool their tokens are read")
        if family == "beit" and (
            settings.get("use_absolute_position_embeddings")
            or settings.get("use_relative_position_bias") == settings.get("use_shared_relative_position_bias")
        ):
            raise ValueError(
                "positions are not those of BEiT: of use_relative_position_bias and use_shared_relative_position_bias "
                "one must be true, and use_absolute_position_embeddings false"
            )
        width, activation = settings["hidden_size"], settings["hidden_act"]
        gated = settings.get("use_gated_mlp", False)
        hidden_width = settings.get("intermediate_size", 0)
        if family == "dinov2":  # it says how many times wider, and two thirds of that to the next 8 where gated
            hidden_width = int(width * settings["mlp_ratio"])
            if gated := settings.get("use_swiglu_ffn", False):
                hidden_width, activation = (hidden_width * 2 // 3 + 7) // 8 * 8, "silu"
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
            num_registers=settings.get("num_register_tokens", 4 * (model_type == "dinov2_with_registers")),
            gated=gated,
            rotary_base=settings.get("rope_theta"),
            without_bias=frozenset(
                layer for switch, layers in _BIASES.items() if settings.get(switch) is False for layer in layers
            ),
            projection_width=config.get("projection_dim", 512) if "projection" in entry.tensors else None,
            mean_pooling=settings.get("use_mean_pooling", False),
        )

    @property
    def num_weights(self) -> int:
        """Numbers in the matrices of its blocks, which any checkpoint of it has."""
        return self.num_layers * (4 * self.width**2 + 2 * self.width * self.hidden_width)

    def stopped_after(self, layer: int) -> VisionTransformerConfig:
        """Without the blocks after one, and without a classifier that was trained on these.

        Raises:
            ValueError: there is no such block.
        """
        if layer not in range(1, self.num_layers + 1):
            raise ValueError(f"layer is {layer!r}: the network has {self.num_layers} blocks, pass 1 to that.")
        return self if layer == self.num_layers else replace(self, num_layers=layer, num_logits=None)

    @property
    def grid(self) -> int:
        """Patches along a side of an image."""
        return self.image_size // self.patch_size
