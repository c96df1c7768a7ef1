r"""Direct minimisation of the three-term bound: `method=Joint(...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxrel.heads import Head, cross_entropy, fit_head
from jaxrel.optimise import minimise
from jaxrel.relatedness.blocks import ClassOrder, kept_aside, within_class_rank
from jaxrel.relatedness.bound import class_loss, evaluate_bound, log_label_map
from jaxrel.relatedness.class_maps import initial_logits, pruned
from jaxrel.relatedness.class_transport import ground_cost
from jaxrel.relatedness.coupling import class_prior, label_coupling, label_map, label_mismatch
from jaxrel.relatedness.feature_maps import AffineMap, identity_map
from jaxrel.relatedness.methods import RIDGES, Joint
from jaxrel.relatedness.minibatches import Minibatch, Sampler, sampler_of
from jaxrel.relatedness.result import Relatedness, Transformation
from jaxrel.standardisation import Standardisation, identity_standardisation, standardisation_of
from jaxrel.tasks import Task
from jaxrel.transport import certified_interval, entropic_plan, mean_cost, rough_potential

__all__ = ["fit_joint", "joint_relatedness", "on_standardised", "standardised", "transformation_of"]

_MINIBATCH_COST_TERMS = 2**21
_EVERY = 4  # th training sample of each class is kept aside where something is judged
_CHECKS = 10  # of the validation bound, evenly spread over the steps
_PATIENCE = 5  # checks without improvement before early stopping
_LOGIT_RATE = 10.0  # The logits of Q have to travel from 0 to about 10 where a class is to be left out.
_SMALLEST_START = 1e-2  # share of a reference class at the start where an earlier transformation had it at 0


def joint_relatedness(
    reference: Task,
    target: Task,
    held_out_reference: Task,
    held_out_target: Task,
    head: Head | None,
    key: PRNGKeyArray,
    *,
    method: Joint,
    init: Transformation | None = None,
    block_sizes: tuple[int, int] | None = None,
) -> Relatedness:
    """Learn the transformation on two tasks and evaluate every term on two others: the kernel under the verb.

    Pure: runs inside `jit` and `vmap` (over keys, references, targets, numbers of the method), checks no values,
    reports trouble through `Relatedness.status`. All four tasks are labelled and may be padded by samples of weight 0;
    every class of the first two has a sample. `head` is a head on raw reference features or None. See
    `task_relatedness` and `evaluate_bound` for the rest.
    """
    transformation = fit_joint(reference, target, head, key, method=method, init=init)
    return evaluate_bound(transformation, held_out_reference, held_out_target, method=method, block_sizes=block_sizes)


def fit_joint(
    reference: Task,
    target: Task,
    head: Head | None,
    key: PRNGKeyArray,
    *,
    method: Joint,
    init: Transformation | None = None,
) -> Transformation:
    """Learn Q, the head and M, m (or A, b) on labelled training samples; pure, under `jit` and `vmap`.

    `init` is where learning starts. With `method.early_stopping` the result is never worse than it, by the bound on the
    training samples kept aside.
    """
    standardise_r = _standardisation(reference, method)
    standardise_t = _standardisation(target, method)
    reference = standardised(reference, standardise_r)
    target = standardised(target, standardise_t)
    aside = None
    if method.early_stopping:
        (reference, aside_r), (target, aside_t) = (kept_aside(task, every=_EVERY) for task in (reference, target))
        aside = sampler_of(aside_r, aside_t, _points_per_class(aside_r, aside_t, method))
    sampler = sampler_of(reference, target, _points_per_class(reference, target, method))
    start, ridge = _start(sampler, None if head is None else on_standardised(head, standardise_r), method)
    if init is not None:
        start = _started_from(init, start, method)
    best = start if init is None else _parameters_of(init)
    prior = class_prior(*target.labelled, target.weights)
    learned, validation_bound = _learned(start, best, sampler, aside, prior, ridge, key, method)
    return transformation_of(
        conditional=pruned(learned.conditional()),
        prior=prior,
        head=learned.head,
        target_map=learned.target_map(),
        feature_map=learned.map if not isinstance(learned.map, Head) else None,
        ridge=ridge,
        validation_bound=validation_bound,
        reference_standardisation=standardise_r,
        target_standardisation=standardise_t,
    )


def transformation_of(*, conditional: Float[Array, "t r"], prior: Float[Array, " t"], **learned: Any) -> Transformation:
    """The transformation with the coupling, prior and label map that belong to Q and a target prior."""
    coupling = label_coupling(prior, conditional)
    return Transformation(
        conditional=conditional,
        coupling=coupling,
        prior=jnp.sum(coupling, axis=0),
        label_map=label_map(coupling, prior),
        **learned,
    )


def standardised(task: Task, standardise: Standardisation) -> Task:
    """The task with standardised features; padding is 0."""
    return task.replaced(features=jnp.where(task.weights[:, None] > 0, standardise(task.features), 0))


def on_standardised(head: Head, standardise: Standardisation) -> Head:
    """The head that gives the same logits on standardised features."""
    return Head(weights=head.weights * standardise.scale, bias=head(standardise.mean))


def _standardisation(task: Task, method: Joint) -> Standardisation:
    if method.standardise:
        return standardisation_of(task.features, task.weights)
    return identity_standardisation(task.num_features, task.features.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Parameters:
    head: Head
    map: Head | AffineMap  # M, m in prediction space; A, b in feature space
    logits: Float[Array, "t r"]
    support: Bool[Array, "t r"]

    def conditional(self) -> Float[Array, "t r"]:
        """Q."""
        return jax.nn.softmax(jnp.where(self.support, self.logits, -jnp.inf), axis=1)

    def target_map(self) -> Head:
        """M, m: free in prediction space, carried by A, b in feature space."""
        return self.map if isinstance(self.map, Head) else self.map.carried(self.head)


def _start(sampler: Sampler, head: Head | None, method: Joint) -> tuple[_Parameters, Float[Array, ""]]:
    """Where learning starts, and the ridge.

    A head that is learned at a given ridge starts at 0, together with M: the minimum reached is the same, and no
    regression has to be fitted first.
    """
    reference, target = sampler.reference, sampler.target
    classes = (target, sampler.target_classes, reference, sampler.reference_classes)
    logits, support = initial_logits(method.class_map, *classes)
    width, dtype = target.num_features, logits.dtype
    from_zero = head is None and method.learns_head and method.setting == "learned" and method.ridge is not None
    zero = Head(jnp.zeros((logits.shape[1], width), dtype), jnp.zeros(logits.shape[1], dtype))
    if head is None:
        budget = method.lipschitz_budget
        if budget == "validated":
            raise ValueError("lipschitz_budget='validated' is resolved by task_relatedness: pass a number here.")
        head = zero if from_zero else fit_head(reference, ridge=method.head_ridge, lipschitz_budget=budget)
    start = _Parameters(head, head, logits, support)
    ridge = jnp.asarray(0.0 if method.ridge is None else method.ridge, dtype)
    fitted = head
    if method.setting != "fixed" and (method.ridge is None or (method.space == "prediction" and not from_zero)):
        fitted, ridge = _fit_target_map(target, start.conditional(), method.ridge, sampler.target_classes)
    if method.space == "feature":
        return dataclasses.replace(start, map=identity_map(width, method.feature_rank, dtype)), ridge
    return dataclasses.replace(start, map=fitted), ridge


def _parameters_of(init: Transformation) -> _Parameters:
    support = init.conditional > 0
    logits = jnp.log(jnp.where(support, init.conditional, 1))
    moved = init.target_map if init.feature_map is None else init.feature_map
    return _Parameters(init.head, moved, logits, support)


def _started_from(init: Transformation, start: _Parameters, method: Joint) -> _Parameters:
    """The parameters of an earlier transformation, with the support that this method allows."""
    if (init.feature_map is None) != (method.space == "prediction") or type(start.map) is not type(
        _parameters_of(init).map
    ):
        raise ValueError("init was learned in another space, or with another rank of the feature map.")
    earlier = _parameters_of(init)
    if method.setting != "learned":
        return earlier
    share = jnp.maximum(init.conditional, _SMALLEST_START / init.conditional.shape[1])
    return dataclasses.replace(earlier, logits=jnp.log(share), support=start.support | earlier.support)


def _points_per_class(reference: Task, target: Task, method: Joint) -> int:
    (_, num_reference), (_, num_target) = reference.labelled, target.labelled
    terms = num_target * (num_reference if method.space == "prediction" else 1)
    # Not of the number of samples, which padding changes.
    fitting = max(4, min(100, int((_MINIBATCH_COST_TERMS / terms) ** 0.5)))
    return method.points_per_class or fitting


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

    aside = within_class_rank(labels, classes) % _EVERY == _EVERY - 1

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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Terms:
    """The bound on a minibatch before transport: losses and label mismatch, and the transport problems."""

    without_transport: Float[Array, ""]
    cost: Float[Array, "t s s"]
    a: Float[Array, "t s"]
    squares: Float[Array, ""]


def _terms(
    parameters: _Parameters,
    conditional: Float[Array, "t r"],
    batch: Minibatch,
    prior: Float[Array, " t"],
    method: Joint,
) -> _Terms:
    target_map = parameters.target_map()
    coupling = label_coupling(prior, conditional)
    log_map = log_label_map(label_map(coupling, prior))
    a = batch.weights(conditional)
    u = parameters.head(batch.z)
    losses = cross_entropy(u, batch.classes)
    if isinstance(parameters.map, Head):
        cost = ground_cost(str(method.cost), u, target_map(batch.t), log_map, target_map.lipschitz)
    else:
        cost = ground_cost("feature", parameters.map(batch.z), batch.t, log_map, target_map.lipschitz)
    return _Terms(
        without_transport=prior @ jnp.sum(a * losses, axis=1) + label_mismatch(coupling, jnp.exp(log_map)),
        cost=cost,
        a=a,
        squares=jnp.sum(target_map.weights**2) + (jnp.sum(parameters.head.weights**2) if method.learns_head else 0),
    )


def _objective(
    parameters: _Parameters, batch: Minibatch, prior: Float[Array, " t"], ridge: Float[Array, ""], method: Joint
) -> Float[Array, ""]:
    """The three-term bound on a minibatch plus the ridge; transport by the envelope rule.

    The derivative of the transport cost is the plan with respect to the ground cost, and the (centred) potential f with
    respect to the weights of the reference points, through which Q is learned.
    """
    terms = _terms(parameters, parameters.conditional(), batch, prior, method)
    cost, a = jax.lax.stop_gradient((terms.cost, terms.a))
    b = jnp.full_like(a, 1 / a.shape[1])
    epsilon = method.epsilon * _scale(cost, a, b)
    f = rough_potential(cost, a, b, epsilon=epsilon, num_sweeps=method.num_sweeps)
    plan = entropic_plan(cost, a, b, f, epsilon)
    potential = f - jnp.mean(f, axis=1, keepdims=True)
    transport = jnp.sum(plan * terms.cost, axis=(1, 2)) + jnp.sum((terms.a - a) * potential, axis=1)
    if method.solver == "lbfgs":
        # A line search needs the function whose derivative this is: the entropic value <P, C> + epsilon KL, in which
        # epsilon follows the mean cost.
        independent = a[:, :, None] * b[:, None, :]
        divergence = jnp.sum(xlogy(plan, plan) - xlogy(plan, independent), axis=(1, 2))
        transport = transport + method.epsilon * _scale(terms.cost, terms.a, b) * divergence
    return prior @ transport + terms.without_transport + ridge / 2 * terms.squares


def _scale(cost: Float[Array, "t s s"], a: Float[Array, "t s"], b: Float[Array, "t s"]) -> Float[Array, " t"]:
    return jnp.maximum(mean_cost(cost, a, b), jnp.finfo(cost.dtype).tiny * 2**24)


def _validation_bound(
    parameters: _Parameters, aside: Sampler, prior: Float[Array, " t"], method: Joint
) -> Float[Array, ""]:
    """The certified bound on an evenly spread sample of the samples kept aside."""
    conditional = pruned(parameters.conditional())
    terms = _terms(parameters, conditional, aside.draw(conditional, None), prior, method)
    b = jnp.full_like(terms.a, 1 / terms.a.shape[1])
    epsilon = method.epsilon / 4 * _scale(terms.cost, terms.a, b)
    f = rough_potential(terms.cost, terms.a, b, epsilon=epsilon, num_sweeps=4 * method.num_sweeps)
    _, upper = certified_interval(terms.cost, terms.a, b, entropic_plan(terms.cost, terms.a, b, f, epsilon), f)
    bound = prior @ upper + terms.without_transport
    return jnp.where(jnp.isfinite(bound), bound, jnp.inf)


def _learned(
    start: _Parameters,
    best: _Parameters,
    sampler: Sampler,
    aside: Sampler | None,
    prior: Float[Array, " t"],
    ridge: Float[Array, ""],
    key: PRNGKeyArray,
    method: Joint,
) -> tuple[_Parameters, Float[Array, ""]]:
    """The parameters after learning, and their validation bound (infinite without samples kept aside)."""

    def trainable(parameters: _Parameters) -> tuple[Head | None, Head | AffineMap | None, Array | None]:
        return (
            parameters.head if method.learns_head else None,
            parameters.map if method.setting != "fixed" else None,
            parameters.logits if method.setting == "learned" else None,
        )

    def merged(values: tuple[Any, Any, Any]) -> _Parameters:
        head, moved, logits = values
        return _Parameters(
            start.head if head is None else head,
            start.map if moved is None else moved,
            start.logits if logits is None else logits,
            start.support,
        )

    def objective(values: Any, batch: Minibatch) -> Float[Array, ""]:
        return _objective(merged(values), batch, prior, ridge, method)

    def judged(parameters: _Parameters) -> Float[Array, ""]:
        unknown = jnp.asarray(jnp.inf, prior.dtype)
        return unknown if aside is None else _validation_bound(parameters, aside, prior, method)

    values = trainable(start)
    if all(value is None for value in values):
        return best, judged(best)
    if method.solver == "lbfgs":
        batch = sampler.draw(start.conditional(), None)
        solved = minimise(lambda v: objective(v, batch), values, max_iterations=method.num_steps)
        found = merged(solved)
        return (found, judged(found)) if aside is None else _better((best, judged(best)), (found, judged(found)))

    def draw(values: Any, index: Int[Array, ""]) -> Minibatch:
        return sampler.draw(merged(values).conditional(), jax.random.fold_in(key, index))

    adam = _Adam(objective, draw, method)
    if aside is None:
        return merged(adam.run(values, 0, method.num_steps)), judged(start)
    return _early_stopped(adam, values, (best, judged(best)), lambda v: (merged(v), judged(merged(v))), method)


_Judged = tuple[_Parameters, Float[Array, ""]]


def _better(old: _Judged, new: _Judged) -> _Judged:
    improves = new[1] < old[1]
    return jax.tree.map(lambda a, b: jnp.where(improves, a, b), new, old)


@dataclass(frozen=True)
class _Adam:
    """Adam on fresh minibatches, the step size falling to 0 along a cosine."""

    objective: Callable[[Any, Minibatch], Float[Array, ""]]
    draw: Callable[[Any, Int[Array, ""]], Minibatch]
    method: Joint

    def init(self, values: Any) -> Any:
        import optax

        return optax.scale_by_adam().init(values)

    def step(self, index: Int[Array, ""], carry: tuple[Any, Any]) -> tuple[Any, Any]:
        import optax

        values, state = carry
        gradient = jax.grad(self.objective)(values, self.draw(values, index))
        update, state = optax.scale_by_adam().update(gradient, state)
        rate = self.method.learning_rate * (1 + jnp.cos(jnp.pi * index / self.method.num_steps)) / 2
        rates = (rate, rate, _LOGIT_RATE * rate)
        moved = tuple(
            jax.tree.map(lambda x, change, speed=speed: x - speed * change, part, changes)
            for part, changes, speed in zip(values, update, rates, strict=True)
        )
        return moved, state

    def run(self, values: Any, first: Any, end: Any, state: Any = None) -> Any:
        state = self.init(values) if state is None else state
        return jax.lax.fori_loop(first, end, self.step, (values, state))[0]


def _early_stopped(adam: _Adam, values: Any, best: _Judged, judge: Callable[[Any], _Judged], method: Joint) -> _Judged:
    """The best of `_CHECKS` evenly spread looks at the samples kept aside; ends after `_PATIENCE` in vain."""

    def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        check, waited, *_ = carry
        return (check < _CHECKS) & (waited < _PATIENCE)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        check, waited, trained, best = carry
        first, end = (method.num_steps * (check + k) // _CHECKS for k in (0, 1))
        trained = jax.lax.fori_loop(first, end, adam.step, trained)
        new = judge(trained[0])
        waited = jnp.where(new[1] < best[1], 0, waited + 1)
        return check + 1, waited, trained, _better(best, new)

    zero = jnp.zeros((), jnp.int32)
    best = (best[0], jnp.where(jnp.isfinite(best[1]), best[1], jnp.inf))
    return jax.lax.while_loop(unfinished, advance, (zero, zero, (values, adam.init(values)), best))[3]
