"""Converts samples of other libraries (tensors, series, columns and lists of pictures) to arrays or lists."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrel._core.arrays import to_array
from jaxrel._core.text_samples import kind_of, parts_of

__all__ = ["as_samples", "samples_fingerprint"]


def as_samples(samples: Any) -> Any:
    """Samples in memory as an array of images or a list of texts; sources of slices are returned unchanged.

    Tensors of PyTorch become arrays, a series of pandas or polars and a column of `datasets` lists. Pictures of Pillow
    and single images in a list or in an array of objects become one array, pictures of several sizes the central
    squares that :func:`jaxrel.data.load` makes of them.

    Raises:
        ValueError: it is a table or a dictionary of several things, images differ in shape, or a picture cannot be
            read.
    """
    kind = type(samples)
    library = kind.__module__.partition(".")[0]
    if isinstance(samples, Mapping):
        raise ValueError(f"samples is a {kind.__name__} of {', '.join(map(str, samples))}: pass one of these")
    if library in ("pandas", "polars", "datasets") and (columns := _columns(samples)):
        raise ValueError(
            f"samples is a {kind.__name__} with the columns {', '.join(columns)}: pass the one that has the images or "
            f"texts, such as samples[{columns[0]!r}]"
        )
    if library == "torch":
        return to_array("samples", samples)  # the dtype of images is checked later
    if library in ("pandas", "polars"):
        return as_samples(samples.to_list())
    if library == "datasets" or (isinstance(samples, np.ndarray) and samples.dtype == object):
        return as_samples(list(samples))
    if isinstance(samples, list | tuple) and samples and not isinstance(samples[0], str):
        return _stacked(samples)
    return samples


def _columns(samples: Any) -> list[str]:
    names: Any = getattr(samples, "column_names", None)
    return [str(name) for name in (getattr(samples, "columns", ()) if names is None else names)]


def _stacked(samples: list[Any] | tuple[Any, ...]) -> Any:
    """Pictures or arrays of images as one array; anything else unchanged."""
    if type(samples[0]).__module__.startswith("PIL."):
        from jaxrel.data.readers.pictures import stack_in_memory

        return stack_in_memory(samples)
    if not hasattr(samples[0], "__array__"):
        return samples
    images = [np.asarray(as_samples(image)) for image in samples]
    if len(shapes := {image.shape for image in images}) > 1:
        raise ValueError(
            f"images have the shapes {', '.join(map(str, sorted(shapes)))}: resize them to one size, or pass pictures "
            "of Pillow, such as [Image.fromarray(image) for image in samples]"
        )
    return np.stack(images)


def samples_fingerprint(samples: Any) -> str:
    """SHA-256 of samples in memory; ValueError with advice for a source of slices."""
    digest = hashlib.sha256()
    if isinstance(samples, np.ndarray) and samples.dtype == np.uint8:
        digest.update(repr(samples.shape).encode())
        digest.update(np.ascontiguousarray(samples).data.cast("B"))
    elif isinstance(samples, np.ndarray | list | tuple):
        for text in samples:
            if (kind := kind_of(text)) != "text":
                digest.update(f"{kind} ".encode())
            for part in parts_of(text):
                content = part.encode(errors="surrogatepass")
                digest.update(f"{len(content)} ".encode() + content)
    else:
        raise ValueError(
            "samples are a source of slices, which the store cannot identify: pass data_fingerprint, a hash of "
            "exactly these samples in this order"
        )
    return digest.hexdigest()
