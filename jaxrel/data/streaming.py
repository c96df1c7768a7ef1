"""Pictures that are read from their files where they are encoded, for sets that do not fit into memory."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from jaxtyping import Int32, UInt8

from jaxrel._core.user_paths import user_path
from jaxrel.data.labelled import LabelledData, Modality, Split
from jaxrel.data.readers.folders import class_files
from jaxrel.data.readers.pictures import PICTURE_SUFFIXES, SIDE, open_picture_in_thread, pixels_of, warnings_of_pictures
from jaxrel.data.readers.samples import AbsentError, Skipped
from jaxrel.data.splitting import draw, hash_order

__all__ = ["Pictures", "StreamedImages", "stream"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """Picture files as a sequence of images; a slice of it is an array `(n, side, side, 3)` uint8.

    The largest central square of each picture is resized to `side` pixels, as :func:`jaxrel.data.load` does with
    pictures of several sizes. Files are read and decoded by Grain, several at once. A file whose content has changed
    since it was listed is refused, as features of it would be kept under the fingerprint of the old content.
    """

    files: tuple[Path, ...] = field(repr=False)
    side: int
    hashes: tuple[bytes, ...] = field(repr=False)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.files)

    def __getitem__(self, span: slice) -> UInt8[np.ndarray, "n s s 3"]:
        """Read the pictures of a slice.

        Raises:
            ValueError: a file is gone, has changed, is damaged, no picture, or has more pixels than Pillow deems safe;
                the message names it.
        """
        grain = _grain()
        threads = min(16, 2 * (os.cpu_count() or 1))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        files = list(zip(self.files[span], self.hashes[span], strict=True))
        images = np.empty((len(files), self.side, self.side, 3), np.uint8)
        with warnings_of_pictures():
            for row, pixels in enumerate(grain.MapDataset.source(files).map(self._pixels).to_iter_dataset(options)):
                images[row] = pixels
        return images

    def _pixels(self, listed: tuple[Path, bytes]) -> UInt8[np.ndarray, "s s 3"]:
        file, known_hash = listed
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if _hash(content) != known_hash:
            raise ValueError(f"{file} has changed since it was listed: start again, with its new content")
        with open_picture_in_thread(file, content) as picture:
            return pixels_of(picture, side=self.side)


@dataclass(frozen=True, eq=False)
class StreamedImages(LabelledData):
    """A part of a set of pictures that stay in their files; :func:`stream` opens one.

    Args:
        name: name of the data set.
        split: ``"train"`` or ``"test"``.
        pictures: gives images by slices.
        labels: class of each picture.
        class_names: name of each class.
        licence: the licence as stated where the data came from.
        provider: where the data came from.
        content_hash: of the bytes of all files, in their order.
        skipped: name of each file that cannot be decoded, and why.

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
    content_hash: str = field(repr=False)
    skipped: Skipped = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Check files and labels against one another."""
        self._check_labels()

    @property
    def samples(self) -> Pictures:
        """The pictures."""
        return self.pictures

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.content_hash} {self.pictures.side} {len(self)}".encode())
        digest.update(self.labels.astype("<i4").tobytes())
        return digest.hexdigest()


def stream(
    folder: str | os.PathLike[str],
    *,
    split: Split = "train",
    side: int = SIDE,
    limit: int | None = None,
    strict: bool = False,
) -> StreamedImages:
    """Open a folder with one subfolder of pictures for each class, without reading it into memory.

        pictures = stream("photographs", split="train")
        table = extract_features(
            encoder, pictures.samples, store=store, data_fingerprint=pictures.fingerprint
        )

    The files are read and decoded once, to hash them and to leave out what is damaged, and again where they are
    encoded. About three quarters are training samples, by the hash of each file's bytes
    (:func:`jaxrel.data.splitting.hash_order`), so copies of a file are never on both sides; :func:`jaxrel.data.load`
    hashes pixels instead, so the two split a folder differently.

    Args:
        folder: holds the subfolders.
        split: ``"train"`` or ``"test"``.
        side: height and width of the images in pixels.
        limit: number of pictures to keep, drawn by class as in :func:`jaxrel.data.load`.
        strict: raise an error for a file that cannot be decoded, in place of leaving it out.

    Raises:
        ValueError: the folder does not exist, has no class or a class without pictures, files that are no pictures; an
            unknown `split`; a `side` or a `limit` below 1.
        AbsentError: Grain or Pillow is not installed.
    """
    folder = user_path(folder)
    _check(folder, split, side, limit)
    files = class_files(folder)
    if not files:
        raise ValueError(f"{folder} has no subfolders: pass a folder with one subfolder of pictures for each class.")
    if texts := [file for file in files if file.suffix.lower() not in PICTURE_SUFFIXES]:
        raise ValueError(f"{texts[0]} is no picture: load texts by jaxrel.data.load.")
    class_names = tuple(dict.fromkeys(file.parent.name for file in files))
    places = {name: place for place, name in enumerate(class_names)}
    files, hashes, skipped = _listed(files, strict=strict)
    labels = np.array([places[file.parent.name] for file in files], np.int32)
    order, in_train = hash_order(hashes, labels)
    order = order[in_train if split == "train" else ~in_train]
    if limit is not None:
        if limit > len(order):
            _log.warning("%s has %s %s pictures, fewer than the %s asked for", folder.name, len(order), split, limit)
        order = order[draw(labels[order], limit)]
    return StreamedImages(
        name=folder.name,
        split=split,
        pictures=Pictures(tuple(files[place] for place in order), side, tuple(hashes[place] for place in order)),
        labels=labels[order],
        class_names=class_names,
        licence="not stated",
        provider=str(folder),
        content_hash=hashlib.sha256(b"".join(hashes[place] for place in order)).hexdigest(),
        skipped=skipped,
    )


def _listed(files: Sequence[Path], *, strict: bool) -> tuple[list[Path], list[bytes], Skipped]:
    """The files that can be decoded, the hash of each, and those that cannot."""
    hashes, skipped = {}, []
    with warnings_of_pictures(), ThreadPoolExecutor(os.cpu_count()) as threads:
        for file, found in zip(files, threads.map(_hash_of_picture, files), strict=True):
            if isinstance(found, bytes):
                hashes[file] = found
                continue
            if strict:
                raise ValueError(f"{file} cannot be read: {found}") from found
            _log.warning("%s is left out: %s", file, found)
            skipped.append((str(file), str(found)))
    if not hashes:
        raise ValueError(f"none of {len(files)} pictures can be read: {skipped[0][1]}")
    return list(hashes), list(hashes.values()), tuple(skipped)


def _hash_of_picture(file: Path) -> bytes | Exception:
    """The hash of a file that can be decoded to its end, else why it cannot."""
    try:
        content = file.read_bytes()
        with open_picture_in_thread(file, content) as picture:
            picture.draft(None, (1, 1))  # JPEG decodes at an eighth of its size, and finds damage all the same.
            pixels_of(picture, side=1)
    except (OSError, ValueError) as error:
        return error
    return _hash(content)


def _check(folder: Path, split: str, side: int, limit: int | None) -> None:
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}; wanted one of {', '.join(get_args(Split))}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: pass one with a subfolder of pictures for each class.")
    if side < 1:
        raise ValueError(f"side is {side}: pass a number of pixels of at least 1.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: pass a number of pictures of at least 1.")
    _grain()


def _grain() -> Any:
    try:
        import grain  # type: ignore[import-untyped]
    except ImportError as error:
        raise AbsentError(f"{error}: pictures are streamed by Grain (pip install 'jaxrel[stream]')") from error
    return grain


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
