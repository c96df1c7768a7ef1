"""Several processes, on one machine or on many hosts, that share work; where one is lost, the others end in time.

:func:`connect` has ``jax.distributed`` find the processes (SLURM, GKE, TPU pods, MPI) and shuts it down again as soon
as they know each other, for two reasons. Its client aborts the process, with a message about gRPC, the moment the
connection to process 0 breaks. And without it every process on CPUs and GPUs has devices of its own only, so that no
computation can wait for another process.

What stays is one connection of each process to process 0. A process that dies closes it at once; one whose host is
gone, or that is stopped, stays silent on it.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import json
import logging
import math
import os
import queue
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

HEARTBEAT_SECONDS = 30.0
START_SECONDS = 300
"""How long a process waits for the others to start."""
LOST_STATUS = 1
"""Exit status of a process that ends because another was lost."""

_BEATS = 10  # signs of life within the time after which silence counts as a loss
_CHUNK = 1 << 20  # bytes; each has the whole time limit to itself
_LONGEST_HELLO = 4096  # bytes; more is read only of a process that has shown the token
_connections = itertools.count()

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Kind(enum.StrEnum):
    """What a message says."""

    HELLO = "hello"
    RECORDS = "records"
    LOST = "lost"
    FINISHED = "finished"
    GOODBYE = "goodbye"


class HostLostError(RuntimeError):
    """Another process of the same work was killed, failed or stopped answering."""


class Hosts:
    """This process among those that share the work; alone by default.

    As a context manager it tells the others at the end that this process has finished, or, after an exception, leaves
    them to find it lost.

    Attributes:
        index: number of this process, from 0.
        count: number of processes.
        heartbeat_seconds: within this time of the loss of a process all others have ended: one half for silence to
            count as a loss, the other half for the piece of work at hand. A killed process is not silent but noticed
            at once.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        *,
        links: Sequence[Link] = (),
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """Take over connections that are there already; :func:`connect` makes them."""
        self.index = index
        self.count = count
        self.heartbeat_seconds = heartbeat_seconds
        self._links = tuple(links)
        self._loss = ""
        self._first_loss = threading.Lock()
        self._raised = threading.Event()
        self._finished = threading.Event()
        for link in self._links:
            link.limit_silence(heartbeat_seconds / 2)
            threading.Thread(target=self._listen, args=(link,), daemon=True).start()
        if self._links:
            threading.Thread(target=self._beat, daemon=True).start()

    def __enter__(self) -> Self:
        """Work beside the others."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish, or break off after an exception."""
        if error is None:
            self.finish()
        else:
            self._finished.set()
            for link in self._links:
                link.close()

    def share(self, items: Sequence[T]) -> list[T]:
        """The contiguous part of the items that is this process's; sizes differ by one at most.

        Every process has to pass the same items: where they depend on what each finds on its disk, agree on them
        by :meth:`gather` first.
        """
        start, stop = (len(items) * place // self.count for place in (self.index, self.index + 1))
        return list(items[start:stop])

    def check(self) -> None:
        """Raise where another process is lost; costs nothing, called between pieces of work.

        Raises:
            HostLostError: which process was lost, and how to go on. Where this is not called within half of
                `heartbeat_seconds` of the loss, the process writes the same to stderr and exits with status 1.
        """
        if self._loss:
            self._raised.set()
            raise HostLostError(self._loss)

    def gather(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records of all processes, in the order of the processes; every process has to call it.

        Args:
            records: what JSON can hold; as it comes back, with lists in place of tuples.

        Returns:
            The same records in every process.

        Raises:
            ValueError: a number is not finite.
            HostLostError: a process was lost before it passed its records.
        """
        own = json.loads(json.dumps(list(records), allow_nan=False))
        if self.index == 0:
            others = [self._receive(link) for link in self._links]
            everything = [*own, *itertools.chain.from_iterable(others)]
            for link in self._links:
                link.send(Kind.RECORDS, everything)
            return everything
        (link,) = self._links
        link.send(Kind.RECORDS, own)
        return self._receive(link)

    def finish(self) -> None:
        """Tell the others that this process needs them no more, nor they it; harmless to repeat."""
        if self._finished.is_set():
            return
        self._finished.set()
        for link in self._links:
            link.send(Kind.FINISHED)
        deadline = time.monotonic() + self.heartbeat_seconds / 2
        for link in self._links:
            link.left.wait(max(deadline - time.monotonic(), 0))
            link.close()

    def _receive(self, link: Link) -> list[dict[str, Any]]:
        while True:
            left = link.left.is_set()
            self.check()
            if left and link.inbox.empty():
                raise HostLostError(f"{link.peer} finished without passing on its records.")
            with contextlib.suppress(queue.Empty):
                return link.inbox.get(timeout=0.05)

    def _listen(self, link: Link) -> None:
        """Take in what a process sends, to its end."""
        for kind, content in link.messages():
            match kind:
                case Kind.RECORDS:
                    link.inbox.put(content)
                case Kind.LOST:
                    self._lose(content)
                case Kind.FINISHED:
                    link.send(Kind.GOODBYE)
                    link.left.set()
                case Kind.GOODBYE:
                    link.left.set()
        link.close()
        if not link.left.is_set():
            self._lose(link.peer)
            link.left.set()

    def _lose(self, peer: str) -> None:
        """Tell all processes of the loss; this one ends if nobody calls `check` in time."""
        with self._first_loss:
            if self._loss or self._finished.is_set():
                return
            if self.index == 0:
                for link in self._links:
                    if link.peer != peer:
                        link.send(Kind.LOST, peer)
            self._loss = (
                f"{peer} of {self.count} stopped answering: it was killed, it failed (its own output says why), or its "
                "host is gone. What is finished is kept: start the processes again to go on from there."
            )
        threading.Thread(target=self._end_unless_raised, daemon=True).start()

    def _end_unless_raised(self) -> None:
        if self._raised.wait(self.heartbeat_seconds / 2) or self._finished.is_set():
            return
        print(f"jaxrel: error: {self._loss}", file=sys.stderr, flush=True)
        os._exit(LOST_STATUS)

    def _beat(self) -> None:
        while not self._finished.wait(self.heartbeat_seconds / 2 / _BEATS):
            for link in self._links:
                link.beat()


class Link:
    """The connection to another process: lines of JSON, empty ones as signs of life."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        """Take over a connection, on which nothing was exchanged yet."""
        self.peer = address
        self.inbox: queue.SimpleQueue[list[dict[str, Any]]] = queue.SimpleQueue()
        # The peer needs not be waited for: it has finished, knows that this process has, or is lost.
        self.left = threading.Event()
        self._connection = connection
        self._connection.settimeout(START_SECONDS)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = connection.makefile("rb")
        self._longest = _LONGEST_HELLO
        self._sending = threading.Lock()

    def introduce(self, index: int, token: str) -> None:
        """Send who this process is; the token tells it from a stranger."""
        self.send(Kind.HELLO, [index, f"process {index} ({socket.gethostname()}, pid {os.getpid()})", token])

    def meet(self, token: str) -> int:
        """Wait for the other end to introduce itself; returns its number, ValueError for a stranger."""
        kind, (index, name, its_token) = next(self.messages(), ("", (0, "", "")))
        if kind != Kind.HELLO or its_token != token:
            raise ValueError(f"no process introduced itself on the connection from {self.peer}.")
        self.peer, self._longest = name, -1
        return int(index)

    def limit_silence(self, seconds: float) -> None:
        """Take silence of so many seconds for the end."""
        self._connection.settimeout(seconds)

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What arrives, until the connection breaks, is silent for too long or brings something else."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            while (line := self._lines.readline(self._longest)).endswith(b"\n"):
                if line.strip():
                    kind, content = json.loads(line)
                    yield kind, content

    def send(self, kind: str, content: Any = None) -> None:
        """Send a message; what goes wrong shows as the end of `messages`."""
        self._write(json.dumps([kind, content]).encode() + b"\n")

    def beat(self) -> None:
        """Give a sign of life."""
        self._write(b"\n")

    def close(self) -> None:
        """Break the connection; whoever reads from it gets to the end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._connection.close()

    def _write(self, line: bytes) -> None:
        try:
            with self._sending:
                for start in range(0, len(line), _CHUNK):
                    self._connection.sendall(line[start : start + _CHUNK])
        except OSError:
            self.close()


def connect(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> Hosts:
    """Find the other processes; every one calls this, before JAX computes anything.

    Args:
        coordinator: HOST:PORT of process 0, as the others reach it; the port has to be free. The three are passed
            together, or the environment has them as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or
            ``jax.distributed`` finds them by itself (SLURM, GKE, TPU pods, MPI).
        num_processes: number of processes.
        process_id: number of this process, from 0.
        heartbeat_seconds: within this time of the loss of a process all others have ended, see :class:`Hosts`.

    Returns:
        This process among the others. ``jax.distributed`` is shut down again, unless it ran before.

    Raises:
        ValueError: the arguments are given partly or out of range, or nothing is given and nothing found.
        HostLostError: a process found the others, but not the way to process 0. Where one does not come, or is lost
            before all know each other, JAX ends the others with a message of its own.
    """
    import jax

    if not heartbeat_seconds > 0:
        raise ValueError(f"heartbeat_seconds is {heartbeat_seconds}: pass a positive number, such as 30.")
    ran_before = jax.distributed.is_initialized()
    if not ran_before:
        _initialise(coordinator, num_processes, process_id, heartbeat_seconds)
    try:
        index, count, links = _links()
    except OSError as error:
        raise HostLostError(
            f"the processes found each other, but one of them could not connect to process 0: {error}. Process 0 "
            "listens on a port of its own; are ports between the hosts open?"
        ) from error
    hosts = Hosts(index, count, links=links, heartbeat_seconds=heartbeat_seconds)
    if not ran_before:
        jax.distributed.shutdown()
    return hosts


def _initialise(
    coordinator: str | None, num_processes: int | None, process_id: int | None, heartbeat_seconds: float
) -> None:
    import jax

    num_processes = _from_environment("JAX_NUM_PROCESSES") if num_processes is None else num_processes
    process_id = _from_environment("JAX_PROCESS_ID") if process_id is None else process_id
    if (coordinator, num_processes, process_id) != (None, None, None):  # else JAX looks around by itself
        coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(f"{' and '.join(missing)} is missing: pass {', '.join(given)} together, or none of them.")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"process_id is {process_id} of {num_processes}: pass a number from 0 to num_processes - 1.")
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"coordinator is {coordinator!r}: pass HOST:PORT of process 0, such as 10.0.0.1:7801.")
    where = f" at {coordinator}" if coordinator else ""
    _log.info("waiting%s for all processes; those that do not come in %d s are given up", where, START_SECONDS)
    patience = math.ceil(max(heartbeat_seconds, 10))  # of a service that is needed for seconds
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=patience,
            shutdown_timeout_seconds=patience,
        )
    except ValueError as error:
        raise ValueError(f"no cluster was found: pass {', '.join(given)}. ({error})") from None


