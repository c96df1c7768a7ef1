"""Names that a user may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["suggestion"]

_ALIKE, _BEGINNING = 0.85, 3  # a share of equal letters that no other name has; letters of a name that ends too late


def suggestion(name: str, known: Iterable[str]) -> str:
    """A question to put after a name that is unknown; empty where nothing known is like it.

    Case and separators count for nothing: `MobileNetV2` and `mobilenet_v2` are `mobilenet-v2`.
    """
    spelled = {_letters(entry): entry for entry in known}
    word = _letters(name)
    begun = [entry for entry in spelled if len(entry) >= _BEGINNING and word.startswith(entry)]
    close = (
        difflib.get_close_matches(word, spelled, n=1, cutoff=_ALIKE)
        or sorted(begun, key=len)[-1:]
        or difflib.get_close_matches(word, spelled, n=1)
    )
    return f" (did you mean {spelled[close[0]]!r}?)" if close else ""


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
