"""Tables of texts and labels: one sample per row."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrel.data.readers.samples import Samples, read_text
from jaxrel.data.readers.text_columns import Columns, Places, named_columns, samples_of_columns

__all__ = ["TABLE_SUFFIXES", "read_orange_tables", "read_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")

# The dialect that Excel reads and writes.
_SEPARATOR = re.compile(r"sep=([,;\t|])[ \t,;]*(?:\r\n?|\n)", re.IGNORECASE)
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


def read_table(path: Path, columns: Columns = Columns()) -> Samples:  # noqa: B008 (immutable)
    """Read a table of texts and class names, UTF-8 or UTF-16 with a byte order mark, plain or gzipped.

    In a ``.csv`` file commas separate the columns, or semicolons or tabs if the first row has no comma; fields that
    contain these, quotes or line breaks are in double quotes. In a ``.tsv`` or ``.tab`` file tabs separate the
    columns, each line is a row, and quotes are ordinary characters.

    The first row is a header if a cell is "text" or "label", if cells are usual names of both (such as "review" and
    "sentiment"), in any case, or if `columns` names one of them. Then these columns are read, several text columns are
    joined or make pairs, and other columns are ignored. Otherwise there are exactly two columns: the text and then the
    label, or the label first if the first column has few repeated values and the second has more. A first line such as
    ``sep=;`` sets the separator. Empty rows are skipped. Labels are stripped of white space; a row without a label is a
    sample of unknown class, as are all rows in a table of one column. Texts are kept unchanged, including empty ones.

    Raises:
        ValueError: the file is damaged or of another encoding, a column is missing or appears twice, a row has another
            number of columns or repeats the header, or, without a header, it cannot be determined which column has the
            labels, or whether the first row is a header.
    """
    rows = _rows(path, columns, delimiters=",;\t" if path.name.lower().removesuffix(".gz").endswith(".csv") else "\t")
    if not rows:
        raise ValueError(f"{path} has no rows")
    _, first = rows[0]
    for number, row in rows:
        if len(row) != len(first):
            raise ValueError(f"line {number} of {path} has {len(row)} columns, expected {len(first)}")
    named = named_columns(path, first, columns)
    if named is not None:
        del rows[0]
        if again := [number for number, row in rows if row == first]:
            raise ValueError(f"line {again[0]} of {path} repeats the header; remove it")
    elif len(first) == 1:
        named = Places((0,), None)
    cells = [row for _, row in rows]
    return samples_of_columns(cells, named or _unnamed_columns(path, cells), pair=columns.pair)


def _unnamed_columns(path: Path, rows: list[list[str]]) -> Places:
    """Positions of the texts and of the labels in a table without a header.

    Raises:
        ValueError: there are not two columns, or it cannot be determined which is which, or whether there is a header.
    """
    advice = (
        "pass --text-column and --label-column (text_column= and label_column=), or name the columns text and label in "
        f"the first row of {path.name}"
    )
    if len(rows[0]) != 2:
        raise ValueError(
            f"{path} has no header with the columns text and label, and its first row has {len(rows[0])} columns; "
            f"expected two without a header, the text and then the label: {advice}"
        )
    counts = [Counter(row[column].strip() for row in rows) for column in (0, 1)]
    first, second = map(len, counts)
    if first < second and 2 * first <= len(rows):
        text, label = 1, 0
    elif second < first:
        text, label = 0, 1
    elif len(rows) < 3:  # too few rows to see which column repeats values
        raise ValueError(f"{path} has {len(rows)} rows, of which the first may be a header: {advice}")
    else:
        raise ValueError(f"it cannot be determined which column of {path} has the labels: {advice}")
    if counts[label][rows[0][label].strip()] == 1:
        raise ValueError(f"the first row of {path} ({', '.join(rows[0])}) may be a header: {advice}")
    return Places((text,), label)


def read_orange_tables(train: Path, test: Path) -> Samples:
    """Read tables of the Orange software: three header lines, then a class and a text per row; empty rows are skipped.

    Raises:
        ValueError: a row does not have two columns.
    """
    rows = []
    for part, path in (("train", train), ("test", test)):
        for number, row in _rows(path, delimiters="\t")[3:]:
            if len(row) != 2:
                raise ValueError(f"line {number} of {path} has {len(row)} columns, expected a class and a text")
            rows.append((*row, part))
    labels, texts, parts = zip(*rows, strict=True)
    return Samples(texts, np.array(labels, dtype=str), np.array(parts))


def _rows(path: Path, columns: Columns = Columns(), *, delimiters: str) -> list[tuple[int, list[str]]]:  # noqa: B008
    """The (last) line number and cells of each non-empty row, split by the first delimiter that splits the first row.

    Raises:
        ValueError: the file is damaged, or two delimiters split all rows equally well and there is no header to decide.
    """
    text = read_text(path)
    if said := _SEPARATOR.match(text):
        text, delimiters = text[said.end() :], said[1]
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiters == "\t" else csv.QUOTE_MINIMAL

    def reader_by(delimiter: str) -> Any:
        return csv.reader(
            (match[0] for match in _LINE.finditer(text)), strict=True, delimiter=delimiter, quoting=quoting
        )

    def parts_first(delimiter: str) -> bool:
        with suppress(csv.Error):
            return len(next(filter(any, reader_by(delimiter)), ())) > 1
        return False

    def parts_all(delimiter: str) -> bool:
        with suppress(csv.Error):
            return len({len(row) for row in reader_by(delimiter) if any(row)}) == 1
        return False

    def names_columns(delimiter: str) -> bool:
        with suppress(ValueError):
            return named_columns(path, next(filter(any, reader_by(delimiter))), columns) is not None
        return False

    with _long_fields():
        possible = list(filter(parts_first, delimiters))
        if len(possible) > 1:
            possible = list(filter(parts_all, possible)) or possible
            possible = list(filter(names_columns, possible)) or possible
        if len(possible) > 1 and all(map(parts_all, possible)):
            raise ValueError(
                f"it cannot be determined which of {' '.join(map(repr, possible))} separates the columns of "
                f"{path}: name them in "
                "a first row that says text and label, or put the texts in double quotes"
            )
        reader = reader_by(next(iter(possible), delimiters[0]))
        try:
            return [(reader.line_num, row) for row in reader if any(row)]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} of {path} is damaged: {error}") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Allow texts longer than the csv module's default limit of 131,072 characters."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
