"""Runs parts of a study on an executor of `concurrent.futures`: threads, processes, Dask or Ray."""

from __future__ import annotations

import itertools
import pickle
import traceback
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxrel.version import __version__

__all__ = ["EngineError", "Part", "num_workers", "run_parts"]

_UNKNOWN_WORKERS = 32
_WAITING = 2  # calls in flight per worker, so that the next one is ready when it finishes

T = TypeVar("T")


class EngineError(RuntimeError):
    """An executor lost parts of a study or is gone; the message names the parts. Finished work is kept."""


class Part(NamedTuple, Generic[T]):
    """A call for a worker, with exactly the data that it needs, and a readable name."""

    name: str
    function: Callable[..., T]
    arguments: tuple[Any, ...]


class _Outcome(NamedTuple):
    """The result or exception of a call; an exception of the future itself comes from the executor."""

    value: Any = None
    error: Exception | None = None


def num_workers(executor: Executor) -> int:
    """The number of calls that run at once: the executor's `num_workers`, the standard library's attribute, or a
    guess."""
    told = getattr(executor, "num_workers", None) or getattr(executor, "_max_workers", None)
    return int(told or _UNKNOWN_WORKERS)


def run_parts(executor: Executor, parts: Iterable[Part[T]]) -> Generator[tuple[Part[T], T]]:
    """Run every call on the executor, with the caller's 64-bit setting and a bounded number in flight.

    Args:
        executor: left open.
        parts: calls, submitted as there is room.

    Yields:
        Each part with its value, as they complete. Close the iterator to cancel the remaining calls.

    Raises:
        TypeError: it is not an executor.
        EngineError: workers were lost or the executor refused a part; raised after everything else is done.
        Exception: the first that a call raised, at once.
    """
    if not isinstance(executor, Executor):
        raise TypeError(f"executor is a {type(executor).__name__}: pass an Executor of concurrent.futures, or None.")
    waiting = iter(parts)
    running: dict[Future[_Outcome], Part[T]] = {}
    lost: dict[str, Exception] = {}
    try:
        while True:
            for part in itertools.islice(waiting, _WAITING * num_workers(executor) - len(running)):
                try:
                    running[_submitted(executor, part)] = part
                except Exception as failure:
                    lost[part.name], waiting = failure, iter(())
                    break
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                part = running.pop(future)
                try:
                    outcome = future.result()
                except Exception as failure:
                    lost[part.name] = failure
                    continue
                if outcome.error is not None:
                    raise outcome.error
                yield part, outcome.value
    finally:
        for future in running:
            future.cancel()
    if lost:
        raise _engine_error(executor, lost)


def _submitted(executor: Executor, part: Part[T]) -> Future[_Outcome]:
    wide = jnp.result_type(float) == jnp.float64
    return executor.submit(_call, __version__, wide, part.function, part.arguments)


def _call(version: str, wide: bool, function: Callable[..., Any], arguments: tuple[Any, ...]) -> _Outcome:
    """Runs on a worker."""
    try:
        if version != __version__:
            raise RuntimeError(f"a worker has jaxrel {__version__}, this process {version}: install the same version.")
        with jax.enable_x64(wide):
            return _Outcome(function(*arguments))
    except Exception as error:
        return _Outcome(error=_portable(error))


def _portable(error: Exception) -> Exception:
    """The error in a form that another process can unpickle, with its traceback as a note."""
    told = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(told)
    return error


def _engine_error(executor: Executor, lost: dict[str, Exception]) -> EngineError:
    names, first = list(lost), next(iter(lost.values()))
    listed = "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
    reason = " ".join(str(first).split())[:500].rstrip(".") or "no reason given"
    error = EngineError(
        f"{type(executor).__name__} lost {len(names)} of the parts ({listed}): {type(first).__name__}: {reason}. "
        "Finished work is kept: the same call continues from there."
    )
    error.__cause__ = first
    return error
