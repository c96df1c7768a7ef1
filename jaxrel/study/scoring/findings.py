"""The findings of scorers about units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxrel.study.plan import Unit
from jaxrel.study.records import OK, told

__all__ = ["Finding", "failure"]


class Finding(NamedTuple):
    """The numbers of a unit; see :class:`jaxrel.study.Record` for the fields.

    Attributes:
        lasting: whether another run would give the same result.
    """

    unit: Unit
    numbers: Mapping[str, float]
    status: str = OK
    bits: int = 0
    texts: Mapping[str, str] = {}
    resamples: tuple[float, ...] = ()
    classes: tuple[Mapping[str, Any], ...] = ()
    lasting: bool = True


def failure(unit: Unit, error: Exception, *, bits: int = 0, lasting: bool = True) -> Finding:
    """A finding without a number, with the reason."""
    return Finding(unit, {"value": math.nan}, told(error), bits, lasting=lasting)
