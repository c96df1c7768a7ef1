"""The reference cloud and the target samples of each target class, cut into blocks that are placed on devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxrel.relatedness.streaming.cuts import Block, cut_together
from jaxrel.relatedness.streaming.devices import read_by_devices, sharded
from jaxrel.relatedness.streaming.memory import BlockSizes
from jaxrel.task import Task

__all__ = ["Blocks", "Clouds", "placed"]


@dataclass(frozen=True)
class Clouds:
    """The reference cloud and the target samples of each target class, in the order in which they are cut."""

    reference: Task
    target: Task
    order_r: Int[np.ndarray, " n"]
    order_t: Int[np.ndarray, " m"]
    conditional: Float[np.ndarray, "t r"]
    totals_r: Float[np.ndarray, " r"]

    @property
    def labels(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
        """Labels of both tasks, in their own orders."""
        return np.asarray(self.reference.labels), np.asarray(self.target.labels)

    @property
    def weights(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
        """Weights of both tasks, in their own orders."""
        return np.asarray(self.reference.weights), np.asarray(self.target.weights)

    def sizes(self) -> tuple[int, int]:
        """Number of points of the largest reference cloud in use, and of the largest target class."""
        labels_r, labels_t = self.labels
        counts_r = np.bincount(labels_r[self.order_r], minlength=self.conditional.shape[1])
        counts_t = np.bincount(labels_t[self.order_t], minlength=self.conditional.shape[0])
        used = (self.conditional > 0) & (counts_t > 0)[:, None]
        return max(1, int((used @ counts_r).max())), max(1, int(counts_t.max()))

    def blocks(self, rows: int, columns: int) -> Iterator[tuple[int, Block]]:
        """All blocks, by target class. A class without samples or without reference classes has none."""
        (labels_r, labels_t), (weights_r, weights_t) = self.labels, self.weights
        along_r, along_t = labels_r[self.order_r], labels_t[self.order_t]
        for k, row in enumerate(self.conditional):
            y = self.order_t[along_t == k]
            x = self.order_r[row[along_r] > 0]
            if x.size and y.size:
                a = weights_r[x].astype(np.float64)
                if np.count_nonzero(row) > 1:  # Q_kc w_i / W_c; of one class the w_i will do, which are whole as a rule
                    a *= (row / np.where(self.totals_r > 0, self.totals_r, 1))[labels_r[x]]
                yield from ((k, block) for block in cut_together(x, a, y, weights_t[y], rows=rows, columns=columns))

    def rounding(self, k: int) -> float:
        """Mass that float64 may have misplaced in cutting class k: a few roundings of a share for each point."""
        labels_r, labels_t = self.labels
        points = np.count_nonzero(self.conditional[k, labels_r] > 0) + np.sum(labels_t == k)
        return float(8 * points * np.finfo(np.float64).eps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blocks:
    """g blocks padded to equal sizes by points of weight 0. An unused block has only such points, and mass 0."""

    x: Float[Array, "g n d"]
    a: Float[Array, "g n"]
    y: Float[Array, "g m d"]
    b: Float[Array, "g m"]
    target_class: Int[Array, " g"]
    mass: Float[Array, " g"]


def placed(
    call: list[tuple[int, Block]], per_call: int, clouds: Clouds, sizes: BlockSizes, dtype: Any, devices: Mesh
) -> Blocks:
    """The blocks of one call on the devices. Each device reads and receives only its own."""

    def padded(width: int, filler: int, parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        # Unused slots hold a sample of the same block, so that all costs are finite.
        index, weights = np.full((per_call, width), filler), np.zeros((per_call, width), dtype)
        for number, (which, share) in enumerate(parts):
            index[number] = which[0]
            index[number, : which.size], weights[number, : which.size] = which, share
        return index, weights

    x, a = padded(sizes.rows, clouds.order_r[0], [(block.x, block.a) for _, block in call])
    y, b = padded(sizes.columns, clouds.order_t[0], [(block.y, block.b) for _, block in call])
    rest = (0, per_call - len(call))
    target_class = np.pad(np.array([k for k, _ in call], np.int32), rest)
    mass = np.pad(np.array([block.mass for _, block in call], dtype), rest)

    def features(task: Task, index: np.ndarray) -> Array:
        def read(part: slice) -> np.ndarray:
            return task.rows(index[part].reshape(-1)).reshape(-1, index.shape[1], task.num_features)

        return read_by_devices(read, (*index.shape, task.num_features), devices)

    return Blocks(
        features(clouds.reference, x), a=sharded(a, devices), y=features(clouds.target, y), b=sharded(b, devices),
        target_class=sharded(target_class, devices), mass=sharded(mass, devices),
    )  # fmt: skip
