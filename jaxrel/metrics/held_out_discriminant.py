r"""Balanced accuracy of a linear discriminant on held-out samples.

With the covariance S of the standardised features within classes, class means m_c, and t the mean variance,

    class of x = argmax_c x^T A m_c - m_c^T A m_c / 2,   A = ((1 - lambda) S + lambda t I)^{-1}:

This is linear discriminant analysis with equal priors, shrunk towards the nearest-mean classifier. It has a closed
form: all classes share one Cholesky factor for each half.

A discriminant depends only on the class sizes, class means and scatter within classes of its half. These moments merge
over blocks of samples, so features are either used whole or read three times, block by block: for the standardisation,
for the moments of each half, and to evaluate each sample by the discriminant of the other half.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel._core import linalg
from jaxrel._core.checks import Key, checked_key
from jaxrel._core.halves import second_half
from jaxrel._core.memory_budget import rows_within
from jaxrel._core.programs import compiled
from jaxrel._core.size_classes import pads_samples, size_class, with_rows
from jaxrel._core.standardisation import Spread, Standardisation, spread_of, standardisation_by
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, merged_means
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample
from jaxrel.task import Task

__all__ = [
    "balanced_shares",
    "block_size_within",
    "held_out_discriminant_score",
    "held_out_hits",
    "held_out_hits_of_blocks",
    "held_out_predictions",
    "whole_bytes",
]

SHRINKAGE = 0.7
NUM_REPEATS = 3
# Number of samples whose responses to all classes are formed at a time.
_BLOCK = 1024
# Memory in use at once: bytes of labels, weights, halves, orders and hits per sample, and numbers of arrays of the size
# of the features, or of a block of them, and of the size of the moments of a half.
_BYTES_PER_SAMPLE, _FEATURE_COPIES, _BLOCK_COPIES, _MOMENT_COPIES = 128, 5, 8, 3


@no_derivative
@pads_samples
def held_out_discriminant_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    key: Key = 0,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Balanced accuracy of a shrunk linear discriminant on the held-out half, 0 to 1; higher is better.

    It is the value of `jaxrel.transferability_score` with target labels.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        key: a key of `jax.random` or an integer; it splits the samples of each class into halves.
        weights: 0 is an absent sample; only ratios matter. A sample of weight 2 is in one half, whereas two equal
            samples may be in both.
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score`: 1 / K for constant features and, on average, for noise; 1 for a single class. Undefined if no class
        has two samples.

    Raises:
        ValueError: for an integer key out of 0 .. 2^32 - 1, else see `checked_labelled_sample`.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    return _held_out_discriminant(sample, checked_key(key))


@kernel
def _held_out_discriminant(sample: LabelledSample, key: PRNGKeyArray) -> Score:
    num_classes = sample.memberships.shape[1]
    labels = jnp.argmax(sample.memberships, axis=1)
    hits, _ = held_out_hits(sample.features, labels, sample.weights, key, num_classes=num_classes)
    shares = balanced_shares(labels, sample.weights, num_classes=num_classes)
    return make_score(jnp.minimum(shares @ hits, 1), sample.status, undefined=jnp.sum(shares) <= 0)


@functools.partial(compiled, static_argnames=("num_classes", "num_repeats"))
def held_out_hits(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    num_classes: int,
    num_repeats: int = NUM_REPEATS,
    shrinkage: Float[ArrayLike, ""] = SHRINKAGE,
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """How often the discriminant of the other half predicts the class of each sample, and whether features vary.

    Each repeat splits the samples of each class into two halves and evaluates each half by the discriminant of the
    other. The prediction for a sample then depends only on its features, not on its class. For features independent of
    the labels, the balanced accuracy is `1 / number of classes` on average, however unequal the classes are. (In
    leave-one-out, a sample is missing only from the mean of its own class, which for few samples in many dimensions
    gives an accuracy below chance.)

    Args:
        features: `(n, d)`; standardised by all samples, without their labels.
        labels: `(n,)`, `0 .. num_classes - 1`; a class without samples is never predicted.
        weights: `(n,)`; 0 is an absent sample.
        key: draws the halves.
        num_classes, num_repeats: static.
        shrinkage: lambda, in (0, 1].

    Returns:
        Hits from 0 to 1. They are 0 for an absent sample, and for the only sample of a class, as no other sample of the
        class can be fitted to. Classes of equal response share a hit: 1 / K each if all features are constant.

    The function is pure and runs under `vmap` over encoders. It takes `O(r (n d^2 + d^3 + n d c))` operations for r
    repeats and c classes, and `O(n d + d^2 + c d)` memory. If there are fewer samples than features, features are first
    rotated to n coordinates.
    """
    space, hits = _of_each_half(
        _hits, features, labels, weights, key, num_classes=num_classes, num_repeats=num_repeats, shrinkage=shrinkage
    )
    return jnp.where(weights > 0, jnp.sum(hits, axis=0) / num_repeats, 0), space.variance > 0


@functools.partial(compiled, static_argnames="num_classes")
def held_out_predictions(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    num_classes: int,
) -> Int[Array, "r n"]:
    """The class that the discriminant of the other half predicts for each sample, in each repeat of `held_out_hits`."""
    _, found = _of_each_half(
        _predictions,
        features,
        labels,
        weights,
        key,
        num_classes=num_classes,
        num_repeats=NUM_REPEATS,
        shrinkage=SHRINKAGE,
    )
    return found[:NUM_REPEATS] + found[NUM_REPEATS:]


def _of_each_half(
    read: Callable[[_Discriminant, Float[Array, "n r"], Int[Array, " n"]], Array],
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    num_classes: int,
    num_repeats: int,
    shrinkage: Float[ArrayLike, ""],
) -> tuple[_Space, Array]:
    """What is read from the discriminant of the other half, `(f, n)` for the halves of `_folds`; 0 outside a half."""
    with jax.default_matmul_precision("highest"):
        space = _space_of(spread_of(features, weights))
        points = _points(space, features, weights)
        if features.shape[0] < features.shape[1]:
            points = linalg.triangular_factor(points.T).T

        def judged(second: Bool[Array, " n"]) -> Array:
            moments = _moments_of(points, labels, jnp.where(second, 0, weights), num_classes)
            return jnp.where(second, read(_fitted(moments, space, shrinkage), points, labels), 0)

        return space, jax.lax.map(judged, _folds(labels, weights, key, num_repeats=num_repeats))


def held_out_hits_of_blocks(
    task: Task, key: PRNGKeyArray, *, rows_at_once: int
) -> tuple[Float[np.ndarray, " n"], Bool[Array, ""]]:
    """`held_out_hits` of a labelled task whose features are read in blocks: the same halves, equal up to rounding.

    Args:
        task: a labelled task with concrete values and more than one sample in some class.
        key: draws the halves.
        rows_at_once: number of samples in a block.

    Raises:
        ValueError: for a value that is not finite, with its row.

    `O(r n d (d + c))` operations for r repeats and c classes, and `O(b d + r (d^2 + c d))` memory for blocks of b
    samples, plus a few bytes for each sample.
    """
    size = size_class(task.num_samples)
    labels, weights = (with_rows(np.asarray(array), size) for array in (task.labels, task.weights))
    folds = np.asarray(_folds(labels, weights, key, num_repeats=NUM_REPEATS))

    def blocks() -> Iterator[tuple[slice, tuple[Any, ...]]]:
        for part, rows in task.blocks("target", rows_at_once):
            if weights[part].any():
                block = rows, weights[part], labels[part], folds.T[part]
                yield part, tuple(with_rows(array, rows_at_once) for array in block)

    spread = functools.reduce(Spread.joined, (_spread_of_block(*block[:2]) for _, block in blocks()))
    space = _space_of(jax.tree.map(lambda leaf: jnp.asarray(leaf, task.dtype), spread))
    halves, classes, width = len(folds), task.labelled[1], task.num_features
    shapes = (halves, classes), (halves, classes, width), (halves, width, width)
    moments = _Moments(*(jnp.zeros(shape, task.dtype) for shape in shapes))
    for _, block in blocks():
        jax.block_until_ready(moments)  # otherwise all blocks would be read ahead
        moments = _with_block(moments, space, *block)
    discriminants = _fitted_to_each(moments, space)
    hits = np.zeros(task.num_samples, task.dtype)
    for part, block in blocks():
        hits[part] = np.asarray(_hits_of_block(discriminants, space, *block))[: part.stop - part.start]
    return hits, space.variance > 0


def whole_bytes(task: Task) -> int:
    """Approximate bytes that `held_out_hits` needs, or, for a task without labels, its features and views."""
    features = _FEATURE_COPIES * task.num_samples * task.num_features
    moments = _MOMENT_COPIES * task.num_features * (task.num_features + (task.num_classes or 0))
    return _BYTES_PER_SAMPLE * task.num_samples + task.dtype.itemsize * (features + moments)


def block_size_within(budget: int, task: Task) -> int:
    """The largest `rows_at_once` that fits into the budget; if none does, a ValueError names the smallest budget."""
    num_classes, width, itemsize = task.labelled[1], task.num_features, task.dtype.itemsize
    moments = 2 * NUM_REPEATS * _MOMENT_COPIES * width * (width + num_classes)
    fixed = _BYTES_PER_SAMPLE * task.num_samples + itemsize * (moments + _BLOCK * num_classes)
    row = itemsize * _BLOCK_COPIES * width
    if budget < fixed + row:
        raise ValueError(
            f"memory_budget of {budget:,} bytes is too small: {task.num_samples:,} samples of {width:,} features and "
            f"{num_classes:,} classes take {min(fixed + row, whole_bytes(task)):,} bytes, pass at least that."
        )
    return rows_within(budget - fixed, row)


def balanced_shares(labels: Int[Array, " n"], weights: Float[Array, " n"], *, num_classes: int) -> Float[Array, " n"]:
    """Share of each sample in the mean over classes: equal for all classes of two or more samples, 0 for the others."""
    exists = (weights > 0).astype(weights.dtype)
    sizes = jax.ops.segment_sum(exists, labels, num_classes)
    totals = jax.ops.segment_sum(weights, labels, num_classes)
    judged = sizes > 1
    by_class = jnp.where(judged, 1 / jnp.where(judged, totals, 1), 0) / jnp.maximum(jnp.sum(judged), 1)
    return weights * by_class[labels]


class _Space(NamedTuple):
    """The function that standardises features (constant ones to exactly 0), and the mean variance t of the points."""

    standardisation: Standardisation
    variance: Float[Array, ""]


class _Moments(NamedTuple):
    """Moments of a half: weight and mean of each class, and the total scatter within classes."""

    class_sizes: Float[Array, " c"]
    means: Float[Array, "c r"]
    scatter: Float[Array, "r r"]


class _Discriminant(NamedTuple):
    """A response `x^T slopes + offsets` for each class; -inf for one without samples."""

    slopes: Float[Array, "r c"]
    offsets: Float[Array, " c"]


def _space_of(spread: Spread) -> _Space:
    standardisation = standardisation_by(spread)
    variances = (spread.deviation / standardisation.scale) ** 2
    varies = variances > (16 * jnp.finfo(variances.dtype).eps) ** 2
    scale = jnp.where(varies, standardisation.scale, jnp.inf)
    return _Space(Standardisation(spread.mean, scale), jnp.mean(jnp.where(varies, variances, 0)))


def _points(space: _Space, features: Float[Array, "n d"], weights: Float[Array, " n"]) -> Float[Array, "n d"]:
    return jnp.where(weights[:, None] > 0, space.standardisation(features), 0)


@functools.partial(compiled, static_argnames="num_repeats")
def _folds(
    labels: Int[Array, " n"], weights: Float[Array, " n"], key: PRNGKeyArray, *, num_repeats: int
) -> Bool[Array, "f n"]:
    """The samples on which each half is evaluated: the second halves of all repeats, then the first halves."""
    second: Any = jax.lax.map(lambda key: second_half(labels, weights, key), jax.random.split(key, num_repeats))
    return jnp.concatenate([second, ~second])


def _moments_of(
    points: Float[Array, "n r"], labels: Int[Array, " n"], train: Float[Array, " n"], num_classes: int
) -> _Moments:
    totals = jax.ops.segment_sum(train, labels, num_classes)
    present = totals > 0
    by_class = jnp.where(present, 1 / jnp.where(present, totals, 1), 0)
    means = by_class[:, None] * jax.ops.segment_sum(train[:, None] * points, labels, num_classes)
    residuals = points - means[labels]
    return _Moments(totals, means, (train[:, None] * residuals).T @ residuals)


def _fitted(moments: _Moments, space: _Space, shrinkage: Float[ArrayLike, ""]) -> _Discriminant:
    within = moments.scatter / jnp.sum(moments.class_sizes)
    ridge = shrinkage * jnp.where(space.variance > 0, space.variance, 1)
    matrix = jnp.asarray((1 - shrinkage) * within + ridge * jnp.eye(within.shape[0], dtype=within.dtype))
    root = linalg.cholesky(matrix)
    slopes = linalg.triangular_solve(root, linalg.triangular_solve(root, moments.means.T), transposed=True)
    offsets = jnp.where(moments.class_sizes > 0, -jnp.sum(moments.means.T * slopes, axis=0) / 2, -jnp.inf)
    return _Discriminant(slopes, offsets)


def _hits(discriminant: _Discriminant, points: Float[Array, "n r"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    """Whether the discriminant predicts the class of each sample."""

    def hit(row: tuple[Float[Array, " r"], Int[Array, ""]]) -> Float[Array, ""]:
        point, label = row
        responses = _responses(discriminant, point)
        largest = responses == jnp.max(responses)
        return largest[label] / jnp.sum(largest)

    return jax.lax.map(hit, (points, labels), batch_size=_BLOCK)


def _predictions(
    discriminant: _Discriminant,
    points: Float[Array, "n r"],
    labels: Int[Array, " n"],  # noqa: ARG001 - as `_hits`
) -> Int[Array, " n"]:
    """The class of the largest response, the first of equal ones."""
    return jax.lax.map(lambda point: jnp.argmax(_responses(discriminant, point)), points, batch_size=_BLOCK)


def _responses(discriminant: _Discriminant, point: Float[Array, " r"]) -> Float[Array, " c"]:
    return point @ discriminant.slopes + discriminant.offsets


_spread_of_block = kernel(spread_of)


@kernel
def _with_block(
    moments: _Moments,
    space: _Space,
    rows: Float[Array, "b d"],
    weights: Float[Array, " b"],
    labels: Int[Array, " b"],
    folds: Bool[Array, "b f"],
) -> _Moments:
    """Add the samples of a block to the moments of each half."""
    points = _points(space, rows, weights)

    def of_half(so_far: tuple[_Moments, Bool[Array, " b"]]) -> _Moments:
        a, judged = so_far
        b = _moments_of(points, labels, jnp.where(judged, 0, weights), len(a.class_sizes))
        sizes, means, between = merged_means(*a[:2], *b[:2])
        return _Moments(sizes, means, a.scatter + b.scatter + between.T @ between)

    return jax.lax.map(of_half, (moments, folds.T))


@kernel
def _fitted_to_each(moments: _Moments, space: _Space) -> _Discriminant:
    return jax.lax.map(lambda half: _fitted(half, space, SHRINKAGE), moments)


@kernel
def _hits_of_block(
    discriminants: _Discriminant,
    space: _Space,
    rows: Float[Array, "b d"],
    weights: Float[Array, " b"],
    labels: Int[Array, " b"],
    folds: Bool[Array, "b f"],
) -> Float[Array, " b"]:
    points = _points(space, rows, weights)

    def judged(half: tuple[_Discriminant, Bool[Array, " b"]]) -> Float[Array, " b"]:
        return jnp.where(half[1], _hits(half[0], points, labels), 0)

    hits = jnp.sum(jax.lax.map(judged, (discriminants, folds.T)), axis=0) / NUM_REPEATS
    return jnp.where(weights > 0, hits, 0)
