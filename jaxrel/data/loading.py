"""Loading a data set by name or path, from the first provider that has it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Bool, Int32, Shaped, UInt8

from jaxrel.assets import ASSETS, AssetError
from jaxrel.data import images, texts
from jaxrel.data.catalogue import DATA_SETS, DataSet
from jaxrel.data.images import ImageData
from jaxrel.data.labelled import Split
from jaxrel.data.readers import AbsentError, ClassSamples, Samples, read_hub, read_path, read_saved, read_tfds
from jaxrel.data.readers.hugging_face import is_saved
from jaxrel.data.readers.paths import name_of
from jaxrel.data.readers.samples import find_classes
from jaxrel.data.texts import TextData

__all__ = ["DataError", "check_name", "describe", "load", "load_splits", "names"]

_log = logging.getLogger(__name__)

_TFDS, _HUGGING_FACE = "tfds:", "hf:"


class DataError(RuntimeError):
    """A data set cannot be had, or what was found is not what it should be; the message says what to do."""


@dataclass(frozen=True)
class _Collection:
    """A data set and how to have it.

    Args:
        name: name of the set.
        providers: name and reader of each provider, in the order in which they are tried.
        fingerprints: of the whole set, by its number of samples.
        hint: what a user can do when no provider has it.
    """

    name: str
    providers: Iterator[tuple[str, Callable[[], ClassSamples]]]
    fingerprints: Mapping[int, str | None] = field(default_factory=dict)
    hint: str = ""


def names() -> tuple[str, ...]:
    """Names of the known data sets."""
    return tuple(DATA_SETS)


def describe(name: str) -> DataSet:
    """Facts of a known data set.

    Raises:
        ValueError: `name` is not one of :func:`names`.
    """
    if name not in DATA_SETS:
        raise ValueError(
            f"unknown data set {name!r}; known are {', '.join(DATA_SETS)}, {_TFDS}NAME, {_HUGGING_FACE}NAME, and any "
            "file or folder of yours by its path"
        )
    return DATA_SETS[name]


def check_name(name: str, *, path: str | os.PathLike[str] | None = None) -> None:
    """Raise ValueError where `load(name, path=path)` can find nothing, without reading or fetching anything."""
    if name.startswith(_TFDS) or (name.startswith(_HUGGING_FACE) and path is None):
        return
    own = path if path is not None else name if _is_path(name) else None
    if own is None:
        describe(name)
    elif not Path(own).expanduser().exists():
        raise ValueError(f"the path given for the data set {name!r}, {own}, does not exist")


def _is_path(name: str) -> bool:
    """Whether a name is that of no known set, but of a file or folder of the user's."""
    if name in DATA_SETS or name.startswith((_TFDS, _HUGGING_FACE)):
        return False
    return "/" in name or os.sep in name or Path(name).expanduser().exists()


def load(
    name: str, *, split: Split = "train", path: str | os.PathLike[str] | None = None, limit: int | None = None
) -> ImageData | TextData:
    """Load one split of a data set of images or of texts.

    The data set is one of these:

    - A known one, by one of :func:`names`, from the first provider that has it. The providers, in order:
      tensorflow-datasets, if it has prepared the set (as ``tfds:NAME`` does); ``$JAXREL_DATA/NAME`` or
      ``$JAXREL_DATA/NAME.npz``; the folder of an operating system's package; the pinned archive of the package index.
      One that does not have the set is passed over; one whose data is not what it should be is an error. The attribute
      `provider` names the one that was used: they may differ in size (MNIST: 70,000 or 5,000).
    - Any file or folder, by its path (which holds a separator, or leads to what exists; a known name comes first):

      - an ``.npz`` file with uint8 ``images`` (n, h, w) or (n, h, w, c), or ``texts`` (n,), an array of strings, and
        ``labels`` (n,), integers or strings;
      - a ``.csv``, ``.tsv`` or ``.tab`` table with the columns ``text`` and ``label``, or, without a header, the text
        and then the label (:func:`jaxrel.data.readers.read_table`);
      - a folder with one subfolder for each class, of pictures or of ``.txt`` files
        (:func:`jaxrel.data.readers.read_class_folders`). Pictures of one size are left as they are, of others the
        central square is resized to 224 pixels;
      - a folder of IDX files (``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k``,
        plain or ``.gz``);
      - a folder that `save_to_disk` of the library `datasets` wrote.

      It is called by its stem. Its classes are the labels that occur, by value or in the order of the alphabet.
    - ``tfds:NAME`` or ``tfds:NAME/CONFIG``: any set of tensorflow-datasets for classifying images or texts.
    - ``hf:NAME`` or ``hf:OWNER/NAME``: any such set of the Hugging Face Hub, by the library `datasets`.

    About three quarters of the samples are training samples, by a hash of each sample's content. Official splits
    are not used: some sets have none, providers disagree on them, and they may put copies of a sample on both
    sides. See :func:`jaxrel.data.splitting.hash_order`.

    Args:
        name: the data set.
        split: ``"train"`` or ``"test"``.
        path: of a known set, where the user has it: in any of the forms above, or as it was published. Of
            ``tfds:NAME``, the folder of prepared sets. Of ``hf:NAME``, a folder that `save_to_disk` wrote. With any
            other name, the user's data set, which is then called so. When given, no other provider is tried.
        limit: number of samples to keep, the first in hash order: the same random sample everywhere.

    Returns:
        The samples and labels in hash order; arrays are read-only.

    Raises:
        ValueError: an unknown `name` or `split`, or a `limit` below 1 or above the number of samples.
        DataError: no provider has the set, or one has other data than it should.
    """
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}; wanted one of {', '.join(get_args(Split))}")
    return _part(*_whole(name, path), split, limit)


