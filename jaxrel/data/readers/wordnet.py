"""Definitions of nouns from the WordNet database."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrel.data.readers.samples import Samples, lines_of, read_text

__all__ = ["CATEGORIES", "read_noun_definitions"]

_TOPS = 3  # "noun.Tops": the unique beginners of the other categories
_FIRST = 4

CATEGORIES = (
    "act",
    "animal",
    "artifact",
    "attribute",
    "body",
    "cognition",
    "communication",
    "event",
    "feeling",
    "food",
    "group",
    "location",
    "motive",
    "object",
    "person",
    "phenomenon",
    "plant",
    "possession",
    "process",
    "quantity",
    "relation",
    "shape",
    "state",
    "substance",
    "time",
)
"""Names of the lexicographer files 04 to 28 after the prefix "noun."."""


def read_noun_definitions(folder: Path) -> Samples:
    """Read the definition and the lexicographer file of each noun in ``data.noun``.

    Text from the first example on is dropped, and so are the nouns of file 03, the tops of the other categories.

    Raises:
        FileNotFoundError: the folder, or ``data.noun`` within, does not exist.
        ValueError: a line is not a line of the database.
    """
    path = folder / "data.noun"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    definitions, files = [], []
    for number, line in enumerate(lines_of(read_text(path, encoding="latin-1")), start=1):
        if line.startswith("  "):  # the licence
            continue
        data, bar, gloss = line.partition(" | ")
        fields = data.split()
        if (
            not bar
            or len(fields) < 2
            or not fields[1].isdigit()
            or not _TOPS <= int(fields[1]) < _FIRST + len(CATEGORIES)
        ):
            raise ValueError(f"line {number} of {path} is not a noun of WordNet: {line[:60]!r}")
        if int(fields[1]) != _TOPS:
            files.append(int(fields[1]) - _FIRST)
            definitions.append(gloss.split('; "')[0].strip())
    return Samples(tuple(definitions), np.array(files, dtype=np.int32))
