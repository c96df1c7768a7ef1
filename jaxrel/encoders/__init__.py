"""Frozen encoders behind one contract, and features of many images.

`names()` lists the encoders, `load(name)` gives an :class:`Encoder`, `extract_features(encoder, images)`
applies it to any number of images and `from_network` makes an encoder of your own Flax NNX network.
`image_views` makes augmented copies of images, for scoring without labels.
Importing this package does not import Flax; making an encoder does.
"""

from jaxrel.encoders.encoder import Encoder, EncoderOutput, from_network
from jaxrel.encoders.extraction import extract_features
from jaxrel.encoders.preprocessing import Preprocessing
from jaxrel.encoders.registry import load, load_network, names
from jaxrel.encoders.views import ImageAugmentation, image_views

__all__ = [
    "Encoder",
    "EncoderOutput",
    "ImageAugmentation",
    "Preprocessing",
    "extract_features",
    "from_network",
    "image_views",
    "load",
    "load_network",
    "names",
]
