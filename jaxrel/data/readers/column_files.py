"""Tables with named and typed columns: JSON lines and Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrel.data.readers.columns import label_values
from jaxrel.data.readers.samples import AbsentError, Samples, lines_of, read_text
from jaxrel.data.readers.text_columns import Columns, Places, label_of, named_columns, samples_of_columns, text_of
from jaxrel.data.readers.words import tagged_words

__all__ = ["COLUMN_SUFFIXES", "read_json_lines", "read_parquet", "samples_of_rows"]

COLUMN_SUFFIXES = (".jsonl", ".ndjson", ".parquet")


def read_json_lines(path: Path, columns: Columns = Columns()) -> Samples:  # noqa: B008 (immutable)
    """Read a file of one JSON object per line, plain or gzipped, in UTF-8; blank lines are skipped.

    An object that lacks the label, or has `null` for it, is a sample of unknown class; one that lacks a text is an
    error. The columns are found as in `read_table`. If the text column has lists of words, such as `tokens`, every word
    is a sample, and the label column has lists of their tags, such as `tags` or `ner_tags`: see
    :func:`jaxrel.data.readers.words.tagged_words`.

    Raises:
        ValueError: a line is not an object, a text is not a string or a label is neither a string, an integer nor a
            boolean, there is not one tag for each word, or the columns cannot be determined.
    """
    rows: list[Mapping[str, Any]] = []
    numbers = []
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {path} is not a JSON object, but {line.strip()[:40]!r}")
        rows.append(row)
        numbers.append(f"line {number} of {path}")
    return samples_of_rows(path, rows, numbers, columns)


def samples_of_rows(path: Path, rows: Sequence[Mapping[str, Any]], where: Sequence[str], columns: Columns) -> Samples:
    """The samples of JSON objects; see :func:`read_json_lines`. `where` names each."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    return _samples(path, rows, where, _chosen(path, header, columns) if rows else [], columns)


def read_parquet(path: Path, columns: Columns = Columns()) -> Samples:  # noqa: B008 (immutable)
    """Read a Parquet file; a null label is a sample of unknown class. Only the columns of texts and labels are read.

    Raises:
        AbsentError: pyarrow is not installed.
        ValueError: the file is damaged; otherwise as `read_json_lines`.
    """
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise AbsentError(f"{error} (pip install 'jaxrel[parquet]')") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = _chosen(path, file.schema_arrow.names, columns)
        rows = file.read(columns=list(filter(None, names))).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file, or damaged: {error}") from error
    return _samples(path, rows, [f"row {number} of {path}" for number in range(len(rows))], names, columns)


def _chosen(path: Path, header: Sequence[str], columns: Columns) -> list[str]:
    """The names of the text columns, followed by the label column; "" if there are no labels."""
    places = named_columns(path, header, columns, lists=True)
    if places is None:
        raise ValueError(
            f"{path} has the columns {', '.join(header)}: name those of texts and labels, text_column and label_column "
            "(--text-column, --label-column)"
        )
    return [*(header[place] for place in places.texts), "" if places.label is None else header[places.label]]


def _samples(
    path: Path, rows: Sequence[Mapping[str, Any]], where: Sequence[str], names: Sequence[str], columns: Columns
) -> Samples:
    if not rows:
        raise ValueError(f"{path} has no rows")
    *texts, label = names
    if len(texts) == 1 and any(isinstance(row.get(texts[0]), list) for row in rows):
        return _words(rows, where, texts[0], label, columns)
    cells = [
        [*(text_of(row.get(name), name, place) for name in texts), label_of(row.get(label), label, place)]
        for row, place in zip(rows, where, strict=True)
    ]
    return samples_of_columns(cells, Places(tuple(range(len(texts))), len(texts)), pair=columns.pair)


def _words(rows: Sequence[Mapping[str, Any]], where: Sequence[str], name: str, label: str, columns: Columns) -> Samples:
    sentences, tags = ([row.get(column) for row in rows] for column in (name, label))
    found = tagged_words(sentences, tags, names=(name, label), where=where)
    labels = label_values(found.tags, label, found.where, regression=columns.regression)
    return Samples(found.words, labels, skipped=found.skipped)
