"""Many metrics of many encoders on one target, with one compiled call for each metric and shape."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxrel._core.arrays import real_array, to_array
from jaxrel._core.programs import compiled, release_if_many
from jaxrel._core.size_classes import padded_rows
from jaxrel._core.suggestions import suggestion
from jaxrel._core.threads import few_threads
from jaxrel.metrics.class_blocks import checked_largest_class
from jaxrel.metrics.decomposition import Decomposition, DecompositionKind, decompose
from jaxrel.metrics.origin import about_centre
from jaxrel.metrics.registry import METRICS, NEEDS, Metric
from jaxrel.metrics.validation import (
    checked_positive_integer,
    checked_probabilities,
    checked_sample,
)
from jaxrel.task import Task

__all__ = ["PER_ENCODER", "SHARED", "accepted_options", "applicable_metrics", "chosen_metrics", "score_encoders"]

SHARED = ("labels", "targets", "reference_labels")
PER_ENCODER = tuple(need for need in NEEDS if need not in SHARED)
# Encoders whose features have more numbers than this in total are scored in several calls.
_MOST_NUMBERS = 2**28
_MASSES = {"reference_features": "reference_weights"}

Progress = Callable[[str, int, int], None]


def score_encoders(
    features: Sequence[Float[ArrayLike, "n d"]] | Float[ArrayLike, "e n d"] | None,
    labels: Int[ArrayLike, " n"] | None = None,
    *,
    metrics: Sequence[str] | None = None,
    targets: Float[ArrayLike, "n t"] | None = None,
    source_probabilities: Sequence[Float[ArrayLike, "n s"]] | None = None,
    source_labels: Sequence[Int[ArrayLike, " n"]] | None = None,
    reference_features: Sequence[Float[ArrayLike, "m d"]] | None = None,
    reference_labels: Int[ArrayLike, " m"] | None = None,
    aligned_features: Sequence[Float[ArrayLike, "n e"]] | None = None,
    first_view: Sequence[Float[ArrayLike, "n d"]] | None = None,
    second_view: Sequence[Float[ArrayLike, "n d"]] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    reference_weights: Float[ArrayLike, " m"] | None = None,
    num_classes: int | None = None,
    reference_num_classes: int | None = None,
    num_source_classes: int | None = None,
    batch_size: int | None = None,
    combined: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compute metrics for many encoders: `{name: Score}`, with values `(e,)` in the order of the encoders.

        scores = score_encoders([features_of_a, features_of_b], labels, metrics=["logme", "h_score"])
        scores["logme"].value

    Encoders of equal width form one batch, and their features are decomposed once for all metrics that need it. Metrics
    that depend on the other encoders (NCTI, ETran) are combined over all encoders, whatever their widths.

    Args:
        features: features of the same target samples for each encoder: arrays `(n, d)`, whose d may differ, or one
            array `(e, n, d)`.
        labels: `(n,)` integers.
        metrics: names in `METRICS`; None computes all metrics whose inputs are passed.
        targets, reference_labels: the same for all encoders; see `NEEDS`.
        source_probabilities, source_labels, reference_features, aligned_features, first_view, second_view: one array
            for each encoder; see `NEEDS`.
        weights, reference_weights: counts of the samples, the same for all encoders.
        num_classes, reference_num_classes, num_source_classes: class counts; None infers them from the labels.
        batch_size: number of encoders scored in parallel within a call. None is 1 on CPUs, where batches are slower,
            and all encoders elsewhere.
        combined: False returns the components of the metrics that depend on the other encoders, for `Metric.combine`.
        progress: called with `(what, done, total)` for each metric and batch.

    Raises:
        ValueError: for an unknown metric, a metric whose inputs are missing, no metric or no encoder, different numbers
            of encoders, and whatever a metric raises, with the number of the encoder.

    Examples:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> features = 3 * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(60, 4))
        >>> scores = score_encoders([features, features[:, :2]], labels, metrics=["h_score", "rankme"])
        >>> [f"{value:.3f}" for value in scores["h_score"].value]
        ['1.632', '1.437']
    """
    every = {
        "features": features, "labels": labels, "targets": targets, "source_probabilities": source_probabilities,
        "source_labels": source_labels, "reference_features": reference_features,
        "reference_labels": reference_labels, "aligned_features": aligned_features, "first_view": first_view,
        "second_view": second_view,
    }  # fmt: skip
    given: dict[str, Any] = {need: arrays for need, arrays in every.items() if arrays is not None}
    chosen = chosen_metrics(metrics, given)
    needed = {need for metric in chosen for need in metric.needs}
    masses = {"weights": weights, "reference_weights": reference_weights}
    weighting = {name: jnp.asarray(to_array(name, mass)) for name, mass in masses.items() if mass is not None}
    counts = {"labels": num_classes, "reference_labels": reference_num_classes, "source_labels": num_source_classes}
    per_encoder = {need: _arrays(need, given[need]) for need in PER_ENCODER if need in needed}
    shared = {need: to_array(need, given[need]) for need in SHARED if need in needed}
    num_encoders = _checked_encoders(per_encoder, weighting)
    facts = _with_class_numbers(shared, per_encoder, given, counts, weighting)
    if batch_size is not None:
        batch_size = checked_positive_integer("batch_size", batch_size)

    alone = {name: [rows] for name, rows in (shared | weighting).items()}
    padded = padded_rows(per_encoder | alone)
    per_encoder = {need: padded.get(need, rows) for need, rows in per_encoder.items()}
    shared = {need: padded.get(need, [rows])[0] for need, rows in shared.items()}
    weighting |= {name: jnp.asarray(padded[name][0]) for name in masses if name in padded}

    batches = _batches(per_encoder, num_encoders)
    found: dict[str, list[Any]] = {metric.name: [] for metric in chosen}
    for done, batch in enumerate(batches):
        stacks = _Stacks({need: [rows[index] for index in batch] for need, rows in per_encoder.items()}, weighting)
        decompositions = _decompositions(chosen, stacks, weighting.get("weights"), batch_size)
        for position, metric in enumerate(chosen):
            varying = stacks.of(metric)
            if metric.decomposition is not None:
                varying["decomposition"] = decompositions[metric.decomposition]
            fixed = {need: shared[need] for need in metric.needs if need in shared}
            options = tuple(accepted_options(metric, facts).items())
            call = _scored(metric.name, options, batch_size or _default_batch_size(len(batch)))
            with few_threads(varying):
                scored = jax.block_until_ready(call(varying, fixed, accepted_options(metric, weighting)))
            found[metric.name].append(scored)
            if progress is not None:
                progress("scoring", done * len(chosen) + position + 1, len(batches) * len(chosen))
        release_if_many()
    order = np.concatenate(batches)
    return {metric.name: _assembled(metric, found[metric.name], order, combined=combined) for metric in chosen}


