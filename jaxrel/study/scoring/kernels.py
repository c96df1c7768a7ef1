"""The program of a bucket: a loop over units on each device, without communication between devices."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype
from jax.experimental.compilation_cache import compilation_cache as cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jaxrel._core.programs import processor
from jaxrel.metrics.registry import METRICS, Metric
from jaxrel.study.scoring.buckets import Bucket

__all__ = ["compiled", "persistent_cache", "persistent_worker_cache", "score_units", "sharding_over"]

_AXIS = "units"

RowArrays = Mapping[str, Any]
"""Arrays by the argument names of metrics; the leading axis enumerates distinct data sets."""


def score_units(bucket: Bucket, *, side_by_side: bool) -> Callable[[RowArrays, Mapping[str, Array]], Any]:
    """A pure function of rows and of the rows' indices for each unit.

    Args:
        bucket: the metric and its static arguments.
        side_by_side: whether units are vectorised; otherwise they are scored one by one.

    Returns:
        A function of `rows`, distinct targets (`features`, `labels`, `weights`) and references (the same names after
        `reference_`), and of `index`: the position `(u,)` of each unit's "target" and "reference" among them, and the
        "count" `(1,)` of units; the rest is padding. It returns the output of the metric, with a leading axis of units.
    """
    metric = METRICS[bucket.metric]
    accepted = inspect.signature(metric.function).parameters
    options = dict(bucket.options)

    def scored(rows: RowArrays, index: Mapping[str, Array]) -> Any:
        places = {side: part for side, part in index.items() if side != "count"}

        def of_one(place: Mapping[str, Int[Array, ""]]) -> Any:
            own = {name: array[place[_side(name)]] for name, array in rows.items()}
            # Compiled separately from the gathering of rows, so that the numbers do not depend on the unit's position
            # in a call.
            own = jax.lax.optimization_barrier(own)
            varied = {name: array for name, array in own.items() if name.endswith("weights") and name in accepted}
            if "key" in accepted:
                varied["key"] = place["seed"]
            return metric.function(*(own[need] for need in metric.needs), **options, **varied)

        def with_next(unit: Int[Array, ""], results: Any) -> Any:
            result = of_one({side: part[unit] for side, part in places.items()})
            return jax.tree.map(lambda column, entry: column.at[unit].set(entry), results, result)

        if side_by_side:
            return jax.vmap(of_one)(places)
        # As many steps as units, so that padding costs nothing; the dynamic count also keeps compilers from unrolling
        # a loop of one step.
        return jax.lax.fori_loop(0, index["count"][0], with_next, _no_results(metric, rows, len(places["target"])))

    return scored


def _no_results(metric: Metric, rows: RowArrays, num_units: int) -> Any:
    names = [field.name for field in dataclasses.fields(metric.result)]
    empty = {name: jnp.zeros(num_units, jnp.int32 if name == "status" else rows["features"].dtype) for name in names}
    return metric.result(**empty)


def compiled(bucket: Bucket, rows: RowArrays, index: Mapping[str, Any], devices: Sequence[jax.Device]) -> Any:
    """The program for arrays of these shapes, with each leading axis sharded equally over the devices.

    On CPUs units are scored one by one, because vectorising is no faster; elsewhere all units of a device are
    vectorised.
    """
    sharding = sharding_over(devices)
    over_devices = jax.shard_map(
        score_units(bucket, side_by_side=devices[0].platform != "cpu"),
        mesh=sharding.mesh,
        in_specs=sharding.spec,
        out_specs=sharding.spec,
        check_vma=False,  # devices are independent, and loops over device-local values need no casts
    )
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, canonicalize_dtype(leaf.dtype), sharding=sharding),
        (dict(rows), dict(index)),
    )
    return jax.jit(over_devices).lower(*shapes).compile()


def sharding_over(devices: Sequence[jax.Device]) -> NamedSharding:
    """Sharding of leading axes equally over these devices."""
    return NamedSharding(Mesh(np.asarray(devices), (_AXIS,)), PartitionSpec(_AXIS))


@contextlib.contextmanager
def persistent_cache(folder: Path | str | None) -> Iterator[None]:
    """Use a folder as JAX's compilation cache; None leaves JAX's settings unchanged."""
    config: Any = jax.config  # whose settings have no types
    if folder is None or config.jax_compilation_cache_dir == str(folder):
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(config, name) for name in settings}
    try:
        _configure(settings)
        yield
    finally:
        _configure(before)


def persistent_worker_cache(folder: Path | str | None) -> contextlib.AbstractContextManager[None]:
    """As `persistent_cache`, in a subfolder for the kind of processor, because workers that share a folder may differ
    in it."""
    return persistent_cache(None if folder is None else Path(folder) / processor())


def _configure(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    cache.reset_cache()  # JAX reads the settings only once


def _side(name: str) -> str:
    return "reference" if name.startswith("reference_") else "target"
