"""Which samples to label first, so that few labels say most about which encoder is best."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrel._core.checks import Key, checked_key
from jaxrel._core.programs import compiled
from jaxrel._core.standardisation import standardisation_of
from jaxrel.pseudo_labels.kmeans import kmeans
from jaxrel.task import Task

__all__ = ["samples_to_label"]

NUM_CLUSTERS = 20
_MOST_SAMPLES = 20_000


def samples_to_label(targets: Sequence[Task], *, num_samples: int, key: Key = 0) -> Int[np.ndarray, " k"]:
    """The samples that stand for most others by the consensus of the encoders; the first is to be labelled first.

    Each encoder parts the samples into clusters, and `C_ij` is the share of encoders that have i and j in one. Chosen
    is, one after the other, the sample that adds most to

        sum_i  max_{j chosen or labelled}  C_ij,

    so that any beginning of the order is a choice of its own (greedy maximisation of a submodular function, within
    1 - 1/e of the best; Nemhauser, Wolsey, Fisher, 1978). No encoder's view is preferred, as it would be by labels that
    are chosen on the features of one. Such labels order encoders better than random ones while they are few, up to
    about 50, and no better from 100 on: `docs/predicting_transfer.md`.

    Args:
        targets: the same samples under each encoder. Where some have a label already, in any of them, others are chosen
            to go with these.
        num_samples: k, how many to choose.
        key: draws the starts of the clusters.

    Returns:
        Rows of the targets.

    Raises:
        ValueError: for no targets, targets of different samples, more samples to choose than have no label, and more
            than 20,000 samples, of which all pairs are compared.
    """
    targets = list(targets) if isinstance(targets, Iterable) else [targets]
    weights = _checked_weights(targets)
    known = np.zeros(weights.size, bool)
    for target in targets:
        if target.labels is not None:
            known |= np.asarray(target.labels) >= 0
    free = (weights > 0) & ~known
    if type(num_samples) is not int or not 1 <= num_samples <= np.count_nonzero(free):
        raise ValueError(
            f"num_samples is {num_samples}: pass a number from 1 to {np.count_nonzero(free):,}, the samples that have "
            "no label."
        )
    count = min(NUM_CLUSTERS, int(np.count_nonzero(weights)))
    agreement = jnp.zeros((weights.size, weights.size))
    for target, own in zip(targets, jax.random.split(checked_key(key), len(targets)), strict=True):
        target = target.loaded()
        agreement += _same_cluster(target.features, target.weights, own, num_clusters=count) / len(targets)
    ranks = np.asarray(_greedy_cover(agreement, *map(jnp.asarray, (weights, known, free, num_samples))))
    return np.argsort(np.where(ranks < 0, weights.size, ranks), kind="stable")[:num_samples]


def _checked_weights(targets: Sequence[Task]) -> Float[np.ndarray, " n"]:
    for number, target in enumerate(targets):
        if not isinstance(target, Task):
            raise ValueError(f"targets[{number}] is a {type(target).__name__}: pass a Task for each encoder.")
        if target.num_samples != targets[0].num_samples:
            raise ValueError(
                f"targets[{number}] has {target.num_samples:,} samples, targets[0] {targets[0].num_samples:,}: pass "
                "the same samples, in the same order, under each encoder."
            )
    if not targets:
        raise ValueError("there are no targets: pass a Task for each encoder.")
    if targets[0].num_samples > _MOST_SAMPLES:
        raise ValueError(
            f"of {targets[0].num_samples:,} samples all pairs would be compared: choose among a random subset of at "
            f"most {_MOST_SAMPLES:,}."
        )
    return np.asarray(targets[0].weights)


@functools.partial(compiled, static_argnames="num_clusters")
def _same_cluster(
    features: Float[Array, "n d"], weights: Float[Array, " n"], key: Array, *, num_clusters: int
) -> Float[Array, "n n"]:
    """1 for pairs of samples of one cluster."""
    points = standardisation_of(features, weights)(features)
    labels = kmeans(points, weights, key, num_clusters=num_clusters).labels
    return (labels[:, None] == labels).astype(features.dtype)


@compiled
def _greedy_cover(
    agreement: Float[Array, "n n"],
    weights: Float[Array, " n"],
    known: Bool[Array, " n"],
    free: Bool[Array, " n"],
    num_samples: Int[Array, ""],
) -> Int[Array, " n"]:
    """The place of each sample in the order of choice, -1 for others."""

    def chosen(place: Int[Array, ""], state: tuple[Float[Array, " n"], Int[Array, " n"]]) -> tuple[Array, Array]:
        covered, ranks = state
        gains = weights @ jnp.maximum(agreement - covered[:, None], 0)
        best = jnp.argmax(jnp.where(free & (ranks < 0), gains, -1))
        return jnp.maximum(covered, agreement[:, best]), ranks.at[best].set(place)

    covered = jnp.max(jnp.where(known, agreement, 0), axis=1)
    return jax.lax.fori_loop(0, num_samples, chosen, (covered, jnp.full(weights.shape, -1)))[1]
