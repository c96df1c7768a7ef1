"""Reads NumPy arrays from pickles without running any code that a pickle names."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np

from jaxrel._core.packed_files import check_pickle

__all__ = ["unpickle_arrays"]


class _PickledDtype:
    """Stand-in for ``numpy.dtype`` in a pickle: plain numbers only, little-endian or of one byte."""

    def __init__(self, element_types: Collection[str], code: str, *_: bool) -> None:
        if code not in element_types:
            raise pickle.UnpicklingError(f"the element type {code!r} is not among {', '.join(element_types)}")
        self.dtype = np.dtype(code).newbyteorder("<")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[:5] not in ((3, "<", None, None, None), (3, "|", None, None, None)):
            raise pickle.UnpicklingError("the element type is not a plain little-endian number")


class _PickledArray:
    """Stand-in for ``numpy.ndarray`` in a pickle, which reads bytes and never lets NumPy rebuild objects."""

    array: np.ndarray

    def __setstate__(self, state: tuple[int, tuple[int, ...], _PickledDtype, bool, bytes]) -> None:
        _, shape, element, fortran_order, content = state
        if fortran_order or not isinstance(element, _PickledDtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array is not a C-ordered one of plain numbers")
        self.array = np.frombuffer(content, element.dtype).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of NumPy arrays that resolves no other name."""

    def __init__(self, content: bytes, element_types: Collection[str]) -> None:
        super().__init__(io.BytesIO(content))
        self.element_types = element_types

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return lambda *_: _PickledArray()
            case "numpy", "ndarray":
                return _PickledArray
            case "numpy", "dtype":
                return partial(_PickledDtype, self.element_types)
        raise pickle.UnpicklingError(f"{module}.{name} is not among the names that pickled arrays need")


def unpickle_arrays(content: bytes, *, element_types: Collection[str]) -> Any:
    """The arrays in a pickle, alone or in lists or dictionaries nested at most two deep.

    Args:
        content: the pickle, of a protocol up to 4.
        element_types: codes of the types that arrays may have, e.g. "u1" or "f4".

    Returns:
        The array, list or dictionary. Arrays are read-only.

    Raises:
        ValueError: the pickle is damaged, or names or holds anything else.
    """
    try:
        check_pickle(io.BytesIO(content))
        return _plain(_ArrayUnpickler(content, element_types).load(), depth=2)
    # A damaged pickle raises many errors; these types were found by changing bytes of a valid one.
    except (
        pickle.UnpicklingError,
        EOFError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise ValueError(str(error)) from error


def _plain(loaded: object, *, depth: int) -> Any:
    """The loaded value, with arrays in place of their stand-ins. The depth is bounded, because a pickled list can
    contain itself."""
    match loaded:
        case _PickledArray():
            return loaded.array
        case list() if depth > 0:
            return [_plain(value, depth=depth - 1) for value in loaded]
        case dict() if depth > 0:
            return {key: _plain(value, depth=depth - 1) for key, value in loaded.items()}
    raise pickle.UnpicklingError(f"it holds a {type(loaded).__name__} where an array was expected")
