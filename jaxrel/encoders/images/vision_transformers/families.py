"""Properties that the checkpoints of each family share: names of tensors, defaults, published preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxrel.encoders.images.preprocessor_config import HALF, IMAGENET, OPENAI, Scaling

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True)
class Family:
    """Properties that the checkpoints of a family share.

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
    scaling: Scaling
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
_VIT = _BASE | {"intermediate_size": 3072, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
_VIT_TENSORS = {
    "class_token": "embeddings.cls_token",
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
}
_CLIP: dict[str, Any] = {
    "model_types": ("clip", "clip_vision_model"),
    "defaults": _BASE
    | {"intermediate_size": 3072, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "prefixes": ("vision_model.",),
    "scaling": OPENAI,
    "resample": 3,
    "patch_bias": False,
}
_CLIP_TOWER = _TOWER | {"class_token": "embeddings.class_embedding", "norm_before": "pre_layrnorm"}
_TEXT_TOWER = ("text_model.", "text_projection.", "logit_", "embeddings.position_ids")

FAMILIES: Mapping[str, Family] = {
    "vit": Family(
        model_types=("vit",),
        defaults=_VIT,
        tensors=_VIT_TENSORS | {"positions": "embeddings.position_embeddings"},
        prefixes=("vit.",),
        unused=("pooler.", "decoder.", "embeddings.mask_token"),
        scaling=HALF,
        resample=2,
    ),
    "clip": Family(tensors=_CLIP_TOWER, unused=(*_TEXT_TOWER, "visual_projection."), **_CLIP),
    "clip-image": Family(tensors=_CLIP_TOWER | {"projection": "visual_projection"}, unused=_TEXT_TOWER, **_CLIP),
    "siglip": Family(
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
        scaling=HALF,
        resample=3,
    ),
    "dinov2": Family(
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
        scaling=IMAGENET,
        resample=3,
    ),
    "dinov3": Family(
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
        scaling=IMAGENET,
        resample=2,
    ),
    "beit": Family(
        model_types=("beit", "data2vec-vision"),
        defaults=_VIT | {"key_bias": False, "use_mean_pooling": True},
        tensors=_VIT_TENSORS
        | {
            "blocks.layer_scale1": "encoder.layer.{}.lambda_1",
            "blocks.layer_scale2": "encoder.layer.{}.lambda_2",
            "blocks.position_biases": "encoder.layer.{}.attention.attention.relative_position_bias"
            ".relative_position_bias_table",
        },
        prefixes=("beit.", "data2vec_vision."),
        unused=("embeddings.mask_token", "lm_head."),
        scaling=HALF,
        resample=3,
    ),
}
