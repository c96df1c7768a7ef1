"""Interpolation of learned positions to another number of patches, as in PyTorch."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

__all__ = ["resized_biases", "resized_positions"]


def resized_positions(
    positions: Float[np.ndarray, "*one n d"], grid: int, *, prefix: int, antialias: bool
) -> Float[np.ndarray, "m d"]:
    """Positions of the `prefix` tokens before the patches, unchanged, and of patches interpolated to `grid` x
    `grid`."""
    flat = positions.reshape(-1, positions.shape[-1])
    old = math.isqrt(len(flat) - prefix)
    if old == grid or old**2 != len(flat) - prefix:
        return flat
    resized = _resized(flat[prefix:].reshape(old, old, -1), _cubic_weights(old, grid, antialias=antialias))
    return np.concatenate([flat[:prefix].astype(resized.dtype), resized.reshape(grid**2, -1)])


def resized_biases(table: Float[np.ndarray, "n h"], grid: int, *, suffix: int) -> Float[np.ndarray, "m h"]:
    """Biases by relative places, interpolated to those of `grid` x `grid` patches but for the last `suffix`.

    Linear, without anti-aliasing.
    """
    old, new = math.isqrt(len(table) - suffix), 2 * grid - 1
    if old == new or old**2 != len(table) - suffix:
        return table
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.stack([np.interp(centres, np.arange(old), one) for one in np.eye(old)], axis=1)
    resized = _resized(table[: old**2].reshape(old, old, -1), weights)
    return np.concatenate([resized.reshape(new**2, -1), table[old**2 :].astype(resized.dtype)])


def _resized(
    values: Float[np.ndarray, "old old d"], weights: Float[np.ndarray, "new old"]
) -> Float[np.ndarray, "new new d"]:
    """Interpolated along both axes; float32 at least."""
    accurate = np.promote_types(values.dtype, np.float32) if values.dtype.kind == "f" else np.dtype(np.float32)
    values, weights = values.astype(accurate), weights.astype(accurate)
    return np.einsum("ai,bj,ijd->abd", weights, weights, values, optimize=True)


def _cubic_weights(old: int, new: int, *, antialias: bool) -> Float[np.ndarray, "new old"]:
    """Weights of PyTorch's bicubic interpolation along an axis.

    Keys' kernel with a = -3/4 and repeated edges; with anti-aliasing a = -1/2, widened where there are fewer points
    than before, and edges left out.
    """
    a = -0.5 if antialias else -0.75
    stretch = max(old / new, 1.0) if antialias else 1.0
    margin = 0 if antialias else 2
    places = np.arange(-margin, old + margin)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.abs(places - centres[:, None]) / stretch
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    kernel = np.where(x <= 1, near, np.where(x < 2, far, 0))
    weights: np.ndarray = kernel @ np.eye(old)[places.clip(0, old - 1)]
    return weights / weights.sum(1, keepdims=True)
