"""Mean losses of the reference classes, in one pass over the reference."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxrel._core.programs import compiled
from jaxrel.heads import cross_entropy
from jaxrel.relatedness.coupling import class_totals
from jaxrel.relatedness.result import Transformation
from jaxrel.relatedness.streaming.devices import ALONG, Progress, accumulated, read_by_devices, sharded, told
from jaxrel.relatedness.streaming.memory import BlockSizes
from jaxrel.task import Task

__all__ = ["reference_losses"]


def reference_losses(
    reference: Task,
    totals: Float[np.ndarray, " r"],
    sizes: BlockSizes,
    transformation: Transformation,
    devices: Mesh,
    progress: Progress | None,
) -> Float[np.ndarray, " r"]:
    """Mean loss of each reference class under the head, in one sequential pass over the file."""
    num_rows = sizes.rows_at_once * devices.size
    starts = range(0, reference.num_samples, num_rows)
    dtype = transformation.conditional.dtype
    all_labels = np.asarray(reference.labels)
    share = np.asarray(reference.weights) / np.where(totals > 0, totals, 1)[all_labels]

    def read(start: int) -> tuple[Array, Array, Array]:
        def part(rows: slice) -> np.ndarray:
            first, last, _ = rows.indices(num_rows)
            found = reference.rows(slice(start + first, start + last))
            return np.pad(found, ((0, last - first - len(found)), (0, 0)))

        rest = (0, max(0, start + num_rows - reference.num_samples))
        labels = np.pad(all_labels[start : start + num_rows], rest)
        weights = np.pad(share[start : start + num_rows].astype(dtype), rest)
        features = read_by_devices(part, (num_rows, reference.num_features), devices)
        return features, sharded(labels, devices), sharded(weights, devices)

    def add(sums: Array, rows: tuple[Array, Array, Array]) -> Array:
        return _with_losses(sums, rows, transformation, devices=devices)

    start = np.zeros((devices.size, totals.size), dtype)
    progressed = told(progress, "losses of the reference", len(starts))
    return np.asarray(accumulated(add, start, map(read, starts), devices, progressed), np.float64)


@functools.partial(compiled, static_argnames="devices", donate_argnums=0)
def _with_losses(
    sums: Float[Array, "d r"], rows: tuple[Array, Array, Array], transformation: Transformation, *, devices: Mesh
) -> Float[Array, "d r"]:
    def on_one_device(sums: Array, rows: tuple[Array, Array, Array], transformation: Transformation) -> Array:
        features, labels, share = rows
        losses = cross_entropy(transformation.reference_logits(features), labels)
        return sums.at[0].add(class_totals(labels, sums.shape[1], jnp.where(share > 0, share * losses, 0)))

    return jax.shard_map(on_one_device, mesh=devices, in_specs=(ALONG, ALONG, P()), out_specs=ALONG)(
        sums, rows, transformation
    )
