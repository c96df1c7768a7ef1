"""Files and records on disk that survive a kill: written whole or not at all, and never over files of another run."""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import secrets
import shlex
import stat
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

_log = logging.getLogger(__name__)

_OPENING = b'{"jaxrel": "'  # the start of every line of a log; its checksum follows


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that readers see the old file or the new one, never a part.

    Raises:
        OSError: it names `path`.
    """
    temporary = path.with_name(f".writing-{secrets.token_hex(8)}")
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the original error is more informative
                temporary.unlink()
            raise


class ReplacedError(ValueError):
    """Results of another run would be replaced; nothing was written."""

    def __init__(self, file: Path, origin: str) -> None:
        """Name the file and its origin, if known."""
        self.folder = file.parent
        super().__init__(
            f"{self.folder} holds results of another run{origin}, and {file.name} would be replaced. Nothing was "
            "overwritten. Other settings, or fewer encoders or data sets, need another --output."
        )


def check_replaceable(paths: Sequence[Path], rows: Collection[Any], rows_of: Callable[[Any], Iterable[Any]]) -> None:
    """Raise ReplacedError, a ValueError, if writing these files would lose results of another run.

    Args:
        paths: files that are written together; the first is JSON and holds the rows.
        rows: the rows of the new files.
        rows_of: returns the rows of an old document. Nothing is lost if the new files have all of them.
    """
    first, *others = paths
    origin = ""
    try:
        document = json.loads(first.read_bytes())
        origin = _origin(document)
        lost = not set(rows_of(document)) <= set(rows)
    except FileNotFoundError:
        lost = any(map(os.path.lexists, others))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        lost = True  # another program's
    if lost:
        raise ReplacedError(first, origin)


def _origin(document: Any) -> str:
    """The command that wrote a document and when, in brackets; empty if it does not say."""
    if not isinstance(document, dict) or "written" not in document:
        return ""
    words = document.get("command")
    command = shlex.join(map(str, words)) if isinstance(words, list) else "from Python"
    return f" ({textwrap.shorten(command, 300, placeholder=' ...')}, {document['written']})"


T = TypeVar("T")


class RecordLog(Generic[T]):
    """Finished results, one line of JSON each, in a file that only one process writes at a time.

    Each line begins with a checksum of the rest. A line, or the lines of a batch, are written by a single call and are
    on disk before the next begins. An incomplete last line, as a kill may leave it, is cut off when the file is
    opened, and a damaged line is skipped: those results are computed again. Other files are left untouched.
    Several logs form one when they are concatenated or in the same folder: `records.jsonl` includes the records of
    `records-7.jsonl`.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, created if needed.

        Raises:
            BlockingIOError: another process writes to it.
            OSError: it cannot be written to, is a link, or is not a log.
        """
        self.path = path
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            self._descriptor = os.open(path, flags, 0o644)
            try:
                _check_ours(self._descriptor)
                _lock(self._descriptor)
                content = _content(self._descriptor)
                whole = _whole(content)
                if len(whole) < len(content):
                    _log.warning("the last line of %s is torn: its score is computed again", path)
                    os.ftruncate(self._descriptor, len(whole))
                beside = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"))
                found = [read_records(other) for other in beside if other.is_file()]
                self._records = collections.ChainMap(dict(_records(whole, path)), *found)
            except BaseException:
                self.close()
                raise

    def encoded(self, item: T) -> dict[str, Any]:
        """The JSON record of a result, including its "key"."""
        raise NotImplementedError

    def decoded(self, record: dict[str, Any]) -> T:
        """The result of a record."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Lock the log against writing by other processes."""
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
        """The finished result of this key, if any."""
        record = self._records.get(key)
        return None if record is None else self.decoded(record)

    def append(self, item: T) -> None:
        """Write a finished result to disk."""
        self.extend([item])

    def extend(self, items: Iterable[T]) -> None:
        """Write finished results to disk in a single call."""
        records = [self.encoded(item) for item in items]
        lines = b"".join(map(_line, records))
        if not lines:
            return
        with _naming(self.path):
            if os.write(self._descriptor, lines) != len(lines):
                raise OSError(errno.ENOSPC, "stored only a part of a score: is the disk full?")
            os.fsync(self._descriptor)
        self._records.update((record["key"], record) for record in records)


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Finished results by key, from a file that another process may be writing; incomplete lines are left out."""
    return dict(_records(_whole(path.read_bytes()), path))


def json_number(value: float) -> float | str | None:
    """`value` as JSON stores it: "inf" or "-inf" for infinities, and None for a missing number (NaN)."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def from_json_number(value: float | str | None) -> float:
    """The number that `json_number` wrote."""
    return math.nan if value is None else float(value)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError that names none (a full disk) or a temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def _line(record: dict[str, Any]) -> bytes:
    """The log line of a record."""
    return json.dumps({"jaxrel": _checksum(record), **record}, allow_nan=False).encode() + b"\n"


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _check_ours(descriptor: int) -> None:
    """Raise OSError for a file that is not a log."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")
    content = _content(descriptor)
    if content and not any(line.startswith(_OPENING) for line in content.splitlines()):
        raise OSError(errno.EEXIST, "is not a log of this version of jaxrel: move it away, or pass another --output")


def _whole(content: bytes) -> bytes:
    """The complete lines."""
    return content[: content.rfind(b"\n") + 1]


def _records(content: bytes, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    damaged = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            record = json.loads(line)
            if record.pop("jaxrel") != _checksum(record):
                raise ValueError("the checksum differs")
            yield record["key"], record
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            damaged.append(number)
    if damaged:
        numbers = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        _log.warning("damaged lines of %s (%s): their scores are computed again", path, numbers)


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
