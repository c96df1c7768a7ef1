"""Executables of XLA are held until caches are cleared, and a process can hold a limited number of them."""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["release_if_many"]

_log = logging.getLogger(__name__)

_MAPS = Path("/proc/self/maps")
_LIMIT = Path("/proc/sys/vm/max_map_count")


def release_if_many() -> bool:
    """Clear JAX's caches where the process has used up half of its memory maps; whether it did.

    On CPU an executable takes hundreds of maps. At the limit of Linux (65,530 by default, about a hundred executables
    of this library) the compiler aborts the process. Long runs over many shapes call this between two pieces of work.
    Where the system does not tell, nothing is done.
    """
    try:
        limit = int(_LIMIT.read_text())
        with _MAPS.open() as maps:
            used = sum(1 for _ in maps)
    except (OSError, ValueError):
        return False
    if used < limit / 2:
        return False
    import jax

    _log.info("%d of %d memory maps are in use: compiled code is released", used, limit)
    jax.clear_caches()
    return True
