"""What a checkpoint of sentence-transformers says of the pooling around its network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxrel.encoders.checkpoints.files import CheckpointError, read_json

if TYPE_CHECKING:
    from jaxrel.encoders.texts.bert import Pooling

__all__ = ["Modules", "read_modules"]

_FOLDER = re.compile(r"[\w-][\w.-]*", re.ASCII)
_POOLING: Mapping[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls"}


class Modules(NamedTuple):
    """What modules.json says of a checkpoint; as here where there is none."""

    transformer: str = ""
    pooling: Pooling = "mean"
    normalise: bool = False
    max_length: int | None = None


def read_modules(folder: Path) -> Modules:
    """The modules that sentence-transformers puts around the network in a folder.

    Raises:
        CheckpointError: modules.json is no list of modules in folders of plain names, or they are not a Transformer, a
            Pooling and perhaps a Normalize, or the pooling is neither mean nor cls.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return Modules()
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
    return Modules(
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
