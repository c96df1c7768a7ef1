"""A matrix of scores: buckets, devices, memory, kills, files; the numbers are those of one-by-one calls."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from studies import scored as scored_pairs
from threadpoolctl import threadpool_info

from jaxrel import Task
from jaxrel.metrics import METRICS
from jaxrel.storage.features import FeatureStore
from jaxrel.study import FeatureArrays, Results, Settings, Study, Unit, run
from jaxrel.study.scoring.buckets import Bucket, bucketed, padded_size
from jaxrel.study.scoring.kernels import compiled, score_units
from jaxrel.study.scoring.rows import RowCache, Rows

GIVEN = {"features", "labels", "reference_features", "reference_labels"}
COMPUTABLE = [name for name, metric in METRICS.items() if set(metric.needs) <= GIVEN]
SIZES = {"red": 40, "green": 45, "blue": 43}  # of one grid size
ENCODERS = ("plain", "squared")


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


@functools.cache
def task(name: str, n: int, d: int = 6, num_classes: int = 3) -> Task:
    rng = np.random.default_rng(sum(name.encode()))
    labels = rng.permutation(np.arange(n) % num_classes)
    centres = rng.normal(size=(num_classes, d))
    weights = rng.integers(1, 3, n)
    return Task(centres[labels] + rng.normal(size=(n, d)), labels, weights=weights)


def source(name: str, n: int, **shape: int) -> FeatureArrays:
    plain = task(name, n, **shape)
    squared = plain.replaced(features=plain.features**2)
    return FeatureArrays(name, {"plain": (plain, plain), "squared": (squared, squared)})


def scored(metrics: list[str], encoders: tuple[str, ...] = ("plain",), sizes=SIZES, **options) -> Results:
    """Of all pairs of these data sets."""
    sources = [source(name, n) for name, n in sizes.items()]
    return scored_pairs(metrics, sources, sources, encoders, **options)


def units(metrics: list[str], references: list, targets: list, encoders: Any) -> list[Unit]:
    """With their buckets."""
    plan = Study(encoders, targets, references, metrics, settings=Settings(resamples=0)).plan()
    found, failed = bucketed(plan.units, plan.sources, silent, strict=True)
    assert not failed
    return found


def one_by_one(metric: str, target: str, reference: str, encoder: str = "plain") -> float:
    """What the metric's own function says of the samples as they are."""
    sides = {"": task(target, SIZES[target]), "reference_": task(reference, SIZES[reference])}
    data: dict[str, Any] = {}
    for prefix, side in sides.items():
        features = side.features if encoder == "plain" else side.features**2
        data |= {f"{prefix}features": features, f"{prefix}labels": side.labels, f"{prefix}weights": side.weights}
    accepted = inspect.signature(METRICS[metric].function).parameters
    weights = {name: array for name, array in data.items() if name.endswith("weights") and name in accepted}
    return float(METRICS[metric].function(*(data[need] for need in METRICS[metric].needs), **weights))


def check_against_one_by_one(matrix: Results, metric: str, *, rtol: float = 2e-4) -> None:
    values = matrix.values[matrix.metrics.index(metric)]
    for e, encoder in enumerate(matrix.encoders):
        for r, reference in enumerate(matrix.references or [""]):
            for t, target in enumerate(matrix.targets):
                if reference == target and "reference_features" in METRICS[metric].needs:
                    assert math.isnan(values[e, r, t])
                else:
                    expected = one_by_one(metric, target, reference, encoder)
                    np.testing.assert_allclose(values[e, r, t], expected, rtol=rtol, atol=1e-5)


# The numbers


def test_values_are_those_of_one_by_one_calls():
    matrix = scored(["h_score", "mmd"], ENCODERS)
    assert matrix.values.shape == (2, 2, 3, 3)
    check_against_one_by_one(matrix, "h_score")
    check_against_one_by_one(matrix, "mmd")
    assert set(matrix.status[0].ravel()) == {"ok"}
    assert (matrix.status[1] == "ok").sum() == 2 * 6
    assert len(matrix.records()) == 2 * 3 + 2 * 6
    assert matrix.timings.num_scores == 18
    assert matrix.timings.num_compilations == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")  # of task-relatedness in float64
@pytest.mark.parametrize("metric", [name for name in COMPUTABLE if METRICS[name].combine is None])
def test_every_metric_is_that_of_one_by_one_calls(metric):
    """On samples padded from 40, 43 and 45 to 48."""
    with jax.enable_x64(True):
        task.cache_clear()
        matrix = scored([metric])
        check_against_one_by_one(matrix, metric, rtol=1e-3)
    task.cache_clear()


