"""Contributions of blocks to the terms of each target class: certified transport within blocks, and mean losses."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxrel._core.programs import compiled
from jaxrel.relatedness.bound import (
    ClassMeans,
    class_loss,
    log_label_map,
    point_rounding,
    silenced,
    transport_points,
)
from jaxrel.relatedness.class_transport import certified_transport
from jaxrel.relatedness.methods import Method
from jaxrel.relatedness.result import Transformation
from jaxrel.relatedness.streaming.clouds import Blocks, Clouds, placed
from jaxrel.relatedness.streaming.devices import ALONG, Progress, accumulated, told
from jaxrel.relatedness.streaming.memory import BlockSizes
from jaxrel.task import Task
from jaxrel.transport.certificates import rounding_allowance, shallow_sum, sum_depth

__all__ = ["Sums", "sums_over_blocks"]

_log = logging.getLogger(__name__)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Sums over blocks for each target class, weighted by mass, and the largest sizes of points, not weighted.

    The cost between two points is at most the sum of their sizes, see `GroundCost.size`.
    """

    means: ClassMeans
    largest_size: Float[Array, "*d t 2"]


def sums_over_blocks(
    clouds: Clouds,
    sizes: BlockSizes,
    transformation: Transformation,
    method: Method,
    devices: Mesh,
    progress: Progress | None,
) -> tuple[Sums, Int[np.ndarray, " t"]]:
    """The sums over all blocks, and the number of blocks of each target class."""
    num_target, dtype = transformation.conditional.shape[0], transformation.conditional.dtype
    num_blocks = np.zeros(num_target, np.int64)
    for k, _ in clouds.blocks(sizes.rows, sizes.columns):
        num_blocks[k] += 1
    per_call = sizes.blocks_per_call * devices.size
    num_calls = -(-int(num_blocks.sum()) // per_call)
    _log.info("%d blocks of %d x %d samples, %d a call", num_blocks.sum(), sizes.rows, sizes.columns, per_call)

    def add(sums: Sums, blocks: Blocks) -> Sums:
        return _with_blocks(sums, blocks, transformation, method, devices=devices, at_once=sizes.at_once)

    zeros: Any = np.zeros((devices.size, num_target), dtype)
    start = Sums(ClassMeans(*(zeros,) * 5), largest_size=np.stack([zeros, zeros], axis=-1))  # type: ignore[arg-type]
    calls = _in_calls(clouds.blocks(sizes.rows, sizes.columns), per_call)
    batches = (placed(call, per_call, clouds, sizes, dtype, devices) for call in calls)
    progressed = told(progress, "transport in blocks", num_calls)
    return accumulated(add, start, batches, devices, progressed, _across), num_blocks


def _in_calls(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    some: list[Any] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


@functools.partial(compiled, static_argnames=("devices", "at_once"), donate_argnums=0)
def _with_blocks(
    sums: Sums,
    blocks: Blocks,
    transformation: Transformation,
    method: Method,
    *,
    devices: Mesh,
    at_once: int,
) -> Sums:
    """Add its blocks to the sums of each device, without communication."""

    def on_one_device(sums: Sums, blocks: Blocks, transformation: Transformation, method: Method) -> Sums:
        groups = jax.tree.map(lambda leaf: leaf.reshape(-1, at_once, *leaf.shape[1:]), blocks)

        def add(sums: Sums, group: Blocks) -> tuple[Sums, None]:
            return _joined(sums, _sums_of(group, transformation, method)), None

        first = jax.tree.map(lambda leaf: leaf[0], sums)
        return jax.tree.map(lambda leaf: leaf[None], jax.lax.scan(add, first, groups)[0])

    shared = jax.shard_map(on_one_device, mesh=devices, in_specs=(ALONG, ALONG, P(), P()), out_specs=ALONG)
    return shared(sums, blocks, transformation, method)


def _sums_of(blocks: Blocks, transformation: Transformation, method: Method) -> Sums:
    """The contribution of g blocks."""
    k, a, b = blocks.target_class, blocks.a, blocks.b
    log_map = log_label_map(transformation.label_map)[k]
    u, v = transformation.reference_logits(blocks.x), transformation.target_logits(blocks.y)
    reference, target = (
        Task.tree_unflatten((None, None, False), (features, None, weights))
        for features, weights in ((blocks.x, a), (blocks.y, b))
    )
    cost, x, y = transport_points(transformation, reference, target, method)
    scale = cost.scale(transformation.target_map)

    x, y, u, v = jax.lax.optimization_barrier((x, y, u, v))  # as in `evaluate_bound`
    plans = certified_transport(cost, x, y, a, b, log_map, scale, method)
    sizes = tuple(
        scale * jnp.max(jnp.where(weights > 0, cost.size(points), 0), axis=-1) for points, weights in ((x, a), (y, b))
    )
    # Casting and normalising weights moves mass within the block, at no more than the largest cost.
    moved = rounding_allowance(sum_depth(a.shape[-1]) + sum_depth(b.shape[-1]), x.dtype) * (sizes[0] + sizes[1])
    alpha, beta = point_rounding(transformation, x, y, u, v, log_map)

    def mean(weights: Float[Array, "g n"], values: Float[Array, "g n"]) -> Float[Array, " g"]:
        return shallow_sum(silenced(weights, values))

    def by_class(values: Float[Array, " g"]) -> Float[Array, " t"]:
        added = silenced(blocks.mass, values)
        return jnp.zeros(transformation.conditional.shape[0], added.dtype).at[k].add(added)

    def largest_by_class(sizes: Float[Array, " g"]) -> Float[Array, " t"]:
        return jnp.zeros(transformation.conditional.shape[0], sizes.dtype).at[k].max(sizes)

    means = ClassMeans(
        upper=by_class(plans.upper + moved + mean(a, alpha) + mean(b, beta)),
        lower=by_class(plans.lower),
        transformed_reference_loss=by_class(mean(a, class_loss(u, log_map[:, None]))),
        target_loss=by_class(mean(b, class_loss(v, log_map[:, None]))),
        target_accuracy=by_class(mean(b, (transformation.target_classes(v) == k[:, None]).astype(b.dtype))),
    )
    return Sums(means, largest_size=jnp.stack([largest_by_class(size) for size in sizes], axis=-1))


def _joined(one: Sums, other: Sums) -> Sums:
    summed = jax.tree.map(jnp.add, one, other)
    return dataclasses.replace(summed, largest_size=jnp.maximum(one.largest_size, other.largest_size))


def _across(sums: Sums, axis: str) -> Sums:
    summed: Sums = jax.lax.psum(sums, axis)
    return dataclasses.replace(summed, largest_size=jax.lax.pmax(sums.largest_size, axis))
