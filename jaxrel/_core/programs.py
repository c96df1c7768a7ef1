"""Compiled programs: a cache on disk for later processes, and their release in this process.

On CPU a program takes a few hundred memory maps and a few megabytes until the caches that hold it are cleared. At the
limit of Linux (65,530 maps by default, a few hundred programs of this library) the compiler aborts the process.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import platform
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.monitoring

from jaxrel._core.checks import is_traced

__all__ = ["compiled", "keep_in", "release_if_many"]

_log = logging.getLogger(__name__)

_MAPS = Path("/proc/self/maps")
_LIMIT = Path("/proc/sys/vm/max_map_count")
# A higher limit on maps does not mean more memory for programs.
_MOST_MAPS = 65_530
_COMPILED = "/jax/core/compile/backend_compile_duration"
# Counting maps takes as long as a small compilation, and a compilation takes 2,000 maps at most.
_BETWEEN_LOOKS = 8
# Limit for the programs cached for other processes; the least recently used are removed first.
_MOST_BYTES = 2**31
_LEAST_SECONDS = 0.1  # of compilation, below which reading a file saves nothing

_programs: weakref.WeakSet[Any] = weakref.WeakSet()
_lock = threading.Lock()


class _Compilations:
    """Number of compilations in this process since maps were last counted, by this library or others."""

    def __init__(self) -> None:
        self.new = 0

    def listen(self, event: str, *_: Any, **__: Any) -> None:
        if event == _COMPILED:
            self.new += 1


_compilations = _Compilations()
jax.monitoring.register_event_duration_secs_listener(_compilations.listen)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit(function, **options)` whose compiled programs are released before the process holds too many.

    This library compiles all functions with it. After a call that is not traced, it counts the maps in use if there
    were enough compilations since the last count.
    """
    jitted = jax.jit(function, **options)
    with _lock:
        _programs.add(jitted)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        result = jitted(*arguments, **named)
        if _compilations.new >= _BETWEEN_LOOKS and not is_traced(result):
            release_if_many()
        return result

    for name in ("clear_cache", "lower", "_cache_size"):
        setattr(call, name, getattr(jitted, name))
    return call


def keep_in(folder: Path) -> None:
    """Share compiled programs with later processes in a folder, unless the user has configured the cache of JAX.

    `JAX_COMPILATION_CACHE_DIR` sets another folder, and `JAX_ENABLE_COMPILATION_CACHE=0` disables the cache. Nothing is
    cached if the folder is not writable.
    """
    config: Any = jax.config  # whose settings have no types
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    own = folder / processor()
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.info("programs are not kept: %s", error)
        return
    if config.jax_compilation_cache_max_size < 0:
        config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    config.update("jax_compilation_cache_dir", str(own))


def processor() -> str:
    """A name for the processor, as programs may not run on another one that shares the home folder."""
    try:
        features = re.search(r"^(flags|Features)\s*:.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        features = None
    told = (platform.machine(), platform.processor(), features[0] if features else "")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def release_if_many() -> bool:
    """Release compiled programs if the process has used half of its memory maps; return whether it did.

    The programs of this library are released first. If three quarters of the maps are still in use, all programs are,
    by `jax.clear_caches`. Programs are compiled again when needed. A program that is running, for example in another
    thread, stays until it is done. Nothing happens if the system does not report the number of maps.
    """
    _compilations.new = 0
    used, limit = _maps_in_use()
    if used < limit / 2:
        return False
    with _lock:
        programs = list(_programs)
    for program in programs:
        program.clear_cache()
    if _maps_in_use()[0] > limit * 3 / 4:
        jax.clear_caches()
    _log.info("%d of %d memory maps were in use, now %d: compiled code was released", used, limit, _maps_in_use()[0])
    return True


def _maps_in_use() -> tuple[int, float]:
    """Number of memory maps in use, and the limit."""
    try:
        limit = int(_LIMIT.read_text())
        with _MAPS.open("rb") as maps:
            return sum(1 for _ in maps), min(limit, _MOST_MAPS)
    except (OSError, ValueError):
        return 0, float("inf")
