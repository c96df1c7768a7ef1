"""Sentences with a sentiment between -4 and 4, from the sdist of vaderSentiment 0.5."""

from __future__ import annotations

import io
import math
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from jaxrel.data.readers.samples import Samples, lines_of

__all__ = ["SENTIMENTS", "read_rated_sentences"]

T = TypeVar("T")

SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")
"""The five classes, separated at -2.4, -0.8, 0.8 and 2.4: fifths of the scale. A sentiment on a border belongs to the
upper class."""

_BORDERS = (-2.4, -0.8, 0.8, 2.4)
_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
_LARGEST = 64 * 2**20  # bytes of a member; the real ones have less than 3 MB


def read_rated_sentences(path: Path, *, file: str) -> Samples:
    """Read a tab-separated table of identifier, mean sentiment and sentence as texts of five classes.

    Members of archives are found by the end of their name and read in memory. Nothing is unpacked, so an unsafe name
    does no harm.

    Args:
        path: ``vaderSentiment-0.5.zip``, the archive ``hutto_ICWSM_2014.tar.gz`` within, a folder with either of them
            unpacked, or the file itself.
        file: name of the file, such as ``movieReviewSnippets_GroundTruth.txt``.

    Raises:
        FileNotFoundError: nothing is at the path.
        ValueError: an archive is damaged or does not hold the file exactly once, or a line is not a rated sentence.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        content = _find(path, file)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or no archive: {error}") from error
    sentences, sentiments = [], []
    for number, line in enumerate(lines_of(content.decode("latin-1")), start=1):
        fields = line.split("\t")
        sentiment = _number(fields[1]) if len(fields) == 3 else math.nan
        if not -4 <= sentiment <= 4:
            raise ValueError(
                f"line {number} of {file} in {path} is not a rated sentence (identifier, sentiment between -4 and 4, "
                f"sentence): {line[:60]!r}"
            )
        sentiments.append(sentiment)
        sentences.append(fields[2])
    return Samples(tuple(sentences), np.digitize(sentiments, _BORDERS).astype(np.int32))


def _number(field: str) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan


def _find(path: Path, file: str) -> bytes:
    if path.is_dir():
        matches = sorted(path.rglob(file)) or sorted(path.rglob(_ARCHIVE))
        return _find(_only(matches, file, path), file)
    if path.name == file:
        return path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if PurePosixPath(member.filename).name == _ARCHIVE]
            member = _only(members, _ARCHIVE, path)
            _check_size(member.file_size, _ARCHIVE, path)
            return _find_in_tar(archive.read(member), file, path)
    return _find_in_tar(path.read_bytes(), file, path)


def _find_in_tar(content: bytes, file: str, path: Path) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [member for member in archive if member.isfile() and PurePosixPath(member.name).name == file]
        member = _only(members, file, path)
        _check_size(member.size, file, path)
        stream = archive.extractfile(member)
        return b"" if stream is None else stream.read()


def _only(matches: list[T], file: str, path: Path) -> T:
    if len(matches) != 1:
        raise ValueError(f"{path} holds {file} {len(matches)} times, expected once")
    return matches[0]


def _check_size(size: int, file: str, path: Path) -> None:
    if size > _LARGEST:
        raise ValueError(f"{file} in {path} has {size} bytes, more than the {_LARGEST} that are read")
