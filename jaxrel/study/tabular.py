"""Results as text, Markdown, LaTeX, CSV, pandas and Parquet."""

from __future__ import annotations

import abc
import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from jaxrel._core.printable import printable
from jaxrel.storage.records import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

__all__ = ["Section", "Tabular", "print_sections"]

_GAP = 2  # columns between columns
_SHORTEST = 12  # minimum width of a shortened name
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "[": "{[}",  # which would be an option of the end of a line before it
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "→": r"\textrightarrow{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


@dataclass(frozen=True)
class Section:
    """A readable table.

    Attributes:
        title: what it is about.
        rows: text by heading; at least one row, all with the same headings in the same order. A heading may have
            several lines.
        key: the heading of the names, which are repeated if the columns do not fit beside each other.
        notes: notes to read first.
        complaints: errors and failures.
        failed: positions of the failed rows.
        names: headings of columns of names, which are shortened if they are too long.
        texts: headings of text columns, which are left-aligned.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    key: str = "encoder"
    notes: Sequence[str] = ()
    complaints: Sequence[str] = ()
    failed: frozenset[int] = frozenset()
    names: tuple[str, ...] = ("encoder", "reference")
    texts: tuple[str, ...] = ("encoder", "reference")


class Tabular(abc.ABC):
    """A result with records and readable tables."""

    @abc.abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """A flat record for each score, all with the same fields; a missing number is None."""

    @abc.abstractmethod
    def sections(self) -> list[Section]:
        """The tables of `to_text`, `to_markdown` and `to_latex`."""

    def to_text(self, width: int = 80) -> str:
        """The tables as text.

        Args:
            width: maximum width in characters: wider tables continue below, and long names are shortened.

        Returns:
            Lines.
        """
        return "\n\n".join(
            "\n".join(
                [section.title, *section.notes, *(line for line, _ in _text_lines(section, width)), *section.complaints]
            )
            for section in _printable(self.sections())
        )

    def to_markdown(self) -> str:
        """The tables in GitHub's Markdown."""
        return "\n\n".join(map(_markdown, _printable(self.sections()))) + "\n"

    def to_latex(self) -> str:
        """The tables as LaTeX `tabular` environments, which need no package."""
        return "\n\n".join(map(_latex, _printable(self.sections()))) + "\n"

    def to_pandas(self) -> pd.DataFrame:
        """The records as a data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("a data frame needs pandas: pip install pandas.") from error
        return pd.DataFrame(self.records())

    def to_csv(self, path: Path | str | None = None) -> str:
        """The records as comma-separated values, lists as words.

        Args:
            path: a file to write them to.

        Returns:
            The content of the file.
        """
        text = _csv(self.records())
        if path is not None:
            write_atomically(Path(path), text.encode())
        return text

    def to_parquet(self, path: Path | str) -> None:
        """Write the records to a Parquet file.

        Raises:
            ImportError: pyarrow is not installed.
        """
        try:
            import pyarrow as arrow  # type: ignore[import-untyped]
            import pyarrow.parquet as parquet  # type: ignore[import-untyped]
        except ImportError as error:
            raise ImportError("Parquet files need pyarrow: pip install 'jaxrel[parquet]'.") from error
        parquet.write_table(arrow.Table.from_pylist(self.records()), path)


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as comma-separated values; a list is written as its words."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: " ".join(value) if isinstance(value, list) else value for name, value in record.items()})
    # A file name that is not valid text has characters that cannot be written.
    return stream.getvalue().encode(errors="backslashreplace").decode()


def print_sections(sections: Iterable[Section], console: Console) -> None:
    """Print tables no wider than the console, with failures in red; the console wraps titles and notes."""
    from rich.text import Text

    for section in _printable(sections):
        lines = [(f"\n{section.title}", "bold"), *((note, "") for note in section.notes)]
        lines += [(line, "red" if failed else "") for line, failed in _text_lines(section, console.width)]
        for line, style in (*lines, *((complaint, "red") for complaint in section.complaints)):
            console.print(Text(line, style=style), soft_wrap=True)


def _text_lines(section: Section, width: int) -> list[tuple[str, bool]]:
    """The lines of a table, each with whether its row failed; a table that is too wide continues below with repeated
    names.

    Names are shortened in the middle if not even one column fits beside them.
    """
    rows = _fitting(section, width)
    cells = {heading: [*heading.split("\n"), *(row[heading] for row in rows)] for heading in rows[0]}
    widths = {heading: max(map(cell_len, column)) for heading, column in cells.items()}
    headings = list(widths)
    first = headings.index(section.key) + 1
    blocks = [headings[:first]]
    for heading in headings[first:]:
        if blocks[-1][-1] != section.key and sum(widths[h] + _GAP for h in [*blocks[-1], heading]) - _GAP > width:
            blocks.append([section.key])
        blocks[-1].append(heading)
    parts = [list(_block(section, rows, {heading: widths[heading] for heading in block})) for block in blocks]
    return [line for part in parts for line in [("", False), *part]][1:]


def _block(
    section: Section, rows: Sequence[Mapping[str, str]], widths: Mapping[str, int]
) -> Iterator[tuple[str, bool]]:
    height = max(heading.count("\n") for heading in widths)
    tops = {heading: ("\n" * (height - heading.count("\n")) + heading).split("\n") for heading in widths}
    for number in range(height + 1):
        yield _line(section, {heading: top[number] for heading, top in tops.items()}, widths), False
    yield "─" * (sum(widths.values()) + _GAP * (len(widths) - 1)), False
    for position, row in enumerate(rows):
        yield _line(section, row, widths), position in section.failed


def _line(section: Section, cells: Mapping[str, str], widths: Mapping[str, int]) -> str:
    padded = []
    for heading, width in widths.items():
        spaces = " " * (width - cell_len(cells[heading]))
        padded.append(cells[heading] + spaces if heading in section.texts else spaces + cells[heading])
    return (" " * _GAP).join(padded).rstrip()


def _fitting(section: Section, width: int) -> list[dict[str, str]]:
    """The rows, with names shortened so that any one other column fits beside them."""
    headings = list(section.rows[0])
    cells = {heading: [*heading.split("\n"), *(row[heading] for row in section.rows)] for heading in headings}
    room = {heading: max(map(cell_len, column)) for heading, column in cells.items()}
    room |= {heading: min(room[heading], width // 4) for heading in section.names if heading in room}
    before = headings[: headings.index(section.key)]
    others = [room[heading] for heading in headings if heading not in (*before, section.key)]
    left = width - sum(room[heading] + _GAP for heading in before) - max(others, default=0) - _GAP
    room[section.key] = max(_SHORTEST, left)
    return [
        {
            heading: _shortened(cell, room[heading]) if heading in section.names else cell
            for heading, cell in row.items()
        }
        for row in section.rows
    ]


def _shortened(text: str, room: int) -> str:
    """`text` in at most `room` columns, with an ellipsis in the middle if it is longer."""
    if cell_len(text) <= room:
        return text
    end = _prefix(text[::-1], (room - 1) // 2)[::-1]
    return f"{_prefix(text, room - 1 - cell_len(end))}…{end}"


def _prefix(text: str, room: int) -> str:
    return next(text[:length] for length in range(len(text), -1, -1) if cell_len(text[:length]) <= room)


def _printable(sections: Iterable[Section]) -> list[Section]:
    """The sections without control characters, because names are data."""
    return [
        dataclasses.replace(
            section,
            title=printable(section.title),
            rows=[{heading: printable(cell) for heading, cell in row.items()} for row in section.rows],
            notes=list(map(printable, section.notes)),
            complaints=list(map(printable, section.complaints)),
        )
        for section in sections
    ]


def _one_line(heading: str) -> str:
    return heading.replace("-\n", "").replace("\n", " ")


def _markdown(section: Section) -> str:
    def escaped(text: str) -> str:
        return re.sub(r"([\\`*_\[\]<>|#$~&])", r"\\\1", text)

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    headings = list(section.rows[0])
    table = [
        line(escaped(_one_line(heading)) for heading in headings),
        line(":--" if heading in section.texts else "--:" for heading in headings),
        *(line(map(escaped, row.values())) for row in section.rows),
    ]
    parts = [f"### {escaped(section.title)}", *map(escaped, section.notes), "\n".join(table)]
    return "\n\n".join([*parts, *map(escaped, section.complaints)])


def _latex(section: Section) -> str:
    def line(cells: Iterable[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    headings = list(section.rows[0])
    columns = "".join("l" if heading in section.texts else "r" for heading in headings)
    return "\n".join(
        [
            f"\\textbf{{{section.title.translate(_LATEX)}}}\n",
            *(f"{note.translate(_LATEX)}\n" for note in section.notes),
            f"\\begin{{tabular}}{{{columns}}}",
            r"\hline",
            line(map(_one_line, headings)),
            r"\hline",
            *(line(row.values()) for row in section.rows),
            r"\hline",
            r"\end{tabular}",
            *(f"\n{complaint.translate(_LATEX)}" for complaint in section.complaints),
        ]
    )
