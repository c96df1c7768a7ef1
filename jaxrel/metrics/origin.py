"""Centring of features before they are converted to float32.

In float32 a large offset hides the spread: next to 1e7, a spread of 1 is one rounding. For shift-invariant metrics,
features of higher precision than float32 are therefore centred first.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from jaxrel._core.arrays import to_array
from jaxrel._core.standardisation import ROUNDINGS

__all__ = ["about_centre"]

_SAMPLES = 100


def about_centre(*sides: tuple[Any, Any]) -> tuple[Any, ...]:
    """Features of all sides minus the centre of the first side, if they are more precise than float32.

    The centre is the median of each feature over a few hundred samples, because an outlier would move the mean.

    Args:
        sides: features `(n, d)` and weights `(n,)` or None; later checks report invalid values.

    Returns:
        The features of each side: moved and in float64, all of them; or as they were, where 64-bit types are enabled,
        or each is exact in float32 (as are arrays of JAX), or one has numbers that are not finite.
    """
    unchanged = tuple(to_array("features", features) for features, _ in sides)
    if jax.config.jax_enable_x64 or all(_single(features) for features in unchanged):  # type: ignore[attr-defined]
        return unchanged
    try:
        arrays = [np.asarray(features, np.float64) for features in unchanged]
    except (TypeError, ValueError, jax.errors.TracerArrayConversionError):
        return unchanged
    if any(array.ndim != 2 or 0 in array.shape or array.shape[1] != arrays[0].shape[1] for array in arrays):
        return unchanged
    live = [_live(weights, len(array)) for array, (_, weights) in zip(arrays, sides, strict=True)]
    if not all(rows.any() and np.isfinite(array[rows]).all() for array, rows in zip(arrays, live, strict=True)):
        return unchanged
    some = arrays[0][live[0]]
    origin = np.median(some[:: max(1, len(some) // _SAMPLES)], axis=0)
    return tuple(_moved(array, rows, origin) for array, rows in zip(arrays, live, strict=True))


def _single(features: Any) -> bool:
    """Whether the features are exact in float32, as the outputs of a network are."""
    if isinstance(features, jax.Array) or features.dtype.kind not in "iuf" or np.can_cast(features.dtype, np.float32):
        return True
    with np.errstate(over="ignore"):
        return np.array_equal(features.astype(np.float32), features)


def _live(weights: Any, num_samples: int) -> Bool[np.ndarray, " n"]:
    mass = np.ones(num_samples) if weights is None else to_array("weights", weights)
    if isinstance(mass, jax.core.Tracer) or mass.shape != (num_samples,) or mass.dtype.kind not in "biuf":
        return np.ones(num_samples, bool)
    return np.asarray(mass) > 0


def _moved(
    array: Float[np.ndarray, "n d"], live: Bool[np.ndarray, " n"], origin: Float[np.ndarray, " d"]
) -> Float[np.ndarray, "n d"]:
    """Features minus the origin. Features that are constant up to rounding become constant; absent samples are 0."""
    moved = np.where(live[:, None], array - origin, 0)
    size = np.max(np.abs(array[live]), axis=0)
    spread = np.ptp(moved[live], axis=0)
    constant = spread <= ROUNDINGS * np.finfo(np.float64).eps * size
    moved[:, constant] = np.where(live[:, None], moved[live][0], 0)[:, constant]
    return moved
