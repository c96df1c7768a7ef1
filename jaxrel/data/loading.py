"""Loading a data set from the first provider that has it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Int32, UInt8

from jaxrel.assets import ASSETS, AssetError
from jaxrel.data.catalogue import DATA_SETS, DataSet
from jaxrel.data.images import ImageData, Split, fingerprint, hash_order
from jaxrel.data.readers import Samples, read_path

__all__ = ["DataError", "describe", "load", "names"]

_log = logging.getLogger(__name__)


class DataError(RuntimeError):
    """A data set cannot be had, or what was found is not what it should be; the message says what to do."""


class _AbsentError(Exception):
    """A provider does not have the data set."""


def names() -> tuple[str, ...]:
    """Names of the known data sets."""
    return tuple(DATA_SETS)


def describe(name: str) -> DataSet:
    """Facts of a data set.

    Raises:
        ValueError: `name` is not one of :func:`names`.
    """
    if name not in DATA_SETS:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def load(
    name: str, *, split: Split = "train", path: str | os.PathLike[str] | None = None, limit: int | None = None
) -> ImageData:
    """Load one split of a data set, from the first provider that has it.

    The providers, in order: tensorflow-datasets, if installed; ``$JAXREL_DATA/NAME`` (a folder) or
    ``$JAXREL_DATA/NAME.npz``; the folder of an operating system's package; the pinned archive of the package
    index. One that does not have the set is passed over; one whose data is not what it should be is an error.
    ``ImageData.provider`` names the one that was used: they may differ in size (MNIST: 70,000 or 5,000).

    About three quarters of the images are training images, by a hash of each image's pixels. Official splits
    are not used: some sets have none, providers disagree on them, and they may put copies of an image on both
    sides. See :func:`jaxrel.data.images.hash_order`.

    Args:
        name: one of :func:`names`.
        split: ``"train"`` or ``"test"``.
        path: a folder of IDX files (``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same
            with ``t10k``, plain or ``.gz``), or an ``.npz`` file with uint8 ``images`` (n, h, w) or
            (n, h, w, c) and integer ``labels`` (n,). When given, no other provider is tried.
        limit: number of images to keep, the first in hash order: the same random sample everywhere.

    Returns:
        The images and labels, read-only and in hash order.

    Raises:
        ValueError: an unknown `name` or `split`, or a `limit` below 1 or above the number of images.
        DataError: no provider has the set, or one has other data than it should.
    """
    data_set = describe(name)
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}; wanted one of {', '.join(get_args(Split))}")
    provider, samples = _read(data_set, None if path is None else Path(path).expanduser())
    try:
        images, labels = _check(data_set, samples)
        order, in_train = hash_order(images, labels)
        images, labels = images[order], labels[order]
        _check_fingerprint(data_set, images, labels)
    except ValueError as error:
        raise DataError(f"{provider} does not hold {name} as it should be: {error}") from error
    kept = np.flatnonzero(in_train == (split == "train"))
    if limit is not None:
        if not 1 <= limit <= len(kept):
            raise ValueError(f"limit={limit}, but the {split} split of {name} has 1 to {len(kept)} images to give")
        kept = kept[:limit]
    images, labels = images[kept], labels[kept]
    images.setflags(write=False)
    labels.setflags(write=False)
    return ImageData(
        name=name,
        split=split,
        images=images,
        labels=labels,
        class_names=data_set.class_names,
        licence=data_set.licence,
        provider=provider,
    )


def _read(data_set: DataSet, path: Path | None) -> tuple[str, Samples]:
    """Name and samples of the first provider that has the set."""
    reasons = []
    for provider, read in _providers(data_set, path):
        try:
            return provider, read()
        except (_AbsentError, FileNotFoundError, AssetError) as error:
            _log.debug("%s: passing over %s: %s", data_set.name, provider, error)
            reasons.append(f"\n- {provider}: {error}")
        except ValueError as error:
            raise DataError(f"{provider} does not hold {data_set.name} as it should be: {error}") from error
    hint = "" if path else "\nPass path= or set JAXREL_DATA to use files of your own (see jaxrel.data.load)."
    raise DataError(f"no provider has {data_set.name}:{''.join(reasons)}{hint}")


def _providers(data_set: DataSet, path: Path | None) -> Iterator[tuple[str, Callable[[], Samples]]]:
    """Name and reader of each provider, in the order in which they are tried."""
    if path is not None:
        yield str(path), partial(read_path, path)
        return
    if data_set.tfds_name is not None:
        yield "tensorflow-datasets", partial(_read_tfds, data_set.tfds_name)
    if root := os.environ.get("JAXREL_DATA"):
        for name in (data_set.name, f"{data_set.name}.npz"):
            local = Path(root).expanduser() / name
            yield str(local), partial(read_path, local)
    for folder, package in data_set.folders:
        yield f"{folder} of {package}", partial(read_path, Path(folder))
    if data_set.asset is not None and data_set.read_asset is not None:
        asset = ASSETS[data_set.asset]
        yield f"{asset.distribution} {asset.version} of the package index", data_set.read_asset


def _read_tfds(name: str) -> Samples:
    """All images of a set of tensorflow-datasets, downloaded if need be."""
    try:
        import tensorflow_datasets as tfds

        content = tfds.as_numpy(tfds.load(name, split="train+test", batch_size=-1))
    except ImportError as error:
        raise _AbsentError(f"{error} (pip install 'jaxrel[tfds]')") from error
    except Exception as error:  # its download and its preparation fail in too many ways to list
        raise _AbsentError(f"{type(error).__name__}: {error}") from error
    return content["image"], content["label"]


def _check(data_set: DataSet, samples: Samples) -> tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]]:
    """The samples in the form of ImageData, once they agree with the facts of the set.

    Raises:
        ValueError: type, shape, number or label range differ.
    """
    images, labels = samples
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.shape[1:] != data_set.image_shape:
        raise ValueError(
            f"images of shape {images.shape[1:]} and type {images.dtype}, wanted {data_set.image_shape} and uint8"
        )
    if len(images) not in data_set.fingerprints:
        sizes = " or ".join(map(str, data_set.fingerprints))
        raise ValueError(f"{len(images)} images, wanted {sizes} (a part of a set is had with limit=)")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels of shape {labels.shape} and type {labels.dtype}, wanted {(len(images),)} and integers"
        )
    if not 0 <= labels.min() <= labels.max() < len(data_set.class_names):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, wanted 0 to {len(data_set.class_names) - 1}")
    return images, labels.astype(np.int32)


def _check_fingerprint(
    data_set: DataSet, images: UInt8[np.ndarray, "n h w c"], labels: Int32[np.ndarray, " n"]
) -> None:
    """Compare the whole set, in hash order, with its known fingerprint."""
    expected, found = data_set.fingerprints[len(images)], fingerprint(images, labels)
    if expected is not None and found != expected:
        raise ValueError(f"images or labels differ: the whole set has fingerprint {found}, wanted {expected}")
