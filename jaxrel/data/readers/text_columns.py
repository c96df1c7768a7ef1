"""Finds the columns of texts and labels in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrel._core.text_samples import TextSample
from jaxrel.data.readers.samples import Samples

__all__ = [
    "LABEL_NAMES",
    "SEVERAL_LABELS",
    "TAGS_NAMES",
    "TEXT_NAMES",
    "WORDS_NAMES",
    "Columns",
    "Places",
    "as_texts",
    "columns_of",
    "label_of",
    "named_columns",
    "samples_of_columns",
    "text_of",
    "texts_of_columns",
]

TEXT_NAMES = ("text", "texts", "sentence", "review", "content", "message", "tweet", "comment", "document", "body")
WORDS_NAMES = ("tokens", "words")
TAGS_NAMES = ("tags", "ner_tags")
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "topic", "intent")
SEVERAL_LABELS = (
    "a sample must have one class, not several labels: make a column for each label that says which samples "
    "have it, and pass each as a separate task"
)


class Columns(NamedTuple):
    """Column names that the user passes; without them, the usual names are searched.

    Attributes:
        text: several columns are joined to one text, one line each, or make a pair.
        label: the class or the regression target; "" if there is none.
        regression: whether labels are regression targets.
        pair: whether the two text columns are the texts of a pair.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    regression: bool = False
    pair: bool = False

    @property
    def named(self) -> bool:
        """Whether any name is passed."""
        return bool(self.text) or self.label is not None


def columns_of(text: str | Sequence[str], label: str | None, *, regression: bool, pair: bool) -> Columns:
    """The columns that a user names.

    Raises:
        ValueError: a pair is asked for, and not two text columns are named.
    """
    names = (text,) if isinstance(text, str) else tuple(text)
    if pair and len(names) != 2:
        raise ValueError(
            f"pair=True (--pair) makes pairs of two columns, but text_column (--text-column) names {len(names)}: name "
            "the columns of the first and of the second texts"
        )
    return Columns(names, label, regression, pair)


class Places(NamedTuple):
    """Positions of the texts and the labels among the columns; there may be no labels."""

    texts: tuple[int, ...]
    label: int | None


def named_columns(path: Path, header: Sequence[str], columns: Columns, *, lists: bool = False) -> Places | None:
    """Positions of the texts and the labels by column names, in any case; None if no name is a usual one.

    A single column holds the texts. Where cells may be `lists`, the usual names of words and their tags are known too,
    unless a column has a usual name of texts.

    Raises:
        ValueError: a named column is missing or appears twice, or one of the two is neither named nor has a usual name.
    """
    names = [name.strip().casefold() for name in header]
    listed = ", ".join(header)

    def given(name: str) -> int:
        places = [place for place, cell in enumerate(names) if cell == name.strip().casefold()]
        if len(places) != 1:
            raise ValueError(f"{path} has {'several columns' if places else 'no column'} {name!r}: there are {listed}")
        return places[0]

    def usual(known: Sequence[str]) -> list[int]:
        exact = [place for place, cell in enumerate(names) if cell == known[0]]
        return exact or [place for place, cell in enumerate(names) if cell in known]

    words = usual(WORDS_NAMES) if lists else []
    texts = [given(name) for name in columns.text] or usual(TEXT_NAMES) or words
    if columns.label == "" and (columns.text or len(texts) == 1):
        return Places(tuple(texts), None)
    if len(header) == len(texts) == 1 and columns.label is None:
        return Places((0,), None)
    tags = usual(TAGS_NAMES) if texts == words else []
    labels = tags or usual(LABEL_NAMES) if columns.label is None else [given(columns.label)]
    if len(labels) == 1 and (columns.text or len(texts) == 1):
        return Places(tuple(texts), labels[0])
    if columns.named:
        missing = "label_column (--label-column)" if columns.text else "text_column (--text-column)"
        none = ", '' where there are no labels" if columns.text else ""
        raise ValueError(f"{path} has the columns {listed}: pass {missing} too{none}")
    if "text" in names or "label" in names:
        raise ValueError(f"{path} has the columns {listed}; expected text and label, each once")
    return None


def samples_of_columns(rows: Sequence[Sequence[str]], places: Places, *, pair: bool) -> Samples:
    """The texts, as :func:`as_texts` makes them, and the labels stripped of white space."""
    texts = as_texts(([row[place] for place in places.texts] for row in rows), pair=pair)
    labels = ["" if places.label is None else row[places.label].strip() for row in rows]
    return Samples(texts, np.array(labels, dtype=str))


def as_texts(rows: Iterable[Sequence[str]], *, pair: bool) -> tuple[TextSample, ...]:
    """The texts of rows: a pair of two cells, or one line for each cell."""
    return tuple((row[0], row[1]) if pair else "\n".join(row) for row in rows)


def texts_of_columns(
    names: Sequence[str], contents: Sequence[Iterable[Any]], where: Sequence[str], *, pair: bool
) -> tuple[TextSample, ...]:
    """The texts of columns, as :func:`as_texts` makes them.

    Raises:
        ValueError: a cell is not a text; `where` has the name of each row.
    """
    rows = zip(where, *contents, strict=True)
    return as_texts(
        ([text_of(cell, name, place) for name, cell in zip(names, cells, strict=True)] for place, *cells in rows),
        pair=pair,
    )


def text_of(value: Any, name: str, where: str) -> str:
    """A cell of a text column.

    Raises:
        ValueError: it is not a text; `where` names the row.
    """
    if not isinstance(value, str):
        raise ValueError(f"{where} has {value!r:.40} for {name!r}, expected a text: remove it, or pass another column")
    return value


def label_of(value: Any, name: str, where: str) -> str:
    """A cell of a label column as text; "" if there is no label.

    Raises:
        ValueError: it is neither text nor a number or boolean; `where` names the row.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list | tuple):
        raise ValueError(f"{where} has {value!r:.40} for {name!r}: {SEVERAL_LABELS}")
    if not isinstance(value, str | int | float):
        raise ValueError(f"{where} has {value!r:.40} for {name!r}, expected a name or a number: pass another column")
    return str(value)
