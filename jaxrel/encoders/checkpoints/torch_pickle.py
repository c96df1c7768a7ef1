"""Reads tensors from PyTorch files with NumPy alone, without running any code that a pickle names.

A current file is a zip that compresses nothing: the pickled object (an ordered dictionary of tensors that refer to
storages by key) is its member `NAME/data.pkl`, the elements of each storage are `NAME/data/KEY`, and
`NAME/byteorder` says "little" or "big". An archive of TorchScript is the same, but its object is a module whose class
is code in the archive, which is not run either: attributes of modules are read, as their state dictionary would be.

A legacy file is five pickles in a row: a magic number, a protocol version, facts about the machine, the object and
the list of storage keys; then, key by key, the count of elements as a little-endian int64 and the elements themselves.
"""

from __future__ import annotations

import io
import logging
import math
import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, Self

import ml_dtypes
import numpy as np

from jaxrel._core.packed_files import check_pickle

__all__ = ["TorchFileError", "read_tensors"]

_log = logging.getLogger(__name__)

ZIP_SIGNATURE = b"PK\x03\x04"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


class TorchFileError(ValueError):
    """The file is not a PyTorch file of plain tensors, or it is damaged; the message says which."""


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
        """The tensor's elements, a view of its storage."""
        lengths = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or any(type(n) is not int or n < 0 for n in lengths):
            raise TorchFileError(f"a tensor has shape {self.shape}, strides {self.strides} and offset {self.offset}")
        storage = storages[self.storage.key]
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and last >= storage.size:
            raise TorchFileError(f"a tensor reaches to element {last} of a storage of {storage.size} elements")
        if math.prod(self.shape) > storage.size:
            raise TorchFileError(f"a tensor of shape {self.shape} has a storage of {storage.size} elements")
        strides = tuple(stride * storage.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides, writeable=False)


def _rebuild_tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,  # noqa: ARG001  training state, of no use here
    backward_hooks: OrderedDict[Any, Any],  # noqa: ARG001
    metadata: Any = None,  # noqa: ARG001
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(
    tensor: _Tensor,
    requires_grad: bool,  # noqa: ARG001  training state, of no use here
    backward_hooks: OrderedDict[Any, Any],  # noqa: ARG001
) -> _Tensor:
    return tensor


class _Foreign:
    """Stand-in for objects of other classes, which does nothing, so that any objects may surround the tensors."""

    name = ""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Take any state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take any entry."""

    def append(self, item: Any) -> None:
        """Take any item."""

    def extend(self, items: Any) -> None:
        """Take any items."""

    def add(self, item: Any) -> None:
        """Take any item."""


class _Module(_Foreign):
    """Stand-in for a module of TorchScript, which has its attributes alone."""

    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: Any) -> None:
        """Take the attributes."""
        if isinstance(state, dict):
            self.attributes = state


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
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): np.dtype(code) for name, code in _STORAGE_DTYPES.items()},
    ("torch", "BFloat16Storage"): np.dtype(ml_dtypes.bfloat16),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        kind = _Module if module.partition(".")[0] == "__torch__" else _Foreign
        return type(kind.__name__, (kind,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case (
                ("storage", np.dtype() as dtype, str(key), str(), int(size))
                | ("storage", np.dtype() as dtype, str(key), str(), int(size), None)  # the form in legacy files
            ):
                return _Storage(key, dtype, size)
        raise TorchFileError(f"unknown kind of storage: {str(pid)[:200]}")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a state dictionary saved by PyTorch, or of a module saved by TorchScript.

    The dictionary may be nested in another one, beside an optimiser or a count of epochs, under a name such as
    "state_dict",
    "model_state_dict", "model" or "ema"; if there are several, the first in this order is read.

    Args:
        path: the file (.pt, .pth, .ckpt or .bin), in the current or the legacy format.

    Returns:
        Each tensor's name and values, in the file's order; read-only.

    Raises:
        TorchFileError: the file is truncated, in another format, or its state dictionary has other objects than
            tensors.
    """
    with path.open("rb") as file:
        try:
            is_zip = file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE
            file.seek(0)
            if is_zip:
                return _read_zip(file)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _read_legacy(content)
        except TorchFileError as error:
            raise TorchFileError(f"{path}: {error}") from error
        except Exception as error:  # a damaged pickle raises almost any exception
            raise TorchFileError(
                f"{path} is not a zip of PyTorch and no legacy PyTorch file, or it is truncated or damaged ({error}); "
                "fetch it again"
            ) from error


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise TorchFileError(f"a zip with {len(roots)} members named data.pkl, expected one")
        (root,) = roots
        if f"{root}byteorder" in archive.namelist() and _read_member(archive, f"{root}byteorder") != b"little":
            raise TorchFileError("written on a big-endian machine, which is not supported")
        tensors = _check(_load(io.BytesIO(_read_member(archive, f"{root}data.pkl"))))
        storages = {
            key: _elements(_read_member(archive, f"{root}data/{key}"), storage)
            for key, storage in _storages_of(tensors).items()
        }
    return _values(tensors, storages)


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    # PyTorch never compresses, so the content is never larger than the file.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise TorchFileError(f"{name!r} is compressed, which PyTorch does not do")
    return archive.read(name)


