"""Converts pictures, in files or decoded by other libraries, to uint8 arrays of one size."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from jaxtyping import UInt8

from jaxrel.data.readers.samples import AbsentError, Skipped

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "PICTURE_SUFFIXES",
    "SIDE",
    "PictureFile",
    "fit_into_memory",
    "open_picture",
    "open_picture_in_thread",
    "pixels_of",
    "read_pictures",
    "stack_in_memory",
    "stack_pictures",
    "warnings_of_pictures",
]

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SIDE = 224
"""Height and width in pixels to which pictures of several sizes are resized: the usual input of a network."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # so that no other parser opens the file
_GREY_MODES = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112  # the EXIF tag
_LARGEST_STACK = 2**30  # bytes
_LARGEST_SPARSE = 2**24  # up to this many pixels, any number of pixels per byte of the file is accepted, ...
_PIXELS_PER_BYTE = 100  # ... and a larger picture may have this many per byte; photographs have fewer than 50

Fit = Literal["crop", "pad"]


class PictureFile(Protocol):
    """A path, or a file within an archive; its text is the name in error messages."""

    def read_bytes(self) -> bytes:
        """The content."""


class Stack(NamedTuple):
    """Pictures as one array.

    Attributes:
        pixels: pixels of the readable pictures.
        kept: their indices among all pictures.
        skipped: name of each unreadable picture, and the reason.
    """

    pixels: UInt8[np.ndarray, "n h w c"]
    kept: list[int]
    skipped: Skipped


Opener: TypeAlias = Callable[[], AbstractContextManager["Image.Image"]]
"""Opens a picture while its pixels are needed; raises ValueError, then or later, if it cannot be read."""


def read_pictures(files: Sequence[PictureFile], *, side: int | None = None, fit: Fit = "crop") -> Stack:
    """Read picture files as one array; see :func:`stack_pictures`."""
    return stack_pictures([(str(file), partial(open_picture, file)) for file in files], side=side, fit=fit)


def fit_into_memory(files: Sequence[PictureFile]) -> bool:
    """Whether :func:`read_pictures` needs at most a gibibyte for them; sizes are read only if there are many pictures.

    An unreadable file counts as one of another size.
    """
    if len(files) * 3 * SIDE**2 <= _LARGEST_STACK:
        return True
    size = None
    for file in files:
        try:
            with open_picture(file) as picture:
                found = _upright_size(picture)
        except ValueError:
            return False
        if size not in (None, found):
            return False
        size = found
    return size is not None and len(files) * 3 * size[0] * size[1] <= _LARGEST_STACK


def stack_pictures(pictures: Sequence[tuple[str, Opener]], *, side: int | None = None, fit: Fit = "crop") -> Stack:
    """Pictures as one array, without the unreadable ones.

    They stay unchanged if all have one size, take at most a gibibyte and no `side` is passed. Otherwise the largest
    central square of each is resized to `side` pixels (by default :data:`SIDE`; bicubic, with antialiasing). With
    ``fit="pad"`` the whole picture is centred in a white square instead, without cropping. Transparent pixels are
    composited on white, and pictures are rotated upright by their EXIF data. The array is grey if every picture is
    grey, otherwise RGB.

    Args:
        pictures: name and opener of each picture; each is opened twice.
        side: height and width in pixels.
        fit: how pictures that are not square become square.

    Raises:
        ValueError: there are no pictures, or none can be read.
    """
    looks: dict[int, _Look] = {}
    reasons: dict[int, str] = {}
    for index, (_, opened) in enumerate(pictures):
        try:
            with opened() as picture:
                looks[index] = _Look(_upright_size(picture), picture.mode in _GREY_MODES)
        except ValueError as error:
            reasons[index] = str(error)
    layout = None
    while looks and layout != (found := _layout(looks.values(), side)):  # again without damaged pictures, which counted
        layout = found
        pixels, kept = np.empty((len(looks), *layout.shape), np.uint8), list[int]()
        for index in looks:
            try:
                with pictures[index][1]() as picture:
                    pixels[len(kept)] = pixels_of(picture, side=layout.side, fit=fit, grey=layout.shape[-1] == 1)
                kept.append(index)
            except ValueError as error:
                reasons[index] = str(error)
        looks = {index: looks[index] for index in kept}
    if not looks:
        why = f"none of {len(pictures)} pictures can be read: {reasons[0]}" if pictures else "there are no pictures"
        raise ValueError(why)
    skipped = tuple((pictures[index][0], reasons[index]) for index in sorted(reasons))
    return Stack(pixels[: len(kept)], kept, skipped)


