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

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxrel._core.checks import Key, host_generator
from jaxrel._core.labels import check_all_named
from jaxrel.relatedness.bound import relatedness_of
from jaxrel.relatedness.coupling import held_out_conditional, label_coupling, mismatch_by_class
from jaxrel.relatedness.methods import Method
from jaxrel.relatedness.result import ClassTerms, Relatedness, Status, Transformation
from jaxrel.relatedness.streaming.clouds import Clouds
from jaxrel.relatedness.streaming.cuts import stratified_order
from jaxrel.relatedness.streaming.losses import reference_losses
from jaxrel.relatedness.streaming.memory import block_sizes_within
from jaxrel.relatedness.streaming.plan import Plan
from jaxrel.relatedness.streaming.transport import Sums, sums_over_blocks
from jaxrel.task import Task
from jaxrel.transport.certificates import SUM_WIDTH

__all__ = ["check_evaluation", "evaluated"]


def check_evaluation(
    reference: Task, target: Task, *, num_reference: int, num_target: int, width: int | None = None
) -> None:
    """A ValueError for samples that a transformation of so many classes and features cannot be evaluated on."""
    for name, task, known in (("reference", reference, num_reference), ("target", target, num_target)):
        check_all_named(name, task.class_names, known)
        if width not in (None, task.num_features):
            raise ValueError(
                f"the {name} to evaluate on has {task.num_features} features, learned from were {width}: extract all "
                "of them with the same encoder."
            )
        labels = np.asarray(task.labels)
        unknown = np.flatnonzero((labels >= known) & (np.asarray(task.weights) > 0))
        if unknown.size:
            raise ValueError(
                f"labels[{unknown[0]}] of the {name} to evaluate on is {labels[unknown[0]]}, but learned were "
                f"classes 0 .. {known - 1}: leave such samples out, or learn with them."
            )


def evaluated(
    transformation: Transformation,
    reference: Task,
    target: Task,
    method: Method,
    plan: Plan,
    key: Key,
) -> Relatedness:
    """All terms on all samples."""
    method, devices, progress = method.for_evaluation(), plan.devices, plan.progress
    num_target, num_reference = transformation.conditional.shape
    dtype = transformation.conditional.dtype
    totals_r, totals_t = (
        task.class_weights(count) for task, count in ((reference, num_reference), (target, num_target))
    )
    prior = totals_t / totals_t.sum()
    conditional = np.asarray(held_out_conditional(transformation.conditional, jnp.asarray(totals_r, dtype)), np.float64)
    rng = host_generator(key, 1)
    order_r, order_t = (
        stratified_order(np.asarray(task.labels), np.asarray(task.weights), rng) for task in (reference, target)
    )
    clouds = Clouds(reference, target, order_r, order_t, conditional, totals_r)
    sizes = block_sizes_within(plan.budget, plan.work, clouds.sizes())
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

    def array(values: Any, dtype: Any = dtype) -> Array:
        return jnp.asarray(values, dtype)

    terms = ClassTerms(
        reweighted_reference_loss=array(np.where(lost, np.inf, prior * reweighted_losses)),
        label_mismatch=paid,
        distribution_mismatch=array(np.where(lost, np.inf, upper)),
        transformed_reference_loss=array(np.where(lost, np.inf, prior * transformed)),
        target_loss=array(prior * target_loss),
        reference_loss=array(reference_loss),
    )
    return relatedness_of(
        transformation,
        coupling,
        terms,
        lower=array(np.sum(prior * np.maximum(lower, 0))),
        accuracy=array(np.sum(prior * sums.target_accuracy)),
        faults={Status.LOST_REFERENCE_CLASS: array(lost, bool)},
    )
