"""Metrics of a task: on all samples at once if they fit into memory, otherwise in one pass over blocks of rows.

The moments of the blocks (:mod:`jaxrel.metrics.moments`) are summed in float64. For float32 features the scatter itself
is stored, in which singular values below 1e-8 of the largest are lost in rounding, far below the resolution of such
features. For float64 features its triangular factor is stored, by QR, which takes longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxrel._core.arrays import number_array
from jaxrel._core.checks import is_traced
from jaxrel._core.memory_budget import limit_of, rows_within
from jaxrel._core.size_classes import size_class, with_rows
from jaxrel.metrics import moments
from jaxrel.metrics.batch import accepted_options, chosen_metrics
from jaxrel.metrics.moments import STREAMED, Moments
from jaxrel.metrics.registry import METRICS
from jaxrel.task import Task

__all__ = ["moments_of_blocks", "score_task"]

# Of what is alive at once: bytes of labels and weights of each sample; arrays of the size of the features and
# memberships; arrays in float64 of the size of the scatter, and of the size of a block.
_BYTES_PER_SAMPLE, _FEATURE_COPIES, _MOMENT_COPIES, _BLOCK_COPIES = 32, 6, 8, 6


def score_task(
    target: Task, *, metrics: Sequence[str] | None = None, memory_budget: int | None = None
) -> dict[str, Any]:
    """Compute metrics of a task, in memory or streamed: `{name: result of the function of the metric}`.

        table = extract_features(encoder, images, store=store, dtype="bfloat16")
        scores = score_task(Task(table, labels), metrics=["logme", "h_score"])

    Args:
        target: a task with features `(n, d)` in memory or stored, with labels unless the metrics need none. Its weights
            count samples; samples of the largest weight count once.
        metrics: names in `METRICS` that need features, or features and labels. None computes those of `STREAMED`, or
            the label-free ones among them for a task without labels.
        memory_budget: bytes that the computation may use at once, as in `task_relatedness`. None is 2 GiB for a stored
            task and no limit for a task in memory.

    Returns:
        The results of `METRICS[name].function` for all samples, with default options. A task that does not fit into the
        budget is read once, block by block, and scored by its moments (`moments_of_blocks`). The scores are the same up
        to rounding, with the same statuses.

    Raises:
        ValueError: for a metric that is unknown, needs other inputs, or needs labels that the task lacks; for a metric
            that is not a function of the moments if the task does not fit into the budget; for a budget that is too
            small (the message gives the smallest that suffices); for features that are not finite, with the row; and
            whatever the metrics raise.

    A streamed task takes `O(n d (d + C))` operations and `O(b d + d^2 + C d)` memory for blocks of b rows, plus a few
    bytes for each sample. A traced task is used whole.
    """
    if not isinstance(target, Task):
        raise ValueError(f"target must be a Task, got {type(target).__name__}: pass Task(features, labels).")
    needs = {"features": target} if target.labels is None else {"features": target, "labels": target.labelled[0]}
    streamed = [name for name in STREAMED if set(METRICS[name].needs) <= needs.keys()]
    chosen = chosen_metrics(streamed if metrics is None else metrics, needs)
    limit = limit_of(memory_budget, in_memory=target.in_memory)
    if limit is None or _whole_bytes(target) <= limit or (target.in_memory and is_traced(target)):
        target = target.loaded()
        given = {"features": target.features, "labels": target.labels}
        options = {"weights": target.weights, "num_classes": target.num_classes}
        return {
            metric.name: metric.function(*map(given.get, metric.needs), **accepted_options(metric, options))
            for metric in chosen
        }
    for metric in chosen:
        if metric.name not in STREAMED:
            raise ValueError(
                f"{metric.name} takes all samples at once, about {_whole_bytes(target):,} bytes, more than the "
                f"memory_budget of {limit:,}: choose from {', '.join(STREAMED)}, which are scored block by block, pass "
                "a random subset of the samples, Task(features[rows], labels[rows]), or a larger memory_budget."
            )
    labels = np.zeros(target.num_samples, np.int32) if target.labels is None else np.asarray(target.labels)
    weights = np.asarray(target.weights)
    blocks = target.blocks("target", _block_size_within(limit, target))
    state = moments_of_blocks(
        ((rows, labels[part], weights[part]) for part, rows in blocks), num_classes=target.num_classes or 1
    )
    return {metric.name: moments.compute(metric.name, state) for metric in chosen}


def moments_of_blocks(blocks: Iterable[Sequence[Any]], *, num_classes: int = 1) -> Moments:
    """Accumulate the moments of all blocks, each read once, for `jaxrel.metrics.moments.compute`.

        state = moments_of_blocks(((features, labels) for features, labels in loader), num_classes=10)
        score = moments.compute("logme", state)

    Args:
        blocks: tuples `(features,)`, `(features, labels)` or `(features, labels, weights)` of shapes `(m, d)`, `(m,)`
            and `(m,)`, with an m of their own: real numbers, integers from 0 to `num_classes - 1`, and counts, of which
            0 is an absent sample whose features may be anything, 2 the sample twice. Time is least where m is several
            times d.
        num_classes: C; 1 where there are no labels.

    Returns:
        A state summed in float64; of float32, unless 64-bit types are enabled and the features have them.

    Raises:
        ValueError: for no blocks, arrays that do not fit each other or the blocks before, features that are not finite,
            labels out of range and negative weights, with the number of the block.
    """
    state = None
    for number, block in enumerate(blocks):
        features, labels, weights = _checked_block(number, block, None if state is None else state.means.shape[1])
        arrays = (with_rows(array, size_class(len(features))) for array in (features, labels, weights))
        wide = features.dtype == np.float64 and jax.config.jax_enable_x64  # type: ignore[attr-defined]
        with jax.enable_x64(True):
            if state is None:
                state = moments.init(features.shape[1], num_classes, "float64", factored=wide)
            state = moments.update(state, *arrays)
        if not state.valid:
            raise ValueError(
                f"block {number} has a sample of positive weight whose features are not finite or whose label is not "
                f"from 0 to {num_classes - 1}, or a weight that is negative or not finite: leave such samples out."
            )
    if state is None:
        raise ValueError("there are no blocks: pass at least one.")
    if not state.factored:
        with jax.enable_x64(True):
            state = moments.in_single_precision(state)
    return state


def _checked_block(number: int, block: Any, width: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and weights of one number of samples, and features of this width if one is known."""
    if not isinstance(block, tuple) or not 1 <= len(block) <= 3:
        raise ValueError(f"block {number} must be a tuple (features, labels, weights), got {type(block).__name__}.")
    features, *rest = (np.asarray(number_array(f"block {number}", array)) for array in block)
    if features.ndim != 2 or width not in (None, features.shape[1]):
        expected = "(m, d)" if width is None else f"(m, {width})"
        raise ValueError(f"block {number} has features of shape {features.shape}: pass rows of shape {expected}.")
    rest += [np.zeros(len(features), np.int32), np.ones(len(features), np.float32)][len(rest) :]
    labels, weights = rest
    for name, array in (("labels", labels), ("weights", weights)):
        if array.shape != features.shape[:1]:
            raise ValueError(f"block {number} has {name} of shape {array.shape} for {len(features)} rows of features.")
    return features, labels, weights


def _whole_bytes(target: Task) -> int:
    """What the function of a metric takes, about."""
    columns = target.num_features + (target.num_classes or 1)
    return target.num_samples * (_BYTES_PER_SAMPLE + _FEATURE_COPIES * target.dtype.itemsize * columns)


def _block_size_within(budget: int, target: Task) -> int:
    """Rows to read at a time; a ValueError says the least budget that would do."""
    columns = target.num_features + (target.num_classes or 1)
    fixed = _BYTES_PER_SAMPLE * target.num_samples + 8 * _MOMENT_COPIES * target.num_features * columns
    row = 8 * _BLOCK_COPIES * columns
    if budget < fixed + row:
        raise ValueError(
            f"memory_budget of {budget:,} bytes is too small: {target.num_samples:,} samples of "
            f"{target.num_features:,} features take {min(fixed + row, _whole_bytes(target)):,} bytes, pass at least "
            "that."
        )
    return rows_within(budget - fixed, row)
