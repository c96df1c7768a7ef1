"""Options that several functions of this package share, checked where their values are known."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from jaxrel._core.arrays import truth_array
from jaxrel.evaluation.rank_correlation import STATISTICS

__all__ = ["as_mask", "check_confidence", "check_shapes", "check_statistic", "checked_count"]


def check_statistic(statistic: str) -> None:
    """A ValueError unless `STATISTICS` has the name."""
    if statistic not in STATISTICS:
        raise ValueError(f"statistic is {statistic!r}: pass one of {', '.join(STATISTICS)}.")


def check_confidence(confidence: Float[ArrayLike, ""]) -> None:
    """A ValueError unless it lies strictly between 0 and 1."""
    if not isinstance(confidence, jax.core.Tracer) and not 0 < float(np.asarray(confidence)) < 1:
        raise ValueError(f"confidence is {confidence}: pass a number between 0 and 1, such as 0.95.")


def checked_count(name: str, count: int, least: int) -> int:
    """The count as an integer; a ValueError where it is less than `least`."""
    number = checked_index(name, count)
    if number < least:
        raise ValueError(f"{name} is {number}: pass at least {least}.")
    return number


def checked_index(name: str, value: Any) -> int:
    """The value as an integer; a ValueError where it is none."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} is {value!r}: pass an integer.") from error


def as_mask(where: Bool[ArrayLike, "m t"] | None, truth: Real[Array | np.ndarray, "*_"]) -> Bool[Array, "*_"]:
    """Which pairs of encoder and target count."""
    return jnp.ones(truth.shape[-2:], bool) if where is None else truth_array("where", where)


def check_shapes(
    truth: Real[Array | np.ndarray, "*_"],
    where: Bool[Array, "*_"],
    scores: Real[Array | np.ndarray, "*_"] | None = None,
) -> None:
    """A ValueError unless all have one row for each of two or more encoders and one column for each target."""
    shape = truth.shape[-2:]
    if truth.ndim < 2 or shape[0] < 2 or shape[1] < 1:
        raise ValueError(
            f"truth has shape {truth.shape}: pass (m, t), a row for each of m >= 2 encoders and a column for each of "
            "t >= 1 targets (truth[:, None] for one target)."
        )
    if scores is not None and scores.shape[-2:] != shape:
        raise ValueError(f"scores have shape {scores.shape}, truth {truth.shape}: pass one score for each truth.")
    if where.shape != shape:
        raise ValueError(f"where has shape {where.shape}: pass {shape}, True for each encoder that counts on a target.")
