r"""Task-relatedness of tasks with very many samples: read from disk, within a budget of memory, over many devices.

Every term of the bound is a sum over samples or over blocks of samples, so that none ever needs all of them at once:

    loss of reference class c      = sum of w_i / W_c times the loss of sample i, in one pass over the reference
    P_k, W_c                       = sums of the weights of the whole tasks, in float64
    label mismatch                 = - sum_kc P_k Q_kc log B_kc, from these alone: blocks have no part in it
    transformed loss, target loss  = sum_b m_b times that of block b
    transport of target class k   <= sum_b m_b W(a_b, b_b)

The last line is the only inequality. Block b of target class k has the mass m_b of the reference cloud a^k and the same
mass of the target samples of class k: both are cut at the same places, points at a cut being split (`jaxrel.relatedness
.cuts`). Marginals of blocks add up to those of the whole task by construction, without remainders, so plans within
blocks form a plan of the whole and their costs its cost: an upper end, certified block by block. The reference is
ordered so that its classes are spread evenly: every block has its share of each, up to one sample.

The lower end costs nothing. Each ground cost is at least `ell_k(v) - ell_k(u)`, so `-ell_k` and `ell_k` are feasible
dual potentials, and the transport of class k at least its mean target loss less its mean transformed reference loss.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxrel._core.checks import checked_seed
from jaxrel._core.labels import check_all_named
from jaxrel._core.programs import compiled
from jaxrel.heads import cross_entropy
from jaxrel.relatedness.bound import class_loss, log_label_map, point_rounding, transport_points
from jaxrel.relatedness.checks import check_method, numbered_as
from jaxrel.relatedness.class_transport import certified_transport
from jaxrel.relatedness.coupling import class_totals, held_out_conditional, label_coupling, mismatch_by_class
from jaxrel.relatedness.cuts import Block, cut_together, stratified_order
from jaxrel.relatedness.in_memory import checked_training_tasks, fit
from jaxrel.relatedness.memory import (
    BlockSizes,
    LearningSizes,
    Workload,
    block_sizes_within,
    checked_budget,
    learning_sizes_within,
    rows_at_once,
)
from jaxrel.relatedness.methods import Joint, Method
from jaxrel.relatedness.result import ClassTerms, ComputedWith, Relatedness, Status, Transformation
from jaxrel.relatedness.stored_tasks import StoredTask, subsample
from jaxrel.task import Task
from jaxrel.transport.certificates import SUM_WIDTH, rounding_allowance, shallow_sum, sum_depth
from jaxrel.version import __version__

__all__ = ["evaluate_bound_in_blocks", "task_relatedness_in_blocks"]

_log = logging.getLogger(__name__)

DEFAULT_BUDGET = 2 * 2**30
_AXIS = "blocks"
_ALONG = P(_AXIS)

Progress = Callable[[str, int, int], None]


def task_relatedness_in_blocks(
    reference: StoredTask | Task,
    target: StoredTask | Task,
    *,
    evaluate_on: tuple[StoredTask | Task, StoredTask | Task] | None = None,
    method: Joint = Joint(),  # noqa: B008 (immutable)
    memory_budget: int = DEFAULT_BUDGET,
    mesh: Mesh | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Relatedness:
    r"""`task_relatedness` of tasks that are too large for it: learned on a part, certified on every sample.

    The transformation is learned on a subsample of at most 32,768 samples of each task, drawn class by class, in which
    every class has the weight that it has in the whole. Then every term of the bound is evaluated on all samples, in
    blocks: see `evaluate_bound_in_blocks`. Of the samples evaluated only that small part was learned on, so even
    without `evaluate_on` the numbers are nearly held-out.

    Args:
        reference, target: labelled, `StoredTask(features, labels)` with features in `numpy.memmap`, a
            `jaxrel.storage.features.Table` or an array. Every class needs a sample with weight.
        evaluate_on: other samples `(reference, target)` to evaluate on; None takes those of `reference` and `target`.
        method: how the transformation is learned. Its `points_per_class` is lowered where the budget asks for it.
        memory_budget: bytes that all of this may take at once, on all devices together: it decides how many samples are
            learned from, and the sizes of `evaluate_bound_in_blocks`. What a process has anyway (JAX and its compiled
            programs, about 500 MB) and pages of mapped files, which the system takes back when it needs them, are not
            in it. Larger budgets than blocks of 1,024 by 1,024 samples have use for are not used up.
        mesh: devices that share blocks and rows equally, whatever the mesh's axes. None takes one device.
        seed: draws the subsample, the minibatches and the order of samples; the same seed gives the same numbers, on
            any number of devices up to rounding where the budget allows blocks of the same size on all of them.
        progress: told `(what, done, total)` after each call of the devices.

    Returns:
        A `Relatedness`. Its `distribution_mismatch` is the cost of plans within blocks, an upper end for the whole.

    Raises:
        ValueError: for tasks that are not labelled, widths that differ, a class without sample, labels of `evaluate_on`
            that are unknown, values that are not finite (named by row and column), a method other than `Joint`; for a
            budget that is too small, with the least that would do.

    `task_relatedness` itself works for a million samples of each task in 128 dimensions, in 2.8 GB that grow with their
    number: it holds all features and logits at once, looks for a ridge on all of them, and compiles for every number
    of samples. Its blocks are larger (1,792 samples), and it has no budget, no mesh and nothing that is read from disk.
    """
    if not isinstance(method, Joint):
        raise ValueError(
            f"method must be a Joint(...), got {method!r}; evaluate_bound_in_blocks takes what others learn."
        )
    seed = checked_seed(seed)
    stored = StoredTask.of("reference", reference), StoredTask.of("target", target)
    evaluated = stored if evaluate_on is None else _checked_pair(evaluate_on, stored)
    _check_evaluation(
        *evaluated,
        num_reference=stored[0].num_classes,
        num_target=stored[1].num_classes,
        width=stored[0].num_features,
    )
    devices = _devices(mesh)
    work = Workload.of({*stored, *evaluated}, *stored, devices)
    budget = checked_budget(memory_budget, work, method)
    for name, task in _named(stored, evaluated).items():
        task.check_values(name, rows_at_once(budget, work))

    transformation, method = _learned(stored, method, learning_sizes_within(budget, work, method), seed)
    _told(progress, "learning", 1)(1)
    result = _evaluated(transformation, *evaluated, method, budget, work, devices, seed, progress)
    computed_with = ComputedWith(
        method=method,
        seed=seed,
        evaluated_on="training samples" if evaluate_on is None else "held-out samples",
        num_reference=evaluated[0].num_samples,
        num_target=evaluated[1].num_samples,
        dtype=str(stored[0].dtype),
        version=__version__,
    )
    return dataclasses.replace(result, computed_with=computed_with)


def evaluate_bound_in_blocks(
    transformation: Transformation,
    reference: StoredTask | Task,
    target: StoredTask | Task,
    *,
    method: Method,
    memory_budget: int = DEFAULT_BUDGET,
    mesh: Mesh | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Relatedness:
    r"""`evaluate_bound` on any number of samples: every term, block by block, each device its own blocks.

    Args:
        transformation: any, whatever it was learned on and by which method.
        reference, target: labelled samples, with the class counts of the transformation at most.
        method: its cost, `certificate_gap` and `certificate_sweeps` are used.
        memory_budget, mesh, seed, progress: as in `task_relatedness_in_blocks`. The budget decides how many samples a
            block has (at most 1,024 of each task on average, fewer loosen the distribution mismatch), how many blocks a
            call has, and how many rows are read at a time. None of this depends on the number of samples, up to the
            few bytes that each takes: more samples are more calls of what is compiled already.

    Returns:
        A `Relatedness`. Means are over all samples, up to rounding; `distribution_mismatch` is the cost of a plan
        between the whole tasks, made of plans within blocks of equal mass, with all roundings allowed for, hence at
        least the exact optimum; where no class is cut it is what `evaluate_bound` finds. `distribution_mismatch_lower`
        is the larger of 0 and the target loss less the transformed reference loss, class by class (that of the solver
        for a class that is not cut).

    Raises:
        ValueError: as `task_relatedness_in_blocks`.

    Devices exchange nothing but the sums at the very end (one `psum` for each pass, one `pmax`).
    """
    check_method(method)
    seed = checked_seed(seed)
    stored = StoredTask.of("reference", reference), StoredTask.of("target", target)
    num_target, num_reference = transformation.conditional.shape
    width = transformation.head.weights.shape[1]
    _check_evaluation(*stored, num_reference=num_reference, num_target=num_target, width=width)
    devices = _devices(mesh)
    work = Workload.of({*stored}, *stored, devices)
    budget = checked_budget(memory_budget, work)
    for name, task in _named(stored, stored).items():
        task.check_values(name, rows_at_once(budget, work))
    return _evaluated(transformation, *stored, method, budget, work, devices, seed, progress)


def _devices(mesh: Mesh | None) -> Mesh:
    """The devices in one row; a mesh of its own, for axes of the caller's may be manual or explicit."""
    return Mesh(np.array(jax.devices()[:1]) if mesh is None else mesh.devices.reshape(-1), (_AXIS,))


