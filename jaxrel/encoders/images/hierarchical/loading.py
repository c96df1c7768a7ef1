"""Networks and encoders of checkpoints, in the layouts of `transformers`, `timm` and OpenAI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jax.typing import DTypeLike

from jaxrel.encoders.activations import ACTIVATIONS
from jaxrel.encoders.checkpoints.files import CheckpointError, locate_checkpoint, read_checkpoint, read_json
from jaxrel.encoders.encoder import Encoder, described, from_network
from jaxrel.encoders.images.hierarchical.clip_resnet import ClipResNet
from jaxrel.encoders.images.hierarchical.convnext import ConvNeXt
from jaxrel.encoders.images.hierarchical.swin import Swin
from jaxrel.encoders.images.preprocessor_config import (
    IMAGENET,
    OPENAI,
    CroppedPreprocessing,
    Scaling,
    read_preprocessing,
)
from jaxrel.encoders.images.weights import state_of

__all__ = ["FAMILIES", "Family", "load_hierarchical", "load_hierarchical_network"]

HierarchicalNetwork: TypeAlias = ConvNeXt | Swin | ClipResNet


@dataclass(frozen=True)
class Family:
    """Properties that the checkpoints of a family share.

    Args:
        network: its class.
        model_types: what a config.json of `transformers` may say that they are.
        names: patterns in the names of tensors, and what the variable's name has instead, one after another.
        anchor: a tensor that it alone has, after these.
        epsilons: added to the variance in the last normalisation unless config.json has another number, in the layout
            of `transformers` and in others.
        scaling: mean and standard deviation of pixels 0..1 in the published preprocessing.
    """

    network: type[HierarchicalNetwork]
    model_types: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    anchor: str = "patches.weight"
    epsilons: tuple[float, float] = (1e-5, 1e-5)
    scaling: Scaling = IMAGENET


FAMILIES: Mapping[str, Family] = {
    "convnext": Family(
        ConvNeXt,
        model_types=("convnext", "convnextv2"),
        names=(
            (r"\bconvnext(v2)?\.|\bencoder\.(?=stages\.\d+\.(layers|downsampling_layer)\.)", ""),
            (r"\b(embeddings\.patch_embeddings|stem\.0)\.", "patches."),
            (r"\b(embeddings\.layernorm|stem\.1)\.", "patches_norm."),
            (r"\b(downsampling_layer|downsample)\.0\.", "merge_norm."),
            (r"\b(downsampling_layer|downsample)\.1\.", "merge."),
            (r"(?<=\d)\.layers\.", ".blocks."),
            (r"\b(dwconv|conv_dw)\.", "depthwise."),
            (r"\b(pwconv1|mlp\.fc1)\.", "expand."),
            (r"\b(pwconv2|mlp\.fc2)\.", "contract."),
            (r"\b(mlp\.)?grn\.", "response."),
            (r"\b(layer_scale_parameter|gamma)$", "layer_scale"),
            (r"\b(layernorm|head\.norm)\.", "norm."),
            (r"\bhead\.fc\.", "classifier."),
        ),
        epsilons=(1e-12, 1e-6),
    ),
    "swin": Family(
        Swin,
        model_types=("swin",),
        names=(
            (r"\bswin\.|\bencoder\.(?=layers\.)", ""),
            (r"\b(embeddings\.patch_embeddings\.projection|patch_embed\.proj)\.", "patches."),
            (r"\b(embeddings|patch_embed)\.norm\.", "patches_norm."),
            (r"\blayers\.(?=\d+\.(blocks|downsample)\.)", "stages."),
            (r"\bdownsample\.norm\.", "merge_norm."),
            (r"\bdownsample\.reduction\.", "merge."),
            (r"\b(attention\.self|attn)\.relative_position_bias_table$", "attention.position_biases"),
            (r"\b(attention\.self|attn)\.(query|key|value|qkv)\.", r"attention.\2."),
            (r"\b(attention\.output\.dense|attn\.proj)\.", "attention.out."),
            (r"\b(intermediate\.dense|mlp\.fc1)\.", "expand."),
            (r"\b(output\.dense|mlp\.fc2)\.", "contract."),
            (r"\blayernorm_before\.", "norm1."),
            (r"\blayernorm_after\.", "norm2."),
            (r"\blayernorm\.", "norm."),
            (r"\bhead\.(fc\.)?(?=weight|bias)", "classifier."),
        ),
    ),
    "clip-resnet": Family(ClipResNet, model_types=(), names=(), anchor="attnpool.positional_embedding", scaling=OPENAI),
}
_BUFFERS = ("relative_position_index", "attn_mask", "mask_token")


def load_hierarchical(checkpoint: str | Path, *, family: str, name: str, **options: Any) -> Encoder:
    """Make an encoder of a checkpoint.

    Args:
        checkpoint: as for :func:`load_hierarchical_network`.
        family: likewise.
        name: the encoder's name, part of its fingerprint.
        options: others of :func:`load_hierarchical_network`.

    Raises:
        ValueError: as :func:`load_hierarchical_network`.
    """
    network, preprocessing, settings = _load(checkpoint, family=family, **options)
    # Its variables do not show its epsilon and activation.
    return described(from_network(network, preprocessing, name=name), lambda _: str(settings))


def load_hierarchical_network(
    checkpoint: str | Path,
    *,
    family: str,
    revision: str | None = None,
    image_size: int | None = None,
    layer: int | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[HierarchicalNetwork, CroppedPreprocessing]:
    """The network of a checkpoint and its preprocessing.

    Args:
        checkpoint: a local folder with weights and perhaps a config.json (of `transformers` or `timm`) and a
            preprocessor_config.json, a file of weights, or the name of a repository of the Hugging Face Hub.
        family: "convnext" (both versions), "swin" or "clip-resnet".
        revision: branch, tag or commit of the repository.
        image_size: height and width in pixels to which images are resized. Default: that of the checkpoint.
        layer: the stage, from 1, whose mean over the image gives the features; there are logits after the last only.
            Default: the last, pooled as it was trained.
        dtype: type of the weights and of products; features are float32 at least.

    Raises:
        ValueError: the checkpoint cannot be obtained or read (`CheckpointError`), is of another architecture, or has
            no such stage; the image size does not fit it.
    """
    network, preprocessing, _ = _load(
        checkpoint, family=family, revision=revision, image_size=image_size, layer=layer, dtype=dtype
    )
    return network, preprocessing


def _load(
    checkpoint: str | Path,
    *,
    family: str,
    revision: str | None = None,
    image_size: int | None = None,
    layer: int | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[HierarchicalNetwork, CroppedPreprocessing, dict[str, Any]]:
    """The tensors and options of a network, with epsilon and activation from config.json."""
    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}; choose from {', '.join(FAMILIES)}")
    entry = FAMILIES[family]
    path = locate_checkpoint(checkpoint, revision=revision, files=("config.json", "preprocessor_config.json"))
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    try:
        settings = _settings(entry, config)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    tensors, num_logits = state_of(
        _renamed(read_checkpoint(path), entry.names), anchor=entry.anchor, classifier="classifier"
    )
    published = config.get("image_size", 224)
    if entry.network is ClipResNet:
        published = ClipResNet.image_size_of(tensors)
    preprocessing = read_preprocessing(
        folder, config, published, scaling=entry.scaling, resample=3, image_size=image_size
    )
    options: dict[str, Any] = {"layer": layer, "image_size": preprocessing.image_size, "dtype": dtype}
    if entry.network is not ClipResNet:
        options |= {"num_logits": num_logits, "epsilon": settings["epsilon"]}
        options["activation"] = ACTIVATIONS[settings["activation"]]
    return entry.network(tensors, **options), preprocessing, settings


def _settings(entry: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Epsilon and activation.

    Raises:
        ValueError: the configuration is of another model, or has none of these.
    """
    if (model_type := config.get("model_type")) not in (None, *entry.model_types):
        raise ValueError(f"model_type is {model_type!r}, expected {' or '.join(entry.model_types) or 'none'}")
    epsilon = config.get("layer_norm_eps", entry.epsilons[model_type is None])
    activation = config.get("hidden_act", "gelu")
    if not (isinstance(epsilon, int | float) and epsilon > 0):
        raise ValueError(f"layer_norm_eps is {epsilon!r}: pass a positive number")
    if activation not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {activation!r}: choose from {', '.join(ACTIVATIONS)}")
    return {"epsilon": float(epsilon), "activation": activation}


def _renamed(tensors: Mapping[str, np.ndarray], names: tuple[tuple[str, str], ...]) -> dict[str, np.ndarray]:
    """By the names of variables: joint matrices taken apart, what merges tokens in the stage that begins with it.

    Raises:
        CheckpointError: two tensors get one name.
    """
    merges_first = any(re.search(r"\blayers\.0\.downsample\.", name) for name in tensors)  # Swin, but for newer timm
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if name.endswith(_BUFFERS):
            continue
        new = name
        for pattern, replacement in names:
            new = re.sub(pattern, replacement, new)
        if merges_first:
            new = re.sub(r"(?<=\bstages\.)(\d+)(?=\.merge)", lambda found: str(int(found[0]) + 1), new)
        parts = {new: tensor}
        if ".qkv." in new and tensor.ndim and len(tensor) % 3 == 0:
            roles = (new.replace(".qkv.", f".{role}.") for role in ("query", "key", "value"))
            parts = dict(zip(roles, np.split(tensor, 3), strict=True))
        if twice := renamed.keys() & parts.keys():
            raise CheckpointError(f"the checkpoint has two tensors {min(twice)!r}, one of them {name!r}: leave one out")
        renamed |= parts
    return renamed
