"""Text encoders: tokenisation, transformer networks, and means of word vectors (GloVe).

`text_encoder` makes an encoder from your own network and tokenizer, `load_text_encoder` of a checkpoint of BERT or
another transformer, `glove_encoder` of a table of word vectors, and `load_packaged` those whose weights the package
index has. Importing this package imports neither Flax nor tokenizers; making an encoder does.
"""

from jaxrel.encoders.texts.encoder import text_encoder
from jaxrel.encoders.texts.glove import glove_encoder, read_glove
from jaxrel.encoders.texts.loading import load_text_encoder
from jaxrel.encoders.texts.packaged import NETWORKS, PACKAGED, load_packaged, load_packaged_network
from jaxrel.encoders.texts.tokens import LENGTHS, TokenBatch, check_texts, read_tokenizer

__all__ = [
    "LENGTHS",
    "NETWORKS",
    "PACKAGED",
    "TokenBatch",
    "check_texts",
    "glove_encoder",
    "load_packaged",
    "load_packaged_network",
    "load_text_encoder",
    "read_glove",
    "read_tokenizer",
    "text_encoder",
]
