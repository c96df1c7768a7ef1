"""Loads text encoders from transformer checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.encoders.checkpoints.files import CheckpointError, locate_checkpoint, read_checkpoint, read_json
from jaxrel.encoders.checkpoints.tensors import check_size
from jaxrel.encoders.encoder import Encoder
from jaxrel.encoders.texts.encoder import text_encoder
from jaxrel.encoders.texts.sentence_transformers import Modules, read_modules, read_prompt
from jaxrel.encoders.texts.tokens import read_tokenizer, read_tokenizer_config

if TYPE_CHECKING:
    from jaxrel.encoders.texts.bert import BertConfig, BertEncoder, Pooling
    from jaxrel.encoders.texts.sentence import SentenceEncoder
    from jaxrel.encoders.texts.transformer import Transformer, TransformerConfig

__all__ = ["load_text_encoder"]

_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "*_Pooling/config.json",
    "*_Dense/*",
)


def load_text_encoder(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    family: str | None = None,
    pooling: Pooling | None = None,
    layer: int | None = None,
    normalise: bool | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
    width: int | None = None,
    dtype: np.dtype[Any] | type = np.float32,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder from a checkpoint of a text transformer: BERT's relatives, and `texts.families`.

    A checkpoint of sentence-transformers, which has a modules.json, is used as in sentence-transformers, with its
    pooling, maximum length, prompt, and modules Dense and Normalize.

    Args:
        checkpoint: a local folder with config.json, tokenizer.json and weights, a file of weights beside the other
            two, or the name of a repository of the Hugging Face Hub.
        name: the encoder's name, part of its fingerprint. Default: `checkpoint`.
        revision: branch, tag or commit of the repository.
        family: "bert", or one of `texts.families.FAMILIES`. Default: that of the `model_type` of config.json.
        pooling: pooling of the states of a text's tokens: "mean", "cls", "max", "lasttoken",
            "mean_sqrt_len_tokens", "weightedmean" (`texts.pooling`), or BERT's "pooler"; then no modules.json is read.
            Default: what modules.json says, where there is one, else "mean".
        layer: take the states after this many layers. Default: after the last.
        normalise: whether features are scaled to unit length. Default: what modules.json says, else not.
        max_length: texts are truncated to this many tokens. Default: as sentence-transformers does: what
            sentence_bert_config.json says, else tokenizer_config.json, but no more than the network was made for.
        prompt: prefix of each text: a name among the `prompts` of config_sentence_transformers.json, or a text
            such as "query: "; "" for nothing. Default: that of its `default_prompt_name`, where there is one.
        width: number of leading features to keep, for networks trained for that ("Matryoshka"). Default: all.
        dtype: type of the weights, e.g. `jnp.bfloat16`; features are always float32.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: the checkpoint cannot be obtained or read (`CheckpointError`), is of another architecture, or an
            option does not fit it; modules.json has another pooling or module.
        ImportError: the extra "text" is not installed.
    """
    from jaxrel.encoders.texts.sentence import sentence_encoder

    path = locate_checkpoint(checkpoint, revision=revision, files=_FILES)
    folder = path if path.is_dir() else path.parent
    modules = read_modules(folder) if pooling is None else Modules(pooling=pooling)
    before = read_prompt(folder, "" if prompt is None and pooling is not None else prompt)
    folder = folder / modules.transformer
    path = folder if path.is_dir() else path
    normalise = modules.normalise if normalise is None else normalise
    content = read_json(folder / "config.json")
    kind = _family_of(content, family)
    if kind == "bart" and modules.whole:
        raise CheckpointError(
            f"{folder} has BART, of which sentence-transformers takes the states of the decoder: pass pooling='mean' "
            "for those of the encoder"
        )
    config = _configured(content, kind)
    tensors = read_checkpoint(path)
    check_size(config.num_weights, tensors, folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json", vocabulary_size=config.vocabulary_size)
    most, has_types = read_tokenizer_config(folder / "tokenizer_config.json", tokenizer)
    after_pooling = bool(modules.dense) or width is not None
    network = _network(
        config,
        tensors,
        kind,
        dtype,
        pooling=modules.pooling,
        layer=layer,
        normalise=bool(normalise) and not after_pooling,
    )
    whole: BertEncoder | Transformer | SentenceEncoder = network
    if after_pooling:
        whole = sentence_encoder(network, modules.dense, width=width, normalise=bool(normalise), dtype=dtype)
    return text_encoder(
        whole,
        tokenizer,
        name=str(checkpoint) if name is None else name,
        max_length=max_length or modules.max_length or min(config.max_length, most or config.max_length),
        prompt=before,
        pools_prompt=modules.pools_prompt,
        has_types=has_types,
        description=whole.description,
        pretraining=pretraining,
        licence=licence,
    )


def _family_of(config: Mapping[str, Any], family: str | None) -> str:
    """Which family the checkpoint of a config.json is of.

    Raises:
        CheckpointError: none, or another one than that given.
    """
    from jaxrel.encoders.texts.bert import MODEL_TYPES
    from jaxrel.encoders.texts.families import FAMILIES

    model_types = {"bert": tuple(MODEL_TYPES)} | {name: each.model_types for name, each in FAMILIES.items()}
    if family is not None and family not in model_types:
        raise ValueError(f"family is {family!r}: choose from {', '.join(model_types)}")
    read = model_types if family is None else {family: model_types[family]}
    for name, known in read.items():
        if config.get("model_type") in known:
            return name
    raise CheckpointError(
        f"model_type is {config.get('model_type')!r}: only {', '.join(sum(read.values(), ()))} are read"
        f"{'' if family is None else f' as {family}'}; make an encoder of another network by "
        "jaxrel.encoders.from_transformers"
    )


def _configured(content: Mapping[str, Any], kind: str) -> BertConfig | TransformerConfig:
    from jaxrel.encoders.texts.bert import BertConfig
    from jaxrel.encoders.texts.families import FAMILIES

    return BertConfig.from_hugging_face(content) if kind == "bert" else FAMILIES[kind].configured(content)


def _network(
    config: BertConfig | TransformerConfig,
    tensors: Mapping[str, np.ndarray],
    kind: str,
    dtype: np.dtype[Any] | type,
    **options: Any,
) -> BertEncoder | Transformer:
    """The network with the weights of a checkpoint."""
    from jaxrel.encoders.texts.bert import BertConfig, BertEncoder
    from jaxrel.encoders.texts.bert_checkpoints import load_hugging_face_tensors
    from jaxrel.encoders.texts.families import FAMILIES
    from jaxrel.encoders.texts.transformer import Transformer
    from jaxrel.encoders.texts.transformer_checkpoints import load_transformer_tensors

    if isinstance(config, BertConfig):
        bert = BertEncoder(config, **options)
        load_hugging_face_tensors(bert, tensors, dtype=dtype)
        return bert
    network = Transformer(config, **options)
    load_transformer_tensors(network, tensors, FAMILIES[kind], dtype=dtype)
    return network