def test_scores_that_depend_on_other_encoders_are_combined_over_all_of_them():
    matrix = scored(["etran"], ENCODERS)
    metric = METRICS["etran"]
    for column, (name, n) in enumerate(SIZES.items()):
        plain = task(name, n)
        parts = [
            metric.function(features, plain.labels, weights=plain.weights)
            for features in (plain.features, plain.features**2)
        ]
        assert metric.combine is not None
        expected = np.asarray(metric.combine(parts).value)
        np.testing.assert_allclose(matrix.values[0, :, 0, column], expected, rtol=1e-5)


def test_what_is_wrong_with_a_score_is_its_status():
    alone = Task(np.random.default_rng(0).normal(size=(40, 6)), np.zeros(40, int))
    matrix = scored_pairs(["h_score", "silhouette"], [], [FeatureArrays("x", {"e": (alone, alone)})], ["e"])
    assert matrix.references == ()
    assert math.isnan(matrix.values[1, 0, 0, 0])
    assert "too few" in matrix.status[1, 0, 0, 0]


# Buckets


def test_grid_wastes_little():
    sizes = np.arange(1, 5000)
    padded = np.array([padded_size(int(n)) for n in sizes])
    assert (padded >= sizes).all()
    assert (padded <= 2**0.5 * sizes + 7).all()
    assert (np.diff(padded) >= 0).all()
    assert all(padded_size(int(size)) == size for size in np.unique(padded))
    assert len(np.unique(padded)) < 25


def test_one_compilation_for_each_metric_and_shape(monkeypatch):
    traces = []

    def counted(name):
        function = METRICS[name].function

        @functools.wraps(function)
        def traced(*arguments, **options):
            traces.append(name)
            return function(*arguments, **options)

        return traced

    for name in ("h_score", "lfc"):
        changed = {**vars(METRICS[name]), "function": counted(name)}
        monkeypatch.setitem(METRICS, name, type(METRICS[name])(**changed))
    sources = [source(name, n) for name, n in (SIZES | {"black": 70}).items()]
    sources.append(source("white", 40, num_classes=4))
    assert len({unit.bucket for unit in units(["h_score", "lfc"], [], sources, ENCODERS)}) == 2 * 3
    matrix = scored_pairs(["h_score", "lfc"], [], sources, ENCODERS)
    assert matrix.timings.num_compilations == 2 * 3
    assert traces == ["h_score"] * 3 + ["lfc"] * 3


def test_bucket_knows_what_is_static():
    sources = [source("red", 40), source("green", 70, num_classes=4)]
    found = units(["otdd", "mmd"], sources, sources, ["plain"])
    assert [unit.bucket for unit in found if unit.target == "green"] == [
        Bucket("otdd", 96, 48, 6, (("num_classes", 4), ("reference_num_classes", 3), ("block_sizes", (16, 32)))),
        Bucket("mmd", 96, 48, 6, ()),
    ]


# Devices


def test_one_device_and_four_agree():
    sizes = SIZES | {"black": 41}
    four = scored(["mmd"], sizes=sizes)
    one = scored(["mmd"], sizes=sizes, mesh=Mesh(np.asarray(jax.devices()[:1]), ("x",)))
    square = scored(["mmd"], sizes=sizes, mesh=jax.make_mesh((2, 2), ("x", "y")))
    np.testing.assert_allclose(four.values, one.values, rtol=1e-5)
    np.testing.assert_array_equal(four.values, square.values)


def test_devices_share_the_cores(monkeypatch):
    """Each may call LAPACK, which would take all cores for every call."""

    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    seen = []
    for num_devices in (4, 2, 1):
        mesh = Mesh(np.asarray(jax.devices()[:num_devices]), ("x",))
        before = threads()
        scored(["h_score"], mesh=mesh, progress=lambda what, done, _: seen.append((what, done, threads())))
        assert threads() == before
    assert [found for what, done, found in seen if what == "scoring" and done] == [{1}, {2}, before]


