"""Metrics of features that are not in memory at once, in one pass over blocks of rows.

The moments of the blocks (:mod:`jaxrel.metrics.moments`) are summed in float64. For float32 features the scatter itself
is kept, in which a singular value below 1e-8 of the largest drowns in rounding, far below what such features resolve;
for float64 features its triangular factor is, by QR, which takes longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxrel._core.arrays import to_array
from jaxrel._core.size_classes import size_class, with_rows
from jaxrel.metrics import moments
from jaxrel.metrics.moments import STREAMED, checked_name
from jaxrel.metrics.registry import METRICS
from jaxrel.metrics.result import Score
from jaxrel.metrics.validation import checked_positive_integer
from jaxrel.storage.features import Table
from jaxrel.task import Task

__all__ = ["score_blocks"]

BLOCK_SIZE = 4096


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
    state, done = None, 0
    for rows in _of_size(block_size, _pieces(blocks, block_size)):
        block = _checked_block(rows, done, facts)
        done += len(rows)
        if block is None:
            continue
        with jax.enable_x64(True):
            if state is None:
                factored = block.dtype == np.float64
                state = moments.init(rows.shape[1], facts.num_classes, "float64", factored=factored)
            state = moments.update(state, block.features, block.labels, block.weights)
    if facts.rows not in (None, done):
        raise ValueError(f"blocks have {done} rows in all, but there are {facts.rows} labels or weights.")
    if state is None:
        raise ValueError("blocks have no rows: pass at least one.")
    if not state.factored:
        with jax.enable_x64(True):
            state = moments.in_single_precision(state)
    return {name: moments.compute(name, state) for name in chosen}


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
        if checked_name(name) not in possible:
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
    counts = {"blocks": shape and shape[0], "labels": _length("labels", labels), "weights": _length("weights", weights)}
    known = {name: count for name, count in counts.items() if count is not None}
    if len(set(known.values())) > 1:
        raise ValueError(f"blocks, labels and weights must be of the same samples, got numbers {known}.")
    rows = next(iter(known.values()), None)
    if labels is None and weights is None:
        return _Facts(rows, None, None, 1)
    task = Task(np.zeros((rows or 0, 1), np.float32), labels, weights=weights, num_classes=num_classes)
    class_count = 1 if labels is None else task.labelled[1]
    masses = None if weights is None else np.asarray(to_array("weights", weights))
    return _Facts(rows, None if labels is None else np.asarray(task.labels, np.int64), masses, class_count)


def _length(name: str, values: Any) -> int | None:
    return None if values is None else int((*to_array(name, values).shape, 0)[0])


def _pieces(blocks: Any, size: int) -> Iterator[Any]:
    if not hasattr(blocks, "shape"):
        return iter(blocks)
    return (blocks[start : start + size] for start in range(0, blocks.shape[0], size))


def _of_size(size: int, pieces: Iterable[Any]) -> Iterator[Float[np.ndarray, "m d"]]:
    """The rows of the pieces in blocks of one size, of which the last may have fewer."""
    kept: list[np.ndarray] = []
    width = None
    for number, piece in enumerate(pieces):
        rows = np.asarray(to_array(f"block {number}", piece))
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


@dataclass(frozen=True)
class _Block:
    """Samples, in all the digits they come in, padded to a size class; the type is that of their scores."""

    dtype: np.dtype[Any]
    features: Float[np.ndarray, "m d"]
    labels: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]


def _checked_block(rows: Float[np.ndarray, "m d"], start: int, facts: _Facts) -> _Block | None:
    """The samples of a block; None where all weights are 0."""
    span = slice(start, start + len(rows))
    if facts.rows is not None and span.stop > facts.rows:
        raise ValueError(f"blocks have more rows than the {facts.rows} labels or weights.")
    weights = np.ones(len(rows)) if facts.weights is None else facts.weights[span].astype(np.float64)
    if not weights.any():
        return None
    labels = np.zeros(len(rows), np.int64) if facts.labels is None else facts.labels[span]
    try:
        features = np.asarray(Task(rows, weights=weights).features)
    except ValueError as error:
        raise ValueError(f"of rows {span.start} to {span.stop - 1}, counted from 0 there: {error}") from error
    dtype = features.dtype
    if rows.dtype == np.float64:
        features = rows
    size = size_class(len(rows))
    return _Block(dtype, *(with_rows(array, size) for array in (features, labels, weights)))
