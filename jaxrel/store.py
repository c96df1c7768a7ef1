"""Files and records on disk that survive a kill: written whole or not at all."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

_log = logging.getLogger(__name__)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that readers meet the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


T = TypeVar("T")


class RecordLog(Generic[T]):
    """Finished results, a line of JSON each, in a file that one process at a time writes.

    A line, or the lines of a batch, are written by a single call and are on the disk before the next begin. What a kill
    may have left of a last line is cut off when the file is opened, so that result is computed again.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, made if need be; BlockingIOError where another process writes to it."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(self._descriptor)
            content = path.read_bytes()
            whole = _whole(content)
            if len(whole) < len(content):
                _log.warning("the last line of %s is torn: its score is computed again", path)
                os.ftruncate(self._descriptor, len(whole))
            self._records = dict(_records(whole.splitlines()))
        except BaseException:
            self.close()
            raise

    def encoded(self, item: T) -> dict[str, Any]:
        """What JSON has of a result, its "key" included."""
        raise NotImplementedError

    def decoded(self, record: dict[str, Any]) -> T:
        """The result of a record."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Keep other processes from writing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let other processes write."""
        self.close()

    def close(self) -> None:
        """Let other processes write."""
        os.close(self._descriptor)

    def find(self, key: str) -> T | None:
        """The finished result of this key, if there is one."""
        record = self._records.get(key)
        return None if record is None else self.decoded(record)

    def append(self, item: T) -> None:
        """Put a finished result on the disk."""
        self.extend([item])

    def extend(self, items: Iterable[T]) -> None:
        """Put finished results on the disk, all of them by one call."""
        records = [self.encoded(item) for item in items]
        lines = b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)
        if not lines:
            return
        if os.write(self._descriptor, lines) != len(lines):
            raise OSError(f"{self.path} took only a part of its scores: is the disk full?")
        os.fsync(self._descriptor)
        self._records |= {record["key"]: record for record in records}


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Finished results by key, of a file that another process may be writing: what is no whole line is left out."""
    return dict(_records(_whole(path.read_bytes()).splitlines()))


def finite_or_string(value: float) -> float | str:
    """`value`, or its name where JSON has no number for it; `float` reads both."""
    return value if math.isfinite(value) else str(value)


def _whole(content: bytes) -> bytes:
    """The lines that end."""
    return content[: content.rfind(b"\n") + 1]


def _records(lines: Iterable[bytes]) -> Iterable[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            yield record["key"], record
        except (ValueError, KeyError, TypeError):
            _log.warning("line %d of the finished scores is not readable: its score is computed again", number)


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
