"""Quality of a classifier on the validation samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Quality", "quality_of"]


class Quality(NamedTuple):
    """Larger is better: accuracy first, then the negative cross-entropy among equals."""

    accuracy: float
    log_likelihood: float


def quality_of(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Quality:
    """The quality of the predictions; below all others if a logit is not finite."""
    if not np.isfinite(logits).all():
        return Quality(-1.0, -np.inf)
    log_likelihood = logits[np.arange(len(labels)), labels] - np.logaddexp.reduce(logits, axis=1)
    return Quality(float(np.mean(logits.argmax(axis=1) == labels)), float(np.mean(log_likelihood)))