def arguments(metric: str, num_devices: int, count: int = 2) -> tuple[Bucket, dict, dict]:
    """Of a call: two targets and three references on each device."""
    (unit,) = units([metric], [source("red", 40)], [source("green", 45)], ["plain"])
    sides = {"": (2, task("green", 45).padded(48)), "reference_": (3, task("red", 40).padded(48))}
    needed = set(METRICS[metric].needs) | {"weights"}
    needed |= {"reference_weights"} if "reference_features" in needed else set()
    rows = {
        prefix + name: np.stack([np.asarray(getattr(side, name)) * (1 + place) for place in range(num_devices * room)])
        for prefix, (room, side) in sides.items()
        for name in ("features", "weights")
        if prefix + name in needed
    } | {
        f"{prefix}labels": np.stack([np.asarray(side.labels)] * num_devices * room)
        for prefix, (room, side) in sides.items()
        if f"{prefix}labels" in needed
    }
    index = {"target": np.arange(num_devices * count) % 2, "count": np.full(num_devices, count)}
    index["seed"] = np.zeros(num_devices * count, np.uint32)
    if "reference_features" in needed:
        index["reference"] = np.arange(num_devices * count)[::-1] % 3
    assert unit.bucket is not None
    return unit.bucket, rows, index


@pytest.mark.parametrize("metric", ["h_score", "mmd"])
def test_devices_do_not_talk(metric):
    bucket, rows, index = arguments(metric, 4)
    text = compiled(bucket, rows, index, jax.devices()).as_text()
    assert "while" in text
    assert not [word for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute") if word in text]


@pytest.mark.parametrize("metric", ["gbc", "mmd"])
def test_kernels_run_under_pmap(metric):
    bucket, rows, index = arguments(metric, 2)
    kernel = jax.jit(score_units(bucket, side_by_side=False))
    over_devices = jax.tree.map(lambda leaf: leaf.reshape(2, -1, *leaf.shape[1:]), (rows, index))
    found = jax.pmap(kernel, devices=jax.devices()[:2])(*over_devices)
    for device in range(2):
        expected = kernel(*jax.tree.map(lambda leaf, device=device: leaf[device], over_devices))
        np.testing.assert_allclose(found.value[device], expected.value, rtol=1e-5)
    side_by_side = jax.jit(score_units(bucket, side_by_side=True))
    again = side_by_side(*jax.tree.map(lambda leaf: leaf[0], over_devices))
    np.testing.assert_allclose(again.value, found.value[0], rtol=1e-4)


EIGHT = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/../support"]
import jax, numpy as np
from jax.sharding import Mesh
assert len(jax.devices()) == 8
from test_score_matrix import SIZES, scored
sizes = SIZES | {"black": 41}
eight = scored(["mmd", "logme"], sizes=sizes)
one = scored(["mmd", "logme"], sizes=sizes, mesh=Mesh(np.asarray(jax.devices()[:1]), ("x",)))
np.testing.assert_allclose(eight.values, one.values, rtol=1e-5)
assert eight.timings.num_scores == 16
"""


@pytest.mark.slow
def test_eight_devices():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", EIGHT, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Memory


class Calls:
    """Stands before the calls of programs: notes how many units each has, and refuses those with too many."""

    def __init__(self, monkeypatch, *, most: float = math.inf, error: Exception | None = None) -> None:
        local = sys.modules["jaxrel.study.scoring.local"]
        self.sizes: list[int] = []
        self._call, self._most, self._error = local._call, most, error
        monkeypatch.setattr(local, "_call", self)

    def __call__(self, program, arrays, devices):
        num_units = len(arrays.places["target"])
        if num_units > self._most:
            assert self._error is not None
            raise self._error
        self.sizes.append(num_units)
        return self._call(program, arrays, devices)


def one_device() -> Mesh:
    return Mesh(np.asarray(jax.devices()[:1]), ("x",))


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")]
)
def test_calls_are_halved_where_memory_does_not_suffice(monkeypatch, error):
    expected = scored(["h_score"], ENCODERS, mesh=one_device())
    calls = Calls(monkeypatch, most=3, error=error)
    found = scored(["h_score"], ENCODERS, mesh=one_device())
    assert calls.sizes == [3, 3]
    np.testing.assert_array_equal(found.values, expected.values)


def test_one_score_too_many_is_a_status(monkeypatch, tmp_path):
    Calls(monkeypatch, most=0, error=MemoryError("no room"))
    matrix = scored(["h_score"], output=tmp_path)
    assert np.isnan(matrix.values).all()
    assert set(matrix.status.ravel()) == {"no memory for one score of this shape: no room"}
    assert (tmp_path / "records.jsonl").read_text() == ""
    monkeypatch.undo()
    assert set(scored(["h_score"], output=tmp_path).status.ravel()) == {"ok"}


def test_other_errors_are_raised(monkeypatch):
    Calls(monkeypatch, most=0, error=jax.errors.JaxRuntimeError("INTERNAL: something else"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        scored(["h_score"])


def test_budget_decides_how_many_units_a_call_has(monkeypatch):
    calls = Calls(monkeypatch)
    scored(["h_score"], ENCODERS, mesh=one_device())
    row_bytes = 48 * 6 * 4
    work = 4 * 48 * (48 + 6) * 4
    scored(["h_score"], ENCODERS, mesh=one_device(), memory_budget=work + 3 * row_bytes)
    scored(["h_score"], ENCODERS, memory_budget=1)
    assert calls.sizes == [6, 3, 3, 8, 8]  # at last one unit on each of four devices, with room for two


# Files


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_finished_scores_are_not_computed_again(tmp_path, monkeypatch):
    first = scored(["h_score", "mmd"], output=tmp_path)
    assert len(lines(tmp_path / "records.jsonl")) == 3 + 6
    calls = Calls(monkeypatch)
    again = scored(["h_score", "mmd"], output=tmp_path)
    assert calls.sizes == []
    assert again.timings.num_scores == again.timings.num_compilations == 0
    assert math.isnan(again.timings.scores_per_second)
    np.testing.assert_array_equal(first.values, again.values)
    scored(["h_score"], sizes=SIZES | {"red": 41}, output=tmp_path, mesh=one_device())
    assert len(calls.sizes) == 1
    assert len(lines(tmp_path / "records.jsonl")) == 10


def test_torn_line_is_computed_again(tmp_path):
    whole = scored(["h_score"], output=tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = scored(["h_score"], output=tmp_path)
    assert again.timings.num_scores == 1
    np.testing.assert_array_equal(whole.values, again.values)


def test_interrupt_keeps_what_is_finished(tmp_path, monkeypatch):
    def interrupt(what, done, total):
        if what == "scoring" and done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(["h_score"], ENCODERS, output=tmp_path, memory_budget=1, progress=interrupt)
    assert len(lines(tmp_path / "records.jsonl")) == 3
    expected = scored(["h_score"], ENCODERS)
    resumed = scored(["h_score"], ENCODERS, output=tmp_path)
    assert resumed.timings.num_scores == 3
    np.testing.assert_array_equal(resumed.values, expected.values)


KILLED = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/../support"]
import jax
jax.config.update("jax_num_cpu_devices", 4)
from test_score_matrix import KILLED_METRICS, ENCODERS, scored
scored(KILLED_METRICS, ENCODERS, output=sys.argv[2], memory_budget=1)
"""
KILLED_METRICS = ["h_score", "logme", "mmd"]


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(tmp_path):
    expected = scored(KILLED_METRICS, ENCODERS)
    for number, least in enumerate((1, 5, 14)):
        output = tmp_path / str(number)
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(output)]
        process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        path = output / "records.jsonl"
        while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < least):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = path.read_bytes().count(b"\n")
        resumed = scored(KILLED_METRICS, ENCODERS, output=output)
        assert resumed.timings.num_scores == 24 - done
        np.testing.assert_array_equal(resumed.values, expected.values)


