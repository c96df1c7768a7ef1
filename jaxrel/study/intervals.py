"""Intervals of numbers from resamples, and whether two numbers differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["percentile_interval", "told_apart"]


def percentile_interval(resamples: np.ndarray | Sequence[float], confidence: float) -> tuple[float, float]:
    """Order statistics that enclose the requested share, without interpolation, because a resample may be infinite.

    Without resamples both ends are NaN.
    """
    if not len(resamples):
        return math.nan, math.nan
    ordered = np.sort(resamples)
    low = math.floor((1 - confidence) / 2 * (len(ordered) - 1))
    return float(ordered[low]), float(ordered[len(ordered) - 1 - low])


def told_apart(one: Sequence[float], other: Sequence[float], confidence: float) -> bool | None:
    """Whether the interval of the difference of two numbers excludes 0; None without resamples of equal number.

    Args:
        one, other: values on the same resampled samples, in the same order.
        confidence: confidence of the interval.
    """
    if not len(one) == len(other) > 0:
        return None
    with np.errstate(invalid="ignore"):  # the difference of two infinite values, which do not differ
        difference = np.nan_to_num(np.subtract(one, other), nan=0.0, posinf=np.inf, neginf=-np.inf)
    low, high = percentile_interval(difference, confidence)
    return not low <= 0 <= high
