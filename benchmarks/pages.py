"""Tables for the pages in docs/: markdown, and where on a page it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxrel.storage.records import write_atomically

__all__ = ["markdown", "write_tables"]


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_tables(path: Path, tables: Mapping[str, str]) -> None:
    """Put each table between the marks `<!-- its name -->` and `<!-- end -->` of a page.

    Raises:
        ValueError: for a page without the marks of a table.
    """
    page = path.read_text()
    for name, content in tables.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (mark and end):
            raise ValueError(f"{path} has no place for the table {name!r}.")
        page = f"{before}{mark}\n{content}\n\n{end}{after}"
    write_atomically(path, page.encode())
