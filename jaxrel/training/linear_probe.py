"""A linear probe: softmax regression on the features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrel._core.programs import compiled
from jaxrel._core.standardisation import Standardisation, standardisation_of
from jaxrel.heads import Head, fit_head
from jaxrel.task import Task
from jaxrel.training.partition import Partition
from jaxrel.training.quality import Quality, quality_of

__all__ = ["RIDGES", "LinearProbe", "fit_linear_probe"]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear classifier of features.

    Attributes:
        standardise: scales features to mean 0 and variance 1 on the training samples.
        head: linear head on standardised features.
        ridge: the chosen penalty.
        validation: quality on the validation samples by which the penalty was chosen.
    """

    standardise: Standardisation
    head: Head
    ridge: float
    validation: Quality

    def __call__(self, features: Float[Array | np.ndarray, "n d"]) -> Float[Array, "n k"]:
        """Logits."""
        return self.head(self.standardise(jnp.asarray(features)))


def fit_linear_probe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    partition: Partition,
    *,
    num_classes: int,
    ridges: Sequence[float] = RIDGES,
) -> LinearProbe:
    """Fit multinomial logistic regression to standardised features, with the ridge of best validation accuracy.

        min_{W, w0} mean_i -log softmax(W z_i + w0)_{y_i} + ridge / 2 * ||W||_F^2

    Args:
        features: `(n, d)`.
        labels: `(n,)`, 0 to `num_classes - 1`.
        partition: the training rows, and the validation rows by which the ridge is chosen (ties by cross-entropy).
        num_classes: k.
        ridges: penalties to choose from; a list of another length recompiles, other values do not.

    Returns:
        The probe. It is not refitted with the validation samples, so that a network tuned from it is compared with its
        starting point.
    """
    rows = jnp.asarray(features)
    weights = np.zeros(len(labels), np.float32)
    weights[partition.train] = 1
    standardise, heads = _fitted(rows, jnp.asarray(labels), weights, jnp.asarray(ridges), num_classes=num_classes)
    kept_aside = standardise(rows[partition.validation])
    probes = []
    for place, ridge in enumerate(ridges):
        head: Head = jax.tree.map(lambda leaf, place=place: leaf[place], heads)
        validation = quality_of(np.asarray(head(kept_aside)), labels[partition.validation])
        probes.append(LinearProbe(standardise, head, ridge, validation))
    return max(probes, key=lambda probe: probe.validation)


@partial(compiled, static_argnames="num_classes")
def _fitted(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    ridges: Float[Array, " r"],
    *,
    num_classes: int,
) -> tuple[Standardisation, Head]:
    """Heads of all ridges, stacked."""
    standardise = standardisation_of(features, weights)
    task = Task(standardise(features), labels, weights=weights, num_classes=num_classes)
    return standardise, jax.lax.map(lambda ridge: fit_head(task, ridge=ridge), ridges)