def test_parquet_has_the_records(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    matrix = scored(["h_score", "mmd"], ENCODERS)
    matrix.to_parquet(tmp_path / "scores.parquet")
    assert parquet.read_table(tmp_path / "scores.parquet").to_pylist() == matrix.records()


def test_compiled_programs_are_kept_on_request(tmp_path, caplog):
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    jax.config.update("jax_compilation_cache_dir", None)
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
    )
    scored(["h_score"], compilation_cache=tmp_path)
    assert jax.config.jax_compilation_cache_dir is None  # type: ignore[attr-defined]
    kept = len(list(tmp_path.iterdir()))
    assert kept
    jax.clear_caches()
    scored(["h_score"], compilation_cache=tmp_path)
    assert hits
    jax.clear_caches()
    hits.clear()
    scored(["h_score"])
    assert not hits
    assert len(list(tmp_path.iterdir())) == kept
    jax.config.update("jax_compilation_cache_dir", before)


# Stored features


def stored(folder: Path, name: str, n: int, **options) -> FeatureArrays:
    samples = task(name, n)
    table = FeatureStore(folder).table({"data": name}, shape=samples.features.shape, shard_size=16)
    for shard in range(table.num_shards):
        table.write(shard, np.asarray(samples.features)[table.span(shard)])
    return FeatureArrays(name, {"plain": Task(table, samples.labels, weights=samples.weights, **options)})


def test_stored_features_are_scored_like_arrays(tmp_path, monkeypatch):
    tables = [stored(tmp_path, name, n) for name, n in SIZES.items()]
    with monkeypatch.context() as patch:
        patch.setattr("jaxrel.storage.features.Table.__getitem__", None)  # neither plans nor shapes read a row
        assert len({unit.bucket for unit in units(["mmd"], tables, tables, ["plain"])}) == 1
        assert len({table.fingerprint("plain") for table in tables}) == len(SIZES)
    found = scored_pairs(["mmd"], tables, tables, ["plain"])
    np.testing.assert_array_equal(found.values, scored(["mmd"]).values)
    mixed = scored_pairs(["mmd"], tables[:1], [source("green", 45)], ["plain"])
    assert mixed.values[0, 0, 0, 0] == found.values[0, 0, 0, 1]


