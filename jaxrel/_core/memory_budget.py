"""What `memory_budget` means wherever a function has it: bytes that its work may take at once."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["largest_power", "limit_of", "rows_within"]

_USUAL = 2 * 2**30
_MOST_ROWS = 8192  # read at a time in a pass over a file


def limit_of(memory_budget: Any, *, in_memory: bool) -> int | None:
    """The budget in bytes: as given, or where it is None 2 GiB for what is stored and no limit for what is in memory.

    Raises:
        ValueError: for a budget that is no integer.
    """
    if memory_budget is None:
        return None if in_memory else _USUAL
    try:
        return operator.index(memory_budget)
    except TypeError as error:
        raise ValueError(f"memory_budget must be a whole number of bytes, got {memory_budget!r}.") from error


def rows_within(num_bytes: int, row_bytes: int) -> int:
    """Rows to read at a time where each takes so many bytes: a power of two, so that budgets share what is compiled."""
    return min(_MOST_ROWS, largest_power(num_bytes // row_bytes))


def largest_power(size: int) -> int:
    """The largest power of two that is at most `size`, 1 at least."""
    return 1 << (max(size, 1).bit_length() - 1)
