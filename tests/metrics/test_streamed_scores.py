"""Metrics block by block: equal to those of all rows at once."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from jaxrel.metrics import METRICS, STREAMED, ScoreStatus, score_blocks
from jaxrel.storage.features import FeatureStore

LABEL_FREE = [name for name in STREAMED if METRICS[name].label_free]


def directly(features: np.ndarray, labels: np.ndarray, **options: Any) -> dict[str, Any]:
    """The metrics of all rows at once."""
    return {
        name: METRICS[name].function(features, *(() if name in LABEL_FREE else (labels,)), **options)
        for name in STREAMED
    }


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


def check(features: np.ndarray, labels: np.ndarray, rtol: float, *, block_size: int = 16, **options: Any) -> None:
    found = score_blocks(features, labels, block_size=block_size, **options)
    for name, expected in directly(features, labels, **options).items():
        assert int(found[name].status) == int(expected.status), name
        np.testing.assert_allclose(found[name].value, expected.value, rtol=rtol, atol=rtol * 1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_float64_scores_are_those_of_all_rows(kind, x64):
    check(*changed(*problem(), kind), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_float32_scores_are_those_of_all_rows(kind):
    features, labels = changed(*problem(dtype=np.float32), kind)
    check(features.astype(np.float32), labels, 2e-4)


def test_weights_count_samples(x64):
    features, labels = problem()
    weights = np.random.default_rng(2).integers(0, 3, len(features)).astype(float)
    weights[:20] = 0
    spoilt = features.copy()
    spoilt[weights == 0] = np.nan
    rows = np.repeat(np.arange(len(features)), weights.astype(int))
    whole = score_blocks(features[rows], labels[rows])
    for name, score in score_blocks(spoilt, labels, weights=weights, block_size=7).items():
        np.testing.assert_allclose(score.value, whole[name].value, rtol=1e-9, err_msg=name)


def test_blocks_of_any_sizes_give_the_same_scores(x64):
    features, labels = problem()
    expected = score_blocks(features, labels)
    cuts = [0, 1, 1, 30, 31, 88, len(features)]
    pieces = [features[start:stop] for start, stop in itertools.pairwise(cuts)]
    for blocks, size in ((features, 1), (features, 13), (features, 90), (iter(pieces), 4096), (pieces, 8)):
        for name, score in score_blocks(blocks, labels, block_size=size).items():
            np.testing.assert_allclose(score.value, expected[name].value, rtol=1e-10, err_msg=name)


def test_a_table_of_a_store_is_scored(tmp_path):
    features, labels = problem(dtype=np.float32)
    rounded = features.astype(ml_dtypes.bfloat16)
    table = FeatureStore(tmp_path).table({"encoder": "e"}, shape=features.shape, dtype="bfloat16", shard_size=17)
    for shard in table.missing():
        table.write(shard, rounded[table.span(shard)])
    found = score_blocks(table, labels, metrics=["regularised_h_score", "gbc"], block_size=20)
    assert list(found) == ["regularised_h_score", "gbc"]
    for name, score in found.items():
        expected = METRICS[name].function(rounded.astype(np.float32), labels)
        np.testing.assert_allclose(score.value, expected.value, rtol=1e-4)
        assert score.value.dtype == np.float32


def test_without_labels_there_are_the_label_free_metrics(x64):
    features, _ = problem()
    found = score_blocks(features, block_size=16)
    assert list(found) == LABEL_FREE == ["rankme", "alpha_req"]
    for name, score in found.items():
        np.testing.assert_allclose(score.value, METRICS[name].function(features).value, rtol=1e-10)


@pytest.mark.slow
def test_weighted_scores_are_those_of_all_rows(x64):
    features, labels = problem()
    check(features, labels, 1e-9, weights=np.random.default_rng(2).integers(0, 3, len(features)).astype(float))


@pytest.mark.slow
def test_directions_that_are_rounding_stay_so_over_many_blocks():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 30_000)
    low = rng.normal(size=(30_000, 20)).astype(np.float32) + labels[:, None]
    features = np.concatenate([low, low[:, ::-1], 2 * low], axis=1)
    for dtype in (np.float32, np.float64):
        found = score_blocks(features.astype(dtype), labels, metrics=["h_score", "rankme"], block_size=64)
        expected = score_blocks(low, labels, metrics=["h_score"])["h_score"]
        np.testing.assert_allclose(found["h_score"].value, expected.value, rtol=1e-4)
        assert float(found["rankme"]) < 20


def test_exact_fits_are_unbounded_and_one_point_is_undefined():
    features, labels = problem(dtype=np.float32)
    collapsed, _ = changed(features, labels, "collapsed")
    found = score_blocks(collapsed.astype(np.float32), labels, metrics=["logme"], block_size=16)
    assert found["logme"].status & ScoreStatus.UNBOUNDED
    one_point = score_blocks(np.ones((8, 3), np.float32), metrics=["alpha_req"])["alpha_req"]
    assert one_point.status == ScoreStatus.UNDEFINED | ScoreStatus.CONSTANT_FEATURES


FEATURES, LABELS = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 0, 1, 0, 1])
BAD = FEATURES.copy()
BAD[5, 1] = np.nan


@pytest.mark.parametrize(
    ("blocks", "options", "message"),
    [
        (FEATURES, {"metrics": ["transrate"]}, r"transrate cannot be had block by block.*choose from logme, h_score"),
        (FEATURES, {"metrics": ["nothing"]}, "unknown metric 'nothing': there are logme"),
        (FEATURES, {"labels": None, "metrics": ["logme"]}, "logme needs labels: pass them, or choose from rankme"),
        (FEATURES, {"metrics": []}, "no metric: choose from logme"),
        (FEATURES, {"labels": LABELS[:4]}, r"same samples, got numbers \{'blocks': 6, 'labels': 4\}"),
        (FEATURES, {"weights": np.ones(5)}, r"same samples, got numbers \{'blocks': 6, 'labels': 6, 'weights': 5\}"),
        (FEATURES, {"labels": LABELS - 1}, r"labels\[0\] is -1"),
        (FEATURES, {"labels": LABELS / 2}, "which is no class"),
        (FEATURES, {"num_classes": 1}, "num_classes"),
        (FEATURES, {"weights": -np.ones(6)}, r"weights\[0\] is -1"),
        (FEATURES, {"weights": np.zeros(6)}, "weights are all 0"),
        (FEATURES, {"block_size": 0}, "block_size must be at least 1"),
        (FEATURES[:, :0], {}, r"shape \(n, d\) with n, d >= 1, got \(6, 0\)"),
        (BAD, {"block_size": 4}, r"of rows 4 to 5, counted from 0 there: features\[1, 1\] is nan"),
        ([FEATURES[:3], FEATURES[3:, :1]], {}, r"block 1 has shape \(3, 1\): pass blocks of rows, of shape \(m, 2\)"),
        ([FEATURES[0]], {}, r"block 0 has shape \(2,\)"),
        ([FEATURES[:4]], {}, "blocks have 4 rows in all, but there are 6 labels"),
        ([FEATURES, FEATURES], {}, "blocks have more rows than the 6 labels"),
        ([], {"labels": None}, "blocks have no rows"),
    ],
)
def test_what_cannot_be_scored_is_refused(blocks, options, message):
    with pytest.raises(ValueError, match=message):
        score_blocks(blocks, **({"labels": LABELS} | options))
