"""Pictures that stay in their files until they are encoded, for sets that do not fit into memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxrel.data.readers.pictures import SIDE, PictureFile, open_picture_in_thread, pixels_of, warnings_of_pictures
from jaxrel.data.readers.samples import AbsentError, Skipped

__all__ = ["Pictures", "imported_grain", "list_pictures"]


@dataclass(frozen=True)
class Pictures:
    """Picture files as a sequence of images; a slice of it is an array `(n, side, side, 3)` uint8.

    The largest central square of each picture is resized to `side` pixels, as :func:`jaxrel.data.load` does with
    pictures of several sizes. Files are read and decoded by Grain, several at once. A file whose content has changed
    since it was listed is an error, because its features would be kept under the fingerprint of the old content.
    """

    files: tuple[Any, ...] = field(repr=False)  # paths, or members of archives
    side: int
    hashes: tuple[bytes, ...] = field(repr=False)

    def chosen(self, places: Int[np.ndarray, " m"]) -> Pictures:
        """The pictures at these positions, in order."""
        return Pictures(
            tuple(self.files[place] for place in places), self.side, tuple(self.hashes[place] for place in places)
        )

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.files)

    def __getitem__(self, span: slice) -> UInt8[np.ndarray, "n s s 3"]:
        """Read the pictures of a slice.

        Raises:
            ValueError: a file is gone, has changed, is damaged, is not a picture, or has more pixels than Pillow
                considers safe; the message names it.
        """
        grain = imported_grain()
        threads = min(16, 2 * (os.cpu_count() or 1))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        files = list(zip(self.files[span], self.hashes[span], strict=True))
        images = np.empty((len(files), self.side, self.side, 3), np.uint8)
        with warnings_of_pictures():
            for row, pixels in enumerate(grain.MapDataset.source(files).map(self._pixels).to_iter_dataset(options)):
                images[row] = pixels
        return images

    def _pixels(self, listed: tuple[PictureFile, bytes]) -> UInt8[np.ndarray, "s s 3"]:
        file, known_hash = listed
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if _hash(content) != known_hash:
            raise ValueError(f"{file} has changed since it was listed: start again, with its new content")
        with open_picture_in_thread(file, content) as picture:
            return pixels_of(picture, side=self.side)


def list_pictures(files: Sequence[PictureFile], *, side: int = SIDE) -> tuple[Pictures, list[int], Skipped]:
    """The decodable pictures, their indices among the files, and the other files.

    Each file is read and decoded once, to hash it and to detect damage.

    Raises:
        ValueError: none of the files can be decoded.
        AbsentError: Grain or Pillow is not installed.
    """
    imported_grain()
    hashes, skipped = dict[int, bytes](), list[tuple[str, str]]()
    with warnings_of_pictures(), ThreadPoolExecutor(os.cpu_count()) as threads:
        for index, found in enumerate(threads.map(_hash_of_picture, files)):
            if isinstance(found, bytes):
                hashes[index] = found
            else:
                skipped.append((str(files[index]), str(found)))
    if not hashes:
        raise ValueError(f"none of {len(files)} pictures can be read: {skipped[0][1]}")
    kept = list(hashes)
    return Pictures(tuple(files[index] for index in kept), side, tuple(hashes.values())), kept, tuple(skipped)


def _hash_of_picture(file: PictureFile) -> bytes | Exception:
    """The hash of a file if it can be fully decoded, otherwise the reason why it cannot."""
    try:
        content = file.read_bytes()
        with open_picture_in_thread(file, content) as picture:
            picture.draft(None, (1, 1))  # Decoding a JPEG at an eighth of its size still detects damage.
            pixels_of(picture, side=1)
    except (OSError, ValueError) as error:
        return error
    return _hash(content)


def imported_grain() -> Any:
    """Grain, which reads and decodes files in threads; AbsentError if it is not installed."""
    try:
        import grain  # type: ignore[import-untyped]
    except ImportError as error:
        raise AbsentError(f"{error}: pictures are streamed by Grain (pip install 'jaxrel[stream]')") from error
    return grain


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
