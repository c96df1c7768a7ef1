"""Pictures that are read from their files when they are encoded, for sets that do not fit into memory."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
from jaxtyping import Float64, Int32

from jaxrel._core.user_paths import user_path
from jaxrel.data.labelled import LabelledData, Modality, Split
from jaxrel.data.readers.folders import class_files, class_of
from jaxrel.data.readers.picture_files import Pictures, imported_grain, list_pictures
from jaxrel.data.readers.pictures import PICTURE_SUFFIXES, SIDE
from jaxrel.data.readers.samples import Skipped, broken_samples
from jaxrel.data.splitting import draw, hash_order

__all__ = ["StreamedImages", "stream"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StreamedImages(LabelledData):
    """A part of a set of pictures that stay in their files; opened by :func:`stream`.

    Args:
        name: name of the data set.
        split: ``"train"`` or ``"test"``.
        pictures: returns images by slices.
        labels: class of each picture; -1 if unknown.
        class_names: name of each class.
        licence: the licence as stated where the data came from.
        provider: where the data came from.
        skipped: name of each file that cannot be decoded, and the reason.
        targets: regression targets, if there are no classes.

    Raises:
        ValueError: a label does not fit.
    """

    modality: ClassVar[Modality] = "images"
    name: str
    split: Split
    pictures: Pictures = field(repr=False)
    labels: Int32[np.ndarray, " n"] = field(repr=False)
    class_names: tuple[str, ...]
    licence: str
    provider: str
    skipped: Skipped = field(default=(), repr=False)
    targets: Float64[np.ndarray, " n"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check files and labels against one another."""
        self._check_labels()

    @property
    def samples(self) -> Pictures:
        """The pictures."""
        return self.pictures

    def _fingerprint(self) -> str:
        content = hashlib.sha256(b"".join(self.pictures.hashes)).hexdigest()
        digest = hashlib.sha256(f"{content} {self.pictures.side} {len(self)}".encode())
        digest.update(self.labels.astype("<i4").tobytes())
        return digest.hexdigest()


def stream(
    folder: str | os.PathLike[str],
    *,
    split: Split = "train",
    side: int = SIDE,
    limit: int | None = None,
    skip_broken: bool = False,
) -> StreamedImages:
    """Open a folder with one subfolder of pictures for each class, without reading it into memory.

        pictures = stream("photographs", split="train")
        table = extract_features(
            encoder, pictures.samples, store=store, data_fingerprint=pictures.fingerprint
        )

    The files are read and decoded once, to hash them and to detect damage, and again when they are encoded. About
    three quarters are training samples, by the hash of each file's bytes
    (:func:`jaxrel.data.splitting.hash_order`), so copies of a file are never on both sides; :func:`jaxrel.data.load`
    hashes pixels instead, so the two split a folder differently.

    Args:
        folder: holds the subfolders.
        split: ``"train"`` or ``"test"``.
        side: height and width of the images in pixels.
        limit: number of pictures to keep, drawn by class as in :func:`jaxrel.data.load`.
        skip_broken: leave out files that cannot be decoded, instead of raising an error.

    Raises:
        ValueError: the folder does not exist, has no class, a class without pictures, or files that are not pictures
            or cannot be decoded; `split` is unknown; `side` or `limit` is below 1.
        AbsentError: Grain or Pillow is not installed.
    """
    folder = user_path(folder)
    _check(folder, split, side, limit)
    files = class_files(folder)
    if not files:
        raise ValueError(f"{folder} has no subfolders: pass a folder with one subfolder of pictures for each class.")
    if texts := [file for file in files if file.suffix.lower() not in PICTURE_SUFFIXES]:
        raise ValueError(f"{texts[0]} is not a picture: load texts by jaxrel.data.load.")
    class_names = tuple(dict.fromkeys(filter(None, map(class_of, files))))
    places = {name: place for place, name in enumerate(class_names)} | {"": -1}
    pictures, _, skipped = list_pictures(files, side=side)
    if skipped and not skip_broken:
        raise ValueError(broken_samples(folder.name, skipped))
    for file, reason in skipped:
        _log.warning("%s is left out: %s", file, reason)
    labels = np.array([places[class_of(file)] for file in pictures.files], np.int32)
    order, in_train = hash_order(pictures.hashes, labels)
    order = order[in_train if split == "train" else ~in_train]
    if limit is not None:
        if limit > len(order):
            _log.warning("%s has %s %s pictures: all are used (the limit is %s)", folder.name, len(order), split, limit)
        order = order[draw(labels[order], limit)]
    return StreamedImages(
        name=folder.name,
        split=split,
        pictures=pictures.chosen(order),
        labels=labels[order],
        class_names=class_names,
        licence="not stated",
        provider=str(folder),
        skipped=skipped,
    )


def _check(folder: Path, split: str, side: int, limit: int | None) -> None:
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(get_args(Split))}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: pass one with a subfolder of pictures for each class.")
    if side < 1:
        raise ValueError(f"side is {side}: pass a number of pixels of at least 1.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: pass a number of pictures of at least 1.")
    imported_grain()
