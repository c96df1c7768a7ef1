"""Loading a data set by name or path, from the first provider that has it."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Int

from jaxrel._core.suggestions import suggestion
from jaxrel._core.user_paths import user_path
from jaxrel.data import images, texts
from jaxrel.data.catalogue import DATA_SETS, DataSet
from jaxrel.data.images import ImageData
from jaxrel.data.known_sets import known_samples
from jaxrel.data.labelled import Split
from jaxrel.data.readers import AbsentError, ClassSamples, Samples, read_hub, read_path, read_saved, read_tfds
from jaxrel.data.readers.hugging_face import is_saved, read_dataset
from jaxrel.data.readers.paths import files_of, name_of
from jaxrel.data.readers.picture_files import Pictures
from jaxrel.data.readers.samples import broken_samples, find_classes, find_targets
from jaxrel.data.readers.text_columns import Columns, columns_of
from jaxrel.data.readers.webdataset import SHARD_SUFFIX
from jaxrel.data.splitting import draw, hash_order
from jaxrel.data.streaming import StreamedImages
from jaxrel.data.texts import TextData
from jaxrel.storage.assets import ASSETS, AssetError
from jaxrel.storage.fingerprints import file_states

__all__ = ["DataError", "check_name", "describe", "is_path", "load", "load_splits", "names", "source_state"]

_log = logging.getLogger(__name__)

LoadedData = ImageData | StreamedImages | TextData

_TFDS, _HUGGING_FACE = "tfds:", "hf:"


class DataError(RuntimeError):
    """A data set is not available, or its data are wrong; the message says what to do."""


@dataclass(frozen=True)
class _Collection:
    """A data set and its providers.

    Args:
        name: name of the set.
        providers: name and reader of each provider, in the order in which they are tried.
        fingerprints: fingerprint of the whole set, by its number of samples.
        hint: what a user can do if no provider has it.
    """

    name: str
    providers: Iterator[tuple[str, Callable[[], ClassSamples]]]
    fingerprints: Mapping[int, str | None] = field(default_factory=dict)
    hint: str = ""


def names() -> tuple[str, ...]:
    """Names of the known data sets."""
    return tuple(DATA_SETS)


def describe(name: str) -> DataSet:
    """Facts about a known data set.

    Raises:
        ValueError: `name` is not one of :func:`names`.
    """
    if name not in DATA_SETS:
        raise ValueError(
            f"unknown data set {name!r}{suggestion(name, DATA_SETS)}; known are {', '.join(DATA_SETS)}, {_TFDS}NAME, "
            f"{_HUGGING_FACE}NAME, and any file or folder of yours by its path"
        )
    return DATA_SETS[name]


def check_name(name: str, *, path: str | os.PathLike[str] | None = None) -> None:
    """Raise ValueError if `load(name, path=path)` would find nothing, without reading or fetching anything."""
    if name.startswith(_TFDS) or (name.startswith(_HUGGING_FACE) and path is None):
        return
    own = path if path is not None else name if is_path(name) else None
    if own is None:
        describe(name)
    elif absent := [file for file in files_of(user_path(own)) if not file.exists()]:
        raise ValueError(f"the path given for the data set {name!r}, {absent[0]}, does not exist")


def source_state(name: str | Any, *, path: str | os.PathLike[str] | None = None) -> list[Any] | None:
    """The state of what `load(name, path=path)` would read, without reading it; equal states mean equal samples.

    Returns:
        JSON values: paths, sizes and times of change of the files, and the digest of a pinned archive. None if the
        state is unknown (data set hubs, tensorflow-datasets, sets of plugins, objects).
    """
    if not isinstance(name, str) or name.startswith(_TFDS) or (name.startswith(_HUGGING_FACE) and path is None):
        return None
    if path is not None or is_path(name):
        return [name, *map(file_states, files_of(user_path(path or name)))]
    facts = describe(name)
    if facts.read_asset is not None and facts.asset is None:
        return None
    # All places that providers search: one that is empty now takes precedence once it is not.
    prepared = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", facts.tfds_name or name)
    has_reader = importlib.util.find_spec("tensorflow_datasets") is not None
    own = Path(os.environ.get("JAXREL_DATA") or os.devnull)
    places = [prepared, own / name, own / f"{name}.npz", *(Path(folder) for folder, _ in facts.folders)]
    archive = ASSETS[facts.asset].sha256 if facts.asset else None
    return [name, archive, has_reader, [file_states(user_path(place)) for place in places]]


def is_path(name: str) -> bool:
    """Whether a name is not a known set, but a path of a user's file or folder."""
    if name in DATA_SETS or name.startswith((_TFDS, _HUGGING_FACE)):
        return False
    return "/" in name or os.sep in name or name.endswith(SHARD_SUFFIX) or user_path(name).exists()