def test_rows_used_last_are_kept_up_to_a_number_of_bytes():
    loaded = []

    def load(name: str, num_samples: int) -> Rows:
        loaded.append(name)
        return Rows(np.zeros((num_samples, 2)), None, np.ones(num_samples))

    kept = RowCache(64)  # four rows of two numbers
    for name, num_samples in [*zip("abacab", (2,) * 6, strict=True), ("large", 100), ("large", 100), ("b", 2)]:
        assert len(kept.get((name, "plain"), functools.partial(load, name, num_samples)).weights) == num_samples
    assert loaded == ["a", "b", "c", "b", "large", "b"]


def test_fingerprint_of_a_table_tells_samples_apart(tmp_path):
    tables = [stored(tmp_path, "red", 40), stored(tmp_path, "green", 40), stored(tmp_path, "red", 40, num_classes=4)]
    assert len({table.fingerprint("plain") for table in tables}) == 3
    assert stored(tmp_path, "red", 40).fingerprint("plain") == tables[0].fingerprint("plain")


# Wrong use


def test_wrong_use_is_refused_before_any_work(tmp_path, monkeypatch):
    Calls(monkeypatch, most=0, error=AssertionError("no work was to be done"))
    red, green = source("red", 40), source("green", 45)
    output = tmp_path / "none"
    for metrics, references, targets, encoders, message in (
        (["tau"], [red], [green], ["plain"], "unknown metric 'tau': there are task_relatedness"),
        (["leep"], [red], [green], ["plain"], "leep needs source_probabilities, which data sets do not have"),
        (["cross_view"], [red], [green], ["plain"], "'green' has no views of encoder 'plain'"),
        (["mmd"], [], [green], ["plain"], "no reference was passed"),
        (["mmd"], [red], [], ["plain"], "no target was passed"),
        ([], [red], [green], ["plain"], "no metric was passed"),
        (["mmd"], [red], [green], [], "no encoder was passed"),
        (["mmd", "mmd"], [red], [green], ["plain"], "metric given twice: mmd"),
        (["mmd"], [red, red], [green], ["plain"], "reference given twice: red"),
        (["mmd"], [red], [red], ["plain"], "'red' is not compared with itself"),
        (["mmd"], [red, green], [source("red", 41)], ["plain"], "two data sets are called 'red'"),
        (["mmd"], [red], [green], ["other"], "'red' has no features of encoder 'other'"),
        (["mmd"], [red], [FeatureArrays(" ", {})], ["plain"], "the name of a data set is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            scored_pairs(metrics, references, targets, encoders, output=output)
    with pytest.raises(ValueError, match="memory_budget is 0"):
        scored_pairs(["mmd"], [red], [green], ["plain"], memory_budget=0)
    assert not output.exists()


def test_a_pair_that_cannot_be_compared_does_not_keep_the_others_from_scores():
    red, wide = source("red", 40), source("wide", 40, d=7)
    bare = FeatureArrays("bare", {"plain": Task(task("red", 40).features)})
    found = scored_pairs(["mmd", "logme", "ot_nce"], [red, bare], [source("green", 45), wide, bare], ["plain"])
    told = {(record.metric, record.reference, record.target): record.status for record in found.incomplete}
    widths = "failed: features of encoder 'plain' have width 6 in {!r} and 7 in 'wide': pass those of one encoder."
    labels = "failed: {} needs {}, which 'bare' does not have: pass them, or leave out this metric."
    assert told == {
        ("mmd", "red", "wide"): widths.format("red"),
        ("mmd", "bare", "wide"): widths.format("bare"),
        ("logme", None, "bare"): labels.format("logme", "labels"),
        ("ot_nce", "red", "wide"): widths.format("red"),
        ("ot_nce", "bare", "wide"): widths.format("bare"),
        ("ot_nce", "red", "bare"): labels.format("ot_nce", "labels"),
        ("ot_nce", "bare", "green"): labels.format("ot_nce", "reference_labels"),
    }
    assert np.isfinite([record.value for record in found.entries if record.status == "ok"]).all()
    strict = Study(["plain"], [wide], [red], ["mmd"], settings=Settings(resamples=0, strict=True))
    with pytest.raises(ValueError, match="have width 6"):
        run(strict.plan())
