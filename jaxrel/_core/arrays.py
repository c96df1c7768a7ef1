"""Conversion of user input to arrays: tensors of other libraries, columns of tables, lists.

It imports no other library: objects are recognised by their protocols (DLPack, `__array__`, the sequence protocol). A
missing entry, whether masked, NA, null or None, is NaN among numbers and None among other values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["is_real", "jax_array", "number_array", "on_device", "real_array", "to_array", "truth_array"]

_MISSING = {"NAType", "NaTType", "MaskedConstant"}


def to_array(name: str, values: Any) -> np.ndarray | jax.Array:
    """Convert the argument `name` to one NumPy or JAX array. JAX arrays and plain NumPy arrays are not copied.

    Torch tensors are detached, and tensors on other devices are copied to the CPU.

    Raises:
        ValueError: for rows of different lengths, entries of different kinds, and objects that are not arrays.
    """
    try:
        array = values if type(values) is np.ndarray or isinstance(values, jax.Array) else _read(name, values)
        if isinstance(array, jax.Array):
            return array
        if array.dtype.kind in "OT":
            return _of_objects(name, array.astype(object))
        if array.dtype.kind == "S":
            return np.char.decode(array)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name} cannot be read as one array, it is a {_kind(values)}: {error}") from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def real_array(name: str, values: Any) -> np.ndarray | jax.Array:
    """As `to_array`, for integers and floating-point numbers.

    Raises:
        ValueError: also for truth values, complex numbers, text, dates and other objects, with what to pass instead.
    """
    array = to_array(name, values)
    if is_real(array.dtype):
        return array
    kind = array.dtype.kind
    if kind == "O" and any(isinstance(value, str) for value in np.asarray(array).flat):
        kind = "U"
    found, advice = {
        "O": ("truth values, some of them missing", "fill or remove these, and pass floating-point numbers"),
        "b": ("truth values", f"pass numpy.asarray({name}, dtype=float)"),
        "c": ("complex", "pass real and imaginary parts beside each other, as floating-point numbers"),
        "U": ("text", f"pass numbers; where they are written as text, numpy.asarray({name}, dtype=float)"),
        "M": ("dates", "pass numbers, such as days since a date"),
        "m": ("durations", f"pass {name} / numpy.timedelta64(1, 's')"),
    }.get(kind, ("of no numeric type", "pass floating-point numbers"))
    raise ValueError(f"{name} must be real numbers, got dtype {array.dtype} ({found}): {advice}.")


def is_real(dtype: Any) -> bool:
    """Whether a type is of integers or floating-point numbers; to NumPy durations are integers too."""
    if jnp.issubdtype(dtype, np.timedelta64):
        return False
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def number_array(name: str, values: Any) -> np.ndarray | jax.Array:
    """As `real_array`, with truth values as 0 and 1."""
    array = to_array(name, values)
    return array.astype(np.int32) if array.dtype == np.bool_ else real_array(name, array)


def jax_array(name: str, values: Any) -> jax.Array:
    """As `number_array`, as an array of JAX, in which float64 becomes float32 unless 64-bit types are enabled."""
    return on_device(number_array(name, values))


def truth_array(name: str, values: Any) -> jax.Array:
    """A mask as an array of JAX; numbers other than 0 are true."""
    array = to_array(name, values)
    return on_device(array if array.dtype == np.bool_ else real_array(name, array), bool)


def on_device(array: np.ndarray | jax.Array, dtype: Any = None) -> jax.Array:
    """A copy on the default device; 64-bit types become 32-bit ones unless JAX has them enabled.

    `jnp.asarray` compiles a program for each shape of an array of NumPy.
    """
    return jax.device_put(np.array(array, dtype)) if isinstance(array, np.ndarray) else jnp.asarray(array, dtype)


def _read(name: str, values: Any) -> np.ndarray | jax.Array:
    """Any object as an array, of which the type is not looked at yet."""
    if isinstance(values, np.ma.MaskedArray):
        return _with_missing(values)
    if hasattr(values, "detach"):  # torch; NumPy lacks some of its half-precision types, float32 holds them exactly
        tensor = values.detach().cpu()
        return np.asarray(tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor)
    if hasattr(values, "__array__"):
        try:
            return np.asarray(values)
        except TypeError:  # arrays of other devices refuse this protocol
            if not hasattr(values, "__dlpack__"):
                raise
    if hasattr(values, "__dlpack__"):
        return jnp.from_dlpack(values)
    if isinstance(values, list | tuple):
        return _of_sequence(name, values)
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        rows = values[:]  # one read of a column of a data set, not one for each row
        return to_array(name, list(values) if type(rows) is type(values) else rows)
    return np.asarray(values)


def _of_sequence(name: str, values: Sequence[Any]) -> np.ndarray | jax.Array:
    if any(_is_array(value) for value in values):
        rows = [to_array(f"{name}[{index}]", value) for index, value in enumerate(values)]
        for index, row in enumerate(rows):
            if row.shape != rows[0].shape:
                raise ValueError(
                    f"{name}[{index}] has shape {row.shape}, {name}[0] has {rows[0].shape}: pass rows of one shape."
                )
        return jnp.stack(rows) if any(isinstance(row, jax.Array) for row in rows) else np.stack(rows)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be one rectangular array: {error}") from error
    # NumPy writes numbers among text as text, and None and NaN too: the objects themselves are told apart below.
    return np.array(values, dtype=object) if array.dtype.kind in "US" else array


def _is_array(value: Any) -> bool:
    protocols = ("__array__", "__dlpack__", "detach")
    return not isinstance(value, np.generic) and any(hasattr(value, protocol) for protocol in protocols)


def _with_missing(masked: Any) -> np.ndarray:
    """A masked array with NaN, or None, in place of what is masked."""
    mask = np.ma.getmaskarray(masked)
    if not mask.any():
        return np.asarray(masked.data)
    numbers = masked.dtype.kind in "iuf"
    filled = masked.data.astype(np.result_type(masked.dtype, np.float32) if numbers else object)
    filled[mask] = np.nan if numbers else None
    return np.asarray(filled)


def _of_objects(name: str, objects: np.ndarray) -> np.ndarray | jax.Array:
    """Numbers as such; text and truth values as objects, with None where they are missing; rows as an array."""
    if objects.ndim == 0:
        raise ValueError(
            f"{name} is a {_kind(objects.item())}: pass an array, a tensor, a column of a table or a list."
        )
    if objects.ndim == 1 and any(isinstance(row, list | tuple) or _is_array(row) for row in objects):
        return to_array(name, objects.tolist())
    with np.errstate(invalid="ignore"):  # NumPy 2.5 warns where a NaN is compared
        missing = np.frompyfunc(_is_missing, 1, 1)(objects).astype(bool)
    present = objects[~missing].tolist()
    kinds = {type(value) for value in present}
    if kinds and (all(issubclass(kind, str) for kind in kinds) or kinds <= {bool, np.bool_}):
        return np.where(missing, np.array(None), objects)
    if any(issubclass(kind, str | complex) or not hasattr(kind, "__float__") for kind in kinds):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"{name} holds values of types {found}: pass numbers only, or text only.")
    numbers: np.ndarray = np.where(missing, np.nan, objects).astype(np.float64)
    whole = not missing.any() and all(hasattr(kind, "__index__") for kind in kinds)
    return objects.astype(np.int64) if whole and (np.abs(numbers) < 2**53).all() else numbers


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in _MISSING or (isinstance(value, float) and value != value)


def _kind(values: Any) -> str:
    return f"{type(values).__module__}.{type(values).__qualname__}".removeprefix("builtins.")