class _Stacks:
    """The inputs of a batch of encoders, with a leading axis of encoders."""

    def __init__(self, given: Mapping[str, list[Any]], weighting: Mapping[str, Any]) -> None:
        self._given = given
        self._weighting = weighting
        self._found: dict[tuple[str, ...], dict[str, Any]] = {}

    def of(self, metric: Metric) -> dict[str, Any]:
        """The inputs of a metric."""
        needs = [need for need in metric.needs if need in self._given]
        if not metric.shift_invariant:
            return {need: self._as_given(need) for need in needs}
        found = {}
        if "reference_features" in needs:
            found = self.about_centre("reference_features", "features")
        return {need: found[need] if need in found else self.about_centre(need)[need] for need in needs}

    def about_centre(self, *needs: str) -> dict[str, Any]:
        """Subtract the mean of the first side, as the functions of the metrics do."""
        if needs not in self._found:
            masses = [self._weighting.get(_MASSES.get(need, "weights")) for need in needs]
            given = list(zip(*(self._given[need] for need in needs), strict=True))
            moved = [about_centre(*zip(rows, masses, strict=True)) for rows in given]
            if all(new is old for pair in zip(moved, given, strict=True) for new, old in zip(*pair, strict=True)):
                self._found[needs] = {need: self._as_given(need) for need in needs}
            else:
                stacks = (jnp.stack([jnp.asarray(rows) for rows in arrays]) for arrays in zip(*moved, strict=True))
                self._found[needs] = dict(zip(needs, stacks, strict=True))
        return self._found[needs]

    def _as_given(self, need: str) -> Any:
        key = ("as given", need)
        if key not in self._found:
            self._found[key] = {need: jnp.stack([jnp.asarray(rows) for rows in self._given[need]])}
        return self._found[key][need]

    def for_decomposition(self, kind: DecompositionKind) -> Any:
        """The features to decompose."""
        return self._as_given("features") if kind == "raw" else self.about_centre("features")["features"]


