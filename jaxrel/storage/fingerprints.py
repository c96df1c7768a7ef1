"""Fingerprints of data sets and encoders, cached by the state of their files, so that nothing is read twice for them.

The state is the path, size and times of change of each file, so an edited, added or removed file changes it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxrel.storage.assets import AssetError, cache_dir
from jaxrel.storage.records import write_atomically
from jaxrel.version import __version__

__all__ = ["FileState", "file_states", "remembered", "states_beside"]

FileState = tuple[str, int, int, int]
"""Path, size, and times of change of the content and of the entry in the file system; -1 if unknown."""

_log = logging.getLogger(__name__)


def file_states(path: Path) -> list[FileState]:
    """Path, size and times of change of a file, or of all files below a folder; empty if nothing is there.

    The times are those of the content and of the entry in the file system, and no program can set back the latter.
    Folders and inaccessible files have only their path.
    """
    if not path.is_dir():
        return [_state(path)] if os.path.lexists(path) else []
    states, seen = [], set()
    for folder, subfolders, files in os.walk(path, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link that leads back
            subfolders.clear()
            continue
        seen.add(place)
        states += [_unknown(folder), *(_state(Path(folder, file)) for file in files)]
    return sorted(states)


def states_beside(file: Path) -> list[FileState]:
    """The states of all files in the folder of a file, which may refer to them."""
    return sorted(_state(entry) for entry in file.absolute().parent.iterdir() if not entry.is_dir())


def _state(path: Path) -> FileState:
    try:
        state = path.stat()
    except OSError:
        return _unknown(path)
    return str(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _unknown(path: Path | str) -> FileState:
    return str(Path(path).absolute()), -1, -1, -1


def remembered(source: Any, compute: Callable[[], Any]) -> Any:
    """The cached value of `compute` for this source, or its value now.

    Args:
        source: everything the value depends on, as a JSON value; None if unknown, so that nothing is kept.
        compute: returns a JSON value.
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
