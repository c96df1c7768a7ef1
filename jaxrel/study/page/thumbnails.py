"""Thumbnails of samples that a study still holds in memory."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrel.study.draws import underlying
from jaxrel.study.sources import NamedSource, Source

__all__ = ["ClassSamples", "class_samples"]

_SIDE = 56  # pixels
_MOST = 4  # of a class


class ClassSamples(NamedTuple):
    """Pictures of one class of a target, as data URIs."""

    target: str
    name: str
    pictures: Sequence[str]


def class_samples(sources: Iterable[Source], classes: Mapping[str, Sequence[str]]) -> list[ClassSamples]:
    """The first samples of classes, held-out ones if there are any; none without Pillow.

    Args:
        sources: the data sets of a study; sets other than images in memory have no pictures.
        classes: names of classes by data set.
    """
    if importlib.util.find_spec("PIL") is None:
        return []
    found = {}
    for source in map(underlying, sources):
        if isinstance(source, NamedSource) and source.name in classes and source.name not in found:
            found[source.name] = _samples(source, classes[source.name])
    return [samples for of_target in found.values() for samples in of_target if samples.pictures]


def _samples(source: NamedSource, names: Sequence[str]) -> Iterable[ClassSamples]:
    parts = source.loaded_parts
    if not parts or parts[-1].modality != "images":
        return []
    part = parts[-1]
    numbers = {name: number for number, name in enumerate(part.class_names)}
    return [
        ClassSamples(
            source.name,
            name,
            [_data_uri(part.samples[row : row + 1][0]) for row in _rows(part.labels, numbers[name])],
        )
        for name in names
        if name in numbers
    ]


def _rows(labels: np.ndarray, number: int) -> list[int]:
    rows: list[int] = np.flatnonzero(labels == number)[:_MOST].tolist()
    return rows


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    pixels = np.asarray(image)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
