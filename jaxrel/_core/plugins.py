"""Registries of metrics, encoders and data sets, to which other packages add by entry points (docs/plugins.md)."""

from __future__ import annotations

import functools
import logging
from collections import UserDict
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar

__all__ = ["Registry"]

_log = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


class Registry(UserDict[str, T]):
    """Entries by name: those of this package and, from the first access, those of all installed packages.

    An entry point that cannot be loaded, has another type or uses an existing name is skipped with a warning that gives
    the reason.

    Args:
        group: the group of the entry points, each of which refers to an entry.
        kind: type of an entry.
        own: the entries of this package.
        reserved: further names that are taken.
    """

    def __init__(self, group: str, kind: type[T], own: Iterable[T] = (), *, reserved: Iterable[str] = ()) -> None:
        self._group, self._kind = group, kind
        self._own = {entry.name: entry for entry in own}
        self._reserved = frozenset(reserved)

    @functools.cached_property
    def data(self) -> dict[str, T]:  # type: ignore[override]
        """All entries; `UserDict` has its methods from it."""
        self.data = dict(self._own)  # what a plugin finds that looks while it is imported
        for entry in self._plugins():
            self.data[entry.name] = entry
        return self.data

    def _plugins(self) -> Iterator[T]:
        for point in sorted(entry_points(group=self._group), key=lambda point: point.name):
            try:
                yield self._checked(point.load())
            except Exception as error:
                package = point.dist.name if point.dist else "an unknown package"
                _log.warning(
                    "%s of %s is not in the group %s: %s: %s",
                    point.value,
                    package,
                    self._group,
                    type(error).__name__,
                    error,
                )

    def _checked(self, entry: Any) -> T:
        if not isinstance(entry, self._kind):
            raise TypeError(f"it is a {type(entry).__name__}, expected a {self._kind.__name__}")
        if entry.name in self.data or entry.name in self._reserved:
            raise ValueError(f"the name {entry.name!r} is taken")
        return entry
