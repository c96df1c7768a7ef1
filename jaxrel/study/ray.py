"""Ray as an executor: `pip install 'jaxrel[ray]'`."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, InvalidStateError, wait
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

__all__ = ["RayExecutor"]

# With Ray's defaults, a host that disappears silently is noticed after seven minutes.
_SETTINGS = {
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
_NEEDS: dict[str, dict[str, Any]] = {
    "GPU": {"num_gpus": 1},
    "TPU": {"resources": {"TPU": 1}},
    "CPU": {"num_cpus": 1},
}
_RETRIES = 3
_LOOK_SECONDS, _COUNT_SECONDS, _PATIENCE_SECONDS = 1.0, 30.0, 10.0

T = TypeVar("T")


class RayExecutor(Executor):
    """Calls as tasks on a Ray cluster: one GPU, one TPU chip or one core each, whichever the cluster has.

        with RayExecutor("auto") as executor:
            ranking = rank(targets, encoders, output="results", executor=executor)

    A call whose worker or host is lost is retried elsewhere, at most three times. If the head is gone, calls fail with
    a ConnectionError after about ten seconds.

    Attributes:
        num_workers: number of calls that the cluster can run at once; hosts that join are counted after half a minute.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connect, unless this process is already connected.

        Args:
            address: "auto" for the cluster of this host, "HOST:PORT" or "ray://HOST:PORT" for another, "local" for a
                new cluster on this host that ends with the executor. None is the default of `ray.init`.

        Raises:
            ImportError: Ray is not installed.
            ConnectionError: there is no such cluster.
        """
        for name, value in _SETTINGS.items():  # must be set before Ray reads them
            os.environ.setdefault(name, value)
        self._ray = ray = _imported()
        self._connected_here = not ray.is_initialized()
        if self._connected_here:
            _connect(ray, address)
        resources = ray.cluster_resources()
        self._device = next((kind for kind in _NEEDS if resources.get(kind)), "CPU")
        self.num_workers = self._count()
        threads = 1 if self._device == "CPU" else None
        self._task = functools.partial(
            ray.remote(max_calls=0, max_retries=_RETRIES, **_NEEDS[self._device])(_on_worker).remote,
            str(Path.cwd()),
            threads,
        )
        self._pending: set[Future[Any]] = set()
        self._lost: ConnectionError | None = None
        self._closed = False
        self._disconnected = threading.Event()
        threading.Thread(target=self._watch, args=(_head(ray, address),), daemon=True).start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As every executor."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._lost:
            raise self._lost
        reference = self._task(fn, args, kwargs)
        future: Future[T] = Future()
        self._pending.add(future)
        future.add_done_callback(functools.partial(self._finish, reference))
        reference.future().add_done_callback(functools.partial(_pass_on, future))
        if self._lost:  # since the last check
            self._end()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As for every executor; disconnects what `__init__` connected, once no call is pending."""
        self._closed = True
        if cancel_futures:
            for future in tuple(self._pending):
                future.cancel()
        if wait:
            _wait(tuple(self._pending))
            self._disconnected.set()
            if self._connected_here and not self._lost:
                self._ray.shutdown()

    def _count(self) -> int:
        return max(1, int(self._ray.cluster_resources().get(self._device, 0)))

    def _finish(self, reference: Any, future: Future[Any]) -> None:
        self._pending.discard(future)
        if future.cancelled() and not self._lost:
            self._ray.cancel(reference)

    def _watch(self, head: tuple[str, int]) -> None:
        """Count workers periodically, and end all calls when the head is gone, which Ray itself does not report."""
        reached = counted = time.monotonic()
        while not self._disconnected.wait(_LOOK_SECONDS):
            try:
                socket.create_connection(head, timeout=_PATIENCE_SECONDS).close()
            except OSError as error:
                if time.monotonic() - reached < _PATIENCE_SECONDS:
                    continue
                self._lost = ConnectionError(f"the head of the Ray cluster, {head[0]}:{head[1]}, is gone: {error}.")
                self._end()
                return
            reached = time.monotonic()
            if reached - counted > _COUNT_SECONDS:
                self.num_workers, counted = self._count(), reached

    def _end(self) -> None:
        for future in tuple(self._pending):
            with contextlib.suppress(InvalidStateError):
                future.set_exception(self._lost)


_wait = wait  # `shutdown` has an argument of this name


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install 'jaxrel[ray]'.") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # of JAX; the process that is forked off is Ray's
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except BaseException:  # an interrupt, after which its processes would keep running
            ray.shutdown()
            raise
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray replaces it by its own


def _head(ray: Any, address: str | None) -> tuple[str, int]:
    """The address of the head."""
    client = "ray://"
    given = str(address)
    where = given if given.startswith(client) else ray.get_runtime_context().gcs_address
    host, _, port = where.removeprefix(client).rpartition(":")
    return host.strip("[]"), int(port)


def _pass_on(future: Future[Any], found: Future[Any]) -> None:
    """Copy the outcome of Ray's future to a future."""
    with contextlib.suppress(InvalidStateError):  # it already has an exception
        if not future.cancelled():
            error = found.exception()
            if error is None:
                future.set_result(found.result())
            else:
                future.set_exception(error)


def _on_worker(
    folder: str, threads: int | None, function: Callable[..., T], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> T:
    """Run a call in the caller's folder, so that relative paths stay valid, with one thread per core of the task."""
    with contextlib.suppress(OSError):
        os.chdir(folder)
    if threads is not None:
        os.environ.setdefault("NPROC", str(threads))  # XLA reads this when it starts
    import scipy.linalg  # noqa: F401 - must be loaded for its threads to be counted

    with threadpool_limits(threads, user_api="blas"):
        return function(*args, **kwargs)
