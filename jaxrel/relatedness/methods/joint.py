"""`Joint`: direct minimisation of the three-term bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxrel._core.checks import is_traced
from jaxrel._core.labels import class_numbers
from jaxrel._core.standardisation import Standardisation, identity_standardisation, standardisation_of
from jaxrel.heads import Head, fit_head, one_step_head, zero_head
from jaxrel.relatedness.blocks import VALIDATION_EVERY, kept_aside
from jaxrel.relatedness.budgets import CANDIDATES, validated_number
from jaxrel.relatedness.class_maps import ClassMap, check_class_map, initial_logits, pruned
from jaxrel.relatedness.coupling import class_prior
from jaxrel.relatedness.feature_maps import identity_map
from jaxrel.relatedness.ground_costs import GroundCost, Space, ground_cost
from jaxrel.relatedness.methods.base import SETTINGS, STATIC, Method, Setting
from jaxrel.relatedness.methods.checks import check_choice, check_count, check_number
from jaxrel.relatedness.methods.joint_descent import learned
from jaxrel.relatedness.methods.joint_objective import Parameters
from jaxrel.relatedness.methods.target_maps import fit_target_map
from jaxrel.relatedness.minibatches import Sampler, sampler_of
from jaxrel.relatedness.result import Transformation
from jaxrel.relatedness.standardised import on_standardised, standardised
from jaxrel.task import Task

__all__ = ["Joint"]

_MINIBATCH_COST_TERMS = 2**21
_FEWEST_POINTS, _MOST_POINTS = 4, 64  # of each class in a minibatch
_SMALLEST_START = 1e-2  # share of a reference class at the start where an earlier transformation had it at 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Joint(Method):
    """Minimise the bound jointly over the head, the target map and the coupling.

    Options that change the structure are static (a change recompiles); numbers are traced (a change does not).

    Attributes:
        setting: `"learned"` learns the coupling Q and the map, `"learned_features"` only the map, `"fixed"` nothing:
            A = I, b = 0, and in prediction space M = W, m = w0.
        space: `"prediction"` transports logits (M is free, with no inverse); `"feature"` transports features by A, b
            with the factor tau(M), M = W A^-1, so that collapsing the features by A is penalised.
        cost: the ground cost. Prediction space: `"margin"` (tightest), `"range"`, `"euclidean"`. Feature space: only
            `"euclidean"`, times tau. None uses the tightest of the space. Also accepts a `GroundCost` of your own.
        learn_head: whether the reference head is learned too. None learns it in the setting `"learned"`.
        class_map: which reference classes may represent each target class, the support of Q. `"assigned"`: each target
            class has one reference class of its own, at the least total transport cost (see `assign_classes`).
            `"soft"`: all reference classes, starting halfway between the assigned ones and a softmax of the transport
            costs. `"identity"`: class k represents class k (for shared labels). Or, for each target class, one
            reference class or a tuple of several.
        feature_rank: rank of A - I in feature space; None learns the full matrix.
        solver: `"adam"` on minibatches; `"lbfgs"`, deterministic, on one fixed sample of `points_per_class`.
        early_stopping: hold out every fourth training sample of each class, return the step with the smallest bound on
            them, and stop when this bound no longer falls. It is recorded as `Transformation.validation_bound`.
        standardise: standardise each domain to zero mean and unit variance by its training samples; see
            `standardisation_of` for the floor on the variance, needed because of nearly dead units.
        points_per_class: points of each target class, and as many of the reference, in a minibatch. None uses the
            largest number up to 64 that keeps the ground cost below about 2 million terms. For small tasks, the size
            of a class is faster and no worse.
        ridge: `ridge / 2 (||W||^2 + ||M||^2)` in the objective, in nats (weight decay). None chooses the value of
            `RIDGES` with the smallest loss of the transformed head on a validation split, every fourth training sample
            of each target class. This applies the same rule, not the same number, to every encoder: a ridge that suits
            200 features of 4,000 samples badly overfits 1,280 features of 1,000 samples. The result records the number.
        head_ridge: ridge of the reference head if one has to be fitted. For a fixed head it determines the Lipschitz
            constant, and through it the distribution mismatch; `"validated"` then chooses the value of `HEAD_RIDGES`
            with the smallest bound on a validation split, with one fit for each candidate.
        lipschitz_budget: the largest `Head.lipschitz` of a reference head that is fitted and then kept fixed, on
            standardised features; it holds exactly. `"validated"` chooses the value of `BUDGETS` with the smallest
            bound on a validation split: large for an easy and close reference, small for a distant one. Only one of
            `head_ridge` and `lipschitz_budget` may be `"validated"`, which `task_relatedness` resolves to a number
            before it calls kernels.
        num_steps: the number of Adam steps, or the largest number of L-BFGS iterations.
        learning_rate: learning rate of Adam, with cosine decay to 0; ten times as large for the logits of Q.
        epsilon: entropic regularisation of a step, relative to the mean cost.
        sinkhorn_iterations: Sinkhorn iterations in a step.
        certificate_gap: target relative gap between the ends of the certified transport cost of each target class. If
            that cost is a thousandth of the largest ground cost, the allowance for float32 rounding is wider; read the
            gap that was reached from the ends.
        certificate_iterations: the largest number of iterations for this gap. The bound holds after any number of
            iterations, even 1, and falls with more.
    """

    setting: Setting = field(default="learned", metadata=STATIC)
    space: Space = field(default="prediction", metadata=STATIC)
    cost: str | GroundCost | None = field(default=None, metadata=STATIC)
    learn_head: bool | None = field(default=None, metadata=STATIC)
    class_map: ClassMap = field(default="assigned", metadata=STATIC)
    feature_rank: int | None = field(default=None, metadata=STATIC)
    solver: Literal["adam", "lbfgs"] = field(default="adam", metadata=STATIC)
    early_stopping: bool = field(default=False, metadata=STATIC)
    standardise: bool = field(default=True, metadata=STATIC)
    points_per_class: int | None = field(default=None, metadata=STATIC)
    ridge: float | None = None
    head_ridge: float | jax.Array | Literal["validated"] = 2.5
    lipschitz_budget: float | jax.Array | Literal["validated"] | None = None
    num_steps: int = 300
    learning_rate: float = 1e-2
    epsilon: float = 0.1
    sinkhorn_iterations: int = 20
    certificate_gap: float = 0.01
    certificate_iterations: int = 2000

    def __post_init__(self) -> None:
        """Resolve defaults that depend on each other; reject unknown options and numbers out of range."""
        check_choice("setting", self.setting, SETTINGS)
        check_choice("space", self.space, ("prediction", "feature"))
        check_choice("solver", self.solver, ("adam", "lbfgs"))
        cost = ground_cost(self.cost, self.space)
        if self.cost is None:
            object.__setattr__(self, "cost", cost.name)
        check_class_map(self.class_map)
        for name in ("learn_head", "standardise", "early_stopping"):
            if not isinstance(getattr(self, name), bool) and (name != "learn_head" or self.learn_head is not None):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        check_count("points_per_class", self.points_per_class)
        check_count("feature_rank", self.feature_rank)
        if self.feature_rank is not None and self.space == "prediction":
            raise ValueError("feature_rank belongs to space='feature': prediction space has no feature map.")
        for name in ("num_steps", "sinkhorn_iterations", "certificate_iterations"):
            check_number(name, getattr(self, name), least=0 if name == "num_steps" else 1, whole=True)
        for name in ("ridge", "head_ridge", "learning_rate", "epsilon", "certificate_gap"):
            if (name != "ridge" or self.ridge is not None) and name not in self._validated:
                check_number(name, getattr(self, name), least=0.0, positive="ridge" not in name)
        self._check_head()

    @property
    def _validated(self) -> list[str]:
        """Fields whose numbers are still to be chosen."""
        return [name for name in CANDIDATES if isinstance(value := getattr(self, name), str) and value == "validated"]

    def _check_head(self) -> None:
        if self.lipschitz_budget is not None and self.learns_head:
            raise ValueError("lipschitz_budget needs learn_head=False: a head that is learned keeps no budget.")
        if self.lipschitz_budget is not None and "lipschitz_budget" not in self._validated:
            check_number("lipschitz_budget", self.lipschitz_budget, least=0.0, positive=True)
        if self._validated and self.learns_head:
            raise ValueError(
                "head_ridge='validated' needs learn_head=False: a head that is learned has no fixed ridge."
            )
        if len(self._validated) > 1:
            raise ValueError("lipschitz_budget and head_ridge are both 'validated': pass a number for one of them.")

    @property
    def learns_head(self) -> bool:
        """Whether the reference head is learned."""
        return self.setting == "learned" if self.learn_head is None else self.learn_head

    def check(self, reference: Task, target: Task, head: Head | None, init: Transformation | None) -> None:
        """Reject class maps that do not match the tasks, a budget with a given head, and an `init` of other shapes."""
        if self.class_map == "identity":
            _check_identity(reference, target)
        if head is not None and self.lipschitz_budget is not None:
            raise ValueError("lipschitz_budget is for a head that is fitted: leave out head, or the budget.")
        if head is not None and self._validated:
            raise ValueError("head_ridge='validated' is for a head that is fitted: leave out head, or pass a number.")
        if init is None:
            return
        if head is not None:
            raise ValueError("init brings its own head: leave out head, or init.")
        expected = (target.num_classes, reference.num_classes, reference.num_features)
        shape = (*init.conditional.shape, init.head.weights.shape[-1])
        if shape != expected:
            raise ValueError(
                f"init has (target classes, reference classes, features) {shape}, the tasks have {expected}: pass a "
                "result on the same tasks, unbatched."
            )

    def resolved(self, reference: Task, target: Task, key: PRNGKeyArray) -> Self:
        """The method with `"validated"` replaced by the chosen number."""
        for name in self._validated:
            plain: dict[str, Any] = {name: None if name == "lipschitz_budget" else 1.0}
            number = validated_number(reference, target, key, method=dataclasses.replace(self, **plain), name=name)
            found: dict[str, Any] = {name: number if is_traced(number) else float(number)}
            return dataclasses.replace(self, **found)
        return self

    def within(self, fits: Callable[[int], bool]) -> Self:
        """The method with fewer points of each class, at least four, if the default does not fit."""
        points = usual = self.points_per_class or _MOST_POINTS
        while points > _FEWEST_POINTS and not fits(points):
            points = max(_FEWEST_POINTS, points // 2)
        return self if points == usual else dataclasses.replace(self, points_per_class=points)

    def fit(
        self,
        reference: Task,
        target: Task,
        head: Head | None,
        key: PRNGKeyArray,
        init: Transformation | None = None,
    ) -> Transformation:
        """Learn Q, the head and M, m (or A, b).

        With `early_stopping` the result is never worse than `init` by the bound on the validation split.
        """
        standardise_r = _standardisation(reference, self)
        standardise_t = _standardisation(target, self)
        reference = standardised(reference, standardise_r)
        target = standardised(target, standardise_t)
        aside = None
        if self.early_stopping:
            (reference, aside_r), (target, aside_t) = (
                kept_aside(task, every=VALIDATION_EVERY) for task in (reference, target)
            )
            aside = sampler_of(aside_r, aside_t, _points_per_class(aside_r, aside_t, self))
        sampler = sampler_of(reference, target, _points_per_class(reference, target, self))
        start, ridge = _start(sampler, None if head is None else on_standardised(head, standardise_r), self)
        if init is not None:
            start = _started_from(init, start, self)
        best = start if init is None else _parameters_of(init)
        prior = class_prior(*target.labelled, target.weights)
        found, validation_bound = learned(start, best, sampler, aside, prior, ridge, key, self)
        return Transformation.of(
            pruned(found.conditional()),
            prior,
            found.head,
            found.target_map(),
            feature_map=None if isinstance(found.map, Head) else found.map,
            ridge=ridge,
            validation_bound=validation_bound,
            reference_standardisation=standardise_r,
            target_standardisation=standardise_t,
        )

    def for_evaluation(self) -> Joint:
        """The method with only its space, cost and certificate."""
        return Joint(
            space=self.space,
            cost=self.cost,
            certificate_gap=self.certificate_gap,
            certificate_iterations=self.certificate_iterations,
        )


def _check_identity(reference: Task, target: Task) -> None:
    if (target.num_classes or 0) > (reference.num_classes or 0):
        raise ValueError(
            f"class_map='identity' needs a reference class for each of {target.num_classes} target classes, the "
            f"reference has {reference.num_classes}: pass 'assigned', 'soft' or your own map."
        )
    names = class_numbers(reference.class_names, reference.num_classes or 0)
    for number, name in enumerate(class_numbers(target.class_names, target.num_classes or 0)):
        if name in names and names[number] != name:
            raise ValueError(
                f"class_map='identity' pairs classes by number, but class {number} of the target is {name!r} "
                f"and of the reference {names[number]!r}: pass the same class_names to both tasks, or your own map."
            )


def _standardisation(task: Task, method: Joint) -> Standardisation:
    if method.standardise:
        return standardisation_of(task.features, task.weights)
    return identity_standardisation(task.num_features, task.features.dtype)


def _start(sampler: Sampler, head: Head | None, method: Joint) -> tuple[Parameters, Float[Array, ""]]:
    """The starting point of learning, and the ridge.

    A head that is learned together with M reaches the same minimum without fitting a regression first: from 0, as M, at
    a given ridge, otherwise from one step, as M is fitted to choose the ridge.
    """
    reference, target = sampler.reference, sampler.target
    classes = (target, sampler.target_classes, reference, sampler.reference_classes)
    logits, support = initial_logits(method.class_map, *classes)
    together = head is None and method.learns_head and method.setting == "learned"
    from_zero = together and method.ridge is not None
    if head is None:
        budget = method.lipschitz_budget
        if isinstance(budget, str) or isinstance(method.head_ridge, str):
            raise ValueError("'validated' is resolved by task_relatedness: pass a number here.")
        if from_zero:
            head = zero_head(reference, support.shape[1])
        elif together:
            head = one_step_head(reference, method.head_ridge)
        else:
            head = fit_head(reference, ridge=method.head_ridge, lipschitz_budget=budget)
    start = Parameters(head, head, logits, support)
    width, dtype = target.num_features, target.features.dtype
    ridge = jnp.asarray(0.0 if method.ridge is None else method.ridge, dtype)
    if method.setting != "fixed" and (method.ridge is None or (method.space == "prediction" and not from_zero)):
        fitted, ridge = fit_target_map(target, start.conditional(), method.ridge, sampler.target_classes)
        start = dataclasses.replace(start, map=fitted)
    if method.space == "feature":
        start = dataclasses.replace(start, map=identity_map(width, method.feature_rank, dtype))
    return start, ridge


def _parameters_of(init: Transformation) -> Parameters:
    support = init.conditional > 0
    logits = jnp.log(jnp.where(support, init.conditional, 1))
    moved = init.target_map if init.feature_map is None else init.feature_map
    return Parameters(init.head, moved, logits, support)


def _started_from(init: Transformation, start: Parameters, method: Joint) -> Parameters:
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
    # Independent of the number of samples, which padding changes.
    fitting = max(_FEWEST_POINTS, min(_MOST_POINTS, int((_MINIBATCH_COST_TERMS / terms) ** 0.5)))
    return method.points_per_class or fitting
