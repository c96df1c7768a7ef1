"""MPNet: BERT with a bias by relative positions, [Song et al.](https://arxiv.org/abs/2004.09297)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrel.encoders.texts.families.family import Family, head_width_of, required, with_supported
from jaxrel.encoders.texts.transformer import TransformerConfig

__all__ = ["MPNET"]

_KEYS = {
    "vocabulary_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_width": "intermediate_size",
    "num_positions": "max_position_embeddings",
}


def _configured(config: Mapping[str, Any]) -> TransformerConfig:
    with_supported(config, relative_attention_num_buckets=32)
    sizes = required(config, _KEYS)
    return TransformerConfig(
        **sizes,
        num_key_heads=sizes["num_heads"],
        head_width=head_width_of(sizes),
        # Positions are counted from the one after that of padding, which transformers has as 1 whatever is said.
        first_position=2,
        max_length=sizes["num_positions"] - 2,
        activation=config.get("hidden_act", "gelu"),
        epsilon=config.get("layer_norm_eps", 1e-12),
        relative_buckets=32,
        embedding_norm=True,
    )


MPNET = Family(
    model_types=("mpnet",),
    configured=_configured,
    anchor="embeddings.word_embeddings.weight",
    tensors={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "relative_bias": "encoder.relative_attention_bias",
    },
    layer="encoder.layer.{}.",
    layer_tensors={
        "attention.query": "attention.attn.q",
        "attention.key": "attention.attn.k",
        "attention.value": "attention.attn.v",
        "attention.output": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
        "expand": "intermediate.dense",
        "contract": "output.dense",
        "hidden_norm": "output.LayerNorm",
    },
    unused=r"(pooler|lm_head|classifier|qa_outputs)\..*|embeddings\.position_ids",
)
