"""One thread of BLAS and LAPACK for small factorisations, which jaxlib takes from SciPy on CPUs.

Threads of OpenBLAS wait for each other by spinning: beside other busy processes a factorisation of milliseconds takes
seconds. Below some 2,000 samples of 512 features a second thread gains nothing even on a quiet machine.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from threadpoolctl import ThreadpoolController

__all__ = ["few_threads"]

# Operations of a factorisation below which a second thread does not pay.
_SMALL = 2**30


def few_threads(arrays: Any) -> contextlib.AbstractContextManager[bool | None]:
    """One thread of BLAS while the context lasts, if all matrices are small and known: True if so, then wait inside.

    The number is one of the whole process: it is set when the first of all threads of Python enters, and what it was
    before is restored when the last one leaves.
    """
    leaves = jax.tree.leaves(arrays)
    if jax.default_backend() != "cpu" or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return contextlib.nullcontext()
    return _single() if all(_operations(np.shape(leaf)) < _SMALL for leaf in leaves) else contextlib.nullcontext()


def _operations(shape: tuple[int, ...]) -> int:
    """Of the factorisation of a matrix of this shape; one of a batch comes after the other."""
    n, d = (*shape, 1, 1)[:2] if len(shape) < 3 else shape[-2:]
    return n * d * min(n, d)


@contextlib.contextmanager
def _single() -> Iterator[bool]:
    _limit.enter()
    try:
        yield True
    finally:
        _limit.leave()


class _Limit:
    """How many threads of Python hold the limit, and the numbers to restore."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._before: list[int] = []

    def enter(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._before = [library.num_threads for library in _libraries()]
                self._set([1] * len(self._before))
            self._holders += 1

    def leave(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._set(self._before)

    def _set(self, numbers: list[int]) -> None:
        for library, number in zip(_libraries(), numbers, strict=True):
            library.set_num_threads(number)


_limit = _Limit()


@functools.cache
def _libraries() -> list[Any]:
    import scipy.linalg  # noqa: F401 - has to be loaded to be found

    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries
