"""Compiled programs: how they are kept for the next process, and how this one lets go of them.

On CPU a program takes some hundred memory maps and some megabytes, until the caches that hold it are cleared. At the
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
# A system that allows more maps has no more memory for programs.
_MOST_MAPS = 65_530
_COMPILED = "/jax/core/compile/backend_compile_duration"
# Counting maps takes as long as a small compilation, and a compilation takes 2,000 maps at most.
_BETWEEN_LOOKS = 8
# Of the programs that are kept for other processes; those that were not used for longest go first.
_MOST_BYTES = 2**31
_LEAST_SECONDS = 0.1  # of compilation, below which reading a file saves nothing

_programs: weakref.WeakSet[Any] = weakref.WeakSet()
_lock = threading.Lock()


class _Compilations:
    """How many there were in this process since maps were last counted, whoever asked for them."""

    def __init__(self) -> None:
        self.new = 0

    def listen(self, event: str, *_: Any, **__: Any) -> None:
        if event == _COMPILED:
            self.new += 1


_compilations = _Compilations()
jax.monitoring.register_event_duration_secs_listener(_compilations.listen)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit(function, **options)`, whose programs are let go of before the process holds too many.

    All functions that this library compiles are compiled by this one. After a call that is not traced it looks how many
    maps are in use, if there were enough compilations since the last time.
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
    """Keep compiled programs in a folder for later processes, and take theirs, where the user has not set up JAX's own.

    `JAX_COMPILATION_CACHE_DIR` is another folder, `JAX_ENABLE_COMPILATION_CACHE=0` none. Nothing is kept where the
    folder cannot be written into.
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
    """A name for what programs are compiled for: on another processor, with the same home folder, they may not run."""
    try:
        features = re.search(r"^(flags|Features)\s*:.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        features = None
    told = (platform.machine(), platform.processor(), features[0] if features else "")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def release_if_many() -> bool:
    """Let compiled programs go where the process has used up half of its memory maps; whether it did.

    First those of this library. If three quarters are still in use then, those of everyone: `jax.clear_caches`. What
    is needed again is compiled again. A program that runs, in another thread say, stays until it is done. Where the
    system does not tell, nothing is done.
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
    """How many, and how many there may be."""
    try:
        limit = int(_LIMIT.read_text())
        with _MAPS.open("rb") as maps:
            return sum(1 for _ in maps), min(limit, _MOST_MAPS)
    except (OSError, ValueError):
        return 0, float("inf")
