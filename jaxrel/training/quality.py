"""How well a classifier does on the samples that choices are judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Quality", "quality_of"]


class Quality(NamedTuple):
    """Larger is better: by accuracy, and among equals by the negative cross-entropy."""

    accuracy: float
    log_likelihood: float


def quality_of(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Quality:
    """That of the predictions; below all others where a logit is not finite."""
    if not np.isfinite(logits).all():
        return Quality(-1.0, -np.inf)
    log_likelihood = logits[np.arange(len(labels)), labels] - np.logaddexp.reduce(logits, axis=1)
    return Quality(float(np.mean(logits.argmax(axis=1) == labels)), float(np.mean(log_likelihood)))