def _read_legacy(file: mmap.mmap) -> dict[str, np.ndarray]:
    if _load(file) != MAGIC_NUMBER:
        raise TorchFileError("not a PyTorch file in the legacy format (no magic number)")
    if (version := _load(file)) != PROTOCOL_VERSION:
        raise TorchFileError(f"protocol version {version} is unknown, expected {PROTOCOL_VERSION}")
    machine = _load(file)
    if not machine["little_endian"]:
        raise TorchFileError("written on a big-endian machine, which is not supported")
    tensors = _check(_load(file))
    known = _storages_of(tensors)
    storages = {key: _read_storage(file, known[key]) for key in _load(file)}
    return _values(tensors, storages)


def _load(file: io.BytesIO | mmap.mmap) -> Any:
    check_pickle(file)
    return _Unpickler(file, encoding="utf-8").load()


_STATES = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "ema",
    "model_ema",
    "state_dict_ema",
    "teacher",
    "student",
)


_LONGEST_NAME = 200  # of a tensor; a hostile chain of modules would make names without end


def _tensors_of(module: _Module, place: str, known: set[int]) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of a module and of those in it, by their places; a module at several places has the first."""
    known.add(id(module))
    for name, value in module.attributes.items():
        if not isinstance(name, str) or len(place) + len(name) > _LONGEST_NAME:
            raise TorchFileError(f"a module has an attribute {str(name)[:80]!r} at {place[:80]!r}, which is no name")
        if isinstance(value, _Tensor):
            yield place + name, value
        elif isinstance(value, _Module) and id(value) not in known:
            yield from _tensors_of(value, f"{place}{name}.", known)


def _check(content: Any) -> dict[str, _Tensor]:
    """The state dictionary in the unpickled object: the object itself, or its entry of one of the usual names."""
    if isinstance(content, _Module):
        content = dict(_tensors_of(content, "", set()))
    depth = 3
    while isinstance(content, dict) and depth and not any(isinstance(value, _Tensor) for value in content.values()):
        nested = [name for name in _STATES if isinstance(content.get(name), dict)]
        if not nested:
            break
        if nested[1:]:
            _log.info("of the states %s the first is read", ", ".join(nested))
        content, depth = content[nested[0]], depth - 1
    if not isinstance(content, dict):
        raise TorchFileError(f"holds {_described(content)}, expected a dictionary of tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise TorchFileError(f"entry {str(name)[:200]!r} is {_described(tensor)}, expected a tensor")
    return content


def _described(content: Any) -> str:
    kind = content if isinstance(content, type) else type(content)
    if issubclass(kind, _Foreign):
        return f"an object for which the file asks for {kind.name}; save the state_dict() of a network"
    return f"a {kind.__name__}"


def _values(tensors: dict[str, _Tensor], storages: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = {name: tensor.values(storages) for name, tensor in tensors.items()}
    held, claimed = (sum(array.size for array in arrays.values()) for arrays in (storages, values))
    if claimed > 8 * held:  # tied weights share a storage, but not this many
        raise TorchFileError(f"the tensors have {claimed} elements, and their storages {held}")
    return values


def _storages_of(tensors: dict[str, _Tensor]) -> dict[str, _Storage]:
    return {tensor.storage.key: tensor.storage for tensor in tensors.values()}


def _read_storage(file: mmap.mmap, storage: _Storage) -> np.ndarray:
    size = int.from_bytes(file.read(8), "little", signed=True)
    if size != storage.size:
        raise TorchFileError(f"storage {storage.key} has {size} elements, its tensors expect {storage.size}")
    return _elements(file.read(size * storage.dtype.itemsize), storage)


def _elements(content: bytes, storage: _Storage) -> np.ndarray:
    if len(content) != storage.size * storage.dtype.itemsize:
        raise TorchFileError(
            f"truncated: storage {storage.key} has {len(content)} bytes, its {storage.size} elements "
            f"take {storage.size * storage.dtype.itemsize}; fetch the file again"
        )
    return np.frombuffer(content, storage.dtype)
