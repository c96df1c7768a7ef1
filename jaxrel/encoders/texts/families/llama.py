"""Decoders of Llama's layout: Llama, Mistral, Qwen2 (whose queries, keys and values have biases) and Qwen3 (whose
queries and keys are normalised).

[Llama](https://arxiv.org/abs/2302.13971), [Mistral](https://arxiv.org/abs/2310.06825),
[Qwen2](https://arxiv.org/abs/2407.10671), [Qwen3](https://arxiv.org/abs/2505.09388). A token attends to those before
it, so that the last has seen the whole text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrel.encoders.texts.families.family import Family, head_width_of, required, rotary_of
from jaxrel.encoders.texts.transformer import TransformerConfig

__all__ = ["LLAMA"]

_KEYS = {
    "vocabulary_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_width": "intermediate_size",
    "max_length": "max_position_embeddings",
}


def _configured(config: Mapping[str, Any]) -> TransformerConfig:
    sizes, model_type = required(config, _KEYS), config["model_type"]
    head_width = 128 if model_type == "qwen3" else head_width_of(sizes)
    bias = model_type == "qwen2" or config.get("attention_bias", False)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rotary = rotary_of({"rope_theta": config.get("rope_theta", 10_000.0), **scaling})
    return TransformerConfig(
        **sizes,
        num_key_heads=config.get("num_key_value_heads") or sizes["num_heads"],
        head_width=config.get("head_dim") or head_width,
        activation=config.get("hidden_act", "silu"),
        epsilon=config.get("rms_norm_eps", 1e-6),
        causal=config.get("is_causal", True),
        norm_first=True,
        root_mean_square=True,
        gated=True,
        query_bias=bias,
        output_bias=bias and model_type != "qwen2",
        hidden_bias=config.get("mlp_bias", False),
        query_norm=model_type == "qwen3",
        rotary=(rotary,) * sizes["num_layers"],
        windows=_windows(config, sizes["num_layers"]),
    )


def _windows(config: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """How far back each layer looks."""
    window, model_type = config.get("sliding_window"), config["model_type"]
    if window is None or model_type == "llama" or (model_type != "mistral" and not config.get("use_sliding_window")):
        return ()
    first = 0 if model_type == "mistral" else config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if number >= first else "full_attention" for number in range(num_layers)
    ]
    return tuple(window - 1 if kind == "sliding_attention" else None for kind in kinds)


LLAMA = Family(
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    configured=_configured,
    anchor="embed_tokens.weight",
    tensors={"words": "embed_tokens", "norm": "norm"},
    layer="layers.{}.",
    layer_tensors={
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.query_norm": "self_attn.q_norm",
        "attention.key": "self_attn.k_proj",
        "attention.key_norm": "self_attn.k_norm",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "hidden_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "expand": "mlp.up_proj",
        "contract": "mlp.down_proj",
    },
    unused=r"(lm_head|score)\..*|.*\.rotary_emb\.inv_freq",
)
