"""Checks the data of a known data set against its facts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int32, Shaped

from jaxrel.data.catalogue import DataSet
from jaxrel.data.images import with_channels
from jaxrel.data.readers import ClassSamples, Samples
from jaxrel.data.readers.picture_files import Pictures

__all__ = ["known_samples"]


def known_samples(data_set: DataSet, read: Callable[[], Samples]) -> ClassSamples:
    """The samples of a known set, once they agree with its facts.

    Raises:
        ValueError: type, shape, number or labels differ.
    """
    samples, labels, parts, skipped = read()
    if data_set.image_shape is None:
        if not isinstance(samples, tuple):
            raise ValueError("images, expected texts")
    elif isinstance(samples, tuple):
        raise ValueError("texts, expected images")
    elif isinstance(samples, Pictures):
        raise ValueError(f"more than a gibibyte of pictures, expected some of {data_set.image_shape}")
    else:
        samples = with_channels(samples)
        if samples.dtype != np.uint8 or samples.shape[1:] != data_set.image_shape:
            raise ValueError(
                f"images of shape {samples.shape[1:]} and type {samples.dtype}, expected {data_set.image_shape} "
                f"and uint8"
            )
    if len(samples) not in data_set.fingerprints:
        sizes = " or ".join(map(str, data_set.fingerprints))
        unread = f"; {skipped[0][0]} cannot be read: {skipped[0][1]}" if skipped else ""
        raise ValueError(
            f"{len(samples)} {data_set.modality}, expected {sizes} (use limit= for a part of a set){unread}"
        )
    if labels.shape != (len(samples),) or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"labels of shape {labels.shape} and type {labels.dtype}, expected {(len(samples),)} and integers"
        )
    indices = _class_indices(data_set, labels)
    return ClassSamples(samples, indices, data_set.class_names, data_set.licence, parts, skipped)


def _class_indices(data_set: DataSet, labels: Shaped[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """Labels as positions among the known class names."""
    if labels.dtype.kind == "U":
        if unknown := sorted(set(labels.tolist()) - set(data_set.class_names)):
            raise ValueError(f"the label {unknown[0]!r}, expected one of {', '.join(data_set.class_names)}")
        places = {name: place for place, name in enumerate(data_set.class_names)}
        return np.array([places[label] for label in labels.tolist()], dtype=np.int32)
    if not 0 <= labels.min() <= labels.max() < len(data_set.class_names):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, expected 0 to {len(data_set.class_names) - 1}")
    return labels.astype(np.int32)
