"""What there is of every encoder: arrays in files, or features of a data set."""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxrel.data import DataError
from jaxrel.ranking.plan import Progress, Source
from jaxrel.scores.registry import NEEDS

__all__ = ["WEIGHTS", "EncoderArrays", "from_arrays", "from_file", "from_source"]

Arrays = Mapping[str, np.ndarray]
WEIGHTS = ("weights", "reference_weights")


@dataclass(frozen=True)
class EncoderArrays:
    """An encoder as metrics see it.

    Attributes:
        name: how tables and files call it.
        needs: which arrays there are, keys of `jaxrel.scores.NEEDS` and `WEIGHTS`.
        fingerprint: what the arrays are determined by: equal fingerprints mean equal arrays.
        load: gives the arrays.
    """

    name: str
    needs: frozenset[str]
    fingerprint: Callable[[], str]
    load: Callable[[Progress], Arrays]


def from_arrays(name: str, arrays: Arrays) -> EncoderArrays:
    """Of arrays in memory.

    Raises:
        ValueError: for a name of an array that no metric needs.
    """
    _check_names(name, arrays)
    return EncoderArrays(name, frozenset(arrays), functools.partial(_digest, arrays), lambda _: arrays)


def from_file(path: Path) -> EncoderArrays:
    """Of an `.npz` file of one encoder, with arrays by the names of `jaxrel.scores.NEEDS`; nothing is unpickled.

    Raises:
        DataError: where there is no such file, or it is none.
        ValueError: for a name of an array that no metric needs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.removesuffix(".npy") for member in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no .npz file: {error}. Write one with numpy.savez(path, features=...).") from error
    _check_names(str(path), members)
    return EncoderArrays(
        path.stem,
        frozenset(members),
        lambda: hashlib.sha256(path.read_bytes()).hexdigest(),
        functools.partial(_read, path),
    )


def from_source(encoder: str, target: Source, reference: Source | None, *, views: bool) -> EncoderArrays:
    """Of the training samples of a data set, seen through an encoder, and of a reference data set if there is one.

    Raises:
        ValueError: where these features, or views, cannot be had.
    """
    for source in filter(None, (target, reference)):
        source.check(encoder, views=views and source is target)

    def load(progress: Progress) -> Arrays:
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

    def fingerprint() -> str:
        parts = [source.fingerprint(encoder) for source in (target, reference) if source is not None]
        return "/".join([*parts, f"views {views}"])

    names = {"features", "labels", "weights"}
    names |= {"reference_features", "reference_labels", "reference_weights"} if reference is not None else set()
    names |= {"first_view", "second_view"} if views else set()
    return EncoderArrays(encoder, frozenset(names), fingerprint, load)


def _read(path: Path, _: Progress) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _check_names(what: str, names: Sequence[str] | Arrays) -> None:
    known = (*NEEDS, *WEIGHTS)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{what} has arrays {', '.join(unknown)}, which no metric needs: there are {', '.join(known)}."
        )


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        array = np.ascontiguousarray(array)
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
