"""Pictures in files, or decoded by other libraries, brought to uint8 arrays of one size."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8

from jaxrel.data.readers.samples import AbsentError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "PICTURE_SUFFIXES",
    "SIDE",
    "open_picture",
    "open_picture_in_thread",
    "pixels_of",
    "read_pictures",
    "stack_pictures",
    "warnings_of_pictures",
]

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SIDE = 224
"""Height and width to which pictures of several sizes are brought, in pixels: the usual input of a network."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # so that no other parser meets the file
_GREY_MODES = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112  # the EXIF tag; values from 5 on swap height and width

Fit = Literal["crop", "pad"]


def read_pictures(files: Sequence[Path], *, side: int | None = None, fit: Fit = "crop") -> UInt8[np.ndarray, "n h w c"]:
    """Read picture files as one array; see :func:`stack_pictures`.

    Raises:
        ValueError: a file is damaged, no picture, or has more pixels than Pillow deems safe; the message names it.
    """

    def opener(file: Path) -> Callable[[], AbstractContextManager[Image.Image]]:
        return lambda: open_picture(file)

    return stack_pictures([opener(file) for file in files], side=side, fit=fit)


def stack_pictures(
    openers: Sequence[Callable[[], AbstractContextManager[Image.Image]]],
    *,
    side: int | None = None,
    fit: Fit = "crop",
) -> UInt8[np.ndarray, "n h w c"]:
    """Pictures as one array.

    They stay as they are where all have one size and no `side` is given. Otherwise the largest central square of each
    is resized to `side` pixels (by default :data:`SIDE`; bicubic, with antialiasing). With ``fit="pad"`` the picture
    is put into the middle of a white square instead, of which nothing is cut off. Pictures lie on white where they are
    transparent and are turned upright as their EXIF data say. The array is grey when every picture is, else it is RGB.

    Args:
        openers: gives each picture, a PIL image; called twice.
        side: height and width in pixels.
        fit: what is done to pictures that are no squares.

    Raises:
        ValueError: there are no pictures, or one has more than 8 bits a channel.
    """
    if not openers:
        raise ValueError("there are no pictures")
    sizes, grey = set(), True
    for opened in openers:
        with opened() as picture:
            sizes.add(_upright_size(picture) if side is None else (side, side))
            grey = grey and picture.mode in _GREY_MODES
    if len(sizes) > 1:
        side = SIDE
        sizes = {(side, side)}
    ((width, height),) = sizes
    pixels = np.empty((len(openers), height, width, 1 if grey else 3), np.uint8)
    for index, opened in enumerate(openers):
        with opened() as picture:
            pixels[index] = pixels_of(picture, side=side, fit=fit, grey=grey)
    return pixels


def pixels_of(
    picture: Image.Image, *, side: int | None = None, fit: Fit = "crop", grey: bool = False
) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of one picture: upright, on white, and of `side` by `side` pixels if given. See :func:`stack_pictures`."""
    from PIL import Image, ImageOps

    if picture.mode.startswith(("I", "F")):
        raise ValueError(
            f"a picture has mode {picture.mode}, which is more than 8 bits a channel; convert it to 8 bits"
        )
    picture = ImageOps.exif_transpose(picture)
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
    turned = picture.getexif().get(_ORIENTATION, 1) >= 5
    return (picture.height, picture.width) if turned else picture.size


@contextmanager
def open_picture(file: Path) -> Iterator[Image.Image]:
    """Open a picture file for as long as its pixels are wanted.

    Raises:
        ValueError: it is damaged, no picture, or has more pixels than Pillow deems safe; also where pixels are decoded.
        AbsentError: Pillow is not installed.
    """
    with warnings_of_pictures(), open_picture_in_thread(file) as picture:
        yield picture


@contextmanager
def warnings_of_pictures() -> Iterator[None]:
    """Make too many pixels an error, and leave warnings of metadata alone, in all threads.

    Raises:
        AbsentError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise AbsentError(f"{error}: pictures are read by Pillow (pip install 'jaxrel[pictures]')") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that nothing here looks at
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def open_picture_in_thread(file: Path) -> Iterator[Image.Image]:
    """:func:`open_picture` in one of several threads, all within one :func:`warnings_of_pictures`."""
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as picture:
            yield picture
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is refused: {error}; make it smaller or take it out") from error
    # Damage shows in as many ways as there are formats; these were found by cutting and changing files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error
