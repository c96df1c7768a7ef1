"""Fingerprints of data sets and encoders, kept by what they were computed from, so that nothing is read twice for them.

What was read is told by the path, size and times of change of each file: an edited, added or removed one is another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxrel.storage.assets import AssetError, cache_dir
from jaxrel.storage.records import write_atomically
from jaxrel.version import __version__

__all__ = ["file_states", "remembered"]

_log = logging.getLogger(__name__)


def file_states(path: Path) -> list[tuple[str, int, int, int]]:
    """Path, size and times of change of a file, or of all files below a folder; none where nothing is there.

    The times are those of the content and of the entry in the file system, of which no program sets back the second.
    """
    if not path.is_dir():
        return list(_state(path))
    states, seen = [], set()
    for folder, subfolders, files in os.walk(path, followlinks=True):
        found = Path(folder).stat()
        if (found.st_dev, found.st_ino) in seen:  # a link that leads back
            subfolders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        states += [state for file in files for state in _state(Path(folder, file))]
    return sorted(states)


def _state(path: Path) -> Iterator[tuple[str, int, int, int]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        state = path.stat()
        yield str(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ctime_ns


def remembered(source: Any, compute: Callable[[], Any]) -> Any:
    """What `compute` gave the last time that its source was this one, else what it gives now.

    Args:
        source: everything the value depends on, as JSON holds it; None where that is not known, so that nothing is
            kept.
        compute: gives a value that JSON holds.
    """
    if source is None:
        return compute()
    described = json.dumps([__version__, source], sort_keys=True)
    try:
        file = cache_dir() / "fingerprints" / f"{hashlib.sha256(described.encode()).hexdigest()}.json"
        return json.loads(file.read_bytes())["value"]
    except AssetError:  # No home folder.
        return compute()
    except (OSError, ValueError, LookupError, TypeError):
        value = compute()
    try:
        write_atomically(file, json.dumps({"value": value}).encode())
    except OSError as error:
        _log.debug("a fingerprint is not kept: %s", error)
    return value
