"""Passes over data on several devices: each device sums over its own rows, and the sums are combined at the end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxrel._core.programs import compiled

__all__ = ["ALONG", "AXIS", "Progress", "accumulated", "in_one_row", "read_by_devices", "sharded", "told"]

AXIS = "blocks"
ALONG = P(AXIS)

Progress = Callable[[str, int, int], None]


def in_one_row(mesh: Mesh | None) -> Mesh:
    """The devices along one axis. It is a new mesh, as axes of the caller's mesh may be manual or explicit."""
    return Mesh(np.array(jax.devices()[:1]) if mesh is None else mesh.devices.reshape(-1), (AXIS,))


def accumulated(
    add: Callable[[Any, Any], Any],
    start: Any,
    batches: Iterable[Any],
    devices: Mesh,
    told: Callable[[int], None],
    across: Callable[[Any, str], Any] = jax.lax.psum,
) -> Any:
    """Add all batches to the sums of each device and combine these `across` devices, on the host.

    The next batch, and no more, is read while the devices compute.
    """
    sums = jax.tree.map(lambda leaf: sharded(leaf, devices), start)
    done = 0
    for batch in batches:
        if done:
            jax.block_until_ready(sums)
            told(done)
        sums = add(sums, batch)
        done += 1
    total = jax.tree.map(np.asarray, _over_devices(sums, devices=devices, across=across))
    told(done)
    return total


@functools.partial(compiled, static_argnames=("devices", "across"))
def _over_devices(sums: Any, *, devices: Mesh, across: Callable[[Any, str], Any]) -> Any:
    """Combine the sums of the devices. This is their only communication."""

    def together(sums: Any) -> Any:
        return across(jax.tree.map(lambda leaf: leaf[0], sums), AXIS)

    return jax.shard_map(together, mesh=devices, in_specs=(ALONG,), out_specs=P())(sums)


def sharded(values: np.ndarray, devices: Mesh) -> Array:
    """The rows of an array divided among the devices."""
    return read_by_devices(lambda part: values[part], values.shape, devices)


def read_by_devices(read: Callable[[slice], np.ndarray], shape: tuple[int, ...], devices: Mesh) -> Array:
    """An array whose rows are divided among the devices; `read` returns the rows of one device."""

    def part(where: tuple[slice, ...] | None) -> np.ndarray:
        return read(where[0] if where else slice(None))

    return jax.make_array_from_callback(shape, NamedSharding(devices, ALONG), part)


def told(progress: Progress | None, what: str, total: int) -> Callable[[int], None]:
    """A callback that reports the completed part of a step to `progress`."""

    def told(done: int) -> None:
        if progress is not None:
            progress(what, done, total)

    return told