def load(
    name: str | Any,
    *,
    split: Split = "train",
    path: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    official: bool = False,
    skip_broken: bool = False,
    text_column: str | Sequence[str] = (),
    label_column: str | None = None,
    regression: bool = False,
    pair: bool = False,
) -> LoadedData:
    """Load one split of a data set of images or of texts.

    The data set is one of these:

    - A known one, by one of :func:`names`, from the first provider that has it. The providers, in order:
      tensorflow-datasets, if it has prepared the set (as ``tfds:NAME`` does); ``$JAXREL_DATA/NAME`` or
      ``$JAXREL_DATA/NAME.npz``; the folder of an operating system's package; the pinned archive of the package index.
      A provider that does not have the set is skipped; one with wrong data raises an error. The attribute
      `provider` names the one that was used; their sets may differ in size (MNIST: 70,000 or 5,000).
    - Any file or folder, by its path (which contains a separator or exists; known names take precedence):

      - an ``.npz`` file with uint8 ``images`` (n, h, w) or (n, h, w, c), or ``texts`` (n,), an array of strings, and
        ``labels`` (n,), integers or strings, -1 or "" for a sample of unknown class;
      - a ``.csv``, ``.tsv`` or ``.tab`` table with the columns ``text`` and ``label``, or, without a header, a text and
        a label in each row (:func:`jaxrel.data.readers.read_table`); such columns in ``.jsonl``, ``.ndjson`` or
        ``.parquet``, where they may also be lists, ``tokens`` and ``tags``: then each word is a sample
        (:class:`jaxrel.data.Word`);
      - a folder with one subfolder for each class, of pictures or of ``.txt`` files
        (:func:`jaxrel.data.readers.read_class_folders`), or such folders in ``train`` and ``test``. Pictures of one
        size are kept unchanged, up to a gibibyte in total; of others the central square is resized to 224 pixels. If
        that takes more than a gibibyte, they stay in their files until they are encoded;
      - a folder that holds only pictures or ``.txt`` files, which are of unknown class, like those in a subfolder
      ``unlabelled`` beside the class folders;
      - a ``.tar`` shard of WebDataset, a folder of them, or a pattern such as ``train-{000..012}.tar``, of pictures
        or of texts (:func:`jaxrel.data.readers.webdataset.read_shards`);
      - a ``.json`` file of COCO, in which each bounding box is a sample (:func:`jaxrel.data.readers.coco.read_boxes`);
      - a folder of IDX files (``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k``,
        plain or ``.gz``);
      - a folder that `save_to_disk` of the library `datasets` wrote.

      The set is named by its stem. Its classes are the labels that occur, in numerical or alphabetical order.
    - ``tfds:NAME`` or ``tfds:NAME/CONFIG``: any set of tensorflow-datasets for classifying images or texts.
    - ``hf:NAME`` or ``hf:OWNER/NAME``: any such set of the Hugging Face Hub, read by the library `datasets`.
    - A `Dataset` or `DatasetDict` of that library, instead of a name. The set is named "dataset".

    About three quarters of the samples are training samples, chosen by a hash of each sample's content, and each class
    with two different samples is in both splits (:func:`jaxrel.data.splitting.hash_order`); the words of a sentence are
    in the same split. The splits of the source are used only with ``official=True``: some sets have none, providers
    disagree on them, and they may put copies of a sample on both sides.

    Args:
        name: the data set.
        split: ``"train"`` or ``"test"``.
        path: for a known set, the user's copy: in any of the formats above, or as it was published. For
            ``tfds:NAME``, the folder of prepared sets. For ``hf:NAME``, a folder that `save_to_disk` wrote. With any
            other name, the user's data set, which then has that name. If passed, no other provider is tried.
        limit: number of samples to keep (of words, if these are the samples), drawn by class
            (:func:`jaxrel.data.splitting.draw`): the same everywhere. All are kept if there are fewer, which is logged.
        official: use the source's own split into training and test samples (or validation samples, if it has no
            labelled test samples).
        skip_broken: leave out pictures and texts that cannot be read, instead of raising an error.
        text_column, label_column: names of the columns of a table or of a Hub data set, if they are not the usual
            ones; several text columns are joined, one line each, and in a Hub data set one may hold images.
        regression: labels are regression targets, in the attribute `targets`; there are no classes then, and all
            `labels` are -1.
        pair: the two text columns make pairs of texts, tuples of two strings, instead of one text.

    Returns:
        The samples and labels in hash order; arrays are read-only. The attribute `skipped` names the samples that were
        left out.

    Raises:
        ValueError: an unknown `name` or `split`, a `limit` below 1, or `pair` of a known set or without two text
            columns.
        DataError: no provider has the set; or one has wrong data, an unreadable sample, no sample in this split, or no
            official splits.
    """
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(get_args(Split))}")
    columns = columns_of(text_column, label_column, regression=regression, pair=pair)
    whole = _whole(name, path, columns, official=official, skip_broken=skip_broken)
    return _part(whole, split, [whole.train if split == "train" else whole.test], limit=limit)


