"""A few thousand of the problems of benchmarks/fuzz.py: nothing is false, and faults are found."""

from __future__ import annotations

import dataclasses
import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from paths import BENCHMARKS

from jaxrel.metrics import METRICS, Score


@pytest.fixture
def fuzzer(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return lambda kind: importlib.import_module(f"fuzzers.{kind}")


def test_no_interval_of_cost_arrays_is_false(fuzzer):
    rng = np.random.default_rng(0)
    for problems in ("_arrays", "_forbidden"):
        tally = getattr(fuzzer("transport"), problems)(rng, (2, 2), 4, np.float32)
        assert (tally.false, tally.refused) == (0, 0), tally


def test_no_interval_of_close_clouds_is_false(fuzzer):
    tally = fuzzer("transport")._clouds(np.random.default_rng(0), (8, 8), 4, np.float32, "euclidean")
    assert tally.false == 0, tally


@pytest.mark.slow
def test_no_blockwise_interval_is_false(fuzzer):
    """With all optimisations the centres of two clouds far from the origin were computed anew, and differed."""
    for seed in (0, 4):
        tally = fuzzer("transport")._blockwise(np.random.default_rng(seed), np.float32)
        assert tally.false == 0, tally


@pytest.mark.parametrize("cost", ["euclidean", pytest.param("squared_euclidean", marks=pytest.mark.slow)])
def test_no_interval_of_clouds_without_a_batch_is_false(fuzzer, cost):
    tally = fuzzer("transport")._lone_clouds(np.random.default_rng(0), (9, 7), np.float32, cost)
    assert tally.false == 0, tally


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["margin", "range", "euclidean", "feature"])
def test_no_bound_is_false(fuzzer, cost):
    bounds = fuzzer("bounds")
    tally = bounds._tally(np.random.default_rng(0), bounds._SIZES[0], cost, np.float32)
    assert tally.false == 0, tally


@pytest.fixture
def metrics(fuzzer):
    metrics = fuzzer("metrics")
    yield metrics
    metrics._program.cache_clear()


def metric_tally(metrics, name, kind, shape=0):
    rng = np.random.default_rng(0)
    n, d, rows = metrics._SHAPES[shape]
    return metrics._tally(rng, name, kind, metrics._problems(rng, kind, (n, d)), rows)


@pytest.mark.parametrize("kind", ["counts", "scaled weights", "absent classes", "limits"])
def test_no_score_of_probabilities_is_false(metrics, kind):
    tally = metric_tally(metrics, "leep", kind)
    assert tally.false == 0, tally


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["offset", "one far sample", "contradictory duplicates", "few samples"])
@pytest.mark.parametrize("name", ["h_score", "discriminant", "nearest_neighbours", "silhouette"])
def test_no_score_of_features_is_false(metrics, name, kind):
    tally = metric_tally(metrics, name, kind)
    assert tally.false == 0, tally


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [("ncti", "contradictory duplicates"), ("sfda", "contradictory duplicates"), ("ridge_probe", "one far sample")],
)
def test_no_score_of_more_features_than_samples_is_false(metrics, name, kind):
    tally = metric_tally(metrics, name, kind, shape=1)
    assert tally.false == 0, tally


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lambda value, weights: value * 1.001, "ordinary"),
        (lambda value, weights: jnp.where(jnp.min(weights) == 0, jnp.nan, value), "counts"),
        pytest.param(lambda value, weights: value + (weights[0] == 0) / 100, "ordinary", marks=pytest.mark.slow),
        (lambda value, weights: value - 2, "limits"),
    ],
)
def test_faults_of_a_metric_are_found(metrics, monkeypatch, fault, kind):
    """Off by a thousandth in both dtypes, not a number, dependent on where absent samples stand, out of its range."""
    metric = METRICS["maximum_probability"]

    def faulty(probabilities, *, weights):
        score = metric.function(probabilities, weights=weights)
        return Score(fault(score.value, weights), score.status)

    monkeypatch.setitem(metrics.METRICS, "maximum_probability", dataclasses.replace(metric, function=faulty))
    metrics._program.cache_clear()
    assert metric_tally(metrics, "maximum_probability", kind).false >= metrics._ORACLES


def test_no_damaged_log_is_read_as_another(fuzzer, tmp_path):
    files = fuzzer("files")
    form = files._FORMATS["log of scores"]
    form.write(tmp_path / "whole.jsonl")
    content, rng = (tmp_path / "whole.jsonl").read_bytes(), np.random.default_rng(0)
    right = files._plain(form.read(tmp_path / "whole.jsonl"))
    for _ in range(50):
        (tmp_path / "damaged.jsonl").write_bytes(files._damaged(rng, content))
        assert files._outcome(form, tmp_path / "damaged.jsonl", right) in ("right", "refused")


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("no file is named"), MemoryError()])
def test_errors_that_do_not_name_a_damaged_file_are_found(fuzzer, tmp_path, error):
    def read(path):
        raise error

    files = fuzzer("files")
    form = files._FORMATS["IDX"]._replace(read=read)
    assert files._outcome(form, tmp_path / "damaged.idx", None).startswith("false")


def test_page_has_the_counts_of_the_results_and_none_is_false(fuzzer):
    fuzz = importlib.import_module("fuzz")
    results = json.loads(fuzz.RESULTS.read_text())
    assert f"<!-- fuzz -->\n\n{fuzz.page_table(results)}\n\n<!-- end -->" in fuzz.PAGE.read_text()
    assert set(results) == set(fuzz.KINDS)
    assert not any(sort["false"] for kind in results.values() for sort in kind["sorts"])
