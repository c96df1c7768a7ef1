"""Frozen encoders of images and texts with a common interface, and feature extraction for many samples.

`names()` lists the encoders, `load(name)` gives an :class:`Encoder`, `extract_features(encoder, samples)` applies it to
any number of samples, `extract_layers(encoder, layers, samples)`
extracts several of its layers. `from_function` makes an encoder from your own function; `from_network`, `from_linen`,
`from_torch` and `from_transformers` from a network of Flax NNX, Flax Linen, PyTorch and transformers,
`jaxrel.encoders.texts.text_encoder` one of texts, `jaxrel.encoders.images.vision_transformers` those of ViT,
CLIP, SigLIP and DINO checkpoints. `ImageView` and `TextView` make augmented copies of samples, for scoring without
labels, `class_prompts` sentences of names of classes. Importing this package does not import Flax; making an encoder
does.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxrel.encoders.class_prompts import IMAGE_TEMPLATES, class_prompts
from jaxrel.encoders.encoder import Encoder, EncoderOutput, Modality, from_linen, from_network
from jaxrel.encoders.extraction import View, extract_features, extract_layers
from jaxrel.encoders.images.views import ImageAugmentation, ImageView, image_views
from jaxrel.encoders.own import from_function
from jaxrel.encoders.preprocessing import Preprocessing
from jaxrel.encoders.presets import PRESETS, expanded
from jaxrel.encoders.registry import (
    EncoderPlugin,
    check_name,
    encoder_of_names,
    load,
    load_network,
    modality,
    names,
    source_state,
)
from jaxrel.encoders.texts.views import TextAugmentation, TextView
from jaxrel.encoders.torch_modules import from_torch, from_transformers

__all__ = [
    "IMAGE_TEMPLATES",
    "PRESETS",
    "VIEWS",
    "Encoder",
    "EncoderOutput",
    "EncoderPlugin",
    "ImageAugmentation",
    "ImageView",
    "Modality",
    "Preprocessing",
    "TextAugmentation",
    "TextView",
    "View",
    "check_name",
    "class_prompts",
    "encoder_of_names",
    "expanded",
    "extract_features",
    "extract_layers",
    "from_function",
    "from_linen",
    "from_network",
    "from_torch",
    "from_transformers",
    "image_views",
    "load",
    "load_network",
    "modality",
    "names",
    "source_state",
]

VIEWS: Mapping[Modality, Callable[..., ImageView | TextView]] = MappingProxyType(
    {"images": ImageView, "texts": TextView}
)
"""The augmented views of each modality."""