def load_splits(
    name: str | Any,
    *,
    path: str | os.PathLike[str] | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    official: bool = False,
    skip_broken: bool = False,
    text_column: str | Sequence[str] = (),
    label_column: str | None = None,
    regression: bool = False,
    pair: bool = False,
) -> tuple[LoadedData, LoadedData | None]:
    """Load both splits of a data set, reading it only once.

    Args:
        name: the data set; see :func:`load`.
        path: where it is; see :func:`load`.
        train_limit: number of training samples to keep, as `limit` of :func:`load`.
        test_limit: number of test samples to keep, likewise. With 0 there is no test split; its samples are appended
            to the training samples, and are drawn only after all others.
        official: use the source's own splits; see :func:`load`.
        skip_broken: leave out unreadable samples; see :func:`load`.
        text_column, label_column: columns of a table or of a Hub data set; see :func:`load`.
        regression: labels are regression targets; see :func:`load`.
        pair: two text columns make pairs; see :func:`load`.

    Returns:
        What :func:`load` returns for the splits ``"train"`` and ``"test"``; None for the latter if `test_limit` is 0.

    Raises:
        ValueError: an unknown `name`, a `train_limit` below 1, a negative `test_limit`, or `pair` of a known set or
            without two text columns.
        DataError: see :func:`load`.
    """
    columns = columns_of(text_column, label_column, regression=regression, pair=pair)
    whole = _whole(name, path, columns, official=official, skip_broken=skip_broken)
    if test_limit == 0:
        return _part(whole, "train", [whole.train, whole.test], train_limit=train_limit), None
    return (
        _part(whole, "train", [whole.train], train_limit=train_limit),
        _part(whole, "test", [whole.test], test_limit=test_limit),
    )


class _Whole(NamedTuple):
    """A data set in hash order, whatever its `split` says, and the indices of its training and test samples."""

    data: LoadedData
    train: Int[np.ndarray, " m"]
    test: Int[np.ndarray, " k"]


def _whole(
    name: str | Any, path: str | os.PathLike[str] | None, columns: Columns, *, official: bool, skip_broken: bool
) -> _Whole:
    if isinstance(name, str):
        collection = _collection(name, None if path is None else user_path(path), columns)
    elif type(name).__module__.startswith("datasets."):
        collection = _Collection("dataset", iter([("datasets", partial(read_dataset, name, columns))]))
    else:
        raise ValueError(
            f"the data set is a {type(name).__name__}: pass a name or a path. Save samples and labels in memory with "
            "np.savez(path, images=images, labels=labels), or with texts= instead of images=."
        )
    provider, found = _read(collection)
    if found.skipped and not skip_broken:
        raise DataError(broken_samples(collection.name, found.skipped))
    for file, reason in found.skipped:
        _log.warning("%s: %s is left out: %s", collection.name, file, reason)
    return _in_order(collection, provider, found, official=official)


def _collection(name: str, path: Path | None, columns: Columns) -> _Collection:
    """The data set of a name or path."""
    if name in DATA_SETS:
        facts = DATA_SETS[name]
        if columns.regression:
            raise ValueError(f"{name} has classes, and no regression targets: leave out regression (--regression)")
        if columns.pair:
            raise ValueError(f"{name} has no pairs of texts: leave out pair=True (--pair)")
        hint = "" if path else "\nPass path= or set JAXREL_DATA to use files of your own (see jaxrel.data.load)."
        return _Collection(
            name,
            ((provider, partial(known_samples, facts, read)) for provider, read in _providers(facts, path)),
            facts.fingerprints,
            hint if facts.by_hand is None else f"\nPass path= of {facts.by_hand}.",
        )
    if name.startswith(_TFDS):
        read = partial(read_tfds, name.removeprefix(_TFDS), columns, data_dir=path)
        return _Collection(name, iter([("tensorflow-datasets", read)]))
    if name.startswith(_HUGGING_FACE) and path is None:
        read = partial(read_hub, name.removeprefix(_HUGGING_FACE), columns)
        return _Collection(name, iter([("Hugging Face Hub", read)]))
    if path is None:
        check_name(name)
        path = user_path(name)
        name = name_of(path)
    return _Collection(name, iter([(str(path), partial(_own, path, columns))]))


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
            local = user_path(root) / name
            yield str(local), partial(data_set.read, local)
    for folder, package in data_set.folders:
        yield f"{folder} of {package}", partial(data_set.read, Path(folder))
    if data_set.read_asset is not None:
        asset = ASSETS[data_set.asset] if data_set.asset else None
        archive = f"{asset.distribution} {asset.version} of the package index" if asset else "the package that has it"
        yield archive, data_set.read_asset


