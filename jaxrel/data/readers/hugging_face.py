"""Sets of the Hugging Face Hub, by name or as a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.data.readers.columns import ColumnKind, choose_splits, find_columns, label_values
from jaxrel.data.readers.pictures import stack_pictures
from jaxrel.data.readers.samples import AbsentError, ClassSamples, Samples, Skipped, find_classes, find_targets
from jaxrel.data.readers.text_columns import Columns, texts_of_columns
from jaxrel.data.readers.words import tagged_words

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["is_saved", "read_dataset", "read_hub", "read_saved"]

_LISTS = ("List", "LargeList", "Sequence")  # by the version of the library


def is_saved(folder: Path) -> bool:
    """Whether the `save_to_disk` of the library `datasets` wrote this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_hub(name: str, columns: Columns = Columns()) -> ClassSamples:  # noqa: B008 (immutable)
    """Read every labelled sample of a set of the Hub, downloaded if needed; see :func:`read_saved`.

    Args:
        name: ``NAME`` or ``OWNER/NAME``.
        columns: of the samples and labels.

    Raises:
        AbsentError: the library is not installed, or the set is missing and cannot be fetched.
        ValueError: see :func:`read_saved`.
    """
    datasets = _library()
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # unknown names, gated sets and missing networks raise errors of many types
        raise AbsentError(f"{type(error).__name__}: {error}") from error
    return _read(found, columns, datasets)


def read_saved(folder: Path, columns: Columns = Columns()) -> ClassSamples:  # noqa: B008 (immutable)
    """Read every labelled sample of a set that `save_to_disk` wrote.

    The samples come from a column of the feature `Image`, or of strings, or of lists of words; the labels from a column
    of the feature `ClassLabel`, or of strings or numbers, or of lists of these for words (see
    :func:`jaxrel.data.readers.columns.find_columns`). The splits train, validation and test are joined (all
    splits, if none has such a name); a split without any label is left out; in the others, a label that is None, empty
    or -1 means that the class is unknown. For the sizes of images, see
    :func:`jaxrel.data.readers.pictures.stack_pictures`.

    Args:
        folder: of the set.
        columns: of the samples and labels.

    Raises:
        AbsentError: the library is not installed.
        ValueError: the folder is damaged, the columns cannot be determined, a text is None, or a label is not a class;
            rows are counted from 0 in each split.
    """
    datasets = _library()
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # damaged files raise errors of many types
        raise ValueError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    return _read(found, columns, datasets)


def read_dataset(found: Any, columns: Columns = Columns()) -> ClassSamples:  # noqa: B008 (immutable)
    """Read every labelled sample of an open `Dataset` or `DatasetDict`; see :func:`read_saved`."""
    return _read(found, columns, _library())


def _library() -> Any:
    try:
        import datasets  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise AbsentError(f"{error} (pip install 'jaxrel[hf]')") from error
    return datasets


def _read(found: Any, columns: Columns, datasets: Any) -> ClassSamples:
    splits = {split: found[split] for split in choose_splits(found.keys())} if isinstance(found, dict) else {"": found}
    parts = np.repeat(list(splits), [len(rows) for rows in splits.values()])
    where = [f"row {row} of {split}".removesuffix(" of ") for split, rows in splits.items() for row in range(len(rows))]
    found = datasets.concatenate_datasets(list(splits.values()))
    kinds = {name: _kind(column, datasets) for name, column in found.features.items()}
    names, kind, label = find_columns(kinds, columns=columns)
    values = found[label] if label else [None] * len(where)
    samples: Any = ()
    skipped: Skipped = ()
    if kind == "words":
        words = tagged_words(found[names[0]], values, names=(names[0], label), where=where)
        samples, values, where, skipped = words.words, words.tags, words.where, words.skipped
        parts = parts[words.rows]
    if named := kinds.get(label) in ("class", "classes") and not columns.regression:
        values = [-1 if value is None else value for value in values]
    labels = label_values(values, label, where, regression=columns.regression)
    known = labels != "" if labels.dtype.kind == "U" else labels >= 0
    kept = np.flatnonzero(np.isin(parts, parts[known])) if label else np.arange(len(where))
    where = [where[row] for row in kept]
    if kind == "words":
        samples = tuple(samples[row] for row in kept)
    elif kind == "image":
        pictures = [(place, partial(_opened, found.select(kept)[names[0]], row)) for row, place in enumerate(where)]
        samples, readable, skipped = stack_pictures(pictures)
        kept = kept[readable]
    else:
        contents = [found.select(kept)[name] for name in names]
        samples = texts_of_columns(names, contents, where, pair=columns.pair)
    licence = found.info.license or "not stated"
    if named:
        feature = found.features[label]
        class_names = tuple((_item(feature) if kind == "words" else feature).names)
        return ClassSamples(samples, labels[kept], class_names, licence, parts[kept], skipped)
    find = find_targets if columns.regression else find_classes
    return find(Samples(samples, labels[kept], parts[kept], skipped))._replace(licence=licence)


@contextmanager
def _opened(column: Any, index: int) -> Iterator[Image.Image]:
    try:
        picture = column[index]
        if picture is None:
            raise ValueError("there is none")
        picture.load()
    except Exception as error:  # any error of the decoder
        raise ValueError(str(error)) from error
    yield picture


def _kind(column: Any, datasets: Any) -> ColumnKind:
    match column:
        case datasets.Image():
            return "image"
        case datasets.ClassLabel():
            return "class"
        case datasets.Value(dtype="string" | "large_string"):
            return "text"
        case datasets.Value(dtype=str(dtype)) if dtype.startswith(("int", "uint", "float", "bool")):
            return "number"
    if not isinstance(column, list) and type(column).__name__ not in _LISTS:
        return "other"
    lists: dict[ColumnKind, ColumnKind] = {"text": "texts", "class": "classes"}
    return lists.get(_kind(_item(column), datasets), "list")


def _item(column: Any) -> Any:
    """The feature of each of several."""
    return column[0] if isinstance(column, list) else column.feature