def _named(stored: tuple[StoredTask, StoredTask], evaluated: tuple[StoredTask, StoredTask]) -> dict[str, StoredTask]:
    named = dict(zip(("reference", "target"), stored, strict=True))
    if evaluated is not stored:
        named |= dict(zip(("evaluate_on[0]", "evaluate_on[1]"), evaluated, strict=True))
    return named


def _checked_pair(evaluate_on: Any, stored: tuple[StoredTask, StoredTask]) -> tuple[StoredTask, StoredTask]:
    """Held-out tasks with the class numbers of those learned from."""
    if not isinstance(evaluate_on, tuple | list) or len(evaluate_on) != 2:
        raise ValueError("evaluate_on must be a pair (held-out reference, held-out target).")
    names = "evaluate_on[0]", "evaluate_on[1]"
    pair = (StoredTask.of(name, task) for name, task in zip(names, evaluate_on, strict=True))
    reference, target = (numbered_as(*named) for named in zip(names, pair, stored, strict=True))
    return reference, target


def _check_evaluation(
    reference: StoredTask, target: StoredTask, *, num_reference: int, num_target: int, width: int
) -> None:
    for name, task, known in (("reference", reference, num_reference), ("target", target, num_target)):
        check_all_named(name, task.class_names, known)
        if task.num_features != width:
            raise ValueError(
                f"the {name} to evaluate on has {task.num_features} features, learned from were {width}: extract all "
                "of them with the same encoder."
            )
        if task.num_classes > known and task.class_weights()[known:].any():
            row = int(np.argmax((task.labels >= known) & (task.weights > 0)))
            raise ValueError(
                f"labels[{row}] of the {name} to evaluate on is {task.labels[row]}, but learned were classes 0 .. "
                f"{known - 1}: leave such samples out, or learn with them."
            )


