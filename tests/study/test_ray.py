"""Studies on a Ray cluster of two hosts of one core: the results of one process, whatever is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_study
import numpy as np
import pytest
from studies import arrays_of_encoders, finished, matrix, one_device, plain, ranking

from jaxrel import study
from jaxrel.cli import main

pytest.importorskip("ray", reason="needs jaxrel[ray]")

pytestmark = [
    pytest.mark.slow,
    # Of JAX, where Ray forks off its processes; and files that Ray leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore:.*ray:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]

SECONDS = 300  # for what takes a few on a quiet machine
FOLDERS = [str(Path(cluster_study.__file__).parent), str(Path(__file__).parents[2])]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(FOLDERS)}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, and two hosts with one each."""
    from ray.cluster_utils import Cluster

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        started.add_node(num_cpus=1, wait=False)
    started.wait_for_nodes()
    yield started
    started.shutdown()


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(cluster: Any, tmp_path: Path) -> Run:
    """Runs the study on the cluster, into the folder of the test."""

    def run_study(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, cluster_study.__file__, cluster.address, str(tmp_path), *map(str, words)]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS)

    return run_study


def check_complete(folder: Path) -> None:
    """Every score is on the disk, once, and that of one process."""
    keys = finished(folder / "records.jsonl")
    assert len(keys) == len(set(keys)) == 6
    kept = matrix(["h_score"], output=folder)
    assert kept.timings.num_scores == 0
    np.testing.assert_array_equal(kept.values, matrix(["h_score"], mesh=one_device()).values)


def test_studies_are_those_of_one_process(cluster: Any, tmp_path: Path) -> None:
    import ray

    from jaxrel.study.ray import RayExecutor

    arrays = arrays_of_encoders()
    with RayExecutor(cluster.address) as executor:
        assert executor.num_workers == 2
        values = matrix(executor=executor).values
        ranked = ranking(tmp_path / "there", executor=executor)
        board = study.score(arrays, metrics=["rankme"], output=tmp_path / "there", executor=executor)
    assert not ray.is_initialized()
    np.testing.assert_array_equal(values, matrix(mesh=one_device()).values)
    assert plain(ranked) == plain(ranking(tmp_path / "here"))
    np.testing.assert_array_equal(
        board.values, study.score(arrays, metrics=["rankme"], output=tmp_path / "here").values
    )


@pytest.mark.parametrize("harm", ["worker", "node"])
def test_lost_worker_or_host_costs_nothing(harm: str, run: Run, tmp_path: Path) -> None:
    done = run("--harm", harm, "--marker", tmp_path / "marker")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "marker").exists()
    check_complete(tmp_path)


def test_driver_that_is_killed_goes_on_from_there(run: Run, tmp_path: Path) -> None:
    assert run("--kill", 0).returncode == -9
    assert 1 <= len(finished(tmp_path / "records.jsonl")) < 6
    done = run()
    assert done.returncode == 0, done.stderr
    check_complete(tmp_path)


def test_part_that_always_kills_its_worker_is_named(run: Run, tmp_path: Path) -> None:
    done = run("--harm", "worker")
    assert done.returncode == 1
    assert "RayExecutor lost 3 of the parts (h_score, squared on" in done.stderr
    assert "Finished work is kept" in done.stderr
    assert len(finished(tmp_path / "records.jsonl")) == 3
    assert run().returncode == 0
    check_complete(tmp_path)


def test_head_that_is_gone_is_said(cluster: Any, run: Run, tmp_path: Path) -> None:
    head = [process.process.pid for kind in cluster.head_node.all_processes.values() for process in kind]
    start = time.monotonic()
    done = run("--harm", "wait", "--kill", *head)
    assert time.monotonic() - start < 120
    assert done.returncode == 1
    assert "the head of the Ray cluster" in done.stderr
    assert "squared on" in done.stderr
    assert len(finished(tmp_path / "records.jsonl")) >= 1
    matrix(["h_score"], output=tmp_path, mesh=one_device())
    check_complete(tmp_path)


def test_commands_run_on_a_cluster(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (rng.integers(0, 50, (60, 8, 8, 1)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    np.savez("mine.npz", images=images, labels=labels)
    found = {}
    for where in (["--ray", cluster.address], []):
        folder = "there" if where else "here"
        assert main(["extract", "--data", "mine.npz", "--encoder", "pixels", "--json", "--output", folder, *where]) == 0
        (record,) = json.loads(capsys.readouterr().out)["tables"]
        rank = ["rank", "--target", "mine.npz", "--encoder", "pixels", "--resamples", "20", "--no-plot"]
        assert main([*rank, "--output", f"rank-{folder}", *where]) == 0
        capsys.readouterr()
        (line,) = Path(f"rank-{folder}/records.jsonl").read_text().splitlines()
        score = json.loads(line)
        found[folder] = record["rows"], score["key"], score["numbers"]["value"]
    assert found["there"] == found["here"]