def stack_in_memory(pictures: Sequence[Image.Image]) -> UInt8[np.ndarray, "n h w c"]:
    """Open pictures as one array; see :func:`stack_pictures`.

    Raises:
        ValueError: a picture cannot be read; the message has its position.
    """
    stack = stack_pictures([(f"picture {i}", partial(_opened, each)) for i, each in enumerate(pictures)])
    for name, reason in stack.skipped:
        raise ValueError(f"{name} cannot be read: {reason}")
    return stack.pixels


@contextmanager
def _opened(picture: Any) -> Iterator[Image.Image]:
    try:
        picture.load()
    except Exception as error:  # any error of the decoder, or an object that is not a picture
        raise ValueError(f"{type(error).__name__}: {error}") from error
    yield picture


class _Look(NamedTuple):
    size: tuple[int, int]
    grey: bool


class _Layout(NamedTuple):
    shape: tuple[int, int, int]
    side: int | None  # the size to which pictures are resized


def _layout(looks: Collection[_Look], side: int | None) -> _Layout:
    """Shape of each picture in the array of all pictures."""
    channels = 1 if all(look.grey for look in looks) else 3
    (width, height), *others = {look.size for look in looks}
    if side is None and not others and len(looks) * height * width * channels <= _LARGEST_STACK:
        return _Layout((height, width, channels), None)
    side = SIDE if side is None else side
    return _Layout((side, side, channels), side)


def pixels_of(
    picture: Image.Image, *, side: int | None = None, fit: Fit = "crop", grey: bool = False
) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of one picture: upright, on white, and `side` by `side` pixels if a side is passed. See
    :func:`stack_pictures`."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        raise ValueError(
            f"a picture has mode {picture.mode}, which is more than 8 bits a channel; convert it to 8 bits"
        )
    if (turn := _turn(picture)) is not None:
        picture = picture.transpose(turn)
    if picture.has_transparency_data or fit == "pad":
        picture = picture.convert("RGBA")
        shape = picture.size if fit == "crop" else (max(picture.size),) * 2
        white = Image.new("RGBA", shape, "white")
        white.alpha_composite(
            picture, tuple((whole - part) // 2 for whole, part in zip(shape, picture.size, strict=True))
        )
        picture = white
    picture = picture.convert("L" if grey else "RGB")
    if side is not None:
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        square = picture.crop((left, top, left + short, top + short))
        picture = square.resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    return pixels[..., np.newaxis] if grey else pixels


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    from PIL import Image

    swapped = (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
    return (picture.height, picture.width) if _turn(picture) in swapped else picture.size


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """The transposition that makes a picture upright; None if its metadata have none or are damaged, in which case
    pixels are still read."""
    from PIL import Image

    if picture.format == "TIFF":  # which Pillow rotates itself
        return None
    try:
        orientation = picture.getexif().get(_ORIENTATION)
    except Exception:  # damaged fields raise errors of many types
        return None
    turns = (
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
    return turns[orientation - 2] if type(orientation) is int and 2 <= orientation <= 8 else None


@contextmanager
def open_picture(file: PictureFile) -> Iterator[Image.Image]:
    """Open a picture file while its pixels are needed.

    Raises:
        ValueError: it is damaged, is not a picture, or has more pixels than Pillow considers safe; may also be raised
            when pixels are decoded.
        AbsentError: Pillow is not installed.
    """
    with warnings_of_pictures(), open_picture_in_thread(file) as picture:
        yield picture


@contextmanager
def warnings_of_pictures() -> Iterator[None]:
    """Turn the warning about too many pixels into an error, and ignore warnings about metadata, in all threads.

    Raises:
        AbsentError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise AbsentError(f"{error}: pictures are read by Pillow (pip install 'jaxrel[pictures]')") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that are not used here
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def open_picture_in_thread(file: PictureFile, content: bytes | None = None) -> Iterator[Image.Image]:
    """:func:`open_picture` in one of several threads, all within one :func:`warnings_of_pictures`.

    Args:
        file: the file.
        content: its content, if already read.
    """
    from PIL import Image

    try:
        opened: Path | io.BytesIO
        if isinstance(file, Path) and content is None:
            opened, size = file, file.stat().st_size
        else:
            content = file.read_bytes() if content is None else content
            opened, size = io.BytesIO(content), len(content)
        with Image.open(opened, formats=_FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > max(_LARGEST_SPARSE, _PIXELS_PER_BYTE * size):
                raise Image.DecompressionBombError(f"{picture.width} x {picture.height} pixels in {size:,} bytes")
            yield picture
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is refused: {error}; make it smaller or remove it") from error
    # Damage raises different errors in each format; these were found by truncating and modifying files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error
