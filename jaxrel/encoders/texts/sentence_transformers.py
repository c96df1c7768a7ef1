"""What a checkpoint of sentence-transformers says of what is around its network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrel._core.suggestions import suggestion
from jaxrel.encoders.checkpoints.files import CheckpointError, read_checkpoint, read_json

if TYPE_CHECKING:
    from jaxrel.encoders.texts.bert import Pooling

__all__ = ["DenseModule", "Modules", "read_modules", "read_prompt"]

_FOLDER = re.compile(r"[\w-][\w.-]*", re.ASCII)
# The words of today, and the flags before them.
_POOLING: Mapping[str, Pooling] = {
    **{word: word for word in ("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean")},
    "mean_tokens": "mean",
    "cls_token": "cls",
    "max_tokens": "max",
    "weightedmean_tokens": "weightedmean",
}
_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "linear",
}
_INSTEAD = (
    "make an encoder of the whole, jaxrel.encoders.from_function(SentenceTransformer(...).encode, name=..., "
    "version='1', modality='texts'), or pass pooling='mean' or 'cls' for the features of the transformer alone"
)


class DenseModule(NamedTuple):
    """A linear map of features, then an activation."""

    folder: Path
    in_width: int
    out_width: int
    use_bias: bool
    activation: str
    tensors: Mapping[str, np.ndarray]


class Modules(NamedTuple):
    """What modules.json says of a checkpoint; as here where there is none.

    Attributes:
        transformer: the folder of the network.
        pooling: what becomes of the states of tokens.
        pools_prompt: whether the tokens of the prompt are among them.
        dense: linear maps after pooling.
        normalise: whether features are scaled to unit length.
        max_length: tokens of the longest text.
        whole: whether there is a modules.json.
    """

    transformer: str = ""
    pooling: Pooling = "mean"
    pools_prompt: bool = True
    dense: tuple[DenseModule, ...] = ()
    normalise: bool = False
    max_length: int | None = None
    whole: bool = False


def read_modules(folder: Path) -> Modules:
    """The modules that sentence-transformers puts around the network in a folder.

    Raises:
        CheckpointError: modules.json is not a list of modules in folders of plain names, or they are not a
            Transformer, a Pooling and perhaps some Dense and a Normalize, or do something that is not done here.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return Modules()
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        modules = [(str(module["type"]), str(module["path"])) for module in listed]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a list of modules with type and path, or it is damaged") from error
    # What is not of sentence-transformers itself keeps its whole name, and is none of these.
    kinds = [re.sub(r"^sentence_transformers\.(.*\.)?", "", kind) for kind, _ in modules]
    if not re.fullmatch("Transformer Pooling( Dense)*( Normalize)?", " ".join(kinds)):
        raise CheckpointError(
            f"{path} has the modules {', '.join(kinds) or 'none'}: only Transformer, Pooling and, after these, Dense "
            f"and Normalize are read; {_INSTEAD}"
        )
    places = [place for _, place in modules]
    for place in places[1:] if places[0] == "" else places:
        if not _FOLDER.fullmatch(place):
            raise CheckpointError(f"{path} names {place!r}, which is no plain name of a folder in it")
    for kind, place in zip(kinds, places, strict=True):
        if kind == "Normalize":
            _check_features(folder / place / "config.json")
    pooling, pools_prompt = _read_pooling(folder / places[1] / "config.json")
    return Modules(
        places[0],
        pooling,
        pools_prompt,
        tuple(_read_dense(folder / place) for kind, place in zip(kinds, places, strict=True) if kind == "Dense"),
        "Normalize" in kinds,
        _read_max_length(folder / places[0] / "sentence_bert_config.json"),
        whole=True,
    )


def read_prompt(folder: Path, prompt: str | None) -> str:
    """What is put before each text.

    Args:
        folder: of the checkpoint.
        prompt: the name of a prompt of the checkpoint, or a text; None for its default.

    Raises:
        CheckpointError: the default is none of the prompts, or these are not texts by name.
        ValueError: a word is given that is not the name of one.
    """
    path = folder / "config_sentence_transformers.json"
    settings = read_json(path) if path.is_file() else {}
    prompts = settings.get("prompts") or {}
    if not (isinstance(prompts, dict) and all(isinstance(text, str | None) for text in prompts.values())):
        raise CheckpointError(f"{path}: prompts is {prompts!r}, expected texts by name")
    if prompt is None:
        default = settings.get("default_prompt_name")
        if default is not None and default not in prompts:
            raise CheckpointError(f"{path}: default_prompt_name is {default!r}, which is none of {', '.join(prompts)}")
        return prompts.get(default) or ""
    if prompt in prompts:
        return prompts[prompt] or ""
    if prompts and re.fullmatch(r"[\w-]+", prompt):
        raise ValueError(
            f"prompt is {prompt!r}{suggestion(prompt, prompts)}: the prompts of {folder} are {', '.join(prompts)}; "
            "pass one of these, or a text that ends in a space or a sign, such as 'query: '"
        )
    return prompt


def _read_pooling(path: Path) -> tuple[Pooling, bool]:
    settings = read_json(path)
    given = settings.get("pooling_mode")
    modes = [given] if isinstance(given, str) else list(given or ())
    if "pooling_mode" not in settings:
        modes = [key.removeprefix("pooling_mode_") for key, used in settings.items() if used is True]
        modes = [mode for mode in modes if mode != "include_prompt"]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise CheckpointError(
            f"{path} pools by {' and '.join(map(str, modes)) or 'nothing'}: only one of {', '.join(_POOLING)} is read; "
            f"{_INSTEAD}"
        )
    return _POOLING[modes[0]], settings.get("include_prompt") is not False


def _read_dense(folder: Path) -> DenseModule:
    settings = _check_features(folder / "config.json")
    activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS or settings.get("use_residual"):
        residual = " and a residual" if settings.get("use_residual") else ""
        raise CheckpointError(
            f"{folder / 'config.json'} has the activation {activation}{residual}: only {', '.join(_ACTIVATIONS)}, "
            f"without a residual, are read; {_INSTEAD}"
        )
    in_width, out_width = (settings.get(key, 0) for key in ("in_features", "out_features"))
    if not all(type(width) is int and width > 0 for width in (in_width, out_width)):
        raise CheckpointError(
            f"{folder / 'config.json'}: in_features and out_features are {in_width!r} and {out_width!r}, expected "
            "positive integers"
        )
    use_bias = settings.get("bias", True) is True
    return DenseModule(folder, in_width, out_width, use_bias, _ACTIVATIONS[activation], read_checkpoint(folder))


def _check_features(path: Path) -> dict[str, Any]:
    """The settings of a module, which is to take and give the features of a text, not of tokens."""
    settings = read_json(path) if path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            raise CheckpointError(f"{path}: {key} is {settings[key]!r}, not sentence_embedding; {_INSTEAD}")
    return settings


def _read_max_length(path: Path) -> int | None:
    settings = read_json(path) if path.is_file() else {}
    if settings.get("do_lower_case"):
        raise CheckpointError(f"{path} asks for lower case, which is read from tokenizer.json alone: set it there")
    if (task := settings.get("transformer_task", "feature-extraction")) != "feature-extraction":
        raise CheckpointError(f"{path}: transformer_task is {task!r}, not feature-extraction; {_INSTEAD}")
    length = settings.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise CheckpointError(f"{path}: max_seq_length is {length!r}, expected a positive integer")
    return length
