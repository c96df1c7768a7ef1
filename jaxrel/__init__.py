"""jaxrel: how well a pre-trained encoder transfers to a target task, and why."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxrel.version import __version__

if TYPE_CHECKING:
    from jaxrel import data, encoders, evaluation, metrics, pseudo_labels, relatedness, study, training, transport
    from jaxrel._core.status import ResultError
    from jaxrel.heads import Head, fit_head, gradient_penalised_head
    from jaxrel.metrics.transferability import Transferability, transferability_score
    from jaxrel.relatedness import (
        Joint,
        Paper,
        Relatedness,
        explain,
        task_relatedness,
    )
    from jaxrel.task import Task

# Imported when first used, so that `import jaxrel` costs next to nothing beside jax.
_HOMES = {
    "Head": "jaxrel.heads",
    "Joint": "jaxrel.relatedness",
    "Paper": "jaxrel.relatedness",
    "Relatedness": "jaxrel.relatedness",
    "ResultError": "jaxrel._core.status",
    "Task": "jaxrel.task",
    "Transferability": "jaxrel.metrics.transferability",
    "explain": "jaxrel.relatedness",
    "fit_head": "jaxrel.heads",
    "gradient_penalised_head": "jaxrel.heads",
    "task_relatedness": "jaxrel.relatedness",
    "transferability_score": "jaxrel.metrics.transferability",
}
_SUBPACKAGES = (
    "data",
    "encoders",
    "evaluation",
    "metrics",
    "pseudo_labels",
    "relatedness",
    "scores",
    "study",
    "training",
    "transport",
)

__all__ = [
    "Head",
    "Joint",
    "Paper",
    "Relatedness",
    "ResultError",
    "Task",
    "Transferability",
    "__version__",
    "data",
    "encoders",
    "evaluation",
    "explain",
    "fit_head",
    "gradient_penalised_head",
    "metrics",
    "pseudo_labels",
    "relatedness",
    "study",
    "task_relatedness",
    "training",
    "transferability_score",
    "transport",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _SUBPACKAGES:
        value = importlib.import_module(f"jaxrel.{name}")
    else:
        raise AttributeError(f"module 'jaxrel' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
