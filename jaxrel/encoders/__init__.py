"""Frozen encoders behind one contract, and features of many images.

`names()` lists the encoders, `load(name)` gives an :class:`Encoder`, `extract_features(encoder, images)`
applies it to any number of images and `from_network` makes an encoder of your own Flax NNX network.
Importing this package does not import Flax; making an encoder does.
"""

from jaxrel.encoders.encoder import Encoder, EncoderOutput, from_network
from jaxrel.encoders.extraction import extract_features
from jaxrel.encoders.preprocessing import Preprocessing
from jaxrel.encoders.registry import load, names

__all__ = ["Encoder", "EncoderOutput", "Preprocessing", "extract_features", "from_network", "load", "names"]
