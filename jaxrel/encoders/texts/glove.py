"""Means of word vectors, such as GloVe's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrel._core.programs import compiled
from jaxrel.encoders.checkpoints.files import import_extra
from jaxrel.encoders.checkpoints.tensors import as_weights
from jaxrel.encoders.encoder import REVISION, Encoder, EncoderOutput
from jaxrel.encoders.texts.encoder import make_encoder, sha256
from jaxrel.encoders.texts.tokens import TokenBatch, Tokens, check_texts

__all__ = ["glove_encoder", "read_glove"]

# Letters and digits of any alphabet: GloVe's vocabulary keeps punctuation and clitics apart from them.
_WORD = re.compile(r"[^\W_]+")


def glove_encoder(
    table: Float[np.ndarray, "v d"],
    words: Sequence[str],
    *,
    name: str,
    max_length: int = 512,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder that returns the mean vector of the known words of a text.

    Words are runs of letters and digits, in lower case. A text without a known word has the zero vector.

    Args:
        table: the vector of each word.
        words: the words, in the order of the table's rows.
        name: the encoder's name, part of its fingerprint.
        max_length: how many known words of a text count.
        pretraining: what the vectors were trained on.
        licence: the licence of the vectors.

    Raises:
        ValueError: the numbers of words and rows differ, there are none, or a word occurs twice.
    """
    rows = {word: i for i, word in enumerate(words)}
    if table.ndim != 2 or len(table) != len(words) or not rows:
        raise ValueError(f"table must have a row for each of the {len(words)} words, got shape {table.shape}")
    if len(rows) < len(words):
        twice = next(word for i, word in enumerate(words) if rows[word] != i)
        raise ValueError(f"words must differ, got {twice!r} more than once")
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")

    def tokenise(texts: Sequence[str]) -> list[Tokens]:
        checked = check_texts(texts, takes=["text"], encoder=name)
        known = ([rows[word] for word in _WORD.findall(text.lower()) if word in rows] for text in checked)
        return [Tokens(indices[:max_length]) for indices in known]

    vectors = jnp.asarray(as_weights("word vectors", table, np.float32))
    return make_encoder(
        tokenise,
        _mean_vectors,
        vectors,
        max_length=max_length,
        identity="\n".join([f"{REVISION} {name} {max_length}", *words]),
        name=name,
        num_parameters=vectors.size,
        pretraining=pretraining,
        licence=licence,
        preprocessing=f"words of a list of SHA-256 {sha256(chr(10).join(words))}, at most {max_length} known ones",
    )


def read_glove(vectors: Path, words: Path) -> tuple[np.ndarray, list[str]]:
    """A table of word vectors, mapped into memory, and its words.

    Args:
        vectors: an .npy file `(v, d)`.
        words: a parquet file whose column "index" holds the v words in the same order.

    Raises:
        ImportError: pyarrow is not installed.
    """
    parquet = import_extra("pyarrow.parquet", extra="glove")
    table = np.load(vectors, mmap_mode="r", allow_pickle=False)
    return table, parquet.read_table(words, columns=["index"])["index"].to_pylist()


@compiled
def _mean_vectors(table: Float[Array, "v d"], tokens: TokenBatch) -> EncoderOutput:
    known = tokens.mask[..., None]
    return EncoderOutput((table[tokens.ids] * known).sum(1) / jnp.maximum(known.sum(1), 1), None)
