r"""Metrics of features that are not in memory at once, in one pass over blocks of rows.

Some metrics depend on the samples only through their moments: for each class its size n_c, mean m_c and variances, and
over all classes the scatter within them,

    W = sum_i w_i (x_i - m_{y_i}) (x_i - m_{y_i})^T.

The moments of two sets of samples merge into those of both (Chan, Golub, LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances", 1979): with `d_c` the difference of the means of class c and
`k_c = n_c n'_c / (n_c + n'_c)`, the scatter of both is `W + W' + sum_c k_c d_c d_c^T`.

At the end a stand-in, a weighted sample of `2 (C + d)` rows with the same moments, goes through the metrics unchanged.

Moments are summed in float64 by the host. A singular value below 1e-8 of the largest would drown in the rounding of W,
far below what float32 features resolve; of float64 features a triangular factor of W is kept instead, by QR, which on a
CPU takes ten times as long.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxrel.feature_store import Table
from jaxrel.scores.decomposition import decompose
from jaxrel.scores.registry import METRICS
from jaxrel.scores.result import Score
from jaxrel.scores.validation import checked_positive_integer
from jaxrel.tasks import Task

__all__ = ["STREAMED", "score_blocks"]

BLOCK_SIZE = 4096

# They do not change with a shift of all features; without it they are the more exact.
_OF_SHIFTED = ("h_score", "alpha_req")
# Between powers of 2, lest the rounding of a mean of 0 put it beyond one.
_END = 1.5

STREAMED = ("logme", "h_score", "regularised_h_score", "gbc", "lfc", "rankme", "alpha_req")
"""Metrics that :func:`score_blocks` takes; the others depend on more than the moments."""


class _Scatter(Protocol):
    """A sum of outer products of rows."""

    def plus(self, rows: Float[np.ndarray, "m d"]) -> Self:
        """With those of more rows."""

    def scaled(self, ratio: float) -> Self:
        """Of the rows times a number."""

    def times(self, vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
        """The product with a vector."""

    def factor(self) -> Float[np.ndarray, "d d"]:
        """Rows whose outer products have this sum."""


@dataclass(frozen=True)
class _Gram:
    """The sum itself."""

    matrix: Float[np.ndarray, "d d"]

    def plus(self, rows: Float[np.ndarray, "m d"]) -> Self:
        return dataclasses.replace(self, matrix=self.matrix + rows.T @ rows)

    def scaled(self, ratio: float) -> Self:
        return dataclasses.replace(self, matrix=self.matrix * ratio**2)

    def times(self, vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
        product: np.ndarray = self.matrix @ vector
        return product

    def factor(self) -> Float[np.ndarray, "d d"]:
        # In units of each feature's own deviation, or the rounding of a large one would hide a small one.
        sizes = np.sqrt(np.diag(self.matrix))
        units = np.where(sizes > 0, sizes, 1)
        eigenvalues, axes = np.linalg.eigh(self.matrix / units / units[:, None])
        product: np.ndarray = np.sqrt(np.maximum(eigenvalues, 0))[:, None] * axes.T * sizes
        return product


@dataclass(frozen=True)
class _Triangle:
    """The triangular factor of the sum."""

    matrix: Float[np.ndarray, "d d"]

    def plus(self, rows: Float[np.ndarray, "m d"]) -> Self:
        triangular = np.linalg.qr(np.concatenate([self.matrix, rows]), mode="r")
        return dataclasses.replace(self, matrix=np.asarray(triangular))

    def scaled(self, ratio: float) -> Self:
        return dataclasses.replace(self, matrix=self.matrix * ratio)

    def times(self, vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
        product: np.ndarray = (self.matrix @ vector) @ self.matrix
        return product

    def factor(self) -> Float[np.ndarray, "d d"]:
        return self.matrix


@dataclass(frozen=True)
class _Moments:
    """What is kept of the samples, of features `origin + x` in units of `unit`.

    Attributes:
        dtype: of the features.
        unit: the power of 2 next below the largest absolute value so far, so that no power of a feature overflows.
        origin: one of the samples, so that constant features become exactly 0.
        sizes: weight of each class.
        means: of each class, 0 for one without samples.
        squares: of the deviations from the mean of the class, summed.
        scatter: within classes.
        third: `sum_i w_i ||x_i - m||^2 (x_i - m)` with the mean m of all samples.
        fourth: `sum_i w_i ||x_i - m||^4`.
    """

    dtype: np.dtype[Any]
    unit: float
    origin: Float[np.ndarray, " d"]
    sizes: Float[np.ndarray, " c"]
    means: Float[np.ndarray, "c d"]
    squares: Float[np.ndarray, "c d"]
    scatter: _Scatter
    third: Float[np.ndarray, " d"]
    fourth: float

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """Of all samples."""
        product: np.ndarray = self.sizes @ self.means / max(self.sizes.sum(), np.finfo(float).tiny)
        return product


@dataclass(frozen=True)
class _Block:
    """Samples of positive weight."""

    features: Float[np.ndarray, "m d"]
    labels: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]


def score_blocks(
    blocks: Table | Float[np.ndarray, "n d"] | Iterable[Float[ArrayLike, "m d"]],
    labels: Int[ArrayLike, " n"] | None = None,
    *,
    metrics: Sequence[str] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    block_size: int = BLOCK_SIZE,
) -> dict[str, Score]:
    """Metrics of features that need not fit into memory: `{name: Score}`, equal to those of all rows at once.

        table = extract_features(encoder, images, store=store, dtype="bfloat16")
        scores = score_blocks(table, labels, metrics=["logme", "h_score"])

    Args:
        blocks: a table of a feature store or a (memory-mapped) array, which is read by slices; or the rows in any
            number of blocks `(m, d)`, each read once. bfloat16 and float16 become float32.
        labels: `(n,)` integers; None for metrics without labels.
        metrics: names in `STREAMED`; None takes all that the labels allow.
        weights: `(n,)` counts; 0 is an absent sample whose features may be anything, 2 the sample twice.
        num_classes: class count; None infers it.
        block_size: rows in memory at once. Cost is least where this is several times d.

    Returns:
        What the function of the metric (`METRICS[name].function`) returns for all rows, with its own options as they
        are by default, up to rounding.

    Raises:
        ValueError: for a metric that is no function of the moments, or needs labels where there are none; blocks of
            different widths; a number of labels or weights other than that of the rows; and whatever the metrics refuse
            of features, labels and weights, with the rows concerned.

    `O(n d (d + C))` operations, `O(b d + d^2 + C d)` memory for blocks of b rows.
    """
    chosen = _chosen(metrics, labelled=labels is not None)
    block_size = checked_positive_integer("block_size", block_size)
    facts = _checked_facts(blocks, labels, weights, num_classes)
    moments, done = None, 0
    for rows in _of_size(block_size, _pieces(blocks, block_size)):
        block = _checked_block(rows, done, facts)
        done += len(rows)
        if block is not None:
            moments = _merged(_nothing(block, facts.num_classes) if moments is None else moments, block)
    if facts.rows not in (None, done):
        raise ValueError(f"blocks have {done} rows in all, but there are {facts.rows} labels or weights.")
    if moments is None:
        raise ValueError("blocks have no rows: pass at least one.")
    return _scores_of(moments, chosen)


@dataclass(frozen=True)
class _Facts:
    """What is known of all rows: their number, if that is known beforehand, classes, weights and number of classes."""

    rows: int | None
    labels: np.ndarray | None
    weights: np.ndarray | None
    num_classes: int


def _chosen(metrics: Sequence[str] | None, *, labelled: bool) -> list[str]:
    possible = [name for name in STREAMED if labelled or METRICS[name].label_free]
    for name in metrics or ():
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}: there are {', '.join(STREAMED)} for blocks.")
        if name not in STREAMED:
            raise ValueError(
                f"{name} cannot be had block by block, as it depends on more than the sizes, means and variances of "
                f"classes and the covariance of the features: choose from {', '.join(STREAMED)}, or pass a sample of "
                "the rows to score_encoders."
            )
        if name not in possible:
            raise ValueError(f"{name} needs labels: pass them, or choose from {', '.join(possible)}.")
    chosen = possible if metrics is None else list(dict.fromkeys(metrics))
    if not chosen:
        raise ValueError(f"no metric: choose from {', '.join(possible)}.")
    return chosen


def _checked_facts(blocks: Any, labels: Any, weights: Any, num_classes: int | None) -> _Facts:
    """Labels and weights as arrays, if these are what they should be."""
    shape = getattr(blocks, "shape", None)
    if shape is not None and (len(shape) != 2 or 0 in shape):
        raise ValueError(f"blocks must have shape (n, d) with n, d >= 1, got {tuple(shape)}.")
    counts = {"blocks": shape and shape[0], "labels": _length(labels), "weights": _length(weights)}
    known = {name: count for name, count in counts.items() if count is not None}
    if len(set(known.values())) > 1:
        raise ValueError(f"blocks, labels and weights must be of the same samples, got numbers {known}.")
    rows = next(iter(known.values()), None)
    if labels is None and weights is None:
        return _Facts(rows, None, None, 1)
    task = Task(np.zeros((rows or 0, 1), np.float32), labels, weights=weights, num_classes=num_classes)
    class_count = 1 if labels is None else task.labelled[1]
    masses = None if weights is None else np.asarray(weights)
    return _Facts(rows, None if labels is None else np.asarray(labels).astype(np.int64), masses, class_count)


def _length(values: Any) -> int | None:
    return None if values is None else int((*np.shape(values), 0)[0])


def _pieces(blocks: Any, size: int) -> Iterator[Any]:
    if not hasattr(blocks, "shape"):
        return iter(blocks)
    return (blocks[start : start + size] for start in range(0, blocks.shape[0], size))


def _of_size(size: int, pieces: Iterable[Any]) -> Iterator[Float[np.ndarray, "m d"]]:
    """The rows of the pieces in blocks of one size, of which the last may have fewer."""
    kept: list[np.ndarray] = []
    width = None
    for number, piece in enumerate(pieces):
        rows = np.asarray(piece)
        if rows.ndim != 2 or width not in (None, rows.shape[1]):
            expected = "(m, d)" if width is None else f"(m, {width})"
            raise ValueError(f"block {number} has shape {rows.shape}: pass blocks of rows, of shape {expected} each.")
        width = rows.shape[1]
        while (missing := size - sum(map(len, kept))) <= len(rows):
            yield np.concatenate([*kept, rows[:missing]])
            kept, rows = [], rows[missing:]
        if len(rows):
            kept.append(rows)
    if kept:
        yield np.concatenate(kept)


def _checked_block(rows: Float[np.ndarray, "m d"], start: int, facts: _Facts) -> _Block | None:
    """The samples of positive weight in a block; None where there are none."""
    span = slice(start, start + len(rows))
    if facts.rows is not None and span.stop > facts.rows:
        raise ValueError(f"blocks have more rows than the {facts.rows} labels or weights.")
    weights = np.ones(len(rows)) if facts.weights is None else facts.weights[span].astype(np.float64)
    live = weights > 0
    if not live.any():
        return None
    labels = np.zeros(len(rows), np.int64) if facts.labels is None else facts.labels[span]
    try:
        features = np.asarray(Task(rows, weights=weights).features)
    except ValueError as error:
        raise ValueError(f"of rows {span.start} to {span.stop - 1}, counted from 0 there: {error}") from error
    return _Block(features[live], labels[live], weights[live])


def _nothing(block: _Block, num_classes: int) -> _Moments:
    """The moments of no samples, with the origin and type for these."""
    unit = _unit_of(block)
    origin = block.features[0].astype(np.float64) / unit
    width = len(origin)
    zeros = np.zeros((width, width))
    return _Moments(
        dtype=block.features.dtype,
        unit=unit,
        origin=origin,
        sizes=np.zeros(num_classes),
        means=np.zeros((num_classes, width)),
        squares=np.zeros((num_classes, width)),
        scatter=_Triangle(zeros) if block.features.dtype == np.float64 else _Gram(zeros),
        third=np.zeros(width),
        fourth=0.0,
    )


def _merged(moments: _Moments, block: _Block) -> _Moments:
    """The moments of the samples so far and of those of a block."""
    before = _in_unit(moments, max(moments.unit, _unit_of(block)))
    rows = block.features.astype(np.float64) / before.unit - before.origin
    block_sizes = np.bincount(block.labels, block.weights, minlength=len(before.sizes))
    present = np.maximum(block_sizes, np.finfo(float).tiny)[:, None]
    means = _class_sums(block, rows, len(before.sizes)) / present
    rows -= means[block.labels]
    sizes = before.sizes + block_sizes
    shares = (block_sizes / np.maximum(sizes, np.finfo(float).tiny))[:, None]
    differences = np.where(block_sizes[:, None] > 0, means - before.means, 0)
    masses = before.sizes[:, None] * shares
    scatter = before.scatter.plus(np.sqrt(block.weights)[:, None] * rows).plus(np.sqrt(masses) * differences)
    after = dataclasses.replace(
        before,
        sizes=sizes,
        means=before.means + shares * differences,
        squares=before.squares + _class_sums(block, rows**2, len(before.sizes)) + masses * differences**2,
        scatter=scatter,
    )
    third, fourth = _about(before, after.mean)
    rows += (means - after.mean)[block.labels]
    norms = np.einsum("nd,nd->n", rows, rows)
    weighted = block.weights * norms
    return dataclasses.replace(after, third=third + weighted @ rows, fourth=fourth + weighted @ norms)


def _class_sums(block: _Block, rows: Float[np.ndarray, "m d"], num_classes: int) -> Float[np.ndarray, "c d"]:
    """Weighted sums of the rows of each class."""
    memberships = np.zeros((num_classes, len(rows)))
    memberships[block.labels, np.arange(len(rows))] = block.weights
    product: np.ndarray = memberships @ rows
    return product


def _about(moments: _Moments, mean: Float[np.ndarray, " d"]) -> tuple[Float[np.ndarray, " d"], float]:
    """The third and fourth moments about another mean."""
    shift = mean - moments.mean
    apart = moments.means - moments.mean
    total = moments.sizes.sum()
    variance = moments.squares.sum() + moments.sizes @ (apart**2).sum(axis=1)
    along = moments.scatter.times(shift) + (moments.sizes * (apart @ shift)) @ apart
    square = shift @ shift
    third = moments.third - variance * shift - 2 * along - total * square * shift
    fourth = moments.fourth - 4 * moments.third @ shift + 4 * along @ shift + 2 * square * variance + total * square**2
    return third, float(fourth)


def _unit_of(block: _Block) -> float:
    return math.ldexp(1.0, math.frexp(float(np.max(np.abs(block.features))))[1] - 1)


def _in_unit(moments: _Moments, unit: float) -> _Moments:
    ratio = moments.unit / unit
    return dataclasses.replace(
        moments,
        unit=unit,
        origin=ratio * moments.origin,
        means=ratio * moments.means,
        squares=ratio**2 * moments.squares,
        scatter=moments.scatter.scaled(ratio),
        third=ratio**3 * moments.third,
        fourth=ratio**4 * moments.fourth,
    )


def _scores_of(moments: _Moments, names: Sequence[str]) -> dict[str, Score]:
    stand_in = _stand_in(moments)
    raw = dataclasses.replace(stand_in, features=stand_in.features + moments.origin.astype(moments.dtype))
    special = {"gbc": _gbc, "regularised_h_score": _regularised_h_score}
    found: dict[str, Score] = {}
    for name in names:
        if name in special:
            found[name] = special[name](moments, stand_in)
        else:
            found[name] = (stand_in if name in _OF_SHIFTED else raw).score(name)
    return found


@dataclass(frozen=True)
class _StandIn:
    """A weighted sample."""

    features: Float[np.ndarray, "m d"]
    labels: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]
    num_classes: int

    def score(self, name: str, **options: Any) -> Score:
        metric = METRICS[name]
        labelled = () if metric.label_free else (self.labels,)
        if not metric.label_free:
            options["num_classes"] = self.num_classes
        score: Score = metric.function(self.features, *labelled, weights=self.weights, **options)
        return score


def _stand_in(moments: _Moments) -> _StandIn:
    """A sample with these sizes and means of the classes and this scatter within them: all in the largest class.

    The second half of the rows has the weights and labels of the first, and mirrors it about the means.
    """
    num_classes, width = moments.means.shape
    largest = int(np.argmax(moments.sizes))
    # A power of 2, so that the weights have exactly the sum of the sizes, which may be compared to a rank.
    of_row = 2.0 ** np.floor(np.log2(moments.sizes[largest] / (4 * width)))
    offsets = moments.scatter.factor() / np.sqrt(2 * of_row)
    rows = [np.concatenate([moments.means, moments.means[largest] + side * offsets]) for side in (1, -1)]
    at_means = moments.sizes / 2
    at_means[largest] -= width * of_row
    return _StandIn(
        features=np.concatenate(rows).astype(moments.dtype),
        labels=np.tile(np.append(np.arange(num_classes), np.full(width, largest)), 2),
        weights=np.tile(np.append(at_means, np.full(width, of_row)), 2),
        num_classes=num_classes,
    )


def _gbc(moments: _Moments, _: _StandIn) -> Score:
    """From two samples of each class that have its mean and variances, in the features' own unit."""
    num_classes = len(moments.sizes)
    deviations = np.sqrt(moments.squares / np.maximum(moments.sizes, np.finfo(float).tiny)[:, None])
    rows = np.concatenate([moments.means + deviations, moments.means - deviations]) - moments.mean
    return _StandIn(
        features=(rows * moments.unit).astype(moments.dtype),
        labels=np.tile(np.arange(num_classes), 2),
        weights=np.tile(moments.sizes / 2, 2),
        num_classes=num_classes,
    ).score("gbc")


def _regularised_h_score(moments: _Moments, stand_in: _StandIn) -> Score:
    """From the decomposition of the stand-in, in units in which samples at both ends have the fourth moment of all.

    Beside the decomposition the metric needs this moment alone, which the stand-in does not share.
    """
    decomposition = decompose(stand_in.features, "centred", weights=stand_in.weights)
    norm = (moments.fourth / moments.sizes.sum()) ** 0.25
    scale = decomposition.size * (_END / norm if norm > 0 else 0.0)
    halves = len(stand_in.features) // 2
    ends = np.zeros_like(stand_in.features)
    ends[:halves, 0], ends[halves:, 0] = _END, -_END
    return dataclasses.replace(stand_in, features=ends).score(
        "regularised_h_score",
        decomposition=dataclasses.replace(decomposition, values=decomposition.values * scale),
    )
