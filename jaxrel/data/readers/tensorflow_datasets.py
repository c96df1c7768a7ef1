"""Sets of tensorflow-datasets, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxrel.data.readers.columns import ColumnKind, choose_splits, find_columns, label_values
from jaxrel.data.readers.pictures import SIDE, pixels_of
from jaxrel.data.readers.samples import AbsentError, ClassSamples, Samples, find_classes, find_targets
from jaxrel.data.readers.text_columns import Columns, texts_of_columns

__all__ = ["read_tfds"]


def read_tfds(
    name: str,
    columns: Columns = Columns(),  # noqa: B008 (immutable)
    *,
    data_dir: Path | None = None,
    download: bool = True,
) -> ClassSamples:
    """Read every labelled sample of a set for classifying images or texts.

    Reading needs no TensorFlow: sets are prepared as ArrayRecord files, which are read by random access. TensorFlow is
    needed to prepare some sets, and to read a set that was prepared in another format.

    The samples of the splits train, validation and test are joined (all splits, if none has such a name); samples with
    a negative or empty label, which marks a missing one, are left out. Images of a set with a fixed size stay
    unchanged; others become squares of 224 pixels (see :func:`jaxrel.data.readers.pictures.stack_pictures`).

    Args:
        name: ``NAME`` or ``NAME/CONFIG``, optionally with ``:VERSION``.
        columns: features of the samples and labels; see :func:`jaxrel.data.readers.columns.find_columns`.
        data_dir: folder of prepared sets; by default the library's own.
        download: whether to download and prepare a set that is not yet prepared.

    Raises:
        AbsentError: the library is not installed, or the set is missing and cannot be fetched.
        ValueError: the columns cannot be determined, or samples cannot be read.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise AbsentError(f"{error} (pip install 'jaxrel[tfds]')") from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # an unknown name, a damaged description, a version that is not there
        raise AbsentError(_reason(error)) from error
    features = builder.info.features
    names, kind, label = find_columns(
        {column: _kind(feature, tfds) for column, feature in features.items()},
        preferred=_preferred(builder),
        columns=columns,
    )
    if not builder.is_prepared():
        _prepare(builder, name, download)
    side = SIDE if kind == "image" and None in features[names[0]].shape[:2] else None
    read: list[tuple[str, str, Any, Any]] = []
    skipped: list[tuple[str, str]] = []
    for place, split, row in _examples(builder, tfds):
        if isinstance(row, Exception):
            skipped.append((place, _reason(row)))
        elif (value := _value(row[label]) if label else None) is None or columns.regression or _is_known(value):
            content = _pixels(row[names[0]], side) if kind == "image" else [_value(row[name]) for name in names]
            read.append((place, split, content, value))
    if not read:
        raise ValueError(f"{name} has no sample with a label" + "".join(f"; {': '.join(each)}" for each in skipped[:1]))
    where, parts, contents, values = zip(*read, strict=True)
    samples: Any
    if kind == "image":
        samples = np.stack(contents)
    else:
        samples = texts_of_columns(names, list(zip(*contents, strict=True)), where, pair=columns.pair)
    labels = label_values(values, label, where, regression=columns.regression)
    found = Samples(samples, labels, np.array(parts), tuple(skipped))
    licence = builder.info.redistribution_info.license or "not stated"
    if columns.regression:
        return find_targets(found)._replace(licence=licence)
    if not (label and _kind(features[label], tfds) == "class"):
        return find_classes(found)._replace(licence=licence)
    return ClassSamples(samples, labels, tuple(features[label].names), licence, found.parts, found.skipped)


def _is_known(label: Any) -> bool:
    return bool(label) if isinstance(label, str) else label >= 0


def _prepare(builder: Any, name: str, download: bool) -> None:
    if not download:
        raise AbsentError(f"{name} is not prepared in {builder.data_dir}; loading tfds:{name} downloads it")
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # downloads and preparations raise errors of many types
        raise AbsentError(
            f"{name} is not prepared in {builder.data_dir}, and downloading or preparing it failed: {_reason(error)}"
        ) from error


def _reason(error: BaseException) -> str:
    """Type and first line of the original error, which the library wraps in whole samples and catalogues."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _kind(feature: Any, tfds: Any) -> ColumnKind:
    match feature:
        case tfds.features.Image():
            return "image"
        case tfds.features.Text():
            return "text"
        case tfds.features.ClassLabel():
            return "class"
    if getattr(feature, "shape", None) == () and np.dtype(feature.np_dtype).kind in "biuf":
        return "number"
    return "list" if type(feature).__name__ == "Sequence" else "other"


def _preferred(builder: Any) -> tuple[str, str] | None:
    match builder.info.supervised_keys:
        case (str(sample), str(label), *_):
            return sample, label
    return None


def _examples(builder: Any, tfds: Any) -> Iterator[tuple[str, str, Mapping[str, Any] | Exception]]:
    """Row and split of each example, and its content or the reason why it cannot be read."""
    for split in choose_splits(builder.info.splits.keys()):
        try:
            source = builder.as_data_source(split)
        except NotImplementedError:  # prepared in a format without random access
            for row, example in enumerate(_streamed(builder, split, tfds)):
                yield f"row {row} of {split}", split, example
            continue
        for row in range(len(source)):
            try:
                example = source[row]
            except Exception as error:  # any error of the decoder
                example = error
            yield f"row {row} of {split}", split, example


def _streamed(builder: Any, split: str, tfds: Any) -> Any:
    try:
        return tfds.as_numpy(builder.as_dataset(split))
    except ImportError as error:
        raise AbsentError(
            f"{builder.data_dir} holds {builder.info.file_format} files, which only TensorFlow reads, and it is not "
            f'installed ({error}): install it, or prepare the set with file_format="array_record" in another folder'
        ) from error


def _pixels(image: np.ndarray, side: int | None) -> UInt8[np.ndarray, "h w c"]:
    if image.dtype != np.uint8:
        raise ValueError(f"images of type {image.dtype}, expected uint8")
    if side is None and image.shape[-1] in (1, 3):
        return image
    from PIL import Image

    return pixels_of(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), side=side)


def _value(content: Any) -> Any:
    """Text, or a Python number."""
    try:
        return content.decode() if isinstance(content, bytes) else getattr(content, "item", lambda: content)()
    except UnicodeDecodeError as error:
        raise ValueError(f"a text is not UTF-8: {error}") from error
