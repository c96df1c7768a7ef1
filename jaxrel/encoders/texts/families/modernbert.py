"""ModernBERT: rotary positions, and layers that attend to near tokens alone between those that attend to all,
[Warner et al.](https://arxiv.org/abs/2412.13663)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrel.encoders.texts.families.family import Family, head_width_of, required, rotary_of
from jaxrel.encoders.texts.transformer import TransformerConfig

__all__ = ["MODERNBERT"]

_KEYS = {
    "vocabulary_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_width": "intermediate_size",
}
_THETA = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}


def _configured(config: Mapping[str, Any]) -> TransformerConfig:
    sizes = required(config, _KEYS)
    every = config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [
        "sliding_attention" if number % every else "full_attention" for number in range(sizes["num_layers"])
    ]
    given = config.get("rope_parameters") or {}
    rotary = {
        kind: rotary_of({"rope_theta": config.get(key, usual), **(given.get(kind) or {})})
        for kind, (key, usual) in _THETA.items()
    }
    window = config.get("local_attention", 128) // 2
    return TransformerConfig(
        **sizes,
        num_key_heads=sizes["num_heads"],
        head_width=head_width_of(sizes),
        max_length=config.get("max_position_embeddings", 8192),
        activation=config.get("hidden_activation", "gelu"),
        epsilon=config.get("norm_eps", 1e-5),
        norm_first=True,
        norm_bias=config.get("norm_bias", False),
        gated=True,
        query_bias=config.get("attention_bias", False),
        output_bias=config.get("attention_bias", False),
        hidden_bias=config.get("mlp_bias", False),
        rotary=tuple(rotary[kind] for kind in kinds),
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
        embedding_norm=True,
    )


MODERNBERT = Family(
    model_types=("modernbert",),
    configured=_configured,
    anchor="embeddings.tok_embeddings.weight",
    tensors={"words": "embeddings.tok_embeddings", "embedding_norm": "embeddings.norm", "norm": "final_norm"},
    layer="layers.{}.",
    layer_tensors={
        "attention_norm": "attn_norm",
        "attention.query": "attn.query",
        "attention.key": "attn.key",
        "attention.value": "attn.value",
        "attention.output": "attn.Wo",
        "hidden_norm": "mlp_norm",
        "gate": "mlp.gate",
        "expand": "mlp.expand",
        "contract": "mlp.Wo",
    },
    replaced={"attn.Wqkv.": ("attn.query.", "attn.key.", "attn.value."), "mlp.Wi.": ("mlp.gate.", "mlp.expand.")},
    unused=r"(head|decoder|classifier)\..*",
)
