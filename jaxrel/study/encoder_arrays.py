"""Encoders of which arrays are given, in memory or in files, as the target of a study."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxrel._core.arrays import to_array
from jaxrel.data import DataError
from jaxrel.metrics.batch import SHARED, applicable_metrics
from jaxrel.metrics.registry import NEEDS
from jaxrel.study.sources import Progress, Split, Views
from jaxrel.task import Task

__all__ = ["Arrays", "EncoderArrays", "Hub", "from_arrays", "from_file", "from_files"]

# What zipfile and numpy raise for a file that is damaged, or was made to harm.
_DAMAGED = (
    OSError, ValueError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, EOFError,
    KeyError, TypeError, OverflowError, MemoryError, RuntimeError, RecursionError,
)  # fmt: skip

Arrays = Mapping[str, np.ndarray]
WEIGHTS = ("weights", "reference_weights")
COMMON = (*SHARED, *WEIGHTS)
"""Arrays that all encoders of a target have in common."""


@dataclass(frozen=True)
class EncoderArrays:
    """An encoder as metrics see it.

    Attributes:
        name: how tables and files call it.
        needs: which arrays there are, keys of `jaxrel.metrics.NEEDS` and `WEIGHTS`.
        fingerprint: what the arrays are determined by: equal fingerprints mean equal arrays.
        load: gives the arrays; a worker is sent it, with what it needs.
        common: gives those of them that all encoders have to have in common.
        origin: which file they are of; empty for arrays in memory.
    """

    name: str
    needs: frozenset[str]
    fingerprint: Callable[[], str]
    load: Callable[[Progress], Arrays]
    common: Callable[[], Arrays]
    origin: str = ""


class Hub:
    """Encoders of one target, each with the arrays that metrics need: what :func:`jaxrel.study.scoreboard` is about."""

    def __init__(self, encoders: Sequence[EncoderArrays], name: str = "target") -> None:
        """Put encoders together; nothing is loaded yet.

        Raises:
            ValueError: for no encoder, and two of one name.
        """
        names = [encoder.name for encoder in encoders]
        if not names:
            raise ValueError("no encoder is given: pass at least one.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"encoder given twice: {', '.join(twice)}; name each once.")
        self.name = name
        self.encoders = dict(zip(names, encoders, strict=True))
        self._common: dict[str, np.ndarray] = {}

    def metrics(self) -> tuple[str, ...]:
        """All that what is there of every encoder suffices for.

        Raises:
            ValueError: there is none.
        """
        everywhere = frozenset.intersection(*(encoder.needs for encoder in self.encoders.values()))
        names = applicable_metrics(dict.fromkeys(everywhere))
        if not names:
            raise ValueError(f"no metric can be computed from {', '.join(sorted(everywhere)) or 'nothing'}.")
        return names

    def check_needs(self, metric: str, needs: Sequence[str]) -> None:
        """Raise ValueError where an encoder lacks what a metric needs."""
        for encoder in self.encoders.values():
            if missing := sorted(set(needs) - encoder.needs):
                raise ValueError(f"{metric} needs {', '.join(missing)}, which there is not of {encoder.name}.")

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:  # noqa: ARG002 - metrics say what they need
        """Raise ValueError where there is no such encoder, or a held-out task is asked for."""
        if encoder not in self.encoders:
            raise ValueError(f"there is no encoder {encoder!r}: there are {', '.join(self.encoders)}.")
        if held_out:
            raise ValueError("arrays have no held-out samples, on which a bound is evaluated: pass FeatureArrays.")

    def fingerprint(self, encoder: str) -> str:
        """That of the arrays.

        Raises:
            ValueError: labels, or whatever else all encoders have in common, are not those of the encoders before.
        """
        for name, array in self.encoders[encoder].common().items():
            if not np.array_equal(self._common.setdefault(name, array), array):
                raise ValueError(
                    f"{name} of {encoder} differ from those of another encoder: score one target at a time."
                )
        return self.encoders[encoder].fingerprint()

    def arrays(self, encoder: str, progress: Progress) -> Arrays:
        """The arrays."""
        return self.encoders[encoder].load(progress)

    def features(self, encoder: str, progress: Progress) -> Split:
        """Features and labels as a task."""
        arrays = self.arrays(encoder, progress)
        return Split(Task(arrays["features"], arrays.get("labels"), weights=arrays.get("weights")), None)

    def views(self, encoder: str, progress: Progress) -> Views:
        """Features of two augmented views."""
        arrays = self.arrays(encoder, progress)
        return arrays["first_view"], arrays["second_view"]

    def restricted_to(self, names: Collection[str]) -> Hub:
        """The part of these encoders."""
        return Hub([encoder for name, encoder in self.encoders.items() if name in names], self.name)


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
        raise DataError(f"{path} is not an .npz file: there is no such file.")
    where = str(path.resolve())
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.removesuffix(".npy") for member in archive.namelist()]
        if not members:  # which a damaged table of contents looks like
            raise ValueError("it holds no array")
    except _DAMAGED as error:
        unreadable = DataError(f"{path} is not an .npz file: {error}. Write one with numpy.savez(path, features=...).")
        if strict:
            raise unreadable from error
        fail = functools.partial(_fail, unreadable)
        return EncoderArrays(path.stem, frozenset(NEEDS), fail, fail, fail, where)
    _check_names(str(path), members)
    return EncoderArrays(
        path.stem,
        frozenset(members),
        functools.partial(_digest_of_file, path),
        functools.partial(_read, path.absolute()),
        functools.partial(_read, path, wanted=COMMON),
        where,
    )


def _digest_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
            raise DataError(f"{path} cannot be read: its {name} is not an array.")
    return arrays


def _check_names(what: str, names: Sequence[str] | Arrays) -> None:
    known = (*NEEDS, *WEIGHTS)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{what} has arrays {', '.join(unknown)}, which no metric needs: there are {', '.join(known)}."
        )


def common_fingerprint(arrays: Arrays) -> str:
    """A hash of what all encoders of a target have in common."""
    return _digest({name: array for name, array in arrays.items() if name in COMMON})


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        # Text as objects has no bytes of its own.
        array = np.ascontiguousarray(array.astype(str) if array.dtype.kind == "O" else array)
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
