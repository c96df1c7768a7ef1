"""Finds and reads checkpoints: local files, local folders and repositories of the Hugging Face Hub.

No code in a checkpoint is run: pickled files are read with an allow-list, and names in an index never lead out of its
folder.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxrel._core.packed_files import read_npz
from jaxrel._core.user_paths import user_path
from jaxrel.encoders.checkpoints.torch_pickle import TorchFileError, read_tensors

__all__ = [
    "CheckpointError",
    "fetch_repository",
    "import_extra",
    "locate_checkpoint",
    "read_checkpoint",
    "read_json",
]

# In order of preference; the names that the Hub uses.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_FILE_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)


class CheckpointError(ValueError):
    """A checkpoint cannot be found, fetched or read; the message says why and what to do."""


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: its name.
        extra: the extra of this package that installs it.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{error} (pip install 'jaxrel[{extra}]')") from error


def locate_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    files: Sequence[str] = ("config.json", "tokenizer.json"),
) -> Path:
    """The file or folder of a checkpoint: `source` itself if the path exists, otherwise the repository of that name.

    Args:
        source: a local file, a local folder, or the name of a repository of the Hugging Face Hub ("owner/name").
        revision: branch, tag or commit of the repository.
        files: further files of the repository to fetch besides its weights, as glob patterns.

    Returns:
        The local path; for a repository, a folder in the Hub's cache.

    Raises:
        CheckpointError: there is no such path and no such repository, or the repository cannot be fetched.
    """
    if source != "" and user_path(source).exists():  # Path("") would be the current folder
        return user_path(source)
    if isinstance(source, Path) or not _HUB_NAME.fullmatch(source):
        raise CheckpointError(f"there is no file or folder {str(source)!r}, and no repository can have that name")
    # Fetch the weights in one format only, because a repository often has several.
    folder = fetch_repository(
        source, revision=revision, files=(*files, "model*.safetensors", "model.safetensors.index.json")
    )
    if not _has_weights(folder):
        fetch_repository(source, revision=revision, files=("pytorch_model*.bin", "pytorch_model.bin.index.json"))
    if not _has_weights(folder):
        raise CheckpointError(f"the repository {source!r} has none of {', '.join(WEIGHTS)} ({folder})")
    return folder


def fetch_repository(name: str, *, revision: str | None = None, files: Sequence[str]) -> Path:
    """Files of a repository of the Hugging Face Hub, read from the Hub's cache if they are there.

    Without a network, or with HF_HUB_OFFLINE=1, the content of the cache is used.

    Args:
        name: "owner/name".
        revision: branch, tag or commit; default: the main branch.
        files: glob patterns of the files to fetch.

    Returns:
        The folder of that revision in the cache.

    Raises:
        CheckpointError: there is no such repository or revision, or it is neither in the cache nor available online.
        ImportError: huggingface-hub is not installed.
    """
    hub = import_extra("huggingface_hub", extra="text")
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (OSError, ValueError) as error:  # no network, no such repository, a name the hub does not allow
        at = "" if revision is None else f" at revision {revision!r}"
        raise CheckpointError(
            f"there is no local file or folder {name!r}, and the repository of that name{at} cannot be obtained "
            f"from the "
            f"Hugging Face Hub: {error}\nCheck the name and the network, or pass a local folder with the files."
        ) from error


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint.

    Args:
        path: a .safetensors, .npz, .bin, .pt, .pth, .pth.tar or .ckpt file; an index of several (.index.json); or a
            folder with weights under the Hub's file names.

    Returns:
        The values of each tensor by name; bfloat16 is the type of `ml_dtypes`.

    Raises:
        CheckpointError: the file is missing, of another kind, truncated or damaged, or an index and its files differ.
        ImportError: safetensors is not installed.
    """
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix not in _READERS:
        raise CheckpointError(f"{path} is not a supported checkpoint file: {', '.join(_READERS)}")
    return _READERS[path.suffix](path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}; it belongs to the checkpoint") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON, or it is damaged ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHTS)


def _weights_in(folder: Path) -> Path:
    if not _has_weights(folder):
        raise CheckpointError(f"the folder {folder} has none of {', '.join(WEIGHTS)}; pass the file of the weights")
    return next(folder / name for name in WEIGHTS if (folder / name).is_file())


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    """The tensors of all files an index names."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map from names of tensors to names of files")
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(places.values())):
        if not _FILE_NAME.fullmatch(name) or name.endswith(".json"):
            raise CheckpointError(f"{index} names {name!r}, which is not the plain name of a file of weights beside it")
        shard = read_checkpoint(index.parent / name)
        if strays := [tensor for tensor in shard if places.get(tensor) != name]:
            raise CheckpointError(f"{index.parent / name} holds {strays[0]!r}, which {index.name} does not place there")
        tensors |= shard
    if missing := places.keys() - tensors.keys():
        raise CheckpointError(f"{index} promises {sorted(missing)[0]!r}, which its files do not hold")
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    safetensors = import_extra("safetensors", extra="text")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a mapping
    except Exception as error:  # besides the library's own errors: types that NumPy lacks, such as float8
        raise CheckpointError(
            f"{path} is not a safetensors file, or it is truncated or damaged, or has a type that is not read ({error})"
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not an .npz file of plain arrays, or it is truncated or damaged ({error})"
        ) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_tensors(path)
    except TorchFileError as error:
        raise CheckpointError(str(error)) from error


_READERS: Mapping[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".bin": _read_torch,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".ckpt": _read_torch,
    ".tar": _read_torch,  # .pth.tar, which is not a tar archive
}
