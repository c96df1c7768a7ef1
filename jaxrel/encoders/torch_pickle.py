"""Reads tensors from legacy (not zipped) PyTorch files with NumPy alone, running nothing a pickle asks for.

Such a file is five pickles in a row: a magic number, a protocol version, facts about the machine, the object
(an ordered dictionary of tensors that refer to storages by key) and the list of storage keys; then, key by
key, the count of elements as a little-endian int64 and the elements themselves.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

__all__ = ["TorchFileError", "read_tensors"]

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


class TorchFileError(ValueError):
    """The file is no legacy PyTorch file of plain tensors, or it is damaged; the message says which."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose storage has not been read yet; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def values(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        """The tensor's elements, copied out of its storage."""
        lengths = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or any(type(n) is not int or n < 0 for n in lengths):
            raise TorchFileError(f"a tensor has shape {self.shape}, strides {self.strides} and offset {self.offset}")
        storage = storages[self.storage.key]
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and last >= storage.size:
            raise TorchFileError(f"a tensor reaches to element {last} of a storage of {storage.size} elements")
        strides = tuple(stride * storage.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides).copy()


def _rebuild_tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,  # noqa: ARG001  training state, of no use here
    backward_hooks: OrderedDict[Any, Any],  # noqa: ARG001
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_STORAGE_DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "BoolStorage": "?",
}

_ALLOWED: dict[tuple[str, str], Callable[..., Any] | np.dtype[Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    **{("torch", name): np.dtype(code) for name, code in _STORAGE_DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise TorchFileError(
                f"the file asks for {module}.{name}, which is neither a tensor nor an ordered dictionary; "
                "only plain state dictionaries are read"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", np.dtype() as dtype, str(key), str(), int(size), None):
                return _Storage(key, dtype, size)
        raise TorchFileError(f"unknown kind of storage: {str(pid)[:200]}")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a state dictionary saved by PyTorch in its legacy format.

    Args:
        path: the file (.pt or .pth).

    Returns:
        Each tensor's name and values, in the file's order.

    Raises:
        TorchFileError: the file is truncated, in another format, or holds anything but tensors.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except TorchFileError as error:
            raise TorchFileError(f"{path}: {error}") from error
        except Exception as error:  # a damaged pickle raises almost any exception
            raise TorchFileError(
                f"{path} is no legacy PyTorch file, or it is truncated or damaged ({error}); fetch it again"
            ) from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _load(file) != MAGIC_NUMBER:
        raise TorchFileError("not a PyTorch file in the legacy format (no magic number)")
    if (version := _load(file)) != PROTOCOL_VERSION:
        raise TorchFileError(f"protocol version {version} is unknown, expected {PROTOCOL_VERSION}")
    machine = _load(file)
    if not machine["little_endian"]:
        raise TorchFileError("written on a big-endian machine, which is not supported")
    tensors = _load(file)
    if not isinstance(tensors, dict):
        raise TorchFileError(f"holds a {type(tensors).__name__}, expected a dictionary of tensors")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise TorchFileError(f"entry {str(name)[:200]!r} is a {type(tensor).__name__}, expected a tensor")
    known = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages = {key: _read_storage(file, known[key]) for key in _load(file)}
    return {name: tensor.values(storages) for name, tensor in tensors.items()}


def _load(file: BinaryIO) -> Any:
    return _Unpickler(file, encoding="utf-8").load()


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    size = int.from_bytes(file.read(8), "little", signed=True)
    if size != storage.size:
        raise TorchFileError(f"storage {storage.key} has {size} elements, its tensors expect {storage.size}")
    content = file.read(size * storage.dtype.itemsize)
    if len(content) != size * storage.dtype.itemsize:
        raise TorchFileError(f"truncated: storage {storage.key} ends early; fetch the file again")
    return np.frombuffer(content, storage.dtype)