def load_splits(
    name: str,
    *,
    path: str | os.PathLike[str] | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
) -> tuple[ImageData | TextData, ImageData | TextData]:
    """Load both splits of a data set, which is read only once.

    Args:
        name: the data set; see :func:`load`.
        path: where it is; see :func:`load`.
        train_limit: number of training samples to keep, the first in hash order.
        test_limit: number of test samples to keep, likewise.

    Returns:
        What :func:`load` gives for the splits ``"train"`` and ``"test"``.

    Raises:
        ValueError: an unknown `name`, or a limit below 1 or above the number of samples.
        DataError: no provider has the set, or one has other data than it should.
    """
    whole, in_train = _whole(name, path)
    return _part(whole, in_train, "train", train_limit), _part(whole, in_train, "test", test_limit)


def _whole(name: str, path: str | os.PathLike[str] | None) -> tuple[ImageData | TextData, Bool[np.ndarray, " n"]]:
    collection = _collection(name, None if path is None else Path(path).expanduser())
    provider, found = _read(collection)
    return _in_order(collection, provider, found)


def _collection(name: str, path: Path | None) -> _Collection:
    """The data set that a user means."""
    if name in DATA_SETS:
        facts = DATA_SETS[name]
        hint = "" if path else "\nPass path= or set JAXREL_DATA to use files of your own (see jaxrel.data.load)."
        return _Collection(
            name,
            ((provider, partial(_known, facts, read)) for provider, read in _providers(facts, path)),
            facts.fingerprints,
            hint if facts.by_hand is None else f"\nPass path= of {facts.by_hand}.",
        )
    if name.startswith(_TFDS):
        read = partial(read_tfds, name.removeprefix(_TFDS), data_dir=path)
        return _Collection(name, iter([("tensorflow-datasets", read)]))
    if name.startswith(_HUGGING_FACE) and path is None:
        return _Collection(name, iter([("Hugging Face Hub", partial(read_hub, name.removeprefix(_HUGGING_FACE)))]))
    if path is None:
        check_name(name)
        path = Path(name).expanduser()
        name = name_of(path)
    return _Collection(name, iter([(str(path), partial(_own, path))]))


def _read(collection: _Collection) -> tuple[str, ClassSamples]:
    """Name and samples of the first provider that has the set."""
    reasons = []
    for provider, read in collection.providers:
        try:
            return provider, read()
        except (AbsentError, FileNotFoundError, AssetError) as error:
            _log.debug("%s: passing over %s: %s", collection.name, provider, error)
            reasons.append(f"\n- {provider}: {error}")
        except ValueError as error:
            raise _not_as_it_should_be(collection.name, provider, error) from error
    raise DataError(f"no provider has {collection.name}:{''.join(reasons)}{collection.hint}")


def _not_as_it_should_be(name: str, provider: str, error: ValueError) -> DataError:
    return DataError(f"{provider} does not hold {name} as it should be: {error}")


def _providers(data_set: DataSet, path: Path | None) -> Iterator[tuple[str, Callable[[], Samples]]]:
    """Name and reader of each provider of a known set, in the order in which they are tried."""
    if path is not None:
        yield str(path), partial(data_set.read, path)
        return
    if data_set.tfds_name is not None:
        yield "tensorflow-datasets", partial(_read_tfds, data_set.tfds_name)
    if root := os.environ.get("JAXREL_DATA"):
        for name in (data_set.name, f"{data_set.name}.npz"):
            local = Path(root).expanduser() / name
            yield str(local), partial(data_set.read, local)
    for folder, package in data_set.folders:
        yield f"{folder} of {package}", partial(data_set.read, Path(folder))
    if data_set.asset is not None and data_set.read_asset is not None:
        asset = ASSETS[data_set.asset]
        yield f"{asset.distribution} {asset.version} of the package index", data_set.read_asset


