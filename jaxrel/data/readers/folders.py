"""Folders with one subfolder for each class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrel.data.readers.picture_files import list_pictures
from jaxrel.data.readers.pictures import PICTURE_SUFFIXES, PictureFile, fit_into_memory, read_pictures
from jaxrel.data.readers.samples import Samples, Skipped, read_text

__all__ = [
    "class_files",
    "class_of",
    "has_class_folders",
    "has_samples",
    "read_class_folders",
    "read_picture_files",
    "read_samples",
    "tell_of_others",
]

_log = logging.getLogger(__name__)

_TEXT_SUFFIX = ".txt"
_UNKNOWN = ("unlabelled", "unlabeled")


_PARTS = {"train": "train", "training": "train", "test": "test", "val": "validation", "valid": "validation"}
_PARTS |= {"validation": "validation"}


def has_class_folders(folder: Path) -> bool:
    """Whether there is a subfolder that is not hidden."""
    return any(entry.is_dir() for entry in _visible(folder))


def has_samples(folder: Path) -> bool:
    """Whether there are pictures or texts in a folder, and no subfolders."""
    files = _visible(folder)
    return bool(files) and all(file.suffix.lower() in (_TEXT_SUFFIX, *PICTURE_SUFFIXES) for file in files)


def read_samples(folder: Path) -> Samples:
    """Read one sample per file, all of unknown class; see `read_class_folders`.

    Raises:
        ValueError: a file is neither picture nor text, there are both, or none can be read.
    """
    samples, kept, skipped = _read_files(folder, _samples_of(folder), "utf-8-sig")
    return Samples(samples, np.full(len(kept), ""), skipped=skipped)


def read_class_folders(folder: Path, *, encoding: str = "utf-8-sig") -> Samples:
    """Read one sample per file; each subfolder is a class of that name, except ``unlabelled``, which is of unknown
    class.

    The files are all pictures (see :func:`jaxrel.data.readers.pictures.stack_pictures` for how they are resized)
    or all texts (``.txt``, each read as a whole). Pictures whose array would take more than a gibibyte stay in their
    files until they are encoded. Hidden entries are skipped, and so are files beside the subfolders, which are named
    in the log. An unreadable file is left out and named.

    The folder may also hold ``train`` and ``test`` (``val``, ``valid``, ``validation``), each with such subfolders.

    Args:
        folder: holds the subfolders.
        encoding: encoding of the texts; UTF-8 by default.

    Raises:
        ValueError: a subfolder is empty or has folders within, a file is neither picture nor text, there are both
            pictures and texts, or none can be read.
    """
    parts = _part_folders(folder)
    if parts:
        tell_of_others(folder)
    files_of = {part: class_files(part) for part in parts or (folder,)}
    files = [file for of_part in files_of.values() for file in of_part]
    samples, kept, skipped = _read_files(folder, files, encoding)
    labels = np.array(list(map(class_of, files)), dtype=str)[kept]
    official = np.repeat([_PARTS[part.name.lower()] for part in parts], [len(of_part) for of_part in files_of.values()])
    return Samples(samples, labels, official[kept] if parts else None, skipped)


def _part_folders(folder: Path) -> list[Path]:
    """The subfolders, if they are not classes but splits such as ``train``, each with class subfolders."""
    folders = [entry for entry in _visible(folder) if entry.is_dir()]
    parts = [_PARTS.get(entry.name.lower()) for entry in folders]
    is_split = "train" in parts and len(parts) > 1 and None not in parts and all(map(has_class_folders, folders))
    return folders if is_split else []


def _read_files(folder: Path, files: Sequence[Path], encoding: str) -> tuple[Any, list[int], Skipped]:
    """The samples, the indices of the readable ones, and the unreadable ones."""
    texts = [file for file in files if file.suffix.lower() == _TEXT_SUFFIX]
    if texts and len(texts) < len(files):
        picture = next(file for file in files if file.suffix.lower() != _TEXT_SUFFIX)
        raise ValueError(f"{folder} holds both texts ({texts[0]}) and pictures ({picture}); separate them")
    return _read_texts(files, encoding) if texts else read_picture_files(files)


def read_picture_files(files: Sequence[PictureFile]) -> tuple[Any, list[int], Skipped]:
    """The pictures, in memory up to a gibibyte, the indices of the readable ones, and the unreadable ones."""
    return read_pictures(files) if fit_into_memory(files) else list_pictures(files)


def _read_texts(files: Sequence[Path], encoding: str) -> tuple[tuple[str, ...], list[int], Skipped]:
    """The texts of files, the indices of the readable ones, and the unreadable ones."""
    texts, skipped = {}, []
    for index, file in enumerate(files):
        try:
            texts[index] = read_text(file, encoding=encoding)
        except (ValueError, OSError) as error:
            skipped.append((str(file), str(error)))
    if not texts:
        raise ValueError(f"none of {len(files)} texts can be read: {skipped[0][1]}")
    return tuple(texts.values()), list(texts), tuple(skipped)


def class_of(file: Path) -> str:
    """The name of the class of a sample in a folder of classes; "" if unknown."""
    name = file.parent.name
    return "" if name.lower() in _UNKNOWN else name


def class_files(folder: Path) -> list[Path]:
    """Every sample of a folder with one subfolder for each class, in the order of their paths.

    Raises:
        ValueError: a subfolder is empty or has folders within, or a file is neither picture nor text.
    """
    tell_of_others(folder)
    return [file for name in _visible(folder) if name.is_dir() for file in _samples_of(name)]


def tell_of_others(folder: Path, *, suffix: str = "") -> None:
    """Log the names of entries that are not part of the set, beside the subfolders or files of this suffix."""
    if suffix:
        others = [entry.name for entry in _visible(folder) if entry.suffix.lower() != suffix]
    else:
        others = [entry.name for entry in _visible(folder) if not entry.is_dir()]
    if others:
        _log.warning(
            "%s: %s beside the %s %s left out: %s%s",
            folder,
            f"{len(others):,} entries" if others[1:] else "an entry",
            "shards" if suffix else "folders (samples of unknown class belong in one called unlabelled)",
            "are" if others[1:] else "is",
            ", ".join(others[:3]),
            ", ..." if others[3:] else "",
        )


def _samples_of(folder: Path) -> list[Path]:
    files = _visible(folder)
    if not files:
        raise ValueError(f"{folder} is empty: a class needs at least one sample; remove the folder")
    for file in files:
        if file.is_dir():
            raise ValueError(
                f"{folder}, read as a class, holds the folder {file.name}; pass the folder whose subfolders are "
                f"the classes, with the samples of a class directly in its subfolder"
            )
        if file.suffix.lower() not in (_TEXT_SUFFIX, *PICTURE_SUFFIXES):
            raise ValueError(
                f"{file} is not a sample: expected {_TEXT_SUFFIX} or one of {', '.join(PICTURE_SUFFIXES)}; take it out"
            )
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
