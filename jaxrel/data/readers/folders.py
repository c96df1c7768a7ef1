"""Folders with one subfolder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrel.data.readers.pictures import PICTURE_SUFFIXES, read_pictures
from jaxrel.data.readers.samples import Samples, read_text

__all__ = ["class_files", "has_class_folders", "read_class_folders"]

_TEXT_SUFFIX = ".txt"


def has_class_folders(folder: Path) -> bool:
    """Whether there is any subfolder, hidden ones aside."""
    return any(entry.is_dir() for entry in _visible(folder))


def read_class_folders(folder: Path, *, encoding: str = "utf-8-sig") -> Samples:
    """Read one sample a file, each subfolder a class that is called like it.

    The files are all pictures (see :func:`jaxrel.data.readers.pictures.stack_pictures` for what is done to their sizes)
    or all texts (``.txt``, each read as a whole). Hidden entries, and files beside the subfolders, are passed over.

    Args:
        folder: holds the subfolders.
        encoding: of the texts; by default UTF-8.

    Raises:
        ValueError: a subfolder is empty or has folders within, a file is neither picture nor text or is damaged, or
            there are both pictures and texts.
    """
    files = class_files(folder)
    labels = np.array([file.parent.name for file in files], dtype=str)
    texts = [file for file in files if file.suffix.lower() == _TEXT_SUFFIX]
    if not texts:
        return read_pictures(files), labels
    if len(texts) < len(files):
        picture = next(file for file in files if file.suffix.lower() != _TEXT_SUFFIX)
        raise ValueError(f"{folder} holds both texts ({texts[0]}) and pictures ({picture}); part them")
    return tuple(read_text(file, encoding=encoding) for file in texts), labels


def class_files(folder: Path) -> list[Path]:
    """Every sample of a folder with one subfolder for each class, in the order of their paths.

    Raises:
        ValueError: a subfolder is empty or has folders within, or a file is neither picture nor text.
    """
    return [file for name in _visible(folder) if name.is_dir() for file in _samples_of(name)]


def _samples_of(folder: Path) -> list[Path]:
    files = _visible(folder)
    if not files:
        raise ValueError(f"{folder} is empty: a class needs at least one sample; take the folder out")
    for file in files:
        if file.is_dir():
            raise ValueError(
                f"{folder}, taken for a class, holds the folder {file.name}; name the folder whose subfolders are the "
                "classes, with the samples of a class right in its subfolder"
            )
        if file.suffix.lower() not in (_TEXT_SUFFIX, *PICTURE_SUFFIXES):
            raise ValueError(
                f"{file} is no sample: wanted {_TEXT_SUFFIX} or one of {', '.join(PICTURE_SUFFIXES)}; take it out"
            )
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
