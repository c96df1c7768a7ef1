"""Checks of the fields of a method, run by its constructor."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_choice", "check_count", "check_number"]


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def check_count(name: str, value: Any) -> None:
    """Raise a ValueError unless the value is a positive integer or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be an integer of at least 1 or None, got {value!r}.")


def check_number(name: str, value: Any, *, least: float, whole: bool = False, positive: bool = False) -> None:
    """Raise a ValueError unless the value is a finite number of at least `least`. Arrays and tracers are accepted."""
    if not isinstance(value, bool | int | float | str | np.number | None):
        return  # A tracer, an array, or a placeholder of a tree transformation has no value to check.
    number = _finite_number(value)
    if number is None or (whole and number != int(number)):
        raise ValueError(f"{name} must be {'an integer' if whole else 'a finite number'}, got {value!r}.")
    if number < least or (positive and number <= 0):
        raise ValueError(f"{name} must be {'positive' if positive else f'at least {least}'}, got {value!r}.")


def _finite_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        return None
    return float(value)
