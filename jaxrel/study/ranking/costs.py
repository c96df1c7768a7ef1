"""Leaves out encoders that are too large before anything is extracted."""

from __future__ import annotations

import logging

from jaxrel.study.draws import underlying
from jaxrel.study.plan import Plan
from jaxrel.study.sources import NamedSource, Progress, silent

__all__ = ["within_limits"]

_log = logging.getLogger(__name__)


def within_limits(
    plan: Plan,
    *,
    max_parameters: int | None = None,
    max_width: int | None = None,
    progress: Progress = silent,
) -> Plan:
    """The plan without the encoders that are too large, each of which is named in the log.

    Encoders are loaded to find their sizes. Encoders that cannot be loaded, or that are arrays, stay.

    Args:
        plan: the plan to restrict.
        max_parameters: maximum number of parameters of an encoder.
        max_width: maximum number of features per sample.
        progress: called with `(what, done, total)` as encoders are loaded.

    Raises:
        ValueError: no encoder is left, or a limit is below 1.
    """
    limits = {"parameters": max_parameters, "features of a sample": max_width}
    for what, limit in limits.items():
        if limit is not None and limit < 1:
            raise ValueError(f"the maximum number of {what} is {limit}: pass a number of at least 1.")
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
    return plan.of_encoders(kept)


def _costs(plan: Plan, name: str) -> tuple[int | None, int | None]:
    """Parameters and width, if known."""
    originals = map(underlying, plan.sources.values())
    source = next((source for source in originals if isinstance(source, NamedSource)), None)
    if source is None:
        return None, None
    try:
        encoder = source.encoder(name)
    except MemoryError:
        raise
    except Exception:  # the failure is reported when it is scored
        return None, None
    return encoder.num_parameters, encoder.feature_width
