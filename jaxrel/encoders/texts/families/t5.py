"""The encoder of T5 and its relatives, with and without gates, [Raffel et al.](https://arxiv.org/abs/1910.10683).

Flan-T5, sentence-T5, GTR and mT5 are of this architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrel.encoders.texts.families.family import Family, required
from jaxrel.encoders.texts.transformer import TransformerConfig

__all__ = ["T5"]

_KEYS = {
    "vocabulary_size": "vocab_size",
    "width": "d_model",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "head_width": "d_kv",
    "hidden_width": "d_ff",
}


def _configured(config: Mapping[str, Any]) -> TransformerConfig:
    sizes = required(config, _KEYS)
    usual = "gated-gelu" if config["model_type"] == "mt5" else "relu"
    gate, _, activation = str(config.get("feed_forward_proj", usual)).rpartition("-")
    if gate not in ("", "gated"):
        raise ValueError(f"feed_forward_proj is {config['feed_forward_proj']!r}: only gated-NAME and NAME are read")
    return TransformerConfig(
        **sizes,
        num_key_heads=sizes["num_heads"],
        max_length=config.get("n_positions", 512),
        activation="gelu_new" if (gate, activation) == ("gated", "gelu") else activation,
        epsilon=config.get("layer_norm_epsilon", 1e-6),
        norm_first=True,
        root_mean_square=True,
        gated=gate == "gated",
        query_bias=False,
        output_bias=False,
        hidden_bias=False,
        scaled_products=False,
        relative_buckets=config.get("relative_attention_num_buckets", 32),
        relative_distance=config.get("relative_attention_max_distance", 128),
    )


T5 = Family(
    model_types=("t5", "mt5"),
    configured=_configured,
    anchor="encoder.block.0.layer.0.SelfAttention.q.weight",
    tensors={
        "words": "encoder.embed_tokens",
        "relative_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "norm": "encoder.final_layer_norm",
    },
    layer="encoder.block.{}.layer.",
    layer_tensors={
        "attention_norm": "0.layer_norm",
        "attention.query": "0.SelfAttention.q",
        "attention.key": "0.SelfAttention.k",
        "attention.value": "0.SelfAttention.v",
        "attention.output": "0.SelfAttention.o",
        "hidden_norm": "1.layer_norm",
        "gate": "1.DenseReluDense.wi_0",
        "expand": "1.DenseReluDense.wi_1",
        "contract": "1.DenseReluDense.wo",
    },
    replaced={"shared.": ("encoder.embed_tokens.",), "DenseReluDense.wi.": ("DenseReluDense.wi_1.",)},
    unused=r"(decoder|lm_head|classification_head|classifier)\..*",
)
