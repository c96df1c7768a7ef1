"""Detects the architecture of a checkpoint from its configuration or the names of its tensors."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrel._core.user_paths import user_path
from jaxrel.encoders.checkpoints.files import CheckpointError, fetch_repository, read_checkpoint, read_json
from jaxrel.storage.fingerprints import file_states

__all__ = ["MODEL_TYPES", "is_checkpoint", "kind_of"]

MODEL_TYPES: Mapping[str, str] = {
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "distilbert": "bert",
    "modernbert": "modernbert",
    "mpnet": "mpnet",
    "t5": "t5",
    "mt5": "t5",
    "bart": "bart",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "vit": "vit",
    "clip": "clip",
    "clip_vision_model": "clip",
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "beit": "beit",
    "data2vec-vision": "beit",
    "convnext": "convnext",
    "convnextv2": "convnext",
    "swin": "swin",
}
"""Kinds of encoders by the `model_type` of transformers' config.json."""

# timm's names, in the `architecture` of its config.json.
_ARCHITECTURES = {
    **{f"resnet{depth}": f"resnet-{depth}" for depth in (18, 34, 50, 101, 152)},
    "mobilenetv2_100": "mobilenet-v2",
    **{
        f"convnext{version}_{size}": "convnext"
        for version in ("", "v2")
        for size in ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge", "huge")
    },
    **{
        f"swin_{size}_patch4_window{window}_{window * 32}": "swin"
        for size in ("tiny", "small", "base", "large")
        for window in (7, 12)
    },
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_RESNET_BLOCK = re.compile(r"(?:^|\.)layer([1-4])\.(\d+)\.conv([123])\.weight$")
_RESNETS: Mapping[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet-18",
    ((3, 4, 6, 3), False): "resnet-34",
    ((3, 4, 6, 3), True): "resnet-50",
    ((3, 4, 23, 3), True): "resnet-101",
    ((3, 8, 36, 3), True): "resnet-152",
}
# Suffix of a tensor name that identifies a network.
_NAMES = (
    ("clip-resnet", "attnpool.positional_embedding"),
    ("clip", "visual.class_embedding"),
    ("convnext", "stages.0.layers.0.pwconv1.weight"),
    ("convnext", "stages.0.blocks.0.conv_dw.weight"),
    ("swin", "layers.0.blocks.0.attention.self.relative_position_bias_table"),
    ("swin", "layers.0.blocks.0.attn.relative_position_bias_table"),
)
# A tensor that other networks lack or have with another width.
_SIGNS = (
    ("mobilenet-v2", "features.18.0.weight", 1280),
    ("squeezenet-1.1", "features.3.squeeze.weight", 16),
    ("efficientnet-lite0", "_blocks.15._project_conv.weight", 320),
    ("efficientnet-lite1", "_blocks.20._project_conv.weight", 320),
    ("efficientnet-lite2", "_blocks.20._project_conv.weight", 352),
)


def is_checkpoint(name: str) -> bool:
    """Whether a name is a file or folder, or a possible repository, "owner/name"."""
    return bool(name) and (user_path(name).exists() or _REPOSITORY.fullmatch(name) is not None)


def kind_of(checkpoint: str) -> str:
    """The name of the encoder whose weights are in a file, a folder or a repository of the Hugging Face Hub.

    For a repository, only config.json is fetched. For files, the result is cached until they change.

    Raises:
        CheckpointError: it does not exist, or it is not a known encoder.
    """
    path = user_path(checkpoint)
    if path.exists():
        return _kind_of_files(path, str(file_states(path)))
    folder = fetch_repository(checkpoint, files=("config.json", "modules.json"))
    return _kind_of_config(checkpoint, _config_beside(folder))


@functools.lru_cache(maxsize=256)
def _kind_of_files(path: Path, states: str) -> str:
    del states
    config = _config_beside(path if path.is_dir() else path.parent)
    if config.keys() & {"model_type", "architecture"}:
        return _kind_of_config(str(path), config)
    return _kind_of_tensors(path, read_checkpoint(path))


def _config_beside(folder: Path) -> dict[str, Any]:
    """The configuration of the network in a folder, including that of sentence-transformers; {} if there is none."""
    for place in (folder, folder / "0_Transformer"):
        if (place / "config.json").is_file():
            return read_json(place / "config.json")
    return {}


def _kind_of_config(checkpoint: str, config: Mapping[str, Any]) -> str:
    model_type, architecture = str(config.get("model_type")), str(config.get("architecture")).partition(".")[0]
    kind = MODEL_TYPES.get(model_type) or _ARCHITECTURES.get(architecture)
    if kind is None:
        said = f"model_type {model_type!r}" if "model_type" in config else f"architecture {architecture!r}"
        raise CheckpointError(
            f"config.json of {checkpoint} has the {said}: read are {', '.join((*MODEL_TYPES, *_ARCHITECTURES))}. Say "
            "which of the encoders it is by NAME@CHECKPOINT, or make an encoder of your own, "
            "jaxrel.encoders.from_network."
        )
    return kind


def _kind_of_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> str:
    """By the tensors of PyTorch's usual implementations, whatever prefix they have."""
    for known, ending in _NAMES:
        if any(name.endswith(ending) for name in tensors):
            return known
    blocks = [tuple(map(int, found.groups())) for name in tensors if (found := _RESNET_BLOCK.search(name))]
    depths = tuple(len({block for stage, block, _ in blocks if stage == number}) for number in (1, 2, 3, 4))
    if kind := _RESNETS.get((depths, any(convolution == 3 for *_, convolution in blocks))):
        return kind
    for kind, ending, width in _SIGNS:
        if any(name.endswith(ending) and np.shape(tensor)[:1] == (width,) for name, tensor in tensors.items()):
            return kind
    raise CheckpointError(
        f"the architecture cannot be determined from the tensors ({', '.join(list(tensors)[:3])}, ...) what "
        f"{path} is: put its "
        f"config.json "
        f"beside it, or say which of the encoders it is, such as resnet-50@{path}"
    )
