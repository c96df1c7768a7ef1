r"""The terms of the bound on given samples: the label step, the transport step, the certificate.

For target class k (prior P_k), reference point i (class c_i) and logits u_i, v_j:

    ell_k(v)    = LSE(v) - LSE(v + log B_k)                     loss of the transformed head (B softmax(v))_k
    a^k_i       = Q_{k, c_i} w_i / w(c_i)                       class-k reference cloud, sums to 1
    target_loss = sum_k P_k mean_{j in k} ell_k(v_j)
               <= sum_k P_k [ sum_i a^k_i ell_k(u_i) + <pi^k, cost_k> ]                    tight_bound
               <= sum_k P_k sum_i a^k_i -log softmax(u_i)_{c_i} - sum_kc J_kc log B_kc + ...    bound

for any plans pi^k between a^k and class k: every sum below is deterministic, and so is the inequality.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrel.relatedness.blocks import class_order, heaviest, members
from jaxrel.relatedness.coupling import class_totals, held_out_conditional, label_coupling, label_mismatch
from jaxrel.relatedness.methods import Joint
from jaxrel.relatedness.result import Relatedness, Status, Transformation
from jaxrel.tasks import Task
from jaxrel.transport import (
    certified_interval,
    entropic_plan,
    euclidean_cost,
    feature_distance,
    margin_cost,
    mean_cost,
    range_cost,
    sinkhorn_potentials,
)
from jaxrel.transport.certificates import normalised

__all__ = ["Contributions", "class_loss", "contributions", "evaluate_bound", "ground_cost", "log_label_map"]

_BATCHED_COST_ENTRIES = 2**22  # Class blocks solved at once: as many as keep the cost array under 16 MiB in float32.


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Contributions:
    """What each sample adds to the bound, to first order in its weight.

    `bound = sum_k P_k [ sum_i a^k_i (reference_loss_i + reference_potential_ki) + mean_{j in k} target_potential_j ]
    + label_mismatch + slack`, with `slack` the width between the dual value and the certified upper end.
    """

    reference_loss: Float[Array, " n"]
    reference_potential: Float[Array, "t n"]
    target_potential: Float[Array, " m"]
    slack: Float[Array, ""]


def log_label_map(label_map: Float[Array, "t r"]) -> Float[Array, "t r"]:
    """log B with -inf at 0 and a zero derivative there."""
    positive = label_map > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, label_map, 1)), -jnp.inf)


def class_loss(logits: Float[Array, "*b r"], log_map_row: Float[Array, "*b r"]) -> Float[Array, "*b"]:
    """`-log (B softmax(logits))_k = LSE(v) - LSE(v + log B_k)`; +inf where row k of B is 0."""
    return jax.nn.logsumexp(logits, axis=-1) - jax.nn.logsumexp(logits + log_map_row, axis=-1)


def ground_cost(
    cost: str,
    x: Float[Array, "*b n c"],
    y: Float[Array, "*b m c"],
    log_map_row: Float[Array, "*b r"],
    lipschitz: Float[Array, ""],
) -> Float[Array, "*b n m"]:
    """The named cost between reference points x and target points y of one target class.

    `"feature"` is `tau * ||x - y||` on (mapped) features, the others are on logits.
    """
    match cost:
        case "margin":
            return margin_cost(x, y, log_map_row)
        case "range":
            return range_cost(x, y)
        case "euclidean":
            return euclidean_cost(x, y)
        case "feature":
            return lipschitz * feature_distance(x, y)
        case _:
            raise ValueError(f"unknown ground cost {cost!r}.")


def transport_points(
    transformation: Transformation, reference: Task, target: Task, method: Joint
) -> tuple[str, Float[Array, "n c"], Float[Array, "m c"]]:
    """Name of the ground cost and the points it compares: logits, or features mapped by A, b."""
    if transformation.feature_map is None:
        u = transformation.reference_logits(reference.features)
        return str(method.cost), u, transformation.target_logits(target.features)
    mapped = transformation.feature_map(transformation.reference_standardisation(reference.features))
    return "feature", mapped, transformation.target_standardisation(target.features)


def evaluate_bound(
    transformation: Transformation,
    reference: Task,
    target: Task,
    *,
    method: Joint,
    block_sizes: tuple[int, int] | None = None,
) -> Relatedness:
    """Every term of the bound on these samples, B frozen at the transformation's.

    Args:
        transformation: any; the inequalities hold for every Q, B, M, m and head, learned or not.
        reference, target: labelled, with the class counts of the transformation; a padded sample has weight 0.
            Reference classes absent here leave Q and its rows are renormalised; target classes absent here drop out.
        method: its cost, `certificate_epsilon` and `certificate_sweeps` are used.
        block_sizes: static sizes (reference points, target points) of the largest class block, for speed: the number
            of reference samples that carry weight for one target class, and of samples in one target class. None
            takes all samples. Sizes that leave out weight give an infinite bound and a status that says so.

    Runs under `jit` and `vmap`; one compilation for each shape.
    """
    return _evaluate(transformation, reference, target, method, block_sizes)[0]


def contributions(
    transformation: Transformation,
    reference: Task,
    target: Task,
    *,
    method: Joint,
    block_sizes: tuple[int, int] | None = None,
) -> Contributions:
    """What each sample adds to `evaluate_bound(...).bound`, by the dual potentials of its transport problems."""
    return _evaluate(transformation, reference, target, method, block_sizes)[1]


def _evaluate(
    transformation: Transformation,
    reference: Task,
    target: Task,
    method: Joint,
    block_sizes: tuple[int, int] | None,
) -> tuple[Relatedness, Contributions]:
    (labels_r, _), (labels_t, num_classes) = reference.labelled, target.labelled
    unseen_classes = max(0, num_classes - transformation.conditional.shape[0])
    transformation = _with_unseen_classes(transformation, unseen_classes)
    num_target, num_reference = transformation.conditional.shape
    u = transformation.reference_logits(reference.features)
    v = transformation.target_logits(target.features)
    log_map = log_label_map(transformation.label_map)

    # The coupling on these samples: their target prior, Q as learned.
    totals_r = class_totals(labels_r, num_reference, reference.weights)
    totals_t = class_totals(labels_t, num_target, target.weights)
    prior = totals_t / jnp.sum(totals_t)
    conditional = held_out_conditional(transformation.conditional, totals_r)
    coupling = label_coupling(prior, conditional)
    within_class = _within_class(reference.weights, totals_r, labels_r)
    cloud = conditional[:, labels_r] * within_class  # a^k_i, rows sum to 1

    reference_loss = -jnp.take_along_axis(jax.nn.log_softmax(u), labels_r[:, None], axis=1)[:, 0]
    reweighted = jnp.sum((prior @ cloud) * reference_loss)
    mismatch = label_mismatch(coupling, transformation.label_map)
    transformed = _weighted(prior[:, None] * cloud, class_loss(u[None], log_map[:, None]))

    sample_share = target.weights / jnp.sum(target.weights)
    target_loss = _weighted(sample_share, class_loss(v, log_map[labels_t]))
    predicted = jnp.argmax(jax.nn.logsumexp(v[:, None, :] + log_map, axis=-1), axis=-1)
    accuracy = jnp.sum(sample_share * (predicted == labels_t))

    cost, x, y = transport_points(transformation, reference, target, method)
    transport = _class_transport(cost, x, y, cloud, log_map, transformation, target, method, block_sizes)
    upper, lower = prior @ transport.upper, prior @ transport.lower

    unseen = jnp.any((prior > 0) & ~jnp.any(transformation.label_map > 0, axis=1))
    learned = jnp.any(transformation.conditional > 0, axis=1)
    lost = jnp.any((prior > 0) & learned & ~jnp.any(conditional > 0, axis=1))
    left_out = jnp.any((prior > 0) & transport.left_out) & ~lost
    infinite = unseen | lost | left_out
    upper = jnp.where(infinite, jnp.inf, upper)
    reweighted_or_inf = jnp.where(lost, jnp.inf, reweighted)
    transformed = jnp.where(unseen | lost, jnp.inf, transformed)
    finite = jnp.isfinite(reweighted + mismatch + upper + transformed + target_loss)
    status = (
        Status.UNSEEN_TARGET_CLASS * unseen
        + Status.LOST_REFERENCE_CLASS * lost
        + Status.SUPPORT_TOO_SMALL * left_out
        + Status.NOT_FINITE * (~finite & ~infinite)
    )
    bound = reweighted_or_inf + mismatch + upper
    relatedness = Relatedness(
        bound=bound,
        tight_bound=transformed + upper,
        reweighted_reference_loss=reweighted_or_inf,
        label_mismatch=mismatch,
        distribution_mismatch=upper,
        distribution_mismatch_lower=lower,
        transformed_reference_loss=transformed,
        target_loss=target_loss,
        target_accuracy=accuracy,
        coupling=coupling,
        transformation=transformation,
        status=status.astype(jnp.int32),
    )
    dual = jnp.sum((prior[:, None] * cloud) * transport.f) + jnp.sum(sample_share * transport.g)
    return relatedness, Contributions(reference_loss, transport.f, transport.g, slack=upper - dual)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _ClassTransport:
    lower: Float[Array, " t"]
    upper: Float[Array, " t"]
    left_out: Float[Array, " t"]
    f: Float[Array, "t n"]  # potentials scattered back to the samples, 0 outside the block
    g: Float[Array, " m"]


def _class_transport(
    cost_name: str,
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    cloud: Float[Array, "t n"],
    log_map: Float[Array, "t r"],
    transformation: Transformation,
    target: Task,
    method: Joint,
    block_sizes: tuple[int, int] | None,
) -> _ClassTransport:
    """Solve and certify the transport problem of every target class, a few classes at a time."""
    num_target = cloud.shape[0]
    rows, columns = block_sizes or (x.shape[0], y.shape[0])
    rows, columns = min(rows, x.shape[0]), min(columns, y.shape[0])
    index_x, a = heaviest(cloud, rows)
    classes = class_order(target.labelled[0], num_target, target.weights)
    index_y, b = members(classes, target.weights, columns)
    lipschitz = transformation.target_map.lipschitz
    # Masses are compared with what they should be before they are normalised.
    rounding = 4 * (x.shape[0] + 16) * jnp.finfo(a.dtype).eps
    counts = classes.start[1:] - classes.start[:-1]
    left_out = (jnp.sum(a, axis=1) < jnp.sum(cloud, axis=1) * (1 - rounding)) | (counts > columns)

    def solve(block: tuple[Array, ...]) -> tuple[Array, ...]:
        rows_x, rows_y, a, b, log_map_row = block
        a, b = normalised(a), normalised(b)
        cost = ground_cost(cost_name, x[rows_x], y[rows_y], log_map_row, lipschitz)
        cost = jnp.where((a > 0)[:, None] & (b > 0), cost, 0)
        scale = jnp.maximum(mean_cost(cost, a, b), jnp.finfo(cost.dtype).tiny * 2**24)
        epsilon = method.certificate_epsilon * scale
        f, g = sinkhorn_potentials(
            cost, a, b, epsilon=epsilon, num_sweeps=method.certificate_sweeps, start_epsilon=scale
        )
        plan = entropic_plan(cost, a, b, f, epsilon)
        lower, upper = certified_interval(cost, a, b, plan, f)
        return jnp.maximum(lower, 0), upper, jnp.where(a > 0, f, 0), jnp.where(b > 0, g, 0)

    at_once = max(1, min(num_target, _BATCHED_COST_ENTRIES // (rows * columns)))
    blocks = (index_x, index_y, a, b, log_map)
    lower, upper, f, g = jax.lax.map(solve, blocks, batch_size=at_once)
    class_rows = jnp.arange(num_target)[:, None]
    return _ClassTransport(
        lower=lower,
        upper=upper,
        left_out=left_out,
        f=jnp.zeros_like(cloud).at[class_rows, index_x].add(f),
        g=jnp.zeros(y.shape[0], y.dtype).at[index_y].add(g),
    )


def _with_unseen_classes(transformation: Transformation, count: int) -> Transformation:
    """Rows of zeros for target classes that were never seen in training: no label map leads to them."""

    def extended(rows: Float[Array, "t r"]) -> Float[Array, "t+count r"]:
        return jnp.pad(rows, ((0, count), (0, 0)))

    return dataclasses.replace(
        transformation,
        conditional=extended(transformation.conditional),
        coupling=extended(transformation.coupling),
        label_map=extended(transformation.label_map),
    )


def _within_class(weights: Array, totals: Array, labels: Int[Array, " n"]) -> Float[Array, " n"]:
    total = totals[labels]
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 0)


def _weighted(weights: Array, values: Array) -> Float[Array, ""]:
    """Weighted sum in which a weight of 0 silences an infinite value."""
    return jnp.sum(jnp.where(weights > 0, weights * jnp.where(weights > 0, values, 0), 0))
