r"""The terms of the bound on given samples: the label step, the transport step and the certificate.

For target class k (prior P_k), reference point i (class c_i) and logits u_i, v_j:

    ell_k(v)    = LSE(v) - LSE(v + log B_k)                     loss of the transformed head (B softmax(v))_k
    a^k_i       = Q_{k, c_i} w_i / w(c_i)                       class-k reference cloud, sums to 1
    target_loss = sum_k P_k mean_{j in k} ell_k(v_j)
               <= sum_k P_k [ sum_i a^k_i ell_k(u_i) + <pi^k, cost_k> ]                    tight_bound
               <= sum_k P_k sum_i a^k_i -log softmax(u_i)_{c_i} - sum_kc J_kc log B_kc + ...    bound

for any plans pi^k between a^k and class k. Every sum below is deterministic, and so is the inequality.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrel._core.labels import check_all_named
from jaxrel.heads import Head, cross_entropy
from jaxrel.relatedness.blocks import heaviest
from jaxrel.relatedness.class_transport import class_transport
from jaxrel.relatedness.coupling import class_totals, held_out_conditional, label_coupling, mismatch_by_class
from jaxrel.relatedness.ground_costs import GroundCost, cost_names, ground_cost
from jaxrel.relatedness.result import ClassTerms, Relatedness, Status, Transformation
from jaxrel.task import Task
from jaxrel.transport.certificates import rounding_allowance, shallow_sum, sum_depth

if TYPE_CHECKING:
    from jaxrel.relatedness.methods import Method

__all__ = [
    "ClassMeans",
    "Contributions",
    "bound_of_means",
    "class_loss",
    "evaluate_bound_with_contributions",
    "log_label_map",
    "silenced",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassMeans:
    """The means from which the bound is assembled, over the blocks (one or more) of each target class.

    `upper` and `lower` are the certified ends of the transport cost; `upper` allows for the rounding of the points.
    """

    upper: Float[Array, "*d t"]
    lower: Float[Array, "*d t"]
    transformed_reference_loss: Float[Array, "*d t"]
    target_loss: Float[Array, "*d t"]
    target_accuracy: Float[Array, "*d t"]


_TERMS = (
    "reweighted_reference_loss",
    "label_mismatch",
    "distribution_mismatch",
    "transformed_reference_loss",
    "target_loss",
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Contributions:
    """The contribution of each sample to the bound, to first order in its weight.

    `bound = sum_k P_k [ sum_i a^k_i (reference_loss_i + reference_potential_ki) + mean_{j in k} target_potential_j ]
    + label_mismatch + slack`, where `slack` is the gap between the dual value and the certified upper end.
    """

    reference_loss: Float[Array, " n"]
    reference_potential: Float[Array, "t n"]
    target_potential: Float[Array, " m"]
    slack: Float[Array, ""]


def log_label_map(label_map: Float[Array, "t r"]) -> Float[Array, "t r"]:
    """log B with -inf at 0 and a zero derivative there."""
    positive = label_map > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, label_map, 1)), -jnp.inf)


def class_loss(logits: Float[Array, "*#b r"], log_map_row: Float[Array, "*#b r"]) -> Float[Array, "*b"]:
    """`-log (B softmax(logits))_k = LSE(v) - LSE(v + log B_k)`; +inf where row k of B is 0."""
    # The largest logit cancels; subtracting it first keeps its rounding error out.
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return jax.nn.logsumexp(shifted, axis=-1) - jax.nn.logsumexp(shifted + log_map_row, axis=-1)


def transport_points(
    transformation: Transformation, reference: Task, target: Task, method: Method
) -> tuple[GroundCost, Float[Array, "*b n c"], Float[Array, "*b m c"]]:
    """The ground cost and the points it compares: logits, or features mapped by A, b.

    A cost named for another space than that of the transformation is replaced by the tightest cost of this space.
    """
    space = transformation.space
    named_elsewhere = isinstance(method.cost, str) and method.cost not in cost_names(space)
    cost = ground_cost(None if named_elsewhere else method.cost, space)
    if transformation.feature_map is None:
        return cost, transformation.reference_logits(reference.features), transformation.target_logits(target.features)
    mapped = transformation.feature_map(transformation.reference_standardisation(reference.features))
    return cost, mapped, transformation.target_standardisation(target.features)


def point_rounding(
    transformation: Transformation,
    x: Float[Array, "*b n c"],
    y: Float[Array, "*b m c"],
    u: Float[Array, "*b n r"],
    v: Float[Array, "*b m r"],
    log_map: Float[Array, "t r"],
) -> tuple[Float[Array, "*b n"], Float[Array, "*b m"]]:
    r"""`(alpha, beta)`: rounding can break `ell(v_j) - ell(u_i) <= cost_ij` by at most `alpha_i + beta_j`.

    In prediction space both sides are functions of the same u and v. The errors are in sums of r terms as large as the
    logits, and in `softmax(u + log B)`, which is the exact softmax of logits perturbed by their rounding. In feature
    space u differs slightly from `M x + m`, because x is rounded from `A z + b` and M from `W A^-1`. This difference is
    computed, and ell changes by at most its range.
    """
    eps = float(jnp.finfo(u.dtype).eps)
    unit = (u.shape[-1] + 8) * eps
    largest = jnp.max(jnp.where(log_map > -jnp.inf, jnp.abs(log_map), 0))

    def size(logits: Float[Array, "*b k r"]) -> Float[Array, "*b k"]:
        return jnp.max(jnp.abs(logits), axis=-1)

    alpha, beta = unit * (1 + largest + size(u)), unit * (1 + size(v))
    if transformation.feature_map is not None:
        head = transformation.target_map
        absolute = Head(jnp.abs(head.weights), jnp.abs(head.bias))
        apart = u - head(x)
        alpha += jnp.max(apart, axis=-1) - jnp.min(apart, axis=-1)
        alpha += (x.shape[-1] + 8) * eps * size(absolute(jnp.abs(x)))
        beta += (x.shape[-1] + 8) * eps * size(absolute(jnp.abs(y)))
    return jax.lax.stop_gradient((alpha, beta))


def evaluate_bound_with_contributions(
    transformation: Transformation,
    reference: Task,
    target: Task,
    *,
    method: Method,
    block_sizes: tuple[int, int] | None = None,
) -> tuple[Relatedness, Contributions]:
    """Every term of the bound, and the contribution of each sample by the dual potentials of its transport problems."""
    (labels_r, _), (labels_t, num_classes) = reference.labelled, target.labelled
    for name, task, known in zip(
        ("target", "reference"), (target, reference), transformation.conditional.shape, strict=True
    ):
        check_all_named(name, task.class_names, known)
    unseen_classes = max(0, num_classes - transformation.conditional.shape[0])
    transformation = _with_unseen_classes(transformation, unseen_classes)
    num_target, num_reference = transformation.conditional.shape
    cost, x, y = transport_points(transformation, reference, target, method)
    u, v = x, y
    if transformation.feature_map is not None:
        u, v = transformation.reference_logits(reference.features), transformation.target_logits(target.features)
    # Losses and costs must use identical logits. Fused into several consumers, they would be rounded differently.
    x, y, u, v = jax.lax.optimization_barrier((x, y, u, v))
    log_map = log_label_map(transformation.label_map)

    # The coupling on these samples has their target prior and the learned Q.
    totals_r = class_totals(labels_r, num_reference, reference.weights)
    totals_t = class_totals(labels_t, num_target, target.weights)
    prior = totals_t / jnp.sum(totals_t)
    conditional = held_out_conditional(transformation.conditional, totals_r)
    within_class = _within_class(reference.weights, totals_r, labels_r)
    cloud = conditional[:, labels_r] * within_class  # a^k_i, rows sum to 1

    losses = cross_entropy(u, labels_r)
    within_target = _within_class(target.weights, totals_t, labels_t)
    target_losses = class_loss(v, log_map[labels_t])
    right = (transformation.target_classes(v) == labels_t).astype(v.dtype)
    transport = class_transport(
        cost,
        x,
        y,
        cloud,
        log_map,
        target,
        scale=cost.scale(transformation.target_map),
        method=method,
        block_sizes=block_sizes,
    )

    def transformed_loss(of_class: tuple[Array, Array, Array]) -> Float[Array, ""]:
        index, share, log_map_row = of_class
        return shallow_sum(silenced(share, class_loss(u[index], log_map_row)))

    def mean_in_target_class(values: Float[Array, " m"]) -> Float[Array, " t"]:
        return class_totals(labels_t, num_target, silenced(within_target, values))

    # One class at a time, and only samples it gives weight to: all shifted logits at once would be n t r numbers.
    leaning = heaviest(cloud, block_sizes[0] if block_sizes else cloud.shape[1])
    transformed = jax.lax.map(transformed_loss, (*leaning, log_map))
    alpha, beta = point_rounding(transformation, x, y, u, v, log_map)
    means = ClassMeans(
        upper=transport.upper + shallow_sum(silenced(cloud, alpha)) + mean_in_target_class(beta),
        lower=transport.lower,
        transformed_reference_loss=jnp.where(transport.left_out, jnp.inf, transformed),
        target_loss=mean_in_target_class(target_losses),
        target_accuracy=mean_in_target_class(right),
    )
    depth = sum_depth(losses.shape[0]) + sum_depth(target_losses.shape[0]) + num_target + 2 * num_reference
    relatedness = bound_of_means(
        transformation,
        prior,
        conditional,
        means,
        class_totals(labels_r, num_reference, silenced(within_class, losses)),
        rounding=rounding_allowance(depth, u.dtype),
        faults={Status.SUPPORT_TOO_SMALL: transport.left_out, Status.BLOCK_OVERFLOW: transport.overflow},
    )
    sample_share = prior[labels_t] * within_target
    dual = jnp.sum((prior[:, None] * cloud) * transport.f) + jnp.sum(sample_share * transport.g)
    return relatedness, Contributions(losses, transport.f, transport.g, slack=relatedness.distribution_mismatch - dual)


def bound_of_means(
    transformation: Transformation,
    prior: Float[Array, " t"],
    conditional: Float[Array, "t r"],
    means: ClassMeans,
    reference_loss: Float[Array, " r"],
    *,
    rounding: float | Float[Array, " t"],
    faults: dict[Status, Bool[Array, " t"]] | None = None,
) -> Relatedness:
    """Assemble every term from the prior and Q of these samples and the means of target and reference classes.

    `rounding` is the relative error of a mean; the upper end of the transport allows for it. `faults` flags the classes
    whose transport is not certified, with the reason.
    """
    present = prior > 0
    unseen = present & ~jnp.any(transformation.label_map > 0, axis=1)
    learned = jnp.any(transformation.conditional > 0, axis=1)
    lost = present & learned & ~jnp.any(conditional > 0, axis=1)
    uncertified = unseen | lost
    statuses = {Status.UNSEEN_TARGET_CLASS: unseen, Status.LOST_REFERENCE_CLASS: lost}
    for fault, classes in (faults or {}).items():
        statuses[fault] = present & classes & ~lost
        uncertified |= statuses[fault]

    coupling = label_coupling(prior, conditional)
    paid = mismatch_by_class(coupling, transformation.label_map)
    reweighted = prior * jnp.sum(silenced(conditional, reference_loss), axis=1)
    transformed, achieved = prior * means.transformed_reference_loss, prior * means.target_loss
    summed = jax.lax.stop_gradient(reweighted + paid + transformed + achieved)
    upper = silenced(prior, means.upper) * (1 + rounding) + rounding * jnp.where(uncertified, 0, summed)
    terms = ClassTerms(
        reweighted_reference_loss=jnp.where(lost, jnp.inf, reweighted),
        label_mismatch=paid,
        distribution_mismatch=jnp.where(uncertified, jnp.inf, upper),
        transformed_reference_loss=jnp.where(unseen | lost, jnp.inf, transformed),
        target_loss=achieved,
        reference_loss=reference_loss,
    )
    totals: dict[str, Any] = {name: jnp.sum(getattr(terms, name)) for name in _TERMS}
    bound = totals["reweighted_reference_loss"] + totals["label_mismatch"] + totals["distribution_mismatch"]
    tight_bound = totals["transformed_reference_loss"] + totals["distribution_mismatch"]
    status = sum((int(fault) * jnp.any(classes) for fault, classes in statuses.items()), jnp.zeros((), jnp.int32))
    not_finite = ~jnp.isfinite(bound + totals["transformed_reference_loss"] + totals["target_loss"]) & (status == 0)
    return Relatedness(
        bound=bound,
        tight_bound=jnp.minimum(tight_bound, bound),  # equal in theory for a permutation, rounded in two ways
        **totals,
        distribution_mismatch_lower=jnp.sum(silenced(prior, means.lower)),
        target_accuracy=jnp.sum(silenced(prior, means.target_accuracy)),
        coupling=coupling,
        class_terms=terms,
        transformation=transformation,
        status=(status + int(Status.NOT_FINITE) * not_finite).astype(jnp.int32),
    )


def _with_unseen_classes(transformation: Transformation, count: int) -> Transformation:
    """Add rows of zeros for target classes that did not occur in training: no label map leads to them."""

    def extended(rows: Float[Array, "t r"]) -> Float[Array, "k r"]:
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


def silenced(weights: Float[Array, "*#b n"], values: Float[Array, "*#b n"]) -> Float[Array, "*b n"]:
    """Products that are 0 where the weight is 0, even if the value is infinite or NaN."""
    return jnp.where(weights > 0, weights * jnp.where(weights > 0, values, 0), 0)
