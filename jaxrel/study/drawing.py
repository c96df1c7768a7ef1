"""Common parts of all pictures: fonts for names in any script, wrapping of long names, colours, files."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from jaxrel._core.printable import escaped, printable
from jaxrel.storage.records import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "contrasting", "file_of", "in_lines", "row_edges", "typography", "width_of", "write_pictures"]

FORMATS = ("png", "svg", "pdf")
_BASE = "DejaVu Sans"  # which comes with matplotlib
# A font of placeholder boxes, and fonts of colour bitmaps, which matplotlib cannot draw.
_UNUSABLE = re.compile("Last Resort|Color")


@contextlib.contextmanager
def typography(texts: Iterable[str]) -> Iterator[None]:
    """Fonts that have the characters of `texts`, without markup, because a name may contain dollar signs."""
    from matplotlib import rc_context

    families = _families(frozenset("".join(map(printable, texts))))
    with rc_context({"font.family": [_BASE, *families], "text.parse_math": False, "text.usetex": False}):
        yield


def in_lines(name: str, width: int = 40) -> str:
    """A name as shown in a picture: in lines of at most `width` columns, with escapes for characters that no font
    has."""
    shown = printable(name)
    covered = _covered(frozenset(shown))
    shown = "".join(c if c in covered else escaped(c) for c in shown)
    lines, line = [], ""
    for piece in re.findall(r"[^-/_@:, ]+[-/_@:, ]*|[-/_@:, ]+", shown):
        if line and cell_len(line + piece) > width:
            lines.append(line)
            line = ""
        for character in piece:
            if cell_len(line + character) > width:
                lines.append(line)
                line = ""
            line += character
    return "\n".join([*lines, line])


def row_edges(names: Iterable[str]) -> list[float]:
    """Start and end of rows in inches from the top; each row is as high as the lines of its name."""
    return [0.0, *itertools.accumulate(max(0.34, 0.14 + 0.16 * (1 + name.count("\n"))) for name in names)]


def width_of(texts: Iterable[Any]) -> float:
    """Width in inches of the widest text artist."""
    return max((text.get_window_extent().width / text.get_figure(root=True).dpi for text in texts), default=0.0)


def contrasting(colour: Iterable[float]) -> str:
    """Black or white, whichever stands out more from an RGB colour (relative luminance of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in list(colour)[:3]]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "black" if luminance > 0.179 else "white"


def write_pictures(figures: Mapping[str, Figure], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write figures under their names, as PNG and in further formats; returns the files."""
    paths = []
    for name, figure in figures.items():
        for kind in dict.fromkeys(("png", *formats)):
            paths.append(folder / f"{name}.{kind}")
            write_atomically(paths[-1], file_of(figure, kind))
    return paths


def file_of(figure: Figure, kind: str) -> bytes:
    """The content of a file of one of `FORMATS`."""
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=150)
    return stream.getvalue()


def _covered(characters: frozenset[str]) -> frozenset[str]:
    """The characters that any of the fonts has."""
    fonts = (_BASE, *_families(characters))
    return frozenset(c for c in characters if any(ord(c) in _characters(font) for font in fonts))


@functools.lru_cache(maxsize=64)
def _families(characters: frozenset[str]) -> tuple[str, ...]:
    """Fonts of this machine that together have the characters missing from the base font."""
    missing = {ord(c) for c in characters} - _characters(_BASE)
    chosen = []
    for family in sorted(_files()) if missing else ():
        if found := missing & _characters(family):
            chosen.append(family)
            missing -= found
    return tuple(chosen)


@functools.cache
def _files() -> dict[str, str]:
    """The file of each drawable upright font of regular weight."""
    from matplotlib.font_manager import fontManager

    upright = [entry for entry in fontManager.ttflist if (entry.style, entry.weight) == ("normal", 400)]
    return {entry.name: entry.fname for entry in upright if not _UNUSABLE.search(entry.name)}


@functools.cache
def _characters(family: str) -> frozenset[int]:
    """The characters of a font; none if it cannot be read."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(_files()[family])
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