def _read_tfds(name: str) -> Samples:
    found = read_tfds(name, download=False)
    return Samples(found.samples, found.labels, found.parts)


def _own(path: Path, columns: Columns) -> ClassSamples:
    """The samples and classes of any file or folder."""
    if is_saved(path):
        return read_saved(path, columns)
    return (find_targets if columns.regression else find_classes)(read_path(path, columns))


def _in_order(collection: _Collection, provider: str, found: ClassSamples, *, official: bool) -> _Whole:
    facts: tuple[Any, ...] = (found.class_names, found.licence, provider, found.skipped)
    whole: LoadedData
    try:
        if len(found.samples) == 0:
            raise ValueError("there are no samples with a label in it")
        if isinstance(found.samples, tuple):
            order, in_train = texts.hash_order(found.samples, found.labels)
            content, labels = tuple(found.samples[index] for index in order), found.labels[order].astype(np.int32)
            whole = TextData(collection.name, "train", content, labels, *facts)
        elif isinstance(found.samples, Pictures):
            order, in_train = hash_order(found.samples.hashes, found.labels)
            labels = found.labels[order].astype(np.int32)
            whole = StreamedImages(collection.name, "train", found.samples.chosen(order), labels, *facts)
        else:
            pixels = images.with_channels(found.samples)
            order, in_train = images.hash_order(pixels, found.labels)
            whole = ImageData(collection.name, "train", pixels[order], found.labels[order].astype(np.int32), *facts)
        if found.targets is not None:
            whole = replace(whole, targets=found.targets[order])
        expected = collection.fingerprints.get(len(whole))
        if expected not in (None, whole.fingerprint):
            differ = f"{whole.modality} or labels differ"
            raise ValueError(f"{differ}: the whole set has fingerprint {whole.fingerprint}, expected {expected}")
        train, test = _official(found, order) if official else (in_train, ~in_train)
    except ValueError as error:
        raise _not_as_it_should_be(collection.name, provider, error) from error
    if whole.targets is None and (unknown := np.count_nonzero(whole.labels < 0)):
        _log.warning("%s: %s of %s samples have no label", collection.name, f"{unknown:,}", f"{len(whole):,}")
    return _Whole(whole, np.flatnonzero(train), np.flatnonzero(test))


def _official(found: ClassSamples, order: Int[np.ndarray, " n"]) -> Sequence[Bool[np.ndarray, " n"]]:
    """The training and test samples of the source's own split; validation samples if it has no test samples.

    Raises:
        ValueError: it has no training samples, or no other samples with labels.
    """
    parts = np.full(len(order), "") if found.parts is None else found.parts[order]
    train, test, validation = (parts == part for part in ("train", "test", "validation"))
    held_out = test if test.any() else validation
    if not (train.any() and held_out.any()):
        raise ValueError("the source has no split into training and test samples: leave out official=True")
    return train, held_out


def _part(whole: _Whole, split: Split, buckets: Sequence[Int[np.ndarray, " _"]], **limits: int | None) -> LoadedData:
    """One split, drawn from the first bucket and, once that is exhausted, from the next.

    Samples of known class are drawn before others. The arrays are read-only. `limits` is the number of samples to
    keep, keyed by the caller's name for it.
    """
    data = whole.data
    ((option, limit),) = limits.items()
    if limit is not None and limit < 1:
        raise ValueError(f"{option} is {limit}: pass a number of samples of at least 1")
    kind = "training" if split == "train" else "held-out"
    available = sum(map(len, buckets))
    if available == 0:
        raise DataError(f"{data.name} has no {kind} samples: it has {len(data)} in all")
    if limit is not None and limit > available:
        _log.warning(
            "%s has %s %s samples: all are used (the limit is %s)", data.name, f"{available:,}", kind, f"{limit:,}"
        )
    rest, kept = available if limit is None else limit, np.zeros(0, np.intp)
    known = data.labels >= 0
    for bucket in (part[known[part] == labelled] for labelled in (True, False) for part in buckets):
        kept = np.concatenate([kept, bucket[draw(data.labels[bucket], rest - len(kept))]])
    taken: dict[str, Any] = {"split": split, "labels": data.labels[kept]}
    taken["labels"].setflags(write=False)
    if data.targets is not None:
        taken["targets"] = data.targets[kept]
        taken["targets"].setflags(write=False)
    if isinstance(data, StreamedImages):
        return replace(data, pictures=data.pictures.chosen(kept), **taken)
    if isinstance(data, TextData):
        return replace(data, texts=tuple(data.texts[index] for index in kept), **taken)
    pixels = data.images[kept]
    pixels.setflags(write=False)
    return replace(data, images=pixels, **taken)
