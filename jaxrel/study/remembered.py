"""A cache of the last loaded value."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Remembered"]

T = TypeVar("T")


class Remembered(Generic[T]):
    """`load` with a cache of its last value or error.

    All copies of one such function on a worker share the cache.
    """

    def __init__(self, load: Callable[[str], T]) -> None:
        """Wrap a function; nothing is loaded yet."""
        self._load = load
        self._token = secrets.token_hex()
        self._last: dict[str, T | Exception] = {}

    def __call__(self, name: str) -> T:
        """The value of this name, or its error again."""
        found = self._last.get(name)
        if found is None:
            self._last.clear()
            found = self._last[name] = self._outcome(name)
        if isinstance(found, Exception):
            raise found
        return found

    def kept(self, name: str) -> T | None:
        """The cached value of this name, if it was the last."""
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