def applicable_metrics(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the metrics whose inputs are all given."""
    return tuple(name for name, metric in METRICS.items() if set(metric.needs) <= set(given))


def chosen_metrics(names: Sequence[str] | None, given: Mapping[str, Any]) -> list[Metric]:
    """The metrics with these names, or all possible ones for None; a ValueError if an input is missing."""
    names = applicable_metrics(given) if names is None else list(dict.fromkeys(names))
    if not names:
        raise ValueError(f"no metric: with {', '.join(given) or 'nothing'} given none can be computed.")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{suggestion(name, METRICS)}: there are {', '.join(METRICS)}.")
        if missing := [need for need in METRICS[name].needs if need not in given]:
            raise ValueError(f"{name} needs {', '.join(missing)}: pass them, or leave out this metric.")
    return [METRICS[name] for name in names]


def _arrays(need: str, rows: Any) -> list[Any]:
    """An array for each encoder. Labels are not converted, because their types may declare classes."""
    return [of if need == "source_labels" else real_array(f"{need} of encoder {i}", of) for i, of in enumerate(rows)]


def _checked_encoders(per_encoder: Mapping[str, list[Any]], weighting: Mapping[str, Any]) -> int:
    """The number of encoders, after a check that their inputs match."""
    counts = {need: len(arrays) for need, arrays in per_encoder.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"every encoder needs one array of each kind, got {counts}.")
    for need in per_encoder:
        if need == "source_labels":
            continue
        mass = weighting.get("reference_weights" if need == "reference_features" else "weights")
        check = checked_probabilities if need == "source_probabilities" else checked_sample
        for index, rows in enumerate(per_encoder[need]):
            try:
                check(rows, mass)
            except ValueError as error:
                raise ValueError(f"{need} of encoder {index}: {error}") from error
    return next(iter(counts.values()))


def _with_class_numbers(
    shared: dict[str, Any],
    per_encoder: dict[str, list[Any]],
    given: Mapping[str, Any],
    counts: Mapping[str, int | None],
    weighting: Mapping[str, Any],
) -> dict[str, Any]:
    """Static options of a compiled metric that follow from labels, and the labels as class numbers."""
    facts: dict[str, Any] = {}
    for prefix in ("", "reference_"):
        if (need := f"{prefix}labels") in shared:
            task = _labelled(need, given[need], weighting.get(f"{prefix}weights"), counts[need])
            # Pass the number of classes that occur, which kernels cannot know at compile time.
            labels = np.asarray(task.labelled[0])
            occurring = np.unique(labels[np.asarray(task.weights) > 0])
            shared[need] = np.searchsorted(occurring, np.minimum(labels, occurring[-1]))
            facts[f"{prefix}num_classes"] = occurring.size
            facts[f"{prefix}largest_class"] = checked_largest_class(shared[need], None)
    if "source_labels" in per_encoder:
        tasks = [
            _labelled(f"source_labels of encoder {i}", labels, weighting.get("weights"), counts["source_labels"])
            for i, labels in enumerate(per_encoder["source_labels"])
        ]
        per_encoder["source_labels"] = [task.labelled[0] for task in tasks]
        facts["num_source_classes"] = max(task.labelled[1] for task in tasks)
    if "reference_largest_class" in facts and "largest_class" in facts:
        facts["block_sizes"] = (facts["reference_largest_class"], facts["largest_class"])
    return facts


def _labelled(name: str, labels: Any, weights: Any, num_classes: int | None) -> Task:
    """A task with these labels and dummy features."""
    num_samples = (*to_array(name, labels).shape, 0)[0]
    try:
        task = Task(np.zeros((max(1, num_samples), 1)), labels, weights=weights, num_classes=num_classes)
        _ = task.labelled  # raises if some are missing
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return task


def accepted_options(metric: Metric, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the function of a metric accepts."""
    names = inspect.signature(metric.function).parameters
    return {name: value for name, value in options.items() if name in names}


def _default_batch_size(num_encoders: int) -> int:
    return 1 if jax.default_backend() == "cpu" else num_encoders


def _batches(per_encoder: Mapping[str, list[Any]], num_encoders: int) -> list[np.ndarray]:
    """Groups of encoder indices whose arrays have equal shapes and fit into one call."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index in range(num_encoders):
        shapes = tuple(np.shape(arrays[index]) for arrays in per_encoder.values())
        groups.setdefault(shapes, []).append(index)
    batches = []
    for shapes, members in groups.items():
        most = max(1, _MOST_NUMBERS // sum(int(np.prod(shape)) for shape in shapes))
        batches += [np.asarray(members[start : start + most]) for start in range(0, len(members), most)]
    return batches


def _decompositions(
    metrics: Sequence[Metric], stacks: _Stacks, weights: Any, batch_size: int | None
) -> dict[DecompositionKind, Decomposition]:
    kinds = {metric.decomposition for metric in metrics if metric.decomposition is not None}
    features = {kind: stacks.for_decomposition(kind) for kind in sorted(kinds)}
    with few_threads(features):
        return jax.block_until_ready(
            {
                kind: _decomposed(kind, batch_size or _default_batch_size(len(rows)))(rows, weights)
                for kind, rows in features.items()
            }
        )


@functools.cache
def _decomposed(kind: DecompositionKind, batch_size: int) -> Callable[..., Decomposition]:
    def decomposed(features: Any, weights: Any) -> Any:
        return jax.lax.map(lambda rows: decompose(rows, kind, weights=weights), features, batch_size=batch_size)

    return compiled(decomposed)


@functools.cache
def _scored(name: str, options: tuple[tuple[str, Any], ...], batch_size: int) -> Callable[..., Any]:
    """The metric mapped over a leading axis of encoders, compiled once for each shape.

    With one encoder at a time, it is a Python loop over separate arrays: on CPUs, products with a slice of an array and
    loops inside XLA take ten times as long.
    """
    metric = METRICS[name]

    def of_one(own: Any, fixed: Any, weighting: Any) -> Any:
        own = dict(own)
        extra = {"decomposition": own.pop("decomposition")} if "decomposition" in own else {}
        data = own | fixed
        return metric.function(*(data[need] for need in metric.needs), **dict(options), **weighting, **extra)

    if batch_size > 1:
        return compiled(
            lambda varying, *shared: jax.lax.map(lambda own: of_one(own, *shared), varying, batch_size=batch_size)
        )
    alone = compiled(of_one)

    def one_by_one(varying: Any, *shared: Any) -> Any:
        count = len(jax.tree.leaves(varying)[0])
        return _stacked([alone(_one_of(varying, index), *shared) for index in range(count)])

    return one_by_one


@compiled
def _one_of(stacks: Any, index: Any) -> Any:
    return jax.tree.map(lambda rows: rows[index], stacks)


def _stacked(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def _assembled(metric: Metric, parts: Sequence[Any], order: np.ndarray, *, combined: bool) -> Any:
    """Put the results of the batches into the order of the encoders."""
    inverse = np.argsort(order)
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[inverse], *parts)
    return metric.combine(joined) if combined and metric.combine is not None else joined
