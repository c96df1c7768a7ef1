"""Size classes: samples are padded to one of few sizes, so that tasks of about one size share compiled programs.

Compilation takes seconds and memory that stays in use, where a score of some hundred samples takes milliseconds. What
is added are rows of weight 0, which do not exist for any kernel. Sizes below 513 are multiples of 32; above, at most an
eighth is added, and 6 % on average.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxrel.task import Task

__all__ = ["in_host_memory", "in_size_class", "padded_rows", "pads_samples", "size_class", "with_rows"]

_LEAST_STEP = 32
# Parameters of metrics that have one row for each sample, by the parameter that weighs these.
_ROWS = {
    "weights": (
        "features",
        "labels",
        "targets",
        "probabilities",
        "source_probabilities",
        "source_labels",
        "aligned_features",
        "first_view",
        "second_view",
        "folds",
        "responsibilities",
    ),
    "reference_weights": ("reference_features", "reference_labels"),
}

F = TypeVar("F", bound=Callable[..., Any])


def size_class(num_samples: int) -> int:
    """The size to which so many samples are padded."""
    step = max(_LEAST_STEP, 2 ** (max(num_samples - 1, 0).bit_length() - 4))
    return -(-num_samples // step) * step


def with_rows(array: Any, num_rows: int) -> Any:
    """The array with rows of 0 appended, `num_rows` in all.

    In memory of the host it is NumPy that appends them: JAX would compile a program for each size.
    """
    extra = num_rows - array.shape[0]
    if not in_host_memory(array):
        return jnp.pad(array, [(0, extra), *[(0, 0)] * (array.ndim - 1)])
    padded = np.zeros((num_rows, *array.shape[1:]), array.dtype)
    padded[: array.shape[0]] = array
    return jax.device_put(padded) if isinstance(array, jax.Array) else padded


def in_size_class(task: Task) -> Task:
    """The task padded to its size class; as it is inside a transformation and where samples are spread over devices."""
    if all(_is_whole(leaf) for leaf in jax.tree.leaves(task)):
        return task.padded(size_class(task.num_samples))
    return task


def pads_samples(function: F) -> F:
    """Pad what a metric is given to its size class, with weights of 0.

    Calls go through as they are inside a transformation, with samples spread over several devices, with a decomposition
    (whose shape is that of the samples), with other things than arrays of numbers, and where arguments do not fit each
    other, which the metric itself explains.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            given = signature.bind(*arguments, **options).arguments
        except TypeError:
            return function(*arguments, **options)  # Says what is missing, with the name of the function.
        if given.get("decomposition") is None:
            padded = padded_rows({name: [rows] for name, rows in given.items() if rows is not None})
            given = given | {name: rows for name, (rows,) in padded.items()}
        return function(**given)

    return call  # type: ignore[return-value]


def padded_rows(given: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of the arrays that have a row for each sample in their size class, and the weights of these rows.

    Of each name there may be several, as of several encoders. Left out is what has no rows, and what cannot be padded.
    """
    found: dict[str, list[Any]] = {}
    for weights, names in _ROWS.items():
        rows = {name: given[name] for name in (*names, weights) if name in given}
        arrays = [array for several in rows.values() for array in several]
        if not arrays or not all(map(_is_whole, arrays)) or len({array.shape[0] for array in arrays}) > 1:
            continue
        num_samples = arrays[0].shape[0]
        size = size_class(num_samples)
        if size > num_samples:
            rows = {weights: [np.ones(num_samples, np.float32)]} | rows
            found |= {name: [with_rows(array, size) for array in several] for name, several in rows.items()}
    return found


def in_host_memory(array: Any) -> bool:
    """Whether NumPy can read all of the array where it is."""
    return _is_whole(array) and (isinstance(array, np.ndarray) or next(iter(array.devices())).platform == "cpu")


def _is_whole(array: Any) -> bool:
    """Whether it is an array of numbers, whose values are known, with rows, in one memory."""
    if isinstance(array, jax.core.Tracer) or not isinstance(array, np.ndarray | jax.Array):
        return False
    if isinstance(array, jax.Array):
        return array.ndim > 0 and array.is_fully_addressable and len(array.devices()) == 1
    return array.ndim > 0 and array.dtype.kind in "biuf" and not isinstance(array, np.ma.MaskedArray)
