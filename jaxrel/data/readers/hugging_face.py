"""Sets of the Hugging Face Hub, by name or as a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrel.data.readers.columns import ColumnKind, choose_splits, find_columns
from jaxrel.data.readers.pictures import stack_pictures
from jaxrel.data.readers.samples import AbsentError, ClassSamples

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["is_saved", "read_dataset", "read_hub", "read_saved"]


def is_saved(folder: Path) -> bool:
    """Whether the `save_to_disk` of the library `datasets` wrote this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_hub(name: str) -> ClassSamples:
    """Read every labelled sample of a set of the Hub, downloaded if need be; see :func:`read_saved`.

    Args:
        name: ``NAME`` or ``OWNER/NAME``.

    Raises:
        AbsentError: the library or the set is not there, and cannot be fetched.
        ValueError: the set has not one column of images or texts and one of labels.
    """
    datasets = _library()
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # unknown names, closed sets and missing networks are errors of many kinds
        raise AbsentError(f"{type(error).__name__}: {error}") from error
    return _read(found, datasets)


def read_saved(folder: Path) -> ClassSamples:
    """Read every labelled sample of a set that `save_to_disk` wrote.

    The samples are those of a column of the feature `Image`, or of strings (called "text" where there are several), the
    labels those of a column of the feature `ClassLabel`. The splits train, validation and test are joined (all, where
    none is called so); a split without any label is left out; where others have a negative label, the class of the
    sample is not known. Sizes of images: see :func:`jaxrel.data.readers.pictures.stack_pictures`.

    Raises:
        AbsentError: the library is not installed.
        ValueError: the folder is damaged, or the set has not one column of images or texts and one of labels.
    """
    datasets = _library()
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # damage shows in as many ways as there are files in the folder
        raise ValueError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    return _read(found, datasets)


def read_dataset(found: Any) -> ClassSamples:
    """Read every labelled sample of a `Dataset` or `DatasetDict` that is open; see :func:`read_saved`."""
    return _read(found, _library())


def _library() -> Any:
    try:
        import datasets  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise AbsentError(f"{error} (pip install 'jaxrel[hf]')") from error
    return datasets


def _read(found: Any, datasets: Any) -> ClassSamples:
    splits = {split: found[split] for split in choose_splits(found.keys())} if isinstance(found, dict) else {"": found}
    parts = np.repeat(list(splits), [len(rows) for rows in splits.values()])
    found = datasets.concatenate_datasets(list(splits.values()))
    sample, kind, label = find_columns({name: _kind(column, datasets) for name, column in found.features.items()})
    labels = np.array([-1 if value is None else value for value in found[label]], dtype=np.int32)
    kept = np.flatnonzero(np.isin(parts, parts[labels >= 0]))
    column = found.select(kept)[sample]
    facts = tuple(found.features[label].names), found.info.license or "not stated"
    if kind == "text":
        return ClassSamples(tuple(text or "" for text in column), labels[kept], *facts, parts[kept])

    pictures = [(f"picture {index}", partial(_opened, column, index)) for index in range(len(kept))]
    pixels, readable, skipped = stack_pictures(pictures)
    return ClassSamples(pixels, labels[kept][readable], *facts, parts[kept][readable], skipped)


@contextmanager
def _opened(column: Any, index: int) -> Iterator[Image.Image]:
    try:
        picture = column[index]
        if picture is None:
            raise ValueError("there is none")
        picture.load()
    except Exception as error:  # whatever the decoder meets
        raise ValueError(f"picture {index} cannot be read: {error}") from error
    yield picture


def _kind(column: Any, datasets: Any) -> ColumnKind:
    match column:
        case datasets.Image():
            return "image"
        case datasets.ClassLabel():
            return "label"
        case datasets.Value(dtype="string" | "large_string"):
            return "text"
    return "other"
