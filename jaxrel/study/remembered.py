"""What was loaded last, so that it is not loaded again."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Remembered"]

T = TypeVar("T")


class Remembered(Generic[T]):
    """`load`, which does not load again what it was asked for last; nor does what failed fail slowly again.

    All copies that a worker is sent of one such function have one memory there.
    """

    def __init__(self, load: Callable[[str], T]) -> None:
        """Of this function; nothing is loaded yet."""
        self._load = load
        self._token = secrets.token_hex()
        self._last: dict[str, T | Exception] = {}

    def __call__(self, name: str) -> T:
        """What is loaded by this name, or the error again."""
        found = self._last.get(name)
        if found is None:
            self._last.clear()
            found = self._last[name] = self._outcome(name)
        if isinstance(found, Exception):
            raise found
        return found

    def kept(self, name: str) -> T | None:
        """What was loaded by this name, if it is what was asked for last."""
        found = self._last.get(name)
        return None if isinstance(found, Exception) else found

    def _outcome(self, name: str) -> T | Exception:
        try:
            return self._load(name)
        except Exception as error:
            return error

    def __getstate__(self) -> dict[str, Any]:
        return {"_load": self._load, "_token": self._token}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_last": _memory(state["_token"])}


@functools.lru_cache(maxsize=64)
def _memory(token: str) -> dict[str, Any]:  # noqa: ARG001 - one for each
    return {}
