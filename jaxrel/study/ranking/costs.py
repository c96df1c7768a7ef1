"""What encoders cost: which are small enough, found out before anything is extracted, and how fast extraction is."""

from __future__ import annotations

import dataclasses
import logging

from jaxrel.study.ranking.plan import Plan
from jaxrel.study.sources import NamedSource, Progress, silent

__all__ = ["CountedProgress", "within_limits"]

_log = logging.getLogger(__name__)


class CountedProgress:
    """Progress that counts the samples of an extraction; those that are done at its start are not among them."""

    def __init__(self, progress: Progress) -> None:
        """Pass everything on to `progress`."""
        self._progress = progress
        self._spans: dict[str, tuple[int, int]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """As work goes on."""
        first, _ = self._spans.get(what, (done, done))
        self._spans[what] = first, done
        self._progress(what, done, total)

    @property
    def samples(self) -> int:
        """How many were extracted."""
        return sum(last - first for first, last in self._spans.values())


def within_limits(
    plan: Plan,
    *,
    max_parameters: int | None = None,
    max_width: int | None = None,
    progress: Progress = silent,
) -> Plan:
    """The plan without the encoders that are too large, each of which is named in the log.

    Encoders are loaded for it. Those that cannot be, and those of arrays of one's own, stay.

    Args:
        plan: what would be scored.
        max_parameters: the most parameters that an encoder may have.
        max_width: the most features that it may make of a sample.
        progress: told `(what, done, total)` as encoders are loaded.

    Raises:
        ValueError: no encoder is left.
    """
    limits = {"parameters": max_parameters, "features of a sample": max_width}
    if all(limit is None for limit in limits.values()):
        return plan
    kept = []
    for done, name in enumerate(plan.encoders):
        progress("loading", done, len(plan.encoders))
        found = dict(zip(limits, _costs(plan, name), strict=True))
        over = [
            f"{found[what]:,} {what}, more than {limit:,}"
            for what, limit in limits.items()
            if limit is not None and (found[what] or 0) > limit
        ]
        if over:
            _log.warning("%s is left out: %s", name, "; ".join(over))
        else:
            kept.append(name)
    progress("loading", len(plan.encoders), len(plan.encoders))
    if not kept:
        raise ValueError("every encoder is larger than the limits: raise --max-parameters or --max-width.")
    return dataclasses.replace(plan, encoders=tuple(kept))


def _costs(plan: Plan, name: str) -> tuple[int | None, int | None]:
    """Parameters and width, as far as they are known."""
    source = next((target for _, target in plan.pairs if isinstance(target, NamedSource)), None)
    if source is None:
        return None, None
    try:
        encoder = source.encoder(name)
    except MemoryError:
        raise
    except Exception:  # it is named where it is to be scored
        return None, None
    return encoder.num_parameters, encoder.feature_width
