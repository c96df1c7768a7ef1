"""Escapes for text from untrusted sources."""

from __future__ import annotations

import unicodedata

__all__ = ["escaped", "printable"]

_JOINERS = "\u200c\u200d"  # which Persian, Indic scripts and emoji are written with


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with escapes, such as `\\x1b`, for characters that a terminal would interpret instead of showing.

    Args:
        text: any text.
        lines: whether it may have several lines; a name may not.
    """
    return "".join(c if (lines and c == "\n") or not _is_control(c) else escaped(c) for c in text)


def escaped(character: str) -> str:
    """The Python escape sequence of a character."""
    return (
        character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else f"\\x{ord(character):02x}"
    )


def _is_control(character: str) -> bool:
    """Whether it is a control, direction mark, line separator, lone surrogate or unassigned character."""
    category = unicodedata.category(character)
    return character not in _JOINERS and (category[0] == "C" or category in ("Zl", "Zp"))
