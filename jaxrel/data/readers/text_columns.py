"""Which columns of a table are the texts and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrel.data.readers.samples import Samples

__all__ = ["Columns", "Places", "as_names", "named_columns", "samples_of_columns"]

_TEXT_NAMES = ("text", "texts", "sentence", "review", "content", "message", "tweet", "comment", "document", "body")
_LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "topic", "intent")


class Columns(NamedTuple):
    """Names of columns that the user gives; the usual names where there are none.

    Attributes:
        text: several are joined to one text, a line each.
        label: the class; "" where there is none.
    """

    text: tuple[str, ...] = ()
    label: str | None = None

    @property
    def named(self) -> bool:
        """Whether any is given."""
        return bool(self.text) or self.label is not None


def as_names(columns: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


class Places(NamedTuple):
    """Where the texts and the labels are among the columns; there may be no labels."""

    texts: tuple[int, ...]
    label: int | None


def named_columns(path: Path, header: Sequence[str], columns: Columns) -> Places | None:
    """Places of the texts and of the labels by the names of the columns, in any case; None where none is a usual name.

    One column alone is one of texts.

    Raises:
        ValueError: a column that is given is missing or there twice, or one of both is neither given nor usual.
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

    texts = [given(name) for name in columns.text] or usual(_TEXT_NAMES)
    if columns.label == "" and (columns.text or len(texts) == 1):
        return Places(tuple(texts), None)
    if len(header) == len(texts) == 1 and columns.label is None:
        return Places((0,), None)
    labels = usual(_LABEL_NAMES) if columns.label is None else [given(columns.label)]
    if len(labels) == 1 and (columns.text or len(texts) == 1):
        return Places(tuple(texts), labels[0])
    if columns.named:
        missing = "label_column (--label-column)" if columns.text else "text_column (--text-column)"
        none = ", '' where there are no labels" if columns.text else ""
        raise ValueError(f"{path} has the columns {listed}: pass {missing} too{none}")
    if "text" in names or "label" in names:
        raise ValueError(f"{path} has the columns {listed}; wanted text and label, each once")
    return None


def samples_of_columns(rows: Sequence[Sequence[str]], places: Places) -> Samples:
    """The texts, of several columns a line each, and the labels without white space at their ends."""
    texts = tuple("\n".join(row[place] for place in places.texts) for row in rows)
    labels = ["" if places.label is None else row[places.label].strip() for row in rows]
    return Samples(texts, np.array(labels, dtype=str))
