"""Which columns of a hub's data set are the samples and the labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Shaped

from jaxrel.data.readers.text_columns import LABEL_NAMES, SEVERAL_LABELS, TEXT_NAMES, Columns, label_of

__all__ = ["ColumnKind", "Found", "choose_splits", "find_columns", "label_values"]

ColumnKind: TypeAlias = Literal["image", "text", "class", "number", "list", "other"]
"""A "class" is one of named classes, a "number" whole, real or a truth value, a "list" several of anything."""


class Found(NamedTuple):
    """Columns of a hub's data set.

    Attributes:
        samples: one of images, or those of texts, which are joined.
        kind: what these are.
        label: the column of labels; "" where there are none.
    """

    samples: tuple[str, ...]
    kind: Literal["image", "text"]
    label: str


def find_columns(
    kinds: Mapping[str, ColumnKind],
    *,
    preferred: tuple[str, str] | None = None,
    columns: Columns = Columns(),  # noqa: B008 (immutable)
) -> Found:
    """The columns of samples and of labels.

    Labels are in the one column of named classes, or in one of strings or numbers that is called as labels usually are.
    Of several columns of samples the one of images is taken, or of texts the one with a usual name, but neither where
    there is such a text beside images.

    Args:
        kinds: what each column holds.
        preferred: columns of samples and labels that the set names itself, used where their kinds fit.
        columns: those that the user names, which come before all others.

    Raises:
        ValueError: a column that the user names is missing or of another kind, or the columns cannot be told.
    """
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
    if absent := [name for name in (*columns.text, columns.label) if name and name not in kinds]:
        raise ValueError(f"there is no column {absent[0]!r}: the columns are {listed}")
    fits = preferred is not None and kinds.get(preferred[0]) in _SAMPLES and kinds.get(preferred[1]) in _LABELS
    own = preferred if fits else None
    labels = [columns.label] if columns.label is not None else [own[1]] if own else _label_columns(kinds)
    samples = list(columns.text) or ([own[0]] if own else _sample_columns(kinds, labels))
    for option, what, found in (
        ("label_column (--label-column), '' where there are none", "labels", labels),
        ("text_column (--text-column), also of images", "images or texts", samples[: 1 if columns.text else None]),
    ):
        if len(found) != 1:
            number = "no column" if not found else f"{len(found)} columns ({', '.join(found)})"
            raise ValueError(f"there is {number} of {what}, wanted one: the columns are {listed}; pass {option}")
    for name in samples:
        if kinds[name] not in (_SAMPLES if len(samples) == 1 else ("text",)):
            raise ValueError(f"{name!r} is no column of {'texts' if samples[1:] else 'images or texts'}: {listed}")
    if labels[0] and kinds[labels[0]] not in _LABELS:
        several = kinds[labels[0]] == "list"
        raise ValueError(f"column {labels[0]!r}: {SEVERAL_LABELS if several else f'it has no labels: {listed}'}")
    return Found(tuple(samples), "image" if kinds[samples[0]] == "image" else "text", labels[0])


_SAMPLES, _LABELS = ("image", "text"), ("class", "text", "number")


def _label_columns(kinds: Mapping[str, ColumnKind]) -> list[str]:
    classes = [name for name, kind in kinds.items() if kind == "class"]
    return classes or [name for name, kind in kinds.items() if kind in _LABELS and name.casefold() in LABEL_NAMES]


def _sample_columns(kinds: Mapping[str, ColumnKind], labels: Collection[str]) -> list[str]:
    images = [name for name, kind in kinds.items() if kind == "image"]
    texts = [name for name, kind in kinds.items() if kind == "text" and name not in labels]
    usual = [name for name in texts if name.casefold() in TEXT_NAMES]
    if images:
        return images + usual
    if len(texts) > 1 and usual:
        return ["text"] if "text" in usual else usual
    return texts


def label_values(
    values: Sequence[Any], name: str, where: Sequence[str], *, regression: bool = False
) -> Shaped[np.ndarray, " n"]:
    """Labels as integers, -1 where there is none, or as text, "" where there is none, as -1 may be a number to predict.

    Raises:
        ValueError: one is neither text nor a number or truth value; `where` says which.
    """
    if not regression and all(value is None or type(value) is int for value in values):
        return np.array([-1 if value is None else value for value in values], np.int64)
    return np.array([label_of(value, name, place) for value, place in zip(values, where, strict=True)], dtype=str)


def choose_splits(names: Collection[str]) -> list[str]:
    """The source's own splits that together make the set: train, validation and test; all where none is there."""
    return [name for name in ("train", "validation", "test") if name in names] or sorted(names)
