r"""Direct minimisation of the three-term bound: `method=Joint(...)`."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxrel.heads import Head, fit_head
from jaxrel.optimise import minimise
from jaxrel.relatedness.blocks import ClassOrder, class_order, sample_members
from jaxrel.relatedness.bound import class_loss, evaluate_bound, ground_cost, log_label_map
from jaxrel.relatedness.coupling import class_prior, label_coupling, label_map, label_mismatch
from jaxrel.relatedness.methods import RIDGES, Joint
from jaxrel.relatedness.result import FeatureMap, Relatedness, Transformation
from jaxrel.standardisation import Standardisation, identity_standardisation, standardisation_of
from jaxrel.tasks import Task
from jaxrel.transport import (
    assign_classes,
    class_pair_costs,
    entropic_plan,
    mean_cost,
    sinkhorn_potentials,
)

__all__ = ["fit_joint", "joint_relatedness"]

_MINIBATCH_COST_TERMS = 2**21
_ASSIGNMENT_POINTS = 32  # Points of each class in the class-pair costs.


def joint_relatedness(
    reference: Task,
    target: Task,
    held_out_reference: Task,
    held_out_target: Task,
    head: Head | None,
    key: PRNGKeyArray,
    *,
    method: Joint,
    block_sizes: tuple[int, int] | None = None,
) -> Relatedness:
    """Learn the transformation on two tasks and evaluate every term on two others: the kernel under the verb.

    Pure: runs inside `jit` and `vmap`, checks no values, reports trouble through `Relatedness.status`. All four tasks
    are labelled and may be padded by samples of weight 0; every class of the first two has a sample. `head` is a head
    on raw reference features or None. See `task_relatedness` and `evaluate_bound` for the rest.
    """
    transformation = fit_joint(reference, target, head, key, method=method)
    return evaluate_bound(transformation, held_out_reference, held_out_target, method=method, block_sizes=block_sizes)


def fit_joint(reference: Task, target: Task, head: Head | None, key: PRNGKeyArray, *, method: Joint) -> Transformation:
    """Learn Q, the head and M, m (or A, b) on labelled training samples; pure, under `jit` and `vmap`."""
    standardise_r = _standardisation(reference, method)
    standardise_t = _standardisation(target, method)
    reference = _standardised(reference, standardise_r)
    target = _standardised(target, standardise_t)
    head = fit_head(reference, ridge=method.head_ridge) if head is None else _on_standardised(head, standardise_r)
    sampler = _sampler(reference, target, method)
    support = _assign(sampler, reference, target)
    logits = jnp.zeros(support.shape, head.weights.dtype)
    target_map, ridge = _fit_target_map(target, _conditional(logits, support), method.ridge, sampler.target)
    width, dtype = target.num_features, logits.dtype
    identity = FeatureMap(jnp.eye(width, dtype=dtype), jnp.zeros(width, dtype))
    start = target_map if method.space == "prediction" else identity
    parameters = _Parameters(head, start, logits)
    parameters = _adam(parameters, support, sampler, reference, target, ridge, key, method)

    conditional = _conditional(parameters.logits, support)
    prior = class_prior(*target.labelled, target.weights)
    coupling = label_coupling(prior, conditional)
    return Transformation(
        conditional=conditional,
        coupling=coupling,
        prior=jnp.sum(coupling, axis=0),
        label_map=label_map(coupling, prior),
        head=parameters.head,
        target_map=parameters.target_map(),
        feature_map=parameters.feature_map(),
        ridge=ridge,
        reference_standardisation=standardise_r,
        target_standardisation=standardise_t,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Parameters:
    head: Head
    map: Head | FeatureMap  # M, m in prediction space; A, b in feature space
    logits: Float[Array, "t r"]  # of Q: softmax over the reference classes assigned to each target class

    def target_map(self) -> Head:
        """M, m: free in prediction space; `M = W A^-1`, `m = w0 - M b` in feature space."""
        if isinstance(self.map, Head):
            return self.map
        matrix = jnp.linalg.solve(self.map.matrix.T, self.head.weights.T).T
        return Head(weights=matrix, bias=self.head.bias - matrix @ self.map.offset)

    def feature_map(self) -> FeatureMap | None:
        return self.map if isinstance(self.map, FeatureMap) else None


def _conditional(logits: Float[Array, "t r"], support: Bool[Array, "t r"]) -> Float[Array, "t r"]:
    return jax.nn.softmax(jnp.where(support, logits, -jnp.inf), axis=1)


def _standardisation(task: Task, method: Joint) -> Standardisation:
    if method.standardise:
        return standardisation_of(task.features, task.weights)
    return identity_standardisation(task.num_features, task.features.dtype)


def _standardised(task: Task, standardise: Standardisation) -> Task:
    return task.replaced(features=jnp.where(task.weights[:, None] > 0, standardise(task.features), 0))


def _on_standardised(head: Head, standardise: Standardisation) -> Head:
    """The head that gives the same logits on standardised features."""
    return Head(weights=head.weights * standardise.scale, bias=head(standardise.mean))


@functools.partial(jax.tree_util.register_dataclass, data_fields=("reference", "target"), meta_fields=("num_points",))
@dataclass(frozen=True)
class _Sampler:
    """Draws equally weighted minibatches: a cloud of reference points and one of target points for each class."""

    reference: ClassOrder
    target: ClassOrder
    num_points: int

    def draw(
        self, conditional: Float[Array, "t r"], key: PRNGKeyArray
    ) -> tuple[Int[Array, "t s"], Int[Array, "t s"], Int[Array, "t s"]]:
        """Indices of reference points, their classes (drawn by Q), and indices of target points."""
        shape = (2, conditional.shape[0], self.num_points)
        # One uniform number in each of s equal strata.
        jitter = jax.random.uniform(key, shape, conditional.dtype)
        across, within = (jnp.arange(self.num_points) + jitter) / self.num_points
        upper = jnp.cumsum(conditional, axis=1)
        drawn = jnp.sum(across[:, :, None] >= upper[:, None, :], axis=2)
        # The last class with any mass takes what rounding leaves above the running total.
        last = conditional.shape[1] - 1 - jnp.argmax(conditional[:, ::-1] > 0, axis=1)
        drawn = jnp.minimum(drawn, last[:, None])
        width = jnp.take_along_axis(conditional, drawn, axis=1)
        below = jnp.take_along_axis(upper, drawn, axis=1) - width
        inside = jnp.clip((across - below) / width, 0, 1)
        own = jnp.broadcast_to(jnp.arange(shape[1])[:, None], drawn.shape)
        return (
            sample_members(self.reference, drawn, inside),
            drawn,
            sample_members(self.target, own, within),
        )


def _sampler(reference: Task, target: Task, method: Joint) -> _Sampler:
    (_, num_reference), (_, num_target) = reference.labelled, target.labelled
    terms = num_target * (num_reference if method.space == "prediction" else 1)
    fitting = max(4, min(100, int((_MINIBATCH_COST_TERMS / terms) ** 0.5)))
    return _Sampler(
        reference=class_order(*reference.labelled, reference.weights),
        target=class_order(*target.labelled, target.weights),
        num_points=method.points_per_class or fitting,
    )


def _assign(sampler: _Sampler, reference: Task, target: Task) -> Bool[Array, "t r"]:
    """Which reference classes stand for which target class, by the transport cost between their features."""

    def spread(task: Task, classes: ClassOrder) -> Float[Array, "k s d"]:
        _, num_classes = task.labelled
        positions = (jnp.arange(_ASSIGNMENT_POINTS, dtype=task.features.dtype) + 0.5) / _ASSIGNMENT_POINTS
        own, positions = jnp.broadcast_arrays(jnp.arange(num_classes)[:, None], positions)
        return task.features[sample_members(classes, own, positions)]

    return assign_classes(class_pair_costs(spread(target, sampler.target), spread(reference, sampler.reference)))


def _fit_target_map(
    target: Task, conditional: Float[Array, "t r"], ridge: float | None, classes: ClassOrder
) -> tuple[Head, Float[Array, ""]]:
    """M, m that minimise the loss of the transformed head plus the ridge on the target, and the ridge.

    Where the ridge is to be chosen, every candidate is fitted without every fourth sample of each class and judged on
    these; the last round of the same loop fits the best one on all samples.
    """
    labels, _ = target.labelled
    prior = class_prior(*target.labelled, target.weights)
    log_map = log_label_map(label_map(label_coupling(prior, conditional), prior))[labels]
    share = target.weights / jnp.sum(target.weights)
    dtype = target.features.dtype

    def loss(target_map: Head, share: Float[Array, " n"]) -> Float[Array, ""]:
        return share @ class_loss(target_map(target.features), log_map)

    def fit(ridge: Float[Array, ""], share: Float[Array, " n"]) -> Head:
        shape = (conditional.shape[1], target.num_features)
        start = Head(jnp.zeros(shape, dtype), jnp.zeros(shape[0], dtype))
        return minimise(lambda h: loss(h, share) + ridge / 2 * jnp.sum(h.weights**2), start, max_iterations=100)

    if ridge is not None:
        given = jnp.asarray(ridge, dtype)
        return fit(given, share), given

    rank = jnp.zeros_like(labels).at[classes.order].set(jnp.arange(labels.size)) - classes.start[labels]
    aside = rank % 4 == 3

    def judge(
        best: tuple[Float[Array, ""], Float[Array, ""]], candidate: tuple[Float[Array, ""], Bool[Array, ""]]
    ) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], Head]:
        smallest, chosen = best
        ridge, last = candidate
        ridge = jnp.where(last, chosen, ridge)
        target_map = fit(ridge, jnp.where(aside & ~last, 0, share))
        judged = loss(target_map, jnp.where(aside, share, 0))
        better = judged < smallest
        return (jnp.where(better, judged, smallest), jnp.where(better & ~last, ridge, chosen)), target_map

    candidates = jnp.asarray((*RIDGES, 0.0), dtype)
    start = (jnp.asarray(jnp.inf, dtype), candidates[0])
    (_, chosen), maps = jax.lax.scan(judge, start, (candidates, jnp.arange(candidates.size) == len(RIDGES)))
    return jax.tree.map(lambda stacked: stacked[-1], maps), chosen


def _objective(
    parameters: _Parameters,
    given_head: Head,
    support: Bool[Array, "t r"],
    prior: Float[Array, " t"],
    batch: tuple[Array, Array, Array],
    ridge: Float[Array, ""],
    method: Joint,
) -> Float[Array, ""]:
    """The three-term bound on a minibatch plus the ridge; transport by the envelope rule.

    Points of the reference were drawn by Q, so each weighs 1 / s whatever Q is; the factor Q / stop_gradient(Q) is 1
    and carries the derivative with respect to Q, which for the transport term is the (centred) potential f.
    """
    z, classes, t = batch
    head = parameters.head if method.learn_head else given_head
    parameters = dataclasses.replace(parameters, head=head)
    target_map = parameters.target_map()
    conditional = _conditional(parameters.logits, support)
    coupling = label_coupling(prior, conditional)
    log_map = log_label_map(label_map(coupling, prior))
    drawn = jnp.take_along_axis(conditional, classes, axis=1)
    a = drawn / jax.lax.stop_gradient(drawn) / classes.shape[1]

    u = head(z)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(u), classes[..., None], axis=-1)[..., 0]
    mismatch = label_mismatch(coupling, jnp.exp(log_map))

    if isinstance(parameters.map, FeatureMap):
        cost = ground_cost("feature", parameters.map(z), t, log_map, target_map.lipschitz)
    else:
        cost = ground_cost(str(method.cost), u, target_map(t), log_map, target_map.lipschitz)
    fixed_cost, fixed_a = jax.lax.stop_gradient((cost, a))
    scale = jnp.maximum(mean_cost(fixed_cost, fixed_a, fixed_a), jnp.finfo(cost.dtype).tiny * 2**24)
    epsilon = method.epsilon * scale
    f, _ = sinkhorn_potentials(fixed_cost, fixed_a, fixed_a, epsilon=epsilon, num_sweeps=method.num_sweeps)
    plan = entropic_plan(fixed_cost, fixed_a, fixed_a, f, epsilon)
    centred = f - jnp.mean(f, axis=1, keepdims=True)
    transport = jnp.sum(plan * cost, axis=(1, 2)) + jnp.sum((a - fixed_a) * centred, axis=1)

    squares = jnp.sum(target_map.weights**2)
    if method.learn_head:
        squares = squares + jnp.sum(head.weights**2)
    return prior @ (jnp.sum(a * losses, axis=1) + transport) + mismatch + ridge / 2 * squares


def _adam(
    start: _Parameters,
    support: Bool[Array, "t r"],
    sampler: _Sampler,
    reference: Task,
    target: Task,
    ridge: Float[Array, ""],
    key: PRNGKeyArray,
    method: Joint,
) -> _Parameters:
    """Adam on fresh class-stratified minibatches, the step size falling to 0 along a cosine."""
    import optax

    optimiser = optax.scale_by_adam()
    prior = class_prior(*target.labelled, target.weights)
    value_and_grad = jax.value_and_grad(_objective)

    def step(index: Int[Array, ""], carry: tuple[_Parameters, Any]) -> tuple[_Parameters, Any]:
        parameters, state = carry
        conditional = _conditional(parameters.logits, support)
        rows, classes, columns = sampler.draw(conditional, jax.random.fold_in(key, index))
        batch = (reference.features[rows], classes, target.features[columns])
        _, gradient = value_and_grad(parameters, start.head, support, prior, batch, ridge, method)
        update, state = optimiser.update(gradient, state)
        rate = method.learning_rate * (1 + jnp.cos(jnp.pi * index / method.num_steps)) / 2
        return optax.apply_updates(parameters, jax.tree.map(lambda x: -rate * x, update)), state

    carry = (start, optimiser.init(start))
    parameters, _ = jax.lax.fori_loop(0, method.num_steps, step, carry)
    return parameters if method.learn_head else dataclasses.replace(parameters, head=start.head)