def _from_environment(name: str) -> int | None:
    value = os.environ.get(name)
    if value is None or value.isdecimal():
        return None if value is None else int(value)
    raise ValueError(f"{name} is {value!r} in the environment: set it to a number.")


def _links() -> tuple[int, int, list[Link]]:
    """The number of this process, that of all, and the connections to the others that process 0 tells of."""
    from jax._src import distributed  # the public module offers neither the address nor the key-value store

    state = distributed.global_state
    client: Any = state.client
    key = f"jaxrel/hosts/{next(_connections)}"
    if state.process_id > 0:
        port, token = json.loads(client.blocking_key_value_get(key, START_SECONDS * 1000))
        host = str(state.coordinator_address).rpartition(":")[0].strip("[]")
        link = Link(socket.create_connection((host, port), timeout=START_SECONDS), f"{host}:{port}")
        link.introduce(state.process_id, token)
        link.meet(token)
        return state.process_id, state.num_processes, [link]
    with _listening(str(state.coordinator_address).rpartition(":")[0].strip("[]")) as server:
        server.settimeout(START_SECONDS)
        token = secrets.token_hex()
        client.key_value_set(key, json.dumps([server.getsockname()[1], token]))
        links: dict[int, Link] = {}
        while len(links) < state.num_processes - 1:
            connection, address = server.accept()
            link = Link(connection, address[0])
            try:
                links[link.meet(token)] = link
            except (ValueError, TypeError):
                _log.warning("a stranger at %s is turned away", link.peer)
                link.close()
    in_order = [links[process] for process in sorted(links)]
    for link in in_order:  # not before all are there, as from here on silence is a loss
        link.introduce(state.process_id, token)
    return state.process_id, state.num_processes, in_order


def _listening(host: str) -> socket.socket:
    """A server on the interface by which the others reach process 0, and on no other one where it is known."""
    with contextlib.suppress(OSError):
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    both = socket.has_dualstack_ipv6()  # its name is that of a gateway
    return socket.create_server(("", 0), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
