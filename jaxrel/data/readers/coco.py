"""Bounding boxes of a COCO file, each cropped to one sample of its category."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrel.data.readers.pictures import open_picture, stack_pictures
from jaxrel.data.readers.samples import Samples, read_text

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["read_boxes"]

_log = logging.getLogger(__name__)


class _Box(NamedTuple):
    name: str
    file: Path
    category: str
    corner: tuple[float, float]
    size: tuple[float, float]


def read_boxes(path: Path) -> Samples:
    """Read the boxes of a COCO file: the content of each box is a picture, and its category is the label.

    Pictures are beside the file, or in a folder `images` there. Boxes of crowds are left out and counted in the log; a
    box that is empty, or whose picture is unreadable, is left out and named.

    Raises:
        ValueError: it is not such a file, a picture has a path elsewhere, or none of the boxes can be read.
    """
    try:
        document = json.loads(read_text(path))
        names = {category["id"]: str(category["name"]) for category in document["categories"]}
        files = {picture["id"]: str(picture["file_name"]) for picture in document["images"]}
        found = [entry for entry in document["annotations"] if not entry.get("iscrowd")]
        boxes = [_box(path, entry, files[entry["image_id"]], names[entry["category_id"]]) for entry in found]
    except (LookupError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a COCO file of boxes ({type(error).__name__}: {error}): expected categories (id, "
            "name), images (id, file_name) and annotations (image_id, category_id, bbox of left, top, width and height)"
        ) from error
    if crowds := len(document["annotations"]) - len(found):
        _log.warning("%s: boxes of crowds are left out: %s", path, f"{crowds:,}")
    boxes.sort(key=lambda box: box.file)  # so that each picture is decoded once in a pass
    decoded = functools.lru_cache(maxsize=1)(_decoded)
    stack = stack_pictures([(box.name, partial(_cropped, box, decoded)) for box in boxes])
    labels = np.array([box.category for box in boxes], dtype=str)[stack.kept]
    return Samples(stack.pixels, labels, skipped=stack.skipped)


def _box(path: Path, entry: Any, file: str, category: str) -> _Box:
    parts = PurePosixPath(file)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{path} has the picture {file}: expected one beside it, or in the folder images there")
    beside = path.parent / parts
    left, top, width, height = map(float, entry["bbox"])
    place = beside if beside.exists() else path.parent / "images" / parts
    return _Box(f"box {entry.get('id', '')} of {place}", place, category, (left, top), (width, height))


@contextmanager
def _cropped(box: _Box, decoded: Callable[[Path], Image.Image]) -> Iterator[Image.Image]:
    picture = decoded(box.file)
    edges = [*box.corner, *(start + length for start, length in zip(box.corner, box.size, strict=True))]
    limits = picture.size * 2
    left, top, right, bottom = (min(max(round(edge), 0), limit) for edge, limit in zip(edges, limits, strict=True))
    if left >= right or top >= bottom:
        raise ValueError(f"it is empty, or outside of the picture of {picture.width} x {picture.height} pixels")
    yield picture.crop((left, top, right, bottom))


def _decoded(file: Path) -> Image.Image:
    with open_picture(file) as picture:
        picture.load()
        return picture.copy()