def _learned(
    stored: tuple[StoredTask, StoredTask], method: Joint, sizes: LearningSizes, seed: int
) -> tuple[Transformation, Joint]:
    """The transformation learned on subsamples, and the method with what the budget and they decided."""
    rng = np.random.default_rng((seed, 0))
    reference, target = checked_training_tasks(*(subsample(task, sizes.num_samples, rng) for task in stored))
    key = jax.random.key(seed)
    method = dataclasses.replace(method, points_per_class=sizes.points_per_class).resolved(reference, target, key)
    _log.info("learning from %d reference and %d target samples", reference.num_samples, target.num_samples)
    return jax.block_until_ready(fit(method, reference, target, None, key)), method


def _evaluated(
    transformation: Transformation,
    reference: StoredTask,
    target: StoredTask,
    method: Method,
    budget: int,
    work: Workload,
    devices: Mesh,
    seed: int,
    progress: Progress | None,
) -> Relatedness:
    """All terms on all samples."""
    num_target, num_reference = transformation.conditional.shape
    dtype = transformation.conditional.dtype
    totals_r, totals_t = (
        np.pad(task.class_weights(), (0, count - task.num_classes))[:count]
        for task, count in ((reference, num_reference), (target, num_target))
    )
    prior = totals_t / totals_t.sum()
    conditional = np.asarray(held_out_conditional(transformation.conditional, jnp.asarray(totals_r, dtype)), np.float64)
    rng = np.random.default_rng((seed, 1))
    order_r, order_t = (stratified_order(task.labels, task.weights, rng) for task in (reference, target))
    clouds = _Clouds(reference, target, order_r, order_t, conditional, totals_r)
    sizes = block_sizes_within(budget, work, clouds.sizes())
    everywhere = jax.device_put(transformation, NamedSharding(devices, P()))
    sums, num_blocks = _sums_over_blocks(clouds, sizes, everywhere, method, devices, progress)
    reference_loss = _reference_losses(reference, totals_r, sizes, everywhere, devices, progress)
    # Terms that are summed up one after the other: of a block, of the blocks of a class, of devices.
    depth = sizes.rows + sizes.columns + num_blocks + devices.size + num_reference + num_target + 32
    depth += SUM_WIDTH + -(-reference.num_samples // SUM_WIDTH)
    return _relatedness(transformation, prior, conditional, clouds, sums, num_blocks, reference_loss, depth)


# Blocks


@dataclass(frozen=True)
class _Clouds:
    """The reference cloud of each target class and its target samples, in the orders in which they are cut."""

    reference: StoredTask
    target: StoredTask
    order_r: Int[np.ndarray, " n"]
    order_t: Int[np.ndarray, " m"]
    conditional: Float[np.ndarray, "t r"]
    totals_r: Float[np.ndarray, " r"]

    def sizes(self) -> tuple[int, int]:
        """Points of the largest reference cloud that is in use, and of the largest target class."""
        counts_r = np.bincount(self.reference.labels[self.order_r], minlength=self.conditional.shape[1])
        counts_t = np.bincount(self.target.labels[self.order_t], minlength=self.conditional.shape[0])
        used = (self.conditional > 0) & (counts_t > 0)[:, None]
        return max(1, int((used @ counts_r).max())), max(1, int(counts_t.max()))

    def blocks(self, rows: int, columns: int) -> Iterator[tuple[int, Block]]:
        """Target class by target class, all blocks; none for a class without samples or without reference classes."""
        labels_r, labels_t = self.reference.labels[self.order_r], self.target.labels[self.order_t]
        for k, row in enumerate(self.conditional):
            y = self.order_t[labels_t == k]
            x = self.order_r[row[labels_r] > 0]
            if x.size and y.size:
                a = self.reference.weights[x].astype(np.float64)
                if np.count_nonzero(row) > 1:  # Q_kc w_i / W_c; of one class the w_i will do, which are whole as a rule
                    a *= (row / np.where(self.totals_r > 0, self.totals_r, 1))[self.reference.labels[x]]
                yield from (
                    (k, block) for block in cut_together(x, a, y, self.target.weights[y], rows=rows, columns=columns)
                )

    def rounding(self, k: int) -> float:
        """Mass that float64 may have put elsewhere in cutting class k: a few roundings of a share for each point."""
        points = np.count_nonzero(self.conditional[k, self.reference.labels] > 0) + np.sum(self.target.labels == k)
        return float(8 * points * np.finfo(np.float64).eps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Blocks:
    """g blocks padded to equal sizes by points of weight 0; an unused block has none with weight, and mass 0."""

    x: Float[Array, "g n d"]
    a: Float[Array, "g n"]
    y: Float[Array, "g m d"]
    b: Float[Array, "g m"]
    target_class: Int[Array, " g"]
    mass: Float[Array, " g"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Sums:
    """Sums over blocks for each target class, weighted by their masses; largest sizes of points, not weighted.

    No two points cost more than their sizes together, see `GroundCost.size`.
    """

    upper: Float[Array, "*d t"]
    lower: Float[Array, "*d t"]
    transformed_reference_loss: Float[Array, "*d t"]
    target_loss: Float[Array, "*d t"]
    target_accuracy: Float[Array, "*d t"]
    largest_size: Float[Array, "*d t 2"]


def _sums_over_blocks(
    clouds: _Clouds,
    sizes: BlockSizes,
    transformation: Transformation,
    method: Method,
    devices: Mesh,
    progress: Progress | None,
) -> tuple[_Sums, Int[np.ndarray, " t"]]:
    """The sums over all blocks, and how many blocks each target class has."""
    num_target, dtype = transformation.conditional.shape[0], transformation.conditional.dtype
    num_blocks = np.zeros(num_target, np.int64)
    for k, _ in clouds.blocks(sizes.rows, sizes.columns):
        num_blocks[k] += 1
    per_call = sizes.blocks_per_call * devices.size
    num_calls = -(-int(num_blocks.sum()) // per_call)
    _log.info("%d blocks of %d x %d samples, %d a call", num_blocks.sum(), sizes.rows, sizes.columns, per_call)

    def add(sums: _Sums, blocks: _Blocks) -> _Sums:
        return _with_blocks(sums, blocks, transformation, method, devices=devices, at_once=sizes.at_once)

    zeros: Any = np.zeros((devices.size, num_target), dtype)
    start = _Sums(*(zeros,) * 5, largest_size=np.stack([zeros, zeros], axis=-1))  # type: ignore[arg-type]
    calls = _in_calls(clouds.blocks(sizes.rows, sizes.columns), per_call)
    placed = (_placed(call, per_call, clouds, sizes, dtype, devices) for call in calls)
    return _accumulated(add, start, placed, devices, _told(progress, "transport in blocks", num_calls)), num_blocks


def _in_calls(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    some: list[Any] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def _placed(
    call: list[tuple[int, Block]], per_call: int, clouds: _Clouds, sizes: BlockSizes, dtype: Any, devices: Mesh
) -> _Blocks:
    """The blocks of one call on the devices, each of which is given, and has read, its own only."""

    def padded(width: int, filler: int, parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        # Unused slots hold a sample of the same block, which has a cost to all the others.
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

    def features(task: StoredTask, index: np.ndarray) -> Array:
        def read(part: slice) -> np.ndarray:
            return task.rows(index[part].reshape(-1)).reshape(-1, index.shape[1], task.num_features)

        return _read_by_devices(read, (*index.shape, task.num_features), devices)

    return _Blocks(
        features(clouds.reference, x), a=_sharded(a, devices), y=features(clouds.target, y), b=_sharded(b, devices),
        target_class=_sharded(target_class, devices), mass=_sharded(mass, devices),
    )  # fmt: skip


@functools.partial(compiled, static_argnames=("devices", "at_once"), donate_argnums=0)
def _with_blocks(
    sums: _Sums,
    blocks: _Blocks,
    transformation: Transformation,
    method: Method,
    *,
    devices: Mesh,
    at_once: int,
) -> _Sums:
    """The sums of each device with its share of the blocks added; no device hears of another."""

    def on_one_device(sums: _Sums, blocks: _Blocks, transformation: Transformation, method: Method) -> _Sums:
        groups = jax.tree.map(lambda leaf: leaf.reshape(-1, at_once, *leaf.shape[1:]), blocks)

        def add(sums: _Sums, group: _Blocks) -> tuple[_Sums, None]:
            return _joined(sums, _sums_of(group, transformation, method)), None

        first = jax.tree.map(lambda leaf: leaf[0], sums)
        return jax.tree.map(lambda leaf: leaf[None], jax.lax.scan(add, first, groups)[0])

    shared = jax.shard_map(on_one_device, mesh=devices, in_specs=(_ALONG, _ALONG, P(), P()), out_specs=_ALONG)
    return shared(sums, blocks, transformation, method)


def _sums_of(blocks: _Blocks, transformation: Transformation, method: Method) -> _Sums:
    """What g blocks add."""
    k, a, b = blocks.target_class, blocks.a, blocks.b
    log_map = log_label_map(transformation.label_map)[k]
    u, v = transformation.reference_logits(blocks.x), transformation.target_logits(blocks.y)
    reference, target = (
        Task.tree_unflatten((None, None), (features, None, weights))
        for features, weights in ((blocks.x, a), (blocks.y, b))
    )
    cost, x, y = transport_points(transformation, reference, target, method)
    scale = cost.scale(transformation.target_map)

    x, y, u, v = jax.lax.optimization_barrier((x, y, u, v))  # as in `evaluate_bound`
    plans = certified_transport(cost, x, y, a, b, log_map, scale, method)
    sizes = tuple(
        scale * jnp.max(jnp.where(weights > 0, cost.size(points), 0), axis=-1) for points, weights in ((x, a), (y, b))
    )
    # Casting and normalising weights moves mass within the block, at its largest cost at most.
    moved = rounding_allowance(sum_depth(a.shape[-1]) + sum_depth(b.shape[-1]), x.dtype) * (sizes[0] + sizes[1])
    alpha, beta = point_rounding(transformation, x, y, u, v, log_map)

    def mean(weights: Float[Array, "g n"], values: Float[Array, "g n"]) -> Float[Array, " g"]:
        return shallow_sum(jnp.where(weights > 0, weights * jnp.where(weights > 0, values, 0), 0))

    def by_class(values: Float[Array, " g"]) -> Float[Array, " t"]:
        added = jnp.where(blocks.mass > 0, blocks.mass * values, 0)
        return jnp.zeros(transformation.conditional.shape[0], added.dtype).at[k].add(added)

    def largest_by_class(sizes: Float[Array, " g"]) -> Float[Array, " t"]:
        return jnp.zeros(transformation.conditional.shape[0], sizes.dtype).at[k].max(sizes)

    return _Sums(
        upper=by_class(plans.upper + moved + mean(a, alpha) + mean(b, beta)),
        lower=by_class(plans.lower),
        transformed_reference_loss=by_class(mean(a, class_loss(u, log_map[:, None]))),
        target_loss=by_class(mean(b, class_loss(v, log_map[:, None]))),
        target_accuracy=by_class(mean(b, (transformation.target_classes(v) == k[:, None]).astype(b.dtype))),
        largest_size=jnp.stack([largest_by_class(size) for size in sizes], axis=-1),
    )


def _joined(one: _Sums, other: _Sums) -> _Sums:
    summed = jax.tree.map(jnp.add, one, other)
    return dataclasses.replace(summed, largest_size=jnp.maximum(one.largest_size, other.largest_size))


# Losses of the reference classes


def _reference_losses(
    reference: StoredTask,
    totals: Float[np.ndarray, " r"],
    sizes: BlockSizes,
    transformation: Transformation,
    devices: Mesh,
    progress: Progress | None,
) -> Float[np.ndarray, " r"]:
    """Mean loss of every reference class under the head, in one pass over the file in its order."""
    num_rows = sizes.rows_at_once * devices.size
    starts = range(0, reference.num_samples, num_rows)
    dtype = transformation.conditional.dtype
    share = reference.weights / np.where(totals > 0, totals, 1)[reference.labels]

    def read(start: int) -> tuple[Array, Array, Array]:
        def part(rows: slice) -> np.ndarray:
            first, last, _ = rows.indices(num_rows)
            found = reference.rows(slice(start + first, start + last))
            return np.pad(found, ((0, last - first - len(found)), (0, 0)))

        rest = (0, max(0, start + num_rows - reference.num_samples))
        labels = np.pad(reference.labels[start : start + num_rows], rest)
        weights = np.pad(share[start : start + num_rows].astype(dtype), rest)
        features = _read_by_devices(part, (num_rows, reference.num_features), devices)
        return features, _sharded(labels, devices), _sharded(weights, devices)

    def add(sums: Array, rows: tuple[Array, Array, Array]) -> Array:
        return _with_losses(sums, rows, transformation, devices=devices)

    start = np.zeros((devices.size, totals.size), dtype)
    told = _told(progress, "losses of the reference", len(starts))
    return np.asarray(_accumulated(add, start, map(read, starts), devices, told), np.float64)


@functools.partial(compiled, static_argnames="devices", donate_argnums=0)
def _with_losses(
    sums: Float[Array, "d r"], rows: tuple[Array, Array, Array], transformation: Transformation, *, devices: Mesh
) -> Float[Array, "d r"]:
    def on_one_device(sums: Array, rows: tuple[Array, Array, Array], transformation: Transformation) -> Array:
        features, labels, share = rows
        losses = cross_entropy(transformation.reference_logits(features), labels)
        return sums.at[0].add(class_totals(labels, sums.shape[1], jnp.where(share > 0, share * losses, 0)))

    return jax.shard_map(on_one_device, mesh=devices, in_specs=(_ALONG, _ALONG, P()), out_specs=_ALONG)(
        sums, rows, transformation
    )


# Passes over the devices


def _accumulated(
    add: Callable[[Any, Any], Any], start: Any, batches: Iterable[Any], devices: Mesh, told: Callable[[int], None]
) -> Any:
    """All batches added to the sums of each device, and these summed over devices; on the host.

    The next batch is read while the devices are busy with one, and no more than that one is read ahead.
    """
    sums = jax.tree.map(lambda leaf: _sharded(leaf, devices), start)
    done = 0
    for batch in batches:
        if done:
            jax.block_until_ready(sums)
            told(done)
        sums = add(sums, batch)
        done += 1
    total = jax.tree.map(np.asarray, _over_devices(sums, devices=devices))
    told(done)
    return total


@functools.partial(compiled, static_argnames="devices")
def _over_devices(sums: Any, *, devices: Mesh) -> Any:
    """What the devices have summed up by themselves, together: the only time they exchange anything."""

    def together(sums: Any) -> Any:
        total = jax.tree.map(lambda leaf: jax.lax.psum(leaf[0], _AXIS), sums)
        if isinstance(sums, _Sums):
            total = dataclasses.replace(total, largest_size=jax.lax.pmax(sums.largest_size[0], _AXIS))
        return total

    return jax.shard_map(together, mesh=devices, in_specs=(_ALONG,), out_specs=P())(sums)


def _sharded(values: np.ndarray, devices: Mesh) -> Array:
    return _read_by_devices(lambda part: values[part], values.shape, devices)


def _read_by_devices(read: Callable[[slice], np.ndarray], shape: tuple[int, ...], devices: Mesh) -> Array:
    """An array whose rows are divided among the devices; `read` gives the rows of one."""

    def part(where: tuple[slice, ...] | None) -> np.ndarray:
        return read(where[0] if where else slice(None))

    return jax.make_array_from_callback(shape, NamedSharding(devices, _ALONG), part)


def _told(progress: Progress | None, what: str, total: int) -> Callable[[int], None]:
    def told(done: int) -> None:
        if progress is not None:
            progress(what, done, total)

    return told


# The result


def _relatedness(
    transformation: Transformation,
    prior: Float[np.ndarray, " t"],
    conditional: Float[np.ndarray, "t r"],
    clouds: _Clouds,
    sums: _Sums,
    num_blocks: Int[np.ndarray, " t"],
    reference_loss: Float[np.ndarray, " r"],
    depth: Int[np.ndarray, " t"],
) -> Relatedness:
    """The terms in float64 from the sums over blocks, as arrays of the transformation's type."""
    dtype = transformation.conditional.dtype
    rounding = depth * float(jnp.finfo(dtype).eps)
    lost = (prior > 0) & (num_blocks == 0)
    reach = np.float64(sums.largest_size).sum(axis=-1)  # no cost is larger
    misplaced = np.array([clouds.rounding(k) for k in range(prior.size)]) * reach
    target_loss, transformed = (np.float64(loss) for loss in (sums.target_loss, sums.transformed_reference_loss))
    gain = target_loss - transformed - rounding * (target_loss + transformed + reach)
    lower = np.where(num_blocks == 1, np.maximum(gain, sums.lower), gain)

    coupling = label_coupling(jnp.asarray(prior, dtype), jnp.asarray(conditional, dtype))
    paid = mismatch_by_class(coupling, transformation.label_map)
    reweighted_losses = conditional @ reference_loss
    # What rounding may break of the inequality belongs to its upper end, as in `evaluate_bound`.
    losses = prior * (reweighted_losses + transformed + target_loss) + np.asarray(paid, np.float64)
    upper = prior * (np.float64(sums.upper) * (1 + rounding) + misplaced) + np.where(lost, 0, rounding * losses)
    array = functools.partial(jnp.asarray, dtype=dtype)
    terms = ClassTerms(
        reweighted_reference_loss=array(np.where(lost, np.inf, prior * reweighted_losses)),
        label_mismatch=paid,
        distribution_mismatch=array(np.where(lost, np.inf, upper)),
        transformed_reference_loss=array(np.where(lost, np.inf, prior * transformed)),
        target_loss=array(prior * target_loss),
        reference_loss=array(reference_loss),
    )
    reweighted, mismatch, transport, loss, achieved = (
        array(np.sum(np.asarray(term, np.float64)))
        for term in (
            terms.reweighted_reference_loss,
            terms.label_mismatch,
            terms.distribution_mismatch,
            terms.transformed_reference_loss,
            terms.target_loss,
        )
    )
    finite = bool(jnp.isfinite(reweighted + mismatch + transport + loss + achieved))
    status = Status.LOST_REFERENCE_CLASS * bool(lost.any()) + Status.NOT_FINITE * (not finite and not lost.any())
    bound = reweighted + mismatch + transport
    return Relatedness(
        bound=bound,
        tight_bound=jnp.minimum(loss + transport, bound),
        reweighted_reference_loss=reweighted,
        label_mismatch=mismatch,
        distribution_mismatch=transport,
        distribution_mismatch_lower=array(np.sum(prior * np.maximum(lower, 0))),
        transformed_reference_loss=loss,
        target_loss=achieved,
        target_accuracy=array(np.sum(prior * sums.target_accuracy)),
        coupling=coupling,
        class_terms=terms,
        transformation=transformation,
        status=jnp.asarray(int(status), jnp.int32),
    )
