"""Families of transformers of texts: the architecture of a configuration, and the names of tensors."""

from collections.abc import Mapping

from jaxrel.encoders.texts.families.bart import BART
from jaxrel.encoders.texts.families.family import Family
from jaxrel.encoders.texts.families.llama import LLAMA
from jaxrel.encoders.texts.families.modernbert import MODERNBERT
from jaxrel.encoders.texts.families.mpnet import MPNET
from jaxrel.encoders.texts.families.t5 import T5

__all__ = ["FAMILIES", "Family"]

FAMILIES: Mapping[str, Family] = {"modernbert": MODERNBERT, "mpnet": MPNET, "t5": T5, "bart": BART, "llama": LLAMA}
