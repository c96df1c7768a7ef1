"""Studies on executors: what they find is what one process finds, and what an executor loses is named."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_zoo
import jax
import numpy as np
import pytest
from studies import ENCODERS, METRICS, arrays_of_encoders, finished, matrix, one_device, plain, ranking, scored, sources

from jaxrel import Task, study
from jaxrel.cli import main
from jaxrel.storage.features import FeatureStore
from jaxrel.study import EngineError, FeatureArrays, Settings, engine
from jaxrel.study.engine import Part, num_workers, run_parts
from jaxrel.study.scoring import remote


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


# Parts


def square(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number**2


def kill_own_process(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def parts(function: Any, count: int) -> Iterator[Part[int]]:
    return (Part(f"part {number}", function, (number,)) for number in range(count))


class Immediate(Executor):
    """Makes a call when it is given it."""

    num_workers = 3
    calls = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_what_is_no_executor_is_refused():
    with pytest.raises(TypeError, match="executor is a int: pass an Executor"):
        matrix(executor=2)


def test_every_part_is_made_once(threads: Executor) -> None:
    found = {part.name: value for part, value in run_parts(threads, parts(square, 3))}
    assert found == {"part 0": 0, "part 1": 1, "part 2": 4}


def test_parts_are_taken_as_there_is_room() -> None:
    taken: list[int] = []

    def noted() -> Iterator[Part[int]]:
        for part in parts(abs, 100):
            taken.append(part.arguments[0])
            yield part

    results = run_parts(Immediate(), noted())
    next(results)
    assert len(taken) == 2 * Immediate.num_workers
    assert len(list(results)) == 99
    assert num_workers(Executor()) > 1


def test_error_of_a_part_is_raised_as_it_is(threads: Executor) -> None:
    with pytest.raises(ValueError, match="three") as told:
        list(run_parts(threads, parts(square, 10)))
    assert any("in square" in note for note in told.value.__notes__)


def test_what_is_left_is_cancelled() -> None:
    futures: list[Future[Any]] = []

    class Never(Executor):
        num_workers = 2

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            futures.append(Future())
            if len(futures) == 1:
                futures[0].set_result(fn(*args))
            return futures[-1]

    results = run_parts(Never(), parts(square, 100))
    next(results)
    results.close()
    assert all(future.cancelled() for future in futures[1:])


def test_lost_parts_are_named(processes: Executor) -> None:
    with pytest.raises(
        EngineError, match=r"ProcessPoolExecutor lost .*part 3.*BrokenProcessPool.*Finished work is kept"
    ):
        list(run_parts(processes, parts(kill_own_process, 40)))


def test_executor_that_is_shut_down_is_an_engine_error() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(EngineError, match=r"part 0.*after shutdown"):
        list(run_parts(executor, parts(square, 3)))


def test_other_versions_are_refused(threads: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    call = engine._call
    monkeypatch.setattr(engine, "_call", lambda _, *given: call("0.0.0", *given))
    with pytest.raises(RuntimeError, match=r"a worker has jaxrel .*, this process 0\.0\.0: install the same version"):
        list(run_parts(threads, parts(square, 2)))


def wide_type() -> str:
    return str(jax.numpy.result_type(float))


@pytest.mark.usefixtures("x64")
def test_workers_have_the_64_bit_setting_of_the_caller(threads: Executor) -> None:
    ((_, found),) = run_parts(threads, [Part("type", wide_type, ())])
    assert found == "float64"


# What travels


@pytest.mark.usefixtures("x64")
def test_tasks_arrive_with_all_their_digits() -> None:
    task = Task([[1 / 3], [2 / 3]], ["a", "b"], weights=[1, 1 / 7])
    with jax.enable_x64(False):
        found = pickle.loads(pickle.dumps(task))
    assert found.dtype == np.float64
    assert found.class_names == ("a", "b")
    np.testing.assert_array_equal(found.features, task.features)
    np.testing.assert_array_equal(found.weights, task.weights)


def test_only_the_arrays_of_the_encoder_travel() -> None:
    views = (np.zeros((30, 4)), np.zeros((30, 4)))
    task = Task(np.ones((30, 4)), np.arange(30) % 2)
    source = FeatureArrays("mine", {"one": task, "other": task}, views={"one": views, "other": views})
    sent = source.restricted_to(["one"])
    assert sent.fingerprint("one") == source.fingerprint("one")
    sent.check("one", views=True, held_out=False)
    with pytest.raises(ValueError, match="it has one"):
        sent.check("other", views=False, held_out=False)
    source.check("other", views=True, held_out=False)


def test_copies_of_a_named_source_load_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_zoo.install(monkeypatch.setattr)
    loaded: list[str] = []
    load = fake_zoo.load_data

    def counted(name: str, **options: Any) -> Any:
        loaded.append(name)
        return load(name, **options)

    monkeypatch.setattr("jaxrel.data.load", counted)
    settings = Settings(samples=20, held_out=0)
    source = study.named_sources(["circles"], settings=settings, store=FeatureStore(tmp_path))["circles"]
    sent = pickle.dumps(source)
    first, second = (pickle.loads(sent).features("wide", study.silent) for _ in range(2))
    assert loaded == ["circles"]
    np.testing.assert_array_equal(first.train.features, second.train.features)
    np.testing.assert_array_equal(first.train.features, source.features("wide", study.silent).train.features)


# Studies


def test_matrix_is_that_of_one_process(processes: Executor, tmp_path: Path) -> None:
    expected = matrix(mesh=one_device())
    found = matrix(executor=processes, output=tmp_path)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.status, expected.status)
    assert found.timings.num_scores == len(finished(tmp_path / "records.jsonl")) == expected.timings.num_scores
    assert matrix(executor=processes, output=tmp_path).timings.num_scores == 0


def test_rows_of_a_feature_store_are_read_by_workers(threads: Executor, tmp_path: Path) -> None:
    stored = []
    for source in sources():
        tables = {}
        for name in ENCODERS:
            rows = np.asarray(source.features(name, study.silent).train.features)
            key = {"data": source.name, "encoder": name}
            tables[name] = FeatureStore(tmp_path).table(key, shape=rows.shape, shard_size=len(rows))
            tables[name].write(0, rows)
        labels = source.features(ENCODERS[0], study.silent).train.labels
        stored.append(FeatureArrays(source.name, {name: Task(table, labels) for name, table in tables.items()}))
    values = [scored(METRICS, stored, stored, ENCODERS, executor=one).values for one in (None, threads)]
    np.testing.assert_array_equal(*values)


@pytest.mark.parametrize(("workers", "most", "expected"), [(1, 256, 3), (100, 256, 6), (1, 1, 6)])
def test_parts_are_smaller_where_there_are_many_workers(
    workers: int, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxrel.study.scoring.remote._MOST_UNITS", most)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    remote._programs.cache_clear()
    executor = Immediate()
    executor.num_workers = workers
    found = matrix(["h_score"], executor=executor)
    assert executor.calls == expected
    assert found.timings.num_compilations == 1  # for all parts of a bucket
    np.testing.assert_array_equal(found.values, matrix(["h_score"], mesh=one_device()).values)


def test_mesh_and_executor_exclude_each_other(threads: Executor) -> None:
    with pytest.raises(ValueError, match="pass only one of them"):
        matrix(executor=threads, mesh=one_device())


def test_ranking_is_that_of_one_process(threads: Executor, tmp_path: Path) -> None:
    expected = ranking(tmp_path / "here")
    assert plain(ranking(tmp_path / "there", executor=threads)) == plain(expected)
    assert set(finished(tmp_path / "there" / "records.jsonl")) == set(finished(tmp_path / "here" / "records.jsonl"))


def test_encoder_that_fails_is_a_failed_row(threads: Executor, tmp_path: Path) -> None:
    class Broken(FeatureArrays):
        def features(self, encoder: str, progress: Any) -> Any:
            if encoder == "plain":
                raise RuntimeError("no memory card")
            return super().features(encoder, progress)

    task = sources()[0].features("plain", study.silent).train
    broken = Broken("broken", dict.fromkeys(ENCODERS, task))
    results = []
    for name, executor in (("here", None), ("there", threads)):
        results.append(study.rank([broken], ENCODERS, output=tmp_path / name, executor=executor))
        assert [score.status for score in results[-1].incomplete] == ["failed: RuntimeError: no memory card"]
        strict = Settings(strict=True)
        with pytest.raises(RuntimeError, match="no memory card"):
            study.rank([broken], ENCODERS, output=tmp_path / name, executor=executor, settings=strict)
    assert plain(results[0]) == plain(results[1])


def test_scoreboard_is_that_of_one_process(processes: Executor, tmp_path: Path) -> None:
    arrays = arrays_of_encoders()
    arrays["another target"] = {"features": arrays["plain"]["features"], "labels": 1 - arrays["plain"]["labels"] % 2}
    here, there = (
        study.score(arrays, metrics=["h_score", "rankme"], output=tmp_path / name, executor=executor)
        for name, executor in (("here", None), ("there", processes))
    )
    np.testing.assert_array_equal(here.values, there.values)
    assert here.messages == there.messages
    assert [encoder for encoder, _ in here.failed] == ["another target"] * 2


@pytest.mark.usefixtures("x64")
def test_float64_scores_are_those_of_one_process(processes: Executor) -> None:
    expected = matrix(["h_score"], mesh=one_device())
    np.testing.assert_array_equal(matrix(["h_score"], executor=processes).values, expected.values)


# Merged logs


def test_concatenated_logs_of_array_jobs_leave_nothing_to_compute(tmp_path: Path) -> None:
    for name in ENCODERS:
        matrix(encoders=(name,), output=tmp_path / name)
        ranking(tmp_path / name, encoders=(name,))
    merged = b"".join((tmp_path / name / "records.jsonl").read_bytes() for name in ENCODERS)
    (tmp_path / "records.jsonl").write_bytes(merged)
    assert matrix(output=tmp_path).timings.num_scores == 0
    seen = (tmp_path / "records.jsonl").read_bytes()
    ranked = ranking(tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == seen
    assert not ranked.incomplete


def test_logs_beside_each_other_are_one(tmp_path: Path) -> None:
    for number, name in enumerate(ENCODERS):
        matrix(encoders=(name,), output=tmp_path)
        (tmp_path / "records.jsonl").rename(tmp_path / f"records-{number}.jsonl")
    assert matrix(output=tmp_path).timings.num_scores == 0


def test_ray_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["extract", "--data", "digits", "--encoder", "pixels", "--ray", "local", "--json"]
    monkeypatch.setattr("jaxrel.data.load", lambda *_, **__: fake_zoo.load_data("circles", split="train", limit=3))
    assert main(words) == 1
    assert "pip install 'jaxrel[ray]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_matrix_on_dask_is_that_of_one_process(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs Dask's distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = matrix(executor=client.get_executor(retries=3), output=tmp_path)
    np.testing.assert_array_equal(found.values, matrix(mesh=one_device()).values)
