"""Several processes: shares, messages between them, the same results as one, and what the loss of one leaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_zoo
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_ranking import RANK, without_seconds

from jaxrel import hosts
from jaxrel.cli import main
from jaxrel.hosts import HostLostError, Hosts, Link, connect

LIMIT_SECONDS = 240  # for what ends in seconds on a machine with nothing else to do


# The share of a process


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_contiguous_balanced_and_complete(size: int, count: int) -> None:
    items = list(range(size))
    shares = [Hosts(index, count).share(items) for index in range(count)]
    assert list(itertools.chain(*shares)) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# One process


def test_one_process_gathers_its_own_records_as_json_has_them() -> None:
    with Hosts() as alone:
        alone.check()
        assert alone.gather([{"pair": (1, 2)}, {"pair": None}]) == [{"pair": [1, 2]}, {"pair": None}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "a:1"}, "num_processes and process_id is missing"),
        ({"num_processes": 2, "process_id": 0}, "coordinator is missing: pass coordinator, num_processes, process_id"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "process_id is 2 of 2"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "coordinator is 'a': pass HOST:PORT"),
        ({"heartbeat_seconds": 0}, "heartbeat_seconds is 0"),
    ],
)
def test_connect_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        connect(**arguments)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "coordinator and process_id is missing"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_PROCESS_ID": "0"}, "num_processes is missing"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two' in the environment"),
    ],
)
def test_connect_reads_the_environment(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        connect()


@pytest.mark.parametrize("words", [["--coordinator", "a:1"], ["--process", "0"], ["--processes", "2"]])
def test_command_line_refuses_processes_that_are_not_distributed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RANK, *words]) == 2
    assert "add --distributed" in capsys.readouterr().err


# Messages, between threads that play the processes


class Exits:
    """What `os._exit` was called with, in place of the end of the tests."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.called = threading.Event()

    def __call__(self, status: int) -> None:
        self.statuses.append(status)
        self.called.set()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> Exits:
    recorded = Exits()
    monkeypatch.setattr(hosts.os, "_exit", recorded)
    return recorded


Star = Callable[..., list[Hosts]]


@pytest.fixture
def star(exits: Exits) -> Iterator[Star]:
    """Makes processes that are connected to the first."""
    made: list[Hosts] = []

    def connected(count: int, *, heartbeat_seconds: float = 20) -> list[Hosts]:
        ends = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            for index in range(1, count):
                near, far = Link(socket.create_connection(server.getsockname()), "?"), Link(server.accept()[0], "?")
                near.introduce(index, "token")
                assert far.meet("token") == index
                far.introduce(0, "token")
                near.meet("token")
                ends.append((near, far))
        made.append(Hosts(0, count, links=[far for _, far in ends], heartbeat_seconds=heartbeat_seconds))
        made.extend(
            Hosts(index, count, links=[near], heartbeat_seconds=heartbeat_seconds)
            for index, (near, _) in enumerate(ends, start=1)
        )
        return made

    yield connected
    with ThreadPoolExecutor() as pool:
        list(pool.map(Hosts.finish, made))


def gathered(processes: list[Hosts], records: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(Hosts.gather, processes, records))


def broken_off(process: Hosts) -> None:
    """The connections of this process end without a word, as those of a killed one do."""
    with contextlib.suppress(KeyboardInterrupt), process:
        raise KeyboardInterrupt


