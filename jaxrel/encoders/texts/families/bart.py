"""The encoder of BART, [Lewis et al.](https://arxiv.org/abs/1910.13461)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxrel.encoders.texts.families.family import Family, head_width_of, required, with_supported
from jaxrel.encoders.texts.transformer import TransformerConfig

__all__ = ["BART"]

_KEYS = {
    "vocabulary_size": "vocab_size",
    "width": "d_model",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "hidden_width": "encoder_ffn_dim",
    "max_length": "max_position_embeddings",
}


def _configured(config: Mapping[str, Any]) -> TransformerConfig:
    with_supported(config, normalize_before=False, add_final_layer_norm=False, normalize_embedding=True)
    sizes = required(config, _KEYS)
    return TransformerConfig(
        **sizes,
        num_key_heads=sizes["num_heads"],
        head_width=head_width_of(sizes),
        # The first two rows were for other purposes.
        num_positions=sizes["max_length"] + 2,
        first_position=2,
        activation=config.get("activation_function", "gelu"),
        epsilon=1e-5,
        embedding_norm=True,
        embedding_scale=math.sqrt(sizes["width"]) if config.get("scale_embedding") else 1.0,
    )


BART = Family(
    model_types=("bart",),
    configured=_configured,
    anchor="encoder.embed_positions.weight",
    tensors={
        "words": "encoder.embed_tokens",
        "positions": "encoder.embed_positions",
        "embedding_norm": "encoder.layernorm_embedding",
    },
    layer="encoder.layers.{}.",
    layer_tensors={
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.out_proj",
        "attention_norm": "self_attn_layer_norm",
        "expand": "fc1",
        "contract": "fc2",
        "hidden_norm": "final_layer_norm",
    },
    replaced={"shared.": ("encoder.embed_tokens.",)},
    unused=r"(decoder|lm_head|classification_head)\..*|final_logits_bias",
)
