"""What there is of every encoder: arrays in files, or features of a data set."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxrel._core.arrays import to_array
from jaxrel.data import DataError
from jaxrel.metrics.batch import SHARED
from jaxrel.metrics.registry import NEEDS
from jaxrel.study.sources import NamedSource, Progress, Source, restricted_to, silent

__all__ = ["Arrays", "EncoderArrays", "from_arrays", "from_file", "from_files", "from_source"]

# What zipfile and numpy raise for a file that is damaged, or was made to harm.
_DAMAGED = (
    OSError, ValueError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, EOFError,
    KeyError, TypeError, OverflowError, MemoryError, RuntimeError, RecursionError,
)  # fmt: skip

Arrays = Mapping[str, np.ndarray]
WEIGHTS = ("weights", "reference_weights")
COMMON = (*SHARED, *WEIGHTS)
"""Arrays that all encoders of a scoreboard have in common."""


@dataclass(frozen=True)
class EncoderArrays:
    """An encoder as metrics see it.

    Attributes:
        name: how tables and files call it.
        needs: which arrays there are, keys of `jaxrel.metrics.NEEDS` and `WEIGHTS`.
        fingerprint: what the arrays are determined by: equal fingerprints mean equal arrays.
        load: gives the arrays; a worker is sent it, with what it needs.
        common: gives those of them that all encoders have to have in common, as far as they may differ.
        origin: which file they are of, or which data sets by which options; empty for arrays in memory.
    """

    name: str
    needs: frozenset[str]
    fingerprint: Callable[[], str]
    load: Callable[[Progress], Arrays]
    common: Callable[[], Arrays]
    origin: str = ""


def from_arrays(name: str, arrays: Arrays) -> EncoderArrays:
    """Of arrays in memory.

    Raises:
        ValueError: for a name of an array that no metric needs.
    """
    _check_names(name, arrays)
    plain = {need: np.asarray(to_array(need, values)) for need, values in arrays.items()}
    common = {need: array for need, array in plain.items() if need in COMMON}
    return EncoderArrays(
        name,
        frozenset(plain),
        functools.partial(_digest, plain),
        functools.partial(_given, plain),
        functools.partial(_given, common),
    )


def from_files(paths: Sequence[Path], *, strict: bool = False) -> list[EncoderArrays]:
    """Of files as :func:`from_file`, each called by its stem, or by as much of its path as tells it from the others.

    Raises:
        ValueError: a file is given twice; see `from_file` for the rest.
    """
    for place, path in enumerate(paths):
        if any(path.resolve() == other.resolve() for other in paths[:place]):
            raise ValueError(f"{path} is given twice: name each file once.")
    tails = [(*path.absolute().parent.parts, path.stem) for path in paths]

    def name_of(path: Path, tail: tuple[str, ...]) -> str:
        for size in range(1, len(tail) + 1):
            if [other[-size:] for other in tails].count(tail[-size:]) == 1:
                return "/".join(tail[-size:])
        return str(path)

    return [
        dataclasses.replace(from_file(path, strict=strict), name=name_of(path, tail))
        for path, tail in zip(paths, tails, strict=True)
    ]


def from_file(path: Path, *, strict: bool = False) -> EncoderArrays:
    """Of an `.npz` file of one encoder, with arrays by the names of `jaxrel.metrics.NEEDS`; nothing is unpickled.

    A file that is none is an encoder of which nothing can be loaded, so that others are scored, unless `strict`.

    Raises:
        DataError: where there is no such file, or, if `strict`, it is none.
        ValueError: for a name of an array that no metric needs.
    """
    if not path.exists():
        raise DataError(f"{path} is no .npz file: there is no such file.")
    where = str(path.resolve())
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.removesuffix(".npy") for member in archive.namelist()]
        if not members:  # which a damaged table of contents looks like
            raise ValueError("it holds no array")
    except _DAMAGED as error:
        unreadable = DataError(f"{path} is no .npz file: {error}. Write one with numpy.savez(path, features=...).")
        if strict:
            raise unreadable from error
        fail = functools.partial(_fail, unreadable)
        return EncoderArrays(path.stem, frozenset(NEEDS), fail, fail, fail, where)
    _check_names(str(path), members)
    return EncoderArrays(
        path.stem,
        frozenset(members),
        lambda: hashlib.sha256(path.read_bytes()).hexdigest(),
        functools.partial(_read, path.absolute()),
        functools.partial(_read, path, wanted=COMMON),
        where,
    )


def from_source(
    encoder: str, target: Source, reference: Source | None, *, views: bool, origin: str = ""
) -> EncoderArrays:
    """Of the training samples of a data set, seen through an encoder, and of a reference data set if there is one.

    Raises:
        ValueError: where these features, or views, cannot be had.
    """
    for source in filter(None, (target, reference)):
        source.check(encoder, views=views and source is target, held_out=False)

    def fingerprint() -> str:
        parts = [source.fingerprint(encoder) for source in (target, reference) if source is not None]
        return "/".join([*parts, f"views {views}"])

    names = {"features", "labels", "weights"}
    names |= {"reference_features", "reference_labels", "reference_weights"} if reference is not None else set()
    names |= {"first_view", "second_view"} if views else set()
    other = None if reference is None else restricted_to([encoder], reference)
    load = functools.partial(_of_sources, encoder, restricted_to([encoder], target), other, views)
    alike = isinstance(target, NamedSource) and (reference is None or isinstance(reference, NamedSource))
    common = functools.partial(_given, {}) if alike else lambda: {n: a for n, a in load(silent).items() if n in COMMON}
    return EncoderArrays(encoder, frozenset(names), fingerprint, load, common, origin)


def _of_sources(encoder: str, target: Source, reference: Source | None, views: bool, progress: Progress) -> Arrays:
    task = target.features(encoder, progress).train
    arrays: dict[str, object] = {"features": task.features, "labels": task.labels, "weights": task.weights}
    if reference is not None:
        other = reference.features(encoder, progress).train
        arrays |= {
            "reference_features": other.features,
            "reference_labels": other.labels,
            "reference_weights": other.weights,
        }
    if views:
        arrays["first_view"], arrays["second_view"] = target.views(encoder, progress)
    return {name: np.asarray(array) for name, array in arrays.items() if array is not None}


def _given(arrays: Arrays, *_: Progress) -> Arrays:
    return arrays


def _fail(error: DataError, *_: Progress) -> NoReturn:
    raise error


def _read(path: Path, *_: Progress, wanted: Sequence[str] | None = None) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if wanted is None or name in wanted}
    except _DAMAGED as error:
        raise DataError(f"{path} cannot be read: {str(error) or type(error).__name__}".replace("\n", " ")) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path} cannot be read: its {name} is no array.")
    return arrays


def _check_names(what: str, names: Sequence[str] | Arrays) -> None:
    known = (*NEEDS, *WEIGHTS)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{what} has arrays {', '.join(unknown)}, which no metric needs: there are {', '.join(known)}."
        )


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        # Text as objects has no bytes of its own.
        array = np.ascontiguousarray(array.astype(str) if array.dtype.kind == "O" else array)
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
