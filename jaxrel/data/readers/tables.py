"""Tables of texts and labels: one sample a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jaxrel.data.readers.samples import Samples, read_text

__all__ = ["TABLE_SUFFIXES", "read_orange_tables", "read_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")

_COLUMNS = ("text", "label")


def read_table(path: Path) -> Samples:
    """Read a table of texts and class names, UTF-8, plain or gzipped.

    In a ``.csv`` file commas part the columns, and fields with commas, quotes or line breaks are put in double quotes.
    In a ``.tsv`` or ``.tab`` file tabs part the columns, a line is a row, and quotes are characters like any other.
    When a cell of the first row says "text" or "label" (in any case) it is a header: these two columns are read and
    others left alone. Otherwise there are exactly two columns, the text and then the label. Empty rows are skipped.
    Labels lose white space at their ends; texts are kept as they are, empty ones too.

    Raises:
        ValueError: the file is damaged or not UTF-8, a column is missing or there twice, a row has another number of
            columns, a label is empty, or, without a header, every row has a label of its own (which is more likely the
            text).
    """
    rows = _rows(path, comma_separated=path.name.removesuffix(".gz").endswith(".csv"))
    if not rows:
        raise ValueError(f"{path} has no rows")
    _, first = rows[0]
    header = [cell.strip().casefold() for cell in first]
    has_header = any(column in header for column in _COLUMNS)
    if has_header:
        if any(header.count(column) != 1 for column in _COLUMNS):
            raise ValueError(f"{path} has the columns {', '.join(first)}; wanted text and label, each once")
        text_column, label_column = map(header.index, _COLUMNS)
        del rows[0]
    elif len(header) == len(_COLUMNS):
        text_column, label_column = 0, 1
    else:
        raise ValueError(
            f"{path} has no header with the columns text and label, and its first row has {len(header)} columns; "
            "wanted two without a header, the text and then the label"
        )
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(f"line {number} of {path} has {len(row)} columns, wanted {len(header)}")
        if not row[label_column].strip():
            raise ValueError(f"line {number} of {path} has no label")
    labels = np.array([row[label_column].strip() for _, row in rows], dtype=str)
    if not has_header and len(set(labels.tolist())) == len(labels) > 2:
        raise ValueError(
            f"{path} has another label in every row: the text comes first, then the label; or name the columns in a "
            "first row"
        )
    return tuple(row[text_column] for _, row in rows), labels


def read_orange_tables(*paths: Path) -> Samples:
    """Read tables of the Orange software: three lines of header, then a class and a text a row; empty rows skipped.

    Raises:
        ValueError: a row has other than two columns.
    """
    labels, texts = [], []
    for path in paths:
        for number, row in _rows(path, comma_separated=False)[3:]:
            if len(row) != len(_COLUMNS):
                raise ValueError(f"line {number} of {path} has {len(row)} columns, wanted a class and a text")
            labels.append(row[0])
            texts.append(row[1])
    return tuple(texts), np.array(labels, dtype=str)


def _rows(path: Path, *, comma_separated: bool) -> list[tuple[int, list[str]]]:
    """Number of the (last) line and cells of each row that is not empty."""
    content = io.StringIO(read_text(path), newline="")
    with _long_fields():
        reader = (
            csv.reader(content, strict=True)
            if comma_separated
            else csv.reader(content, delimiter="\t", quoting=csv.QUOTE_NONE)
        )
        try:
            return [(reader.line_num, row) for row in reader if any(row)]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} of {path} is damaged: {error}") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let a text be longer than the 131,072 characters at which the csv module stops by default."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
