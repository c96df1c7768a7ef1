"""Networks and encoders of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jax.typing import DTypeLike

from jaxrel.encoders.checkpoints.files import CheckpointError, locate_checkpoint, read_checkpoint, read_json
from jaxrel.encoders.checkpoints.tensors import check_size
from jaxrel.encoders.encoder import Encoder, described, from_network
from jaxrel.encoders.images.preprocessor_config import CroppedPreprocessing, read_preprocessing
from jaxrel.encoders.images.vision_transformers.config import VisionTransformerConfig
from jaxrel.encoders.images.vision_transformers.families import FAMILIES
from jaxrel.encoders.images.vision_transformers.network import VisionTransformer
from jaxrel.encoders.images.vision_transformers.openai import as_transformers
from jaxrel.encoders.images.vision_transformers.tensors import network_of, tower_of

__all__ = ["load_vision_transformer", "load_vision_transformer_network"]


def load_vision_transformer(
    checkpoint: str | Path,
    *,
    family: str,
    name: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    layer: int | None = None,
    dtype: DTypeLike = np.float32,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder of a checkpoint of a vision transformer.

    Args:
        checkpoint: a local folder with config.json and weights, a file of weights beside it, one of OpenAI's own files
            of CLIP, such as ViT-B-32.pt, or the name of a repository of the Hugging Face Hub.
        family: "vit", "clip", "clip-image" (CLIP in the joint space of images and texts), "siglip", "dinov2",
            "dinov3" or "beit" (data2vec as well).
        name: the encoder's name, part of its fingerprint. Default: `checkpoint`.
        revision: branch, tag or commit of the repository.
        image_size: height and width in pixels to which images are resized, a multiple of the patch size; learned
            positions are interpolated as `transformers` does. Default: that of the checkpoint's
            preprocessor_config.json, which also says how images are resized, cropped and scaled; where there is none,
            that of config.json, with the preprocessing the family was published with. Images that are not square are
            cropped, whereas `transformers` distorts those for ViT, SigLIP and DINOv3.
        layer: take the tokens after this many blocks, normalised and pooled as at the end; then there are no logits but
            after the last. Default: after the last.
        dtype: type of the weights and the computation, e.g. `jnp.bfloat16`; features are always float32.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: the checkpoint cannot be obtained or read (`CheckpointError`), is of
            another architecture, or the image size does not fit it; it has fewer blocks than `layer`.
        ImportError: the extra "vit" is not installed.
    """
    network, preprocessing = load_vision_transformer_network(
        checkpoint, family=family, revision=revision, image_size=image_size, layer=layer, dtype=dtype
    )
    encoder = from_network(
        network,
        preprocessing,
        name=str(checkpoint) if name is None else name,
        pretraining=pretraining,
        licence=licence,
    )
    config = network.config
    return described(encoder, lambda layer: _description(config if layer is None else config.stopped_after(layer)))


def load_vision_transformer_network(
    checkpoint: str | Path,
    *,
    family: str,
    revision: str | None = None,
    image_size: int | None = None,
    layer: int | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[VisionTransformer, CroppedPreprocessing]:
    """The network of :func:`load_vision_transformer` and its preprocessing, for fine-tuning."""
    path = locate_checkpoint(checkpoint, revision=revision, files=("config.json", "preprocessor_config.json"))
    folder = path if path.is_dir() else path.parent
    if path.is_file() and family in ("clip", "clip-image") and not (folder / "config.json").is_file():
        described, tensors = as_transformers(read_checkpoint(path))
    else:
        described, tensors = read_json(folder / "config.json"), {}
    try:
        config = VisionTransformerConfig.from_hugging_face(described, family=family)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    entry = FAMILIES[family]
    preprocessing = read_preprocessing(
        folder,
        described,
        config.image_size,
        scaling=entry.scaling,
        resample=entry.resample,
        image_size=image_size,
    )
    config = replace(config, image_size=preprocessing.image_size)
    tensors = tensors or read_checkpoint(path)
    check_size(config.num_weights, tensors, folder)
    tensors = tower_of(tensors, config)
    if "classifier" in entry.tensors and "classifier.weight" in tensors:
        config = replace(config, num_logits=len(tensors["classifier.weight"]))
    if layer is not None:
        tensors, config = _up_to(layer, tensors, config)
    return network_of(tensors, config, dtype), preprocessing


def _up_to(
    layer: int, tensors: Mapping[str, np.ndarray], config: VisionTransformerConfig
) -> tuple[dict[str, np.ndarray], VisionTransformerConfig]:
    """Without the blocks after the one of this number, and without a classifier that was trained on these."""
    stopped = config.stopped_after(layer)
    if stopped is config:
        return dict(tensors), config
    # As all names of a block begin alike.
    block = next(name for name in FAMILIES[config.family].tensors.values() if "{}" in name).partition("{}")[0]
    left_out = ("classifier.", *(f"{block}{number}." for number in range(layer, config.num_layers)))
    kept = {name: value for name, value in tensors.items() if not name.startswith(left_out)}
    return kept, stopped


def _description(config: VisionTransformerConfig) -> str:
    """What the variables do not show: heads, epsilon, activation; unlike the text of a set, equal in every process."""
    pooling = " of the mean of the patches" if config.mean_pooling else ""
    return repr(replace(config, without_bias=frozenset())) + " ".join(sorted(config.without_bias)) + pooling
