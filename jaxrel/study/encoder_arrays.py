"""Encoders with arrays in memory or in files, as the target of a study."""

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

# Errors of zipfile and NumPy for a damaged or malicious file.
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
    """The arrays of an encoder, for metrics.

    Attributes:
        name: its name in tables and files.
        needs: names of the available arrays, keys of `jaxrel.metrics.NEEDS` and `WEIGHTS`.
        fingerprint: hash that determines the arrays: equal fingerprints mean equal arrays.
        load: returns the arrays; it is sent to workers with its data.
        common: returns the arrays that must be equal for all encoders.
        origin: file of the arrays; empty for arrays in memory.
    """

    name: str
    needs: frozenset[str]
    fingerprint: Callable[[], str]
    load: Callable[[Progress], Arrays]
    common: Callable[[], Arrays]
    origin: str = ""


class Hub:
    """Encoders of one target, each with the arrays that metrics need: the input of :func:`jaxrel.study.scoreboard`."""

    def __init__(self, encoders: Sequence[EncoderArrays], name: str = "target") -> None:
        """Combine encoders; nothing is loaded yet.

        Raises:
            ValueError: there is no encoder, or two have the same name.
        """
        names = [encoder.name for encoder in encoders]
        if not names:
            raise ValueError("no encoder was passed: pass at least one.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"encoder given twice: {', '.join(twice)}; name each once.")
        self.name = name
        self.encoders = dict(zip(names, encoders, strict=True))
        self._common: dict[str, np.ndarray] = {}

    def metrics(self) -> tuple[str, ...]:
        """All metrics whose arrays every encoder has.

        Raises:
            ValueError: there is none.
        """
        everywhere = frozenset.intersection(*(encoder.needs for encoder in self.encoders.values()))
        names = applicable_metrics(dict.fromkeys(everywhere))
        if not names:
            raise ValueError(f"no metric can be computed from {', '.join(sorted(everywhere)) or 'nothing'}.")
        return names

    def check_needs(self, metric: str, needs: Sequence[str]) -> None:
        """Raise ValueError if an encoder lacks arrays of a metric."""
        for encoder in self.encoders.values():
            if missing := sorted(set(needs) - encoder.needs):
                raise ValueError(f"{metric} needs {', '.join(missing)}, which there is not of {encoder.name}.")

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:  # noqa: ARG002 - metrics say what they need
        """Raise ValueError if there is no such encoder, or a held-out task is requested."""
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
    """Encoder of arrays in memory.

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
    """Encoders of files as in :func:`from_file`, each named by its stem, or by as much of its path as makes the name
    unique.

    Raises:
        ValueError: a file is given twice; see `from_file` for the rest.
    """
    for place, path in enumerate(paths):
        if any(path.resolve() == other.resolve() for other in paths[:place]):
            raise ValueError(f"{path} was passed twice: pass each file once.")
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
    """Encoder of an `.npz` file, with arrays named as in `jaxrel.metrics.NEEDS`; nothing is unpickled.

    Unless `strict`, an invalid file becomes an encoder that fails when it is loaded, so that others are still scored.

    Raises:
        DataError: there is no such file, or, if `strict`, it is invalid.
        ValueError: for a name of an array that no metric needs.
    """
    if not path.exists():
        raise DataError(f"{path} is not an .npz file: there is no such file.")
    where = str(path.resolve())
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.removesuffix(".npy") for member in archive.namelist()]
        if not members:  # a damaged table of contents reads as empty
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
    """A hash of the arrays that all encoders of a target share."""
    return _digest({name: array for name, array in arrays.items() if name in COMMON})


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        # Text as objects has no bytes of its own.
        array = np.ascontiguousarray(array.astype(str) if array.dtype.kind == "O" else array)
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
