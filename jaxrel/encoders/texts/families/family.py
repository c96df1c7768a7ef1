"""Properties that the checkpoints of a family of transformers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxrel.encoders.texts.transformer import Rotary, TransformerConfig

__all__ = ["Family", "head_width_of", "required", "rotary_of", "with_supported"]


@dataclass(frozen=True)
class Family:
    """What the checkpoints of a family have in common.

    Args:
        model_types: what their config.json may say that they are.
        configured: the architecture that the content of a config.json describes.
        anchor: a tensor that is there once, whatever comes before its name.
        tensors: the tensor of each part of the network outside its layers.
        layer: what names of tensors of a layer begin with; {} is its number.
        layer_tensors: the tensor of each part of a layer.
        replaced: parts of names of tensors, and what they are instead, by which one tensor has one name in every
            checkpoint; several names where it is several matrices, one above the other.
        unused: a pattern of the names of tensors that features do not need.
    """

    model_types: tuple[str, ...]
    configured: Callable[[Mapping[str, Any]], TransformerConfig]
    anchor: str
    tensors: Mapping[str, str]
    layer: str
    layer_tensors: Mapping[str, str]
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unused: str = ""


def required(config: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Settings by our names, from a config.json that calls them by these.

    Raises:
        ValueError: it lacks one.
    """
    if missing := [key for key in keys.values() if key not in config]:
        raise ValueError(f"the configuration of a {config.get('model_type')} lacks {', '.join(missing)}")
    return {name: config[key] for name, key in keys.items()}


def with_supported(config: Mapping[str, Any], **supported: Any) -> None:
    """Raise ValueError where a config.json has a setting other than the one supported, which is its default."""
    for name, value in supported.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"{name} is {config[name]!r}: only networks with {value!r} are read; make an encoder of the network "
                "in PyTorch by jaxrel.encoders.from_transformers"
            )


def head_width_of(sizes: Mapping[str, int]) -> int:
    """The width of heads that divide the width.

    Raises:
        ValueError: they do not.
    """
    width, heads = sizes["width"], sizes["num_heads"]
    if not (type(width) is type(heads) is int and heads > 0 and width % heads == 0):
        raise ValueError(f"width is {width!r} and num_heads {heads!r}: the heads must divide the width")
    return width // heads


def rotary_of(parameters: Mapping[str, Any]) -> Rotary:
    """Rotary positions by transformers' parameters.

    Raises:
        ValueError: they are scaled in another way than Llama 3's, or turn a part of each head alone.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "llama3") or parameters.get("partial_rotary_factor", 1) != 1:
        raise ValueError(
            f"rotary positions are {dict(parameters)}: only those of the types default and llama3, of whole heads, are "
            "read; make an encoder of the network in PyTorch by jaxrel.encoders.from_transformers"
        )
    if kind == "default":
        return Rotary(parameters["rope_theta"])
    return Rotary(
        theta=parameters["rope_theta"],
        factor=parameters["factor"],
        low=parameters["low_freq_factor"],
        high=parameters["high_freq_factor"],
        context=parameters["original_max_position_embeddings"],
    )