def _read_tfds(name: str) -> Samples:
    found = read_tfds(name, download=False)
    return found.samples, found.labels


def _own(path: Path) -> ClassSamples:
    """The samples and classes of any file or folder."""
    return read_saved(path) if is_saved(path) else find_classes(read_path(path))


def _known(data_set: DataSet, read: Callable[[], Samples]) -> ClassSamples:
    """The samples of a known set, once they agree with its facts.

    Raises:
        ValueError: type, shape, number or labels differ.
    """
    samples, labels = read()
    if data_set.image_shape is None:
        if not isinstance(samples, tuple):
            raise ValueError("images, wanted texts")
    elif isinstance(samples, tuple):
        raise ValueError("texts, wanted images")
    else:
        samples = _with_channels(samples)
        if samples.dtype != np.uint8 or samples.shape[1:] != data_set.image_shape:
            raise ValueError(
                f"images of shape {samples.shape[1:]} and type {samples.dtype}, wanted {data_set.image_shape} and uint8"
            )
    if len(samples) not in data_set.fingerprints:
        sizes = " or ".join(map(str, data_set.fingerprints))
        raise ValueError(f"{len(samples)} {data_set.modality}, wanted {sizes} (a part of a set is had with limit=)")
    if labels.shape != (len(samples),) or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"labels of shape {labels.shape} and type {labels.dtype}, wanted {(len(samples),)} and integers"
        )
    return ClassSamples(samples, _class_indices(data_set, labels), data_set.class_names, data_set.licence)


def _class_indices(data_set: DataSet, labels: Shaped[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """Labels as places among the known names of the classes."""
    if labels.dtype.kind == "U":
        if unknown := sorted(set(labels.tolist()) - set(data_set.class_names)):
            raise ValueError(f"the label {unknown[0]!r}, wanted one of {', '.join(data_set.class_names)}")
        places = {name: place for place, name in enumerate(data_set.class_names)}
        return np.array([places[label] for label in labels.tolist()], dtype=np.int32)
    if not 0 <= labels.min() <= labels.max() < len(data_set.class_names):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, wanted 0 to {len(data_set.class_names) - 1}")
    return labels.astype(np.int32)


def _with_channels(pixels: UInt8[np.ndarray, "n h w *c"]) -> UInt8[np.ndarray, "n h w c"]:
    return pixels[..., np.newaxis] if pixels.ndim == 3 else pixels


def _in_order(
    collection: _Collection, provider: str, found: ClassSamples
) -> tuple[ImageData | TextData, Bool[np.ndarray, " n"]]:
    """The whole set in hash order, whatever `split` of it says, and which of its samples are training samples."""
    samples, labels, class_names, licence = found
    whole: ImageData | TextData
    try:
        if len(samples) == 0:
            raise ValueError("there are no samples with a label in it")
        if isinstance(samples, tuple):
            order, in_train = texts.hash_order(samples, labels)
            samples, labels = tuple(samples[index] for index in order), labels[order].astype(np.int32)
            whole = TextData(collection.name, "train", samples, labels, class_names, licence, provider)
        else:
            samples = _with_channels(samples)
            order, in_train = images.hash_order(samples, labels)
            samples, labels = samples[order], labels[order].astype(np.int32)
            whole = ImageData(collection.name, "train", samples, labels, class_names, licence, provider)
        expected = collection.fingerprints.get(len(whole))
        if expected not in (None, whole.fingerprint):
            differ = f"{whole.modality} or labels differ"
            raise ValueError(f"{differ}: the whole set has fingerprint {whole.fingerprint}, wanted {expected}")
    except ValueError as error:
        raise _not_as_it_should_be(collection.name, provider, error) from error
    return whole, in_train


def _part(
    whole: ImageData | TextData, in_train: Bool[np.ndarray, " n"], split: Split, limit: int | None
) -> ImageData | TextData:
    """The first samples of one split, in arrays that cannot be written to."""
    kept = np.flatnonzero(in_train == (split == "train"))
    if limit is not None:
        if not 1 <= limit <= len(kept):
            given = f"1 to {len(kept)} {whole.modality}"
            raise ValueError(f"limit={limit}, but the {split} split of {whole.name} has {given} to give")
        kept = kept[:limit]
    labels = whole.labels[kept]
    labels.setflags(write=False)
    if isinstance(whole, TextData):
        return replace(whole, split=split, texts=tuple(whole.texts[index] for index in kept), labels=labels)
    pixels = whole.images[kept]
    pixels.setflags(write=False)
    return replace(whole, split=split, images=pixels, labels=labels)
