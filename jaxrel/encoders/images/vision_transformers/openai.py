"""CLIP's vision transformers in OpenAI's own files, which have no config.json."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrel.encoders.checkpoints.files import CheckpointError
from jaxrel.encoders.checkpoints.tensors import shape_of

__all__ = ["as_transformers"]

_HEAD_WIDTH = 64  # of all that OpenAI published
_MARK = "input_resolution"  # which OpenCLIP's files, of other activations and widths of heads, do not have
_NAMES = (
    (r"^visual\.(class_embedding)$", r"vision_model.embeddings.\1"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)


def as_transformers(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of a config.json and the tensors of the image tower, by the names of `transformers`.

    Raises:
        CheckpointError: the tensors are not those of a vision transformer of OpenAI's CLIP.
    """
    if _MARK not in tensors or "visual.class_embedding" not in tensors:
        raise CheckpointError(
            "there is no config.json, and it is not one of OpenAI's own files of a vision transformer, which have the "
            f"tensors {_MARK!r} and 'visual.class_embedding': pass a folder of transformers"
        )
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if name == "visual.proj":
            renamed["visual_projection.weight"] = tensor.T
        elif name.startswith("visual."):
            new = name
            for pattern, replacement in _NAMES:
                new = re.sub(pattern, replacement, new)
            parts = np.split(tensor, 3) if ".in_proj_" in new and len(tensor) % 3 == 0 else [tensor]
            roles = [f".{role}_proj." for role in "qkv"] if parts[1:] else [".in_proj_"]
            renamed |= {new.replace(".in_proj_", role): part for role, part in zip(roles, parts, strict=True)}
    width, _, _, patch_size = shape_of(tensors, "visual.conv1.weight", ndim=4)
    num_positions, _ = shape_of(tensors, "visual.positional_embedding", ndim=2)
    layers = {name.split(".")[3] for name in tensors if name.startswith("visual.transformer.resblocks.")}
    config = {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // _HEAD_WIDTH,
        "intermediate_size": shape_of(tensors, "visual.transformer.resblocks.0.mlp.c_fc.weight", ndim=2)[0],
        "patch_size": patch_size,
        "image_size": patch_size * math.isqrt(num_positions - 1),
        "projection_dim": shape_of(tensors, "visual.proj", ndim=2)[1],
    }
    return config, renamed
