r"""Task-relatedness of very large tasks, read from disk within a memory budget and spread over devices.

Every term of the bound is a sum over samples or over blocks of samples, so none needs all samples at once:

    loss of reference class c      = sum of w_i / W_c times the loss of sample i, in one pass over the reference
    P_k, W_c                       = sums of the weights of the whole tasks, in float64
    label mismatch                 = - sum_kc P_k Q_kc log B_kc, which does not depend on the blocks
    transformed loss, target loss  = sum_b m_b times that of block b
    transport of target class k   <= sum_b m_b W(a_b, b_b)

Only the last line is an inequality. Block b of target class k has mass m_b of the reference cloud a^k and the same mass
of the target samples of class k: both are cut at the same places, and points at a cut are split (`streaming.cuts`). The
marginals of the blocks sum exactly to those of the whole task, so plans within blocks form a plan between the whole
tasks, with the sum of their costs: an upper end, certified block by block. The reference is ordered so that its classes
are spread evenly: every block has its share of each, up to one sample.

The lower end needs no computation. Each ground cost is at least `ell_k(v) - ell_k(u)`, so `-ell_k` and `ell_k` are
feasible dual potentials, and the transport cost of class k is at least its mean target loss minus its mean transformed
reference loss.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jaxrel._core.checks import Key, host_generator
from jaxrel._core.labels import check_all_named
from jaxrel.relatedness.bound import ClassMeans, bound_of_means
from jaxrel.relatedness.coupling import held_out_conditional
from jaxrel.relatedness.methods import Method
from jaxrel.relatedness.result import Relatedness, Transformation
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
    """Raise a ValueError for samples that do not match the classes and features of the transformation."""
    for name, task, known in (("reference", reference, num_reference), ("target", target, num_target)):
        check_all_named(name, task.class_names, known)
        if width not in (None, task.num_features):
            raise ValueError(
                f"the {name} to evaluate on has {task.num_features} features, but the transformation was learned from "
                f"{width}: extract all of them with the same encoder."
            )
        labels = np.asarray(task.labels)
        unknown = np.flatnonzero((labels >= known) & (np.asarray(task.weights) > 0))
        if unknown.size:
            raise ValueError(
                f"labels[{unknown[0]}] of the {name} to evaluate on is {labels[unknown[0]]}, but the transformation "
                f"was learned from classes 0 .. {known - 1}: leave such samples out, or learn with them."
            )


def evaluated(
    transformation: Transformation,
    reference: Task,
    target: Task,
    method: Method,
    plan: Plan,
    key: Key,
) -> Relatedness:
    """Evaluate all terms on all samples."""
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
    # Number of terms in a sequential sum: within a block, over the blocks of a class, over devices.
    depth = sizes.rows + sizes.columns + num_blocks + devices.size + num_reference + num_target + 32
    depth += SUM_WIDTH + -(-reference.num_samples // SUM_WIDTH)
    rounding = depth * float(jnp.finfo(dtype).eps)
    means = _with_lower_ends(sums, clouds, num_blocks, rounding)
    given: Any = (prior, conditional, means, reference_loss)
    arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), given)
    return bound_of_means(transformation, *arrays, rounding=jnp.asarray(rounding, dtype))


def _with_lower_ends(
    sums: Sums, clouds: Clouds, num_blocks: Int[np.ndarray, " t"], rounding: Float[np.ndarray, " t"]
) -> ClassMeans:
    """Means whose `upper` allows for mass misplaced by the cuts and whose `lower` is that of the whole classes."""
    means = jax.tree.map(np.float64, sums.means)
    reach = np.float64(sums.largest_size).sum(axis=-1)  # no cost is larger
    misplaced = np.array([clouds.rounding(k) for k in range(reach.size)]) * reach
    target_loss, transformed = means.target_loss, means.transformed_reference_loss
    gain = target_loss - transformed - rounding * (target_loss + transformed + reach)
    lower = np.maximum(np.where(num_blocks == 1, np.maximum(gain, means.lower), gain), 0)
    return dataclasses.replace(means, upper=means.upper + misplaced, lower=lower)
