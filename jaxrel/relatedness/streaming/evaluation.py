r"""Task-relatedness of tasks with very many samples: read from disk, within a budget of memory, over many devices.

Every term of the bound is a sum over samples or over blocks of samples, so that none ever needs all of them at once:

    loss of reference class c      = sum of w_i / W_c times the loss of sample i, in one pass over the reference
    P_k, W_c                       = sums of the weights of the whole tasks, in float64
    label mismatch                 = - sum_kc P_k Q_kc log B_kc, from these alone: blocks have no part in it
    transformed loss, target loss  = sum_b m_b times that of block b
    transport of target class k   <= sum_b m_b W(a_b, b_b)

The last line is the only inequality. Block b of target class k has the mass m_b of the reference cloud a^k and the same
mass of the target samples of class k: both are cut at the same places, points at a cut being split (`streaming.cuts`).
Marginals of blocks add up to those of the whole task by construction, without remainders, so plans within
blocks form a plan of the whole and their costs its cost: an upper end, certified block by block. The reference is
ordered so that its classes are spread evenly: every block has its share of each, up to one sample.

The lower end costs nothing. Each ground cost is at least `ell_k(v) - ell_k(u)`, so `-ell_k` and `ell_k` are feasible
dual potentials, and the transport of class k at least its mean target loss less its mean transformed reference loss.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jaxrel._core.checks import checked_seed
from jaxrel._core.labels import check_all_named
from jaxrel.relatedness.checks import check_method, numbered_as
from jaxrel.relatedness.coupling import held_out_conditional, label_coupling, mismatch_by_class
from jaxrel.relatedness.in_memory import checked_training_tasks, fit
from jaxrel.relatedness.methods import Joint, Method
from jaxrel.relatedness.result import ClassTerms, ComputedWith, Relatedness, Status, Transformation
from jaxrel.relatedness.stored_tasks import StoredTask, subsample
from jaxrel.relatedness.streaming.clouds import Clouds
from jaxrel.relatedness.streaming.cuts import stratified_order
from jaxrel.relatedness.streaming.devices import Progress, in_one_row, told
from jaxrel.relatedness.streaming.losses import reference_losses
from jaxrel.relatedness.streaming.memory import (
    LearningSizes,
    Workload,
    block_sizes_within,
    checked_budget,
    learning_sizes_within,
    rows_at_once,
)
from jaxrel.relatedness.streaming.transport import Sums, sums_over_blocks
from jaxrel.task import Task
from jaxrel.transport.certificates import SUM_WIDTH
from jaxrel.version import __version__

__all__ = ["evaluate_bound_in_blocks", "task_relatedness_in_blocks"]

_log = logging.getLogger(__name__)

DEFAULT_BUDGET = 2 * 2**30


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
    devices = in_one_row(mesh)
    work = Workload.of({*stored, *evaluated}, *stored, devices)
    budget = checked_budget(memory_budget, work, method)
    for name, task in _named(stored, evaluated).items():
        task.check_values(name, rows_at_once(budget, work))

    transformation, method = _learned(stored, method, learning_sizes_within(budget, work, method), seed)
    told(progress, "learning", 1)(1)
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
    devices = in_one_row(mesh)
    work = Workload.of({*stored}, *stored, devices)
    budget = checked_budget(memory_budget, work)
    for name, task in _named(stored, stored).items():
        task.check_values(name, rows_at_once(budget, work))
    return _evaluated(transformation, *stored, method, budget, work, devices, seed, progress)


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
    clouds = Clouds(reference, target, order_r, order_t, conditional, totals_r)
    sizes = block_sizes_within(budget, work, clouds.sizes())
    everywhere = jax.device_put(transformation, NamedSharding(devices, P()))
    sums, num_blocks = sums_over_blocks(clouds, sizes, everywhere, method, devices, progress)
    reference_loss = reference_losses(reference, totals_r, sizes, everywhere, devices, progress)
    # Terms that are summed up one after the other: of a block, of the blocks of a class, of devices.
    depth = sizes.rows + sizes.columns + num_blocks + devices.size + num_reference + num_target + 32
    depth += SUM_WIDTH + -(-reference.num_samples // SUM_WIDTH)
    return _relatedness(transformation, prior, conditional, clouds, sums, num_blocks, reference_loss, depth)


def _relatedness(
    transformation: Transformation,
    prior: Float[np.ndarray, " t"],
    conditional: Float[np.ndarray, "t r"],
    clouds: Clouds,
    sums: Sums,
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
