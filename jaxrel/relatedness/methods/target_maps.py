"""The initial target map M, m, and the ridge, chosen on a validation split."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrel._core.optimise import minimise
from jaxrel.heads import Head
from jaxrel.relatedness.blocks import VALIDATION_EVERY, ClassOrder, within_class_rank
from jaxrel.relatedness.bound import class_loss, log_label_map
from jaxrel.relatedness.coupling import class_prior, label_coupling, label_map
from jaxrel.task import Task

__all__ = ["RIDGES", "fit_target_map"]

RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def fit_target_map(
    target: Task, conditional: Float[Array, "t r"], ridge: float | None, classes: ClassOrder
) -> tuple[Head, Float[Array, ""]]:
    """M, m that minimise the loss of the transformed head on the target plus the ridge, and the ridge.

    If the ridge is to be chosen, each candidate is fitted without every fourth sample of each class and evaluated on
    these. The last round of the same loop fits the best candidate on all samples.
    """
    labels, _ = target.labelled
    prior = class_prior(*target.labelled, target.weights)
    log_map = log_label_map(label_map(label_coupling(prior, conditional), prior))[labels]
    share = target.weights / jnp.sum(target.weights)
    dtype = target.features.dtype

    def loss(target_map: Head, share: Float[Array, " n"]) -> Float[Array, ""]:
        return share @ class_loss(target_map(target.features), log_map)

    def fit(ridge: Float[Array, ""], share: Float[Array, " n"]) -> Head:
        shape = (conditional.shape[1], target.num_features)
        start = Head(jnp.zeros(shape, dtype), jnp.zeros(shape[0], dtype))
        return minimise(lambda h: loss(h, share) + ridge / 2 * jnp.sum(h.weights**2), start, max_iterations=100)

    if ridge is not None:
        given = jnp.asarray(ridge, dtype)
        return fit(given, share), given

    aside = within_class_rank(labels, classes) % VALIDATION_EVERY == VALIDATION_EVERY - 1

    def judge(
        best: tuple[Float[Array, ""], Float[Array, ""]], candidate: tuple[Float[Array, ""], Bool[Array, ""]]
    ) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], Head]:
        smallest, chosen = best
        ridge, last = candidate
        ridge = jnp.where(last, chosen, ridge)
        target_map = fit(ridge, jnp.where(aside & ~last, 0, share))
        judged = loss(target_map, jnp.where(aside, share, 0))
        better = judged < smallest
        return (jnp.where(better, judged, smallest), jnp.where(better & ~last, ridge, chosen)), target_map

    candidates = jnp.asarray((*RIDGES, 0.0), dtype)
    start = (jnp.asarray(jnp.inf, dtype), candidates[0])
    (_, chosen), maps = jax.lax.scan(judge, start, (candidates, jnp.arange(candidates.size) == len(RIDGES)))
    return jax.tree.map(lambda stacked: stacked[-1], maps), chosen
