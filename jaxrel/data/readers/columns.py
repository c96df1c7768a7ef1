"""Finds the columns of samples and labels in a Hub data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Shaped

from jaxrel.data.readers.text_columns import (
    LABEL_NAMES,
    SEVERAL_LABELS,
    TAGS_NAMES,
    TEXT_NAMES,
    WORDS_NAMES,
    Columns,
    label_of,
)

__all__ = ["ColumnKind", "Found", "choose_splits", "find_columns", "label_values"]

ColumnKind: TypeAlias = Literal["image", "text", "class", "number", "texts", "classes", "list", "other"]
"""A "class" is one of several named classes, a "number" an integer, a float or a boolean; "texts" and "classes" are
lists of these, a "list" is several of anything else."""


class Found(NamedTuple):
    """Columns of a Hub data set.

    Attributes:
        samples: one column of images or of lists of words, or columns of texts, which are joined or make pairs.
        kind: the kind of the samples.
        label: the column of labels; "" if there is none.
    """

    samples: tuple[str, ...]
    kind: Literal["image", "text", "words"]
    label: str


def find_columns(
    kinds: Mapping[str, ColumnKind],
    *,
    preferred: tuple[str, str] | None = None,
    columns: Columns = Columns(),  # noqa: B008 (immutable)
) -> Found:
    """The columns of samples and of labels.

    Labels are in the only column of named classes, or in a column of strings or numbers with a usual name for labels.
    Of several columns of samples, the column of images is used, or the text column with a usual name; if both exist,
    the choice is ambiguous and an error. Lists of words are samples if the user names them, or if their column and that
    of their tags have usual names and there is neither a column of images nor one with a usual name of texts.

    Args:
        kinds: what each column holds.
        preferred: columns of samples and labels that the set itself names, used if their kinds fit.
        columns: columns that the user names, which take precedence over all others.

    Raises:
        ValueError: a column that the user names is missing or of another kind, or the columns cannot be determined.
    """
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
    if absent := [name for name in (*columns.text, columns.label) if name and name not in kinds]:
        raise ValueError(f"there is no column {absent[0]!r}: the columns are {listed}")
    if (words := _words_column(kinds, columns)) is not None:
        return Found((words,), "words", _tags_column(kinds, columns))
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
            raise ValueError(f"there is {number} of {what}, expected one: the columns are {listed}; pass {option}")
    for name in samples:
        if kinds[name] not in (_SAMPLES if len(samples) == 1 else ("text",)):
            raise ValueError(f"{name!r} is not a column of {'texts' if samples[1:] else 'images or texts'}: {listed}")
    if labels[0] and kinds[labels[0]] not in _LABELS:
        several = kinds[labels[0]] in _LISTS
        raise ValueError(f"column {labels[0]!r}: {SEVERAL_LABELS if several else f'it has no labels: {listed}'}")
    return Found(tuple(samples), "image" if kinds[samples[0]] == "image" else "text", labels[0])


_SAMPLES, _LABELS, _LISTS = ("image", "text"), ("class", "text", "number"), ("texts", "classes", "list")


def _words_column(kinds: Mapping[str, ColumnKind], columns: Columns) -> str | None:
    if columns.text:
        return columns.text[0] if [kinds[name] for name in columns.text] == ["texts"] else None
    words = [name for name, kind in kinds.items() if kind == "texts" and name.casefold() in WORDS_NAMES]
    others = [name for name, kind in kinds.items() if kind == "image" or name.casefold() in TEXT_NAMES]
    tagged = columns.label in _usual_tags(kinds) if columns.label else bool(_usual_tags(kinds))
    return words[0] if len(words) == 1 and tagged and not others else None


def _tags_column(kinds: Mapping[str, ColumnKind], columns: Columns) -> str:
    found = _usual_tags(kinds) if columns.label is None else [columns.label]
    if len(found) != 1 or (found[0] and kinds[found[0]] not in _LISTS):
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ValueError(
            f"words need one column of lists of their tags: pass label_column (--label-column), '' where there are "
            f"none; the columns are {listed}"
        )
    return found[0]


def _usual_tags(kinds: Mapping[str, ColumnKind]) -> list[str]:
    usual = [name for name, kind in kinds.items() if kind in _LISTS and name.casefold() in TAGS_NAMES]
    return [name for name in usual if name.casefold() == TAGS_NAMES[0]] or usual


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
    """Labels as integers, with -1 for a missing one, or as text, with "" for a missing one. The number -1 is a missing
    one too, unless it may be a regression target.

    Raises:
        ValueError: one is neither text nor a number or truth value; `where` says which.
    """
    if not regression and all(value is None or (type(value) is int and abs(value) < 2**63) for value in values):
        return np.array([-1 if value is None else value for value in values], np.int64)
    known = [None if value == -1 and not regression else value for value in values]
    return np.array([label_of(value, name, place) for value, place in zip(known, where, strict=True)], dtype=str)


def choose_splits(names: Collection[str]) -> list[str]:
    """The source's own splits that together form the set: train, validation and test; all splits if none has such a
    name."""
    return [name for name in ("train", "validation", "test") if name in names] or sorted(names)
