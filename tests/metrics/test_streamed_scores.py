"""Metrics of a task, whole and block by block: equal to those of all rows at once."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrel import Task, transferability_score
from jaxrel.metrics import METRICS, STREAMED, ScoreStatus, moments, moments_of_blocks, score_task
from jaxrel.storage.features import FeatureStore

LABEL_FREE = [name for name in STREAMED if METRICS[name].label_free]


def directly(features: np.ndarray, labels: np.ndarray, **options: Any) -> dict[str, Any]:
    """The metrics of all rows at once."""
    return {
        name: METRICS[name].function(features, *(() if name in LABEL_FREE else (labels,)), **options)
        for name in STREAMED
    }


def by_blocks(*arrays: np.ndarray, block_size: int = 16, metrics: Any = STREAMED) -> dict[str, Any]:
    """The metrics by the moments of blocks of rows of features, labels and weights."""
    parts = [slice(start, start + block_size) for start in range(0, len(arrays[0]), block_size)]
    blocks = (tuple(array[part] for array in arrays) for part in parts)
    state = moments_of_blocks(blocks, num_classes=1 + int(max(arrays[1])) if len(arrays) > 1 else 1)
    return {name: moments.compute(name, state) for name in metrics}


def problem(n: int = 90, d: int = 7, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Class 2 never occurs, class 4 once."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3], n)
    labels[50 % n] = 4
    features = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=(5, d))[labels]
    return features.astype(dtype), labels


def changed(features: np.ndarray, labels: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    n, d = features.shape
    rng = np.random.default_rng(1)
    if kind == "constant":
        features[:, 2] = 7.1
    elif kind == "equal":
        features[:] = 3.3
    elif kind == "duplicate rows":
        features, labels = np.repeat(features[: n // 6], 6, axis=0), np.repeat(labels[: n // 6], 6)
    elif kind == "duplicate columns":
        features = np.concatenate([features, features[:, ::-1]], axis=1)
    elif kind == "wide":
        features = features[:20] @ rng.normal(size=(d, 40)) + rng.normal(size=(20, 40))
        labels = labels[:20]
    elif kind == "collapsed":
        features = rng.normal(size=(5, d))[labels]
    elif kind == "classes apart":
        features = features + 1000 * rng.normal(size=(5, d))[labels]
    elif kind == "sorted":
        order = np.argsort(labels, kind="stable")
        features, labels = features[order], labels[order]
    elif kind == "shifted":
        features = features + 100
    elif kind == "scales":
        features = features * 10.0 ** rng.uniform(-5, 5, d)
    elif kind == "growing":
        features = features * np.repeat([1e-20, 1, 1e12], -(-n // 3))[:n, None]
    elif kind == "huge":
        features = features * (1e35 if features.dtype == np.float32 else 1e250)
    elif kind == "tiny":
        features = features * (1e-30 if features.dtype == np.float32 else 1e-250)
    return features, labels


KINDS = (
    "plain",
    "constant",
    "equal",
    "duplicate rows",
    "duplicate columns",
    "wide",
    "collapsed",
    "classes apart",
    "sorted",
    "shifted",
    "scales",
    "growing",
    "huge",
    "tiny",
)


def assert_same(found: dict[str, Any], expected: dict[str, Any], rtol: float) -> None:
    assert found.keys() == expected.keys()
    for name, score in expected.items():
        assert int(found[name].status) == int(score.status), name
        np.testing.assert_allclose(found[name].value, score.value, rtol=rtol, atol=rtol * 1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_float64_scores_are_those_of_all_rows(kind: str, x64: None) -> None:
    features, labels = changed(*problem(), kind)
    assert_same(by_blocks(features, labels), directly(features, labels), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_float32_scores_are_those_of_all_rows(kind: str) -> None:
    features, labels = changed(*problem(dtype=np.float32), kind)
    features = features.astype(np.float32)
    assert_same(by_blocks(features, labels), directly(features, labels), 2e-4)


def test_weights_count_samples(x64):
    features, labels = problem()
    weights = np.random.default_rng(2).integers(0, 3, len(features)).astype(float)
    weights[:20] = 0
    spoilt = features.copy()
    spoilt[weights == 0] = np.nan
    rows = np.repeat(np.arange(len(features)), weights.astype(int))
    whole = by_blocks(features[rows], labels[rows], block_size=90)
    for name, score in by_blocks(spoilt, labels, weights, block_size=7).items():
        np.testing.assert_allclose(score.value, whole[name].value, rtol=1e-9, err_msg=name)


def test_blocks_of_any_sizes_give_the_same_scores(x64):
    features, labels = problem()
    expected = by_blocks(features, labels, block_size=90)
    cuts = [0, 1, 1, 30, 31, 88, len(features)]
    pieces = ((features[start:stop], labels[start:stop]) for start, stop in itertools.pairwise(cuts))
    state = moments_of_blocks(pieces, num_classes=5)
    for found in (*(by_blocks(features, labels, block_size=size) for size in (1, 13)), None):
        for name, score in expected.items():
            one = moments.compute(name, state) if found is None else found[name]
            np.testing.assert_allclose(one.value, score.value, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("name", LABEL_FREE)
def test_memory_of_singular_values_grows_with_the_samples_not_their_square(name: str) -> None:
    program = jax.jit(METRICS[name].function).lower(jax.ShapeDtypeStruct((4000, 8), np.float32)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 20 * 4000 * 8 * 4


# A task, whole or streamed.

SMALL = 60_000  # bytes, which the problem of 400 samples exceeds


def tasks(folder: Path, *, labelled: bool = True, dtype: Any = np.float32) -> dict[str, Task]:
    """One task in memory, memory-mapped and in the feature store; of its rows some have weight 0, and NaN there."""
    features, labels = problem(400, dtype=dtype)
    weights = np.random.default_rng(2).choice([0.0, 0.5, 1.0], len(features))
    features[weights == 0] = np.nan
    np.save(folder / "features.npy", features)
    table = FeatureStore(folder).table({"encoder": "e"}, shape=features.shape, dtype="float32", shard_size=90)
    for shard in table.missing():
        table.write(shard, features[table.span(shard)].astype(np.float32))
    kept = {"memory": features, "map": np.load(folder / "features.npy", mmap_mode="r"), "table": table}
    return {name: Task(rows, labels if labelled else None, weights=weights) for name, rows in kept.items()}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_task_has_the_same_scores_whole_and_streamed_wherever_it_is(labelled: bool, tmp_path: Path) -> None:
    whole: dict[str, Any] = {}
    for name, task in tasks(tmp_path, labelled=labelled).items():
        whole = whole or score_task(task)
        assert list(whole) == (list(STREAMED) if labelled else LABEL_FREE)
        assert_same(score_task(task), whole, 1e-6)
        assert_same(score_task(task, memory_budget=SMALL), whole, 1e-4)
        assert (task.in_memory, whole["rankme"].value.dtype) == (name == "memory", np.float32)


def test_a_task_is_the_moments_of_its_blocks(tmp_path: Path) -> None:
    task = tasks(tmp_path)["map"]
    features, labels, weights = task.rows(slice(None)), np.asarray(task.labels), np.asarray(task.weights)
    assert_same(score_task(task, memory_budget=SMALL), by_blocks(features, labels, weights, block_size=150), 1e-5)


@pytest.mark.slow
def test_a_task_in_float64_has_the_same_scores_whole_and_streamed(tmp_path: Path, x64: None) -> None:
    task = tasks(tmp_path, dtype=np.float64)["map"]
    assert_same(score_task(task, memory_budget=SMALL), score_task(task), 1e-9)


def test_a_task_that_fits_has_the_value_of_any_metric_of_features_and_labels(tmp_path: Path) -> None:
    stored = tasks(tmp_path)["table"]
    features, labels, weights = stored.features, stored.labels, np.asarray(stored.weights)
    found = score_task(stored, metrics=["transferability", "ncti", "energy"])
    assert list(found) == ["transferability", "ncti", "energy"]
    assert float(found["transferability"]) == pytest.approx(float(transferability_score(stored)), rel=1e-6)
    components = METRICS["ncti"].function(features, labels, weights=weights, num_classes=5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found["ncti"], components)
    assert float(found["energy"]) == pytest.approx(
        float(METRICS["energy"].function(features, weights=weights)), rel=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["nothing"]}, "unknown metric 'nothing'"),
        ({"metrics": []}, "no metric"),
        ({"metrics": ["leep"]}, "leep needs source_probabilities"),
        ({"metrics": ["parc", "logme"], "memory_budget": SMALL}, "parc takes all samples at once.*choose from logme"),
        ({"memory_budget": 10}, "memory_budget of 10 bytes is too small: .* pass at least"),
        ({"memory_budget": 1e9}, "whole number of bytes"),
    ],
)
def test_what_cannot_be_had_of_a_task_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        score_task(tasks(tmp_path)["map"], **options)


def test_labels_that_are_missing_and_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="logme needs labels"):
        score_task(tasks(tmp_path, labelled=False)["map"], metrics=["logme"])
    with pytest.raises(ValueError, match="target must be a Task"):
        score_task(np.zeros((3, 2)))
    features = np.lib.format.open_memmap(tmp_path / "bad.npy", mode="w+", dtype=np.float32, shape=(400, 7))
    features[333, 2] = np.inf
    for options in ({}, {"memory_budget": SMALL}):
        with pytest.raises(ValueError, match=r"features\[333, 2\] is inf"):
            score_task(Task(features, np.arange(400) % 2), **options)


@pytest.mark.slow
def test_directions_that_are_rounding_stay_so_over_many_blocks():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 30_000)
    low = rng.normal(size=(30_000, 20)).astype(np.float32) + labels[:, None]
    features = np.concatenate([low, low[:, ::-1], 2 * low], axis=1)
    for dtype in (np.float32, np.float64):
        found = by_blocks(features.astype(dtype), labels, metrics=["h_score", "rankme"], block_size=64)
        expected = by_blocks(low, labels, metrics=["h_score"], block_size=4096)["h_score"]
        np.testing.assert_allclose(found["h_score"].value, expected.value, rtol=1e-4)
        assert float(found["rankme"]) < 20


def test_exact_fits_are_unbounded_and_one_point_is_undefined():
    features, labels = problem(dtype=np.float32)
    collapsed, _ = changed(features, labels, "collapsed")
    found = by_blocks(collapsed.astype(np.float32), labels, metrics=["logme"])
    assert found["logme"].status & ScoreStatus.UNBOUNDED
    one_point = by_blocks(np.ones((8, 3), np.float32), metrics=["alpha_req"])["alpha_req"]
    assert one_point.status == ScoreStatus.UNDEFINED | ScoreStatus.CONSTANT_FEATURES


FEATURES, LABELS = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 0, 1, 0, 1])
BAD = FEATURES.copy()
BAD[5, 1] = np.nan


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([(FEATURES, LABELS), (FEATURES, LABELS[:4])], r"block 1 has labels of shape \(4,\) for 6 rows"),
        ([(FEATURES, LABELS, np.ones(5))], r"block 0 has weights of shape \(5,\) for 6 rows"),
        ([(FEATURES, LABELS - 1)], "block 0 has a sample .* label is not from 0 to 1"),
        ([(FEATURES, LABELS / 2)], "labels must be integers"),
        ([(FEATURES, LABELS, -np.ones(6))], "a weight that is negative"),
        ([(FEATURES, LABELS), (BAD, LABELS)], "block 1 has a sample .* not finite"),
        ([(FEATURES,), (FEATURES[:, :1],)], r"block 1 has features of shape \(6, 1\): pass rows of shape \(m, 2\)"),
        ([FEATURES], r"block 0 must be a tuple \(features, labels, weights\), got ndarray"),
        ([], "there are no blocks"),
    ],
)
def test_blocks_that_cannot_be_scored_are_refused(blocks: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moments_of_blocks(blocks, num_classes=2)


def test_a_metric_that_is_no_function_of_the_moments_is_refused() -> None:
    state = moments_of_blocks([(FEATURES, LABELS)], num_classes=2)
    with pytest.raises(ValueError, match=r"transrate cannot be computed by block.*choose from logme, h_score"):
        moments.compute("transrate", state)