def loss(process: Hosts, *, seconds: float) -> str:
    """The message of the loss that a process notices within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            process.check()
        except HostLostError as error:
            return str(error)
        time.sleep(0.01)
    pytest.fail(f"no loss noticed in {seconds} s")


def test_records_come_back_in_the_order_of_the_processes(star: Star, exits: Exits) -> None:
    records = [[{"process": index, "number": number} for number in range(index + 1)] for index in range(3)]
    everything = list(itertools.chain(*records))
    processes = star(3)
    for _ in range(2):  # as often as one likes
        assert gathered(processes, records) == [everything] * 3


def test_large_records_arrive_whole(star: Star) -> None:
    records = [[{"text": "x" * 5_000_000}], [{"text": "y" * 5_000_000}]]
    assert gathered(star(2), records) == [[*records[0], *records[1]]] * 2


def test_numbers_that_json_lacks_are_refused(star: Star) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        star(2)[1].gather([{"loss": float("nan")}])


@pytest.mark.parametrize("lost", [0, 2])
def test_broken_connection_is_a_loss_at_once_to_all(lost: int, star: Star) -> None:
    processes = star(3)
    broken_off(processes[lost])
    for index in {0, 1, 2} - {lost}:
        message = loss(processes[index], seconds=5)
        assert f"process {lost} (" in message
        assert "of 3 stopped answering" in message
        assert "What is finished is kept: start the processes again" in message


def test_silence_is_a_loss(star: Star, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = star(2, heartbeat_seconds=3)
    time.sleep(2)
    for process in processes:
        process.check()  # while both give signs of life
    monkeypatch.setattr(Link, "beat", lambda link: None)
    start = time.monotonic()
    assert "process 1 (" in loss(processes[0], seconds=5)
    assert time.monotonic() - start < 3


def test_gather_does_not_wait_for_the_lost(star: Star) -> None:
    processes = star(3)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(process.gather, []) for process in processes[:2]]
        time.sleep(0.2)
        broken_off(processes[2])
        for future in waiting:
            with pytest.raises(HostLostError, match=r"process 2 \("):
                future.result(timeout=5)


def test_process_that_never_checks_is_ended(star: Star, exits: Exits, capsys: pytest.CaptureFixture[str]) -> None:
    _, other = star(2, heartbeat_seconds=2)
    start = time.monotonic()
    broken_off(other)
    assert exits.called.wait(5)
    assert time.monotonic() - start < 2
    assert exits.statuses == [1]
    assert "jaxrel: error: process 1 (" in capsys.readouterr().err


def test_process_that_raised_is_left_to_its_caller(star: Star, exits: Exits) -> None:
    first, other = star(2, heartbeat_seconds=2)
    broken_off(other)
    loss(first, seconds=5)
    assert not exits.called.wait(1.5)


def test_exception_in_one_process_is_a_loss_to_the_others(star: Star) -> None:
    first, second = star(2)
    with pytest.raises(OSError, match="disk full"), second:
        raise OSError("disk full")
    assert "it failed (its own output says why)" in loss(first, seconds=5)


def test_finished_processes_are_not_missed(star: Star, exits: Exits) -> None:
    first, second, third = star(3, heartbeat_seconds=2)
    with second, third:
        pass
    time.sleep(1.5)  # of silence
    first.check()
    with pytest.raises(HostLostError, match=r"process 1 \(.*finished without passing on its records"):
        first.gather([])
    first.finish()
    assert exits.statuses == []


def test_stranger_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        greetings = (b"GET / HTTP/1.1\r\n", b'["hello", [1, "process 1", "guess"]]\n', b"[]\n", b"")
        for greeting in (*greetings, b"[" * 4_000 + b"\n", b" " * 200_000 + b"\n"):
            with socket.create_connection(server.getsockname()) as stranger:
                link = Link(server.accept()[0], "stranger")
                with contextlib.suppress(ConnectionError):  # turned away before it has said everything
                    stranger.sendall(greeting)
                    stranger.shutdown(socket.SHUT_WR)
                with pytest.raises((ValueError, TypeError)):
                    link.meet("token")
                link.close()


# Processes


class Job:
    """`jaxrel rank --distributed` on the made-up zoo, every process at once."""

    def __init__(self, folder: Path, count: int, *, seconds: float = 0, heartbeat: float = 90, **more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        self.folder = folder
        environment = fake_zoo.SUBPROCESS | {
            "JAX_PLATFORMS": "cpu",
            "JAXREL_CACHE": str(folder / "cache"),
            "FAKE_SECONDS": str(seconds),
            **more,
        }
        options = ["--distributed", "--coordinator", coordinator, "--processes", str(count)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, fake_zoo.__file__, *RANK, "--output", str(folder / "out")]
                + ([*options, "--process", str(index), "--heartbeat", str(heartbeat)] if count > 1 else []),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(count)
        ]

    def ends(self) -> list[tuple[int, str, str]]:
        """Exit status, stdout and stderr of each process."""
        ends = []
        for process in self.processes:
            out, error = process.communicate(timeout=LIMIT_SECONDS)
            ends.append((process.returncode, out, error))
        return ends

    def results(self) -> Any:
        """The tables, after all processes ended well."""
        for status, _, error in self.ends():
            assert status == 0, error
        return without_seconds(json.loads((self.folder / "out" / "results.json").read_text()))

    def finished(self, index: int) -> int:
        log = self.folder / "out" / f"results-{index}.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def start(name: str, count: int, **options: Any) -> Job:
        jobs.append(Job(tmp_path / name, count, **options))
        return jobs[-1]

    yield start
    for started in jobs:
        started.kill()


def test_two_processes_rank_as_one(job: Callable[..., Job]) -> None:
    both, one = job("both", 2), job("one", 1)
    assert both.results() == one.results()
    assert [both.finished(index) for index in range(2)] == [3, 3]


def test_without_a_cluster_there_is_one_message() -> None:
    clusters = ("SLURM", "OMPI", "TPU", "KUBERNETES", "MEGASCALE", "JAX_COORDINATOR")
    environment = {name: value for name, value in fake_zoo.SUBPROCESS.items() if not name.startswith(clusters)}
    command = [sys.executable, fake_zoo.__file__, *RANK, "--distributed"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 2
    assert "no cluster was found: pass coordinator, num_processes, process_id" in done.stderr


@pytest.mark.slow
def test_real_scores_of_four_processes_are_those_of_one(job: Callable[..., Job], tmp_path: Path) -> None:
    """The real method, whose last bits must not depend on the process."""
    real = {"REAL_METHOD": "1", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"), "heartbeat": 60}
    one = job("one", 1, **real).results()
    four = job("four", 4, **real)
    assert four.results() == one
    assert [four.finished(index) for index in range(4)] == [1, 2, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
def test_loss_ends_the_others_and_a_restart_goes_on(killed: int, kind: signal.Signals, job: Callable[..., Job]) -> None:
    heartbeat = 4.0
    broken = job("broken", 3, seconds=1, heartbeat=heartbeat)
    end = time.monotonic() + LIMIT_SECONDS
    while min(broken.finished(index) for index in range(3)) < 1:
        assert time.monotonic() < end
        assert all(process.poll() is None for process in broken.processes)
        time.sleep(0.02)
    os.kill(broken.processes[killed].pid, kind)
    start = time.monotonic()
    for index in {0, 1, 2} - {killed}:
        _, error = broken.processes[index].communicate(timeout=LIMIT_SECONDS)
        assert time.monotonic() - start < heartbeat + 10  # on a busy machine too
        assert broken.processes[index].returncode == 1
        assert f"jaxrel: error: process {killed} (" in error
        assert "of 3 stopped answering" in error
    broken.kill()
    kept = sum(broken.finished(index) for index in range(3))
    assert 3 <= kept < 6
    again, whole = Job(broken.folder, 2), job("whole", 1)
    ((_, _, told), _) = again.ends()
    assert f"{kept} of 6 scores are in" in told
    assert again.results() == whole.results()
