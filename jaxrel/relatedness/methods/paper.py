"""`Paper`: the alternating scheme of the published code, and the estimate that it reports."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxrel._core.standardisation import standardisation_of
from jaxrel.heads import Head, cross_entropy, gradient_penalised_head
from jaxrel.relatedness.bound import Contributions
from jaxrel.relatedness.class_maps import class_costs
from jaxrel.relatedness.class_transport import class_transport
from jaxrel.relatedness.coupling import class_prior, class_totals, label_coupling, label_map
from jaxrel.relatedness.feature_maps import FeatureMap
from jaxrel.relatedness.ground_costs import FeatureDistance
from jaxrel.relatedness.methods.base import SETTINGS, STATIC, Method, Setting
from jaxrel.relatedness.methods.checks import check_choice, check_count, check_number
from jaxrel.relatedness.minibatches import Minibatch, Sampler, sampler_of
from jaxrel.relatedness.result import PublishedEstimate, Relatedness, Transformation
from jaxrel.relatedness.standardised import on_standardised, standardised
from jaxrel.task import Task
from jaxrel.transport import (
    assign_classes,
    entropic_plan,
    feature_distance,
    round_to_marginals,
    sinkhorn,
    squared_distance,
)

__all__ = ["Paper"]

_CLASS_PLAN_GAP = 1e-3
_PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "batch_size": 500,
        "num_steps": 1001,
        "prior_learning_rate": 1e-4,
        "label_weight": 1e8,
        "gradient_norm": 0.2,
        "penalty": 1e10,
    },
    "large": {
        "batch_size": 1500,
        "num_steps": 2001,
        "prior_learning_rate": 1e-3,
        "label_weight": 1e6,
        "gradient_norm": 0.02,
        "penalty": 1e4,
    },
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Paper(Method):
    r"""The alternating scheme of the published code, with its known defects fixed.

    Each step draws a class-stratified minibatch, solves for the transport plan between mapped reference features and
    target features, holds it fixed and takes one step of five Adam optimisers (A, Abar, b, logits of B, logits of D) on

        H(B, D) + sum_c D_c loss_c + 2 <plan, ||A z + b - t||^2 + Lambda ||B e_c - e_k||^2> + ||P_T - B D||^2
          + ||A Abar - I||_F^2 + ||Abar A - I||_F^2,        H(B, D) = - sum_c D_c sum_k B_kc log B_kc.

    Features are standardised per domain. Initial values: A = Abar = I, b = 0, logits of B uniform in (0, 1), logits of
    D equal to the reference prior. If no reference head is given, one is fitted with a gradient penalty. The result has
    both the published estimate (`result.published`) and the certified bound, for the coupling J = B D with rows
    adjusted to the target prior, the map A, b, and the exact tau(W A^-1).

    Attributes:
        setting: `"learned"` learns A, b, B and D; `"learned_features"` A and b, with B a permutation (the class
            assignment of least transport cost) and D the prior it implies; `"fixed"` nothing.
        preset: `"small"`: batches of 500, 1,001 steps, 1e-4 for D, gradient norm 0.2 of the head; `"large"`: batches of
            1,500, 2,001 steps, 1e-3 for D, gradient norm 0.02. It sets every field below that is None when the method
            is constructed. `dataclasses.replace` keeps these numbers: construct a new method for another preset.
        batch_size: samples of each task in a step, divided equally among the classes (at least one each).
        num_steps, learning_rate, prior_learning_rate: options of Adam; the last is for the logits of D.
        label_weight: Lambda in the gradient. In the plan it is infinite, see below.
        plan_gap: relative gap to which the plans of a step are certified.
        gradient_norm, penalty: options of a fitted head, see `gradient_penalised_head`.
        certificate_gap, certificate_iterations: as in `Joint`.

    Source: Mehra, Zhang, Hamm, NeurIPS 2024, and the code published with it. Deviations: B log B is 0 where B is 0 (it
    was NaN for a permutation). Lambda = 1e8 inside a cost exceeds the precision of float32, so the plan is
    lexicographic, the limit for Lambda to infinity: classes first (by the label distance), then samples within the
    pairs of classes that the class plan couples. No class aborts a step or is left out: every class has the same number
    of points in a batch, weighted by D and P_T, instead of int(batch * prior). Plans are entropic to `plan_gap` instead
    of exact. The certified bound weights classes by P_T and includes A^-1 in tau; the estimate does neither, as
    published.
    """

    setting: Setting = field(default="learned", metadata=STATIC)
    preset: Literal["small", "large"] = field(default="small", metadata=STATIC)
    batch_size: int = field(default=None, metadata=STATIC)  # type: ignore[assignment]
    num_steps: int = None  # type: ignore[assignment]
    learning_rate: float = 1e-2
    prior_learning_rate: float = None  # type: ignore[assignment]
    label_weight: float = None  # type: ignore[assignment]
    plan_gap: float = 0.02
    gradient_norm: float = None  # type: ignore[assignment]
    penalty: float = None  # type: ignore[assignment]
    certificate_gap: float = 0.01
    certificate_iterations: int = 2000

    cost = "euclidean"

    def __post_init__(self) -> None:
        """Resolve the preset; reject unknown options and numbers out of range."""
        check_choice("setting", self.setting, SETTINGS)
        check_choice("preset", self.preset, tuple(_PRESETS))
        for name, value in _PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_count("batch_size", self.batch_size)
        check_number("num_steps", self.num_steps, least=0, whole=True)
        check_number("certificate_iterations", self.certificate_iterations, least=1, whole=True)
        for name in ("label_weight", "gradient_norm", "penalty"):
            check_number(name, getattr(self, name), least=0.0)
        for name in ("learning_rate", "prior_learning_rate", "plan_gap", "certificate_gap"):
            check_number(name, getattr(self, name), least=0.0, positive=True)

    def fit(
        self,
        reference: Task,
        target: Task,
        head: Head | None,
        key: PRNGKeyArray,
        init: Transformation | None = None,  # noqa: ARG002
    ) -> Transformation:
        """Learn A, b, B and D."""
        standardise_r = standardisation_of(reference.features, reference.weights)
        standardise_t = standardisation_of(target.features, target.weights)
        reference, target = standardised(reference, standardise_r), standardised(target, standardise_t)
        head_key, map_key, step_key = jax.random.split(key, 3)
        if head is None:
            head = gradient_penalised_head(reference, head_key, gradient_norm=self.gradient_norm, penalty=self.penalty)
        else:
            head = on_standardised(head, standardise_r)
        (_, num_target), (_, num_reference) = target.labelled, reference.labelled
        sampler = sampler_of(reference, target, max(1, self.batch_size // num_target))
        prior = class_prior(*target.labelled, target.weights)
        width, dtype = reference.num_features, reference.features.dtype
        variables = _Variables(
            matrix=jnp.eye(width, dtype=dtype),
            inverse=jnp.eye(width, dtype=dtype),
            offset=jnp.zeros(width, dtype),
            map_logits=jax.random.uniform(map_key, (num_target, num_reference), dtype),
            # As published: a softmax of the prior itself, so the initial D is closer to uniform than the prior.
            prior_logits=class_prior(*reference.labelled, reference.weights),
        )
        if self.setting == "learned":
            variables = _descend(variables, None, sampler, head, prior, step_key, self)
            columns = jax.nn.softmax(variables.map_logits, axis=0)
            class_weights = jax.nn.softmax(variables.prior_logits)
            joint = columns * class_weights
            conditional = joint / jnp.sum(joint, axis=1, keepdims=True)
        else:
            costs = class_costs(target, sampler.target_classes, reference, sampler.reference_classes)
            support = assign_classes(costs).astype(dtype)
            conditional = support / jnp.sum(support, axis=1, keepdims=True)
            columns = label_map(label_coupling(prior, conditional), prior)
            class_weights = prior @ conditional
            if self.setting == "learned_features":
                variables = _descend(variables, conditional, sampler, head, prior, step_key, self)
        feature_map = FeatureMap(variables.matrix, variables.offset)
        return Transformation(
            conditional=conditional,
            coupling=label_coupling(prior, conditional),
            prior=class_weights,
            label_map=columns,
            head=head,
            target_map=feature_map.carried(head),
            feature_map=feature_map,
            ridge=jnp.zeros((), dtype),
            validation_bound=jnp.asarray(jnp.inf, dtype),
            reference_standardisation=standardise_r,
            target_standardisation=standardise_t,
        )

    def evaluate(
        self, transformation: Transformation, reference: Task, target: Task, block_sizes: tuple[int, int] | None
    ) -> tuple[Relatedness, Contributions]:
        """The bound together with the published estimate."""
        result, contributions = super().evaluate(transformation, reference, target, block_sizes)
        published = _published_estimate(transformation, reference, target, self, block_sizes)
        return dataclasses.replace(result, published=published), contributions

    def for_evaluation(self) -> Paper:
        """The certificate."""
        return Paper(certificate_gap=self.certificate_gap, certificate_iterations=self.certificate_iterations)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Variables:
    """A, its approximate inverse Abar, b, and the logits of B (softmax of each column) and of D."""

    matrix: Float[Array, "d d"]
    inverse: Float[Array, "d d"]
    offset: Float[Array, " d"]
    map_logits: Float[Array, "t r"]
    prior_logits: Float[Array, " r"]


def _descend(
    start: _Variables,
    conditional: Float[Array, "t r"] | None,
    sampler: Sampler,
    head: Head,
    prior: Float[Array, " t"],
    key: PRNGKeyArray,
    method: Paper,
) -> _Variables:
    """Five Adam optimisers; with a given Q only those of A, Abar and b.

    Adam treats every parameter separately, so five optimisers are one with five learning rates.
    """
    import optax

    optimiser = optax.scale_by_adam()
    rate, prior_rate = method.learning_rate, method.prior_learning_rate
    class_rates = (rate, prior_rate) if conditional is None else (0.0, 0.0)
    rates = _Variables(*jax.tree.map(jnp.asarray, (rate, rate, rate, *class_rates)))
    # Computed once from all training samples, as the head does not change.
    class_losses = _class_losses(sampler.reference, head(sampler.reference.features))
    gradient_of = jax.grad(_objective)

    def step(index: Int[Array, ""], carry: tuple[_Variables, Any]) -> tuple[_Variables, Any]:
        variables, state = carry
        coupling = _class_plan(variables, prior) if conditional is None else label_coupling(prior, conditional)
        batch = sampler.draw(coupling / jnp.sum(coupling, axis=1, keepdims=True), jax.random.fold_in(key, index))
        plan = _point_plan(variables, batch, method)
        gradient = gradient_of(variables, coupling, plan, batch, class_losses, prior, method)
        update, state = optimiser.update(gradient, state)
        return jax.tree.map(lambda x, change, speed: x - speed * change, variables, update, rates), state

    return jax.lax.fori_loop(0, method.num_steps, step, (start, optimiser.init(start)))[0]


def _class_losses(reference: Task, logits: Float[Array, "n r"]) -> Float[Array, " r"]:
    """Mean loss of each reference class, 0 for one without samples."""
    labels, num_classes = reference.labelled
    totals = class_totals(labels, num_classes, reference.weights)
    losses = class_totals(labels, num_classes, reference.weights * cross_entropy(logits, labels))
    return losses / jnp.where(totals > 0, totals, 1)


def _label_distances(columns: Float[Array, "t r"]) -> Float[Array, "t r"]:
    """`||B e_c - e_k||_2`."""
    return feature_distance(jnp.eye(columns.shape[0], dtype=columns.dtype), columns.T)


def _class_plan(variables: _Variables, prior: Float[Array, " t"]) -> Float[Array, "t r"]:
    """The plan between P_T and D at the least label distance: the first stage of the lexicographic plan."""
    class_weights = jax.nn.softmax(variables.prior_logits)
    # A constant does not change the plan, and keeps the relative gap meaningful if all distances vanish.
    cost = 1 + _label_distances(jax.nn.softmax(variables.map_logits, axis=0))
    cost, class_weights = jax.lax.stop_gradient((cost, class_weights))
    result = sinkhorn(cost, prior, class_weights, relative_gap=_CLASS_PLAN_GAP)
    plan = entropic_plan(cost, prior, class_weights, result.f, result.epsilon)
    return round_to_marginals(plan, prior, class_weights)


def _point_plan(variables: _Variables, batch: Minibatch, method: Paper) -> Float[Array, "t s s"]:
    """Plans of mass 1 between the mapped reference points and the target points of each target class."""
    cost = jax.lax.stop_gradient(feature_distance(_mapped(variables, batch.z), batch.t))
    uniform = jnp.full(cost.shape[:2], 1 / cost.shape[1], cost.dtype)
    result = sinkhorn(cost, uniform, uniform, relative_gap=method.plan_gap)
    return entropic_plan(cost, uniform, uniform, result.f, result.epsilon)


def _mapped(variables: _Variables, z: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    return FeatureMap(variables.matrix, variables.offset)(z)


def _objective(
    variables: _Variables,
    coupling: Float[Array, "t r"],
    plan: Float[Array, "t s s"],
    batch: Minibatch,
    class_losses: Float[Array, " r"],
    prior: Float[Array, " t"],
    method: Paper,
) -> Float[Array, ""]:
    """The published objective on a minibatch, class plan and point plans fixed."""
    columns = jax.nn.softmax(variables.map_logits, axis=0)
    class_weights = jax.nn.softmax(variables.prior_logits)
    conditional_entropy = -jnp.sum(class_weights * xlogy(columns, columns))
    moved = squared_distance(_mapped(variables, batch.z), batch.t)
    features = prior @ jnp.sum(plan * moved, axis=(1, 2))
    identity = jnp.eye(columns.shape[0], dtype=columns.dtype)
    labels = jnp.sum(coupling * squared_distance(identity, columns.T))
    unit = jnp.eye(variables.matrix.shape[0], dtype=columns.dtype)
    inverse = jnp.sum((variables.matrix @ variables.inverse - unit) ** 2) + jnp.sum(
        (variables.inverse @ variables.matrix - unit) ** 2
    )
    return (
        conditional_entropy
        + class_weights @ class_losses
        + 2 * (features + method.label_weight * labels)
        + jnp.sum((prior - columns @ class_weights) ** 2)
        + inverse
    )


def _published_estimate(
    transformation: Transformation,
    reference: Task,
    target: Task,
    method: Paper,
    block_sizes: tuple[int, int] | None,
) -> PublishedEstimate:
    """Re-weighted loss + H(B, D) + tau_hat W1 on these samples, by the definitions of the published code.

    In the published code tau_hat is the largest norm of a sum of two gradients of the loss of the head; here it is
    twice the largest norm of one gradient, over both samples.
    """
    if transformation.feature_map is None:
        raise ValueError("the published estimate needs a transformation learned in feature space.")
    labels, _ = reference.labelled
    columns, class_weights = transformation.label_map, transformation.prior
    num_target = columns.shape[0]
    z = transformation.reference_standardisation(reference.features)
    standing_for = jnp.argmax(columns, axis=0)[labels]
    cloud = jnp.where(standing_for == jnp.arange(num_target)[:, None], reference.weights, 0)
    totals = jnp.sum(cloud, axis=1, keepdims=True)
    transport = class_transport(
        FeatureDistance(),
        transformation.feature_map(z),
        transformation.target_standardisation(target.features),
        cloud / jnp.where(totals > 0, totals, 1),
        jnp.zeros_like(columns),
        target,
        scale=1.0,
        method=method,
        block_sizes=block_sizes,
    )
    counts = class_totals(target.labelled[0], num_target, target.weights)
    on_both = (totals[:, 0] > 0) & (counts > 0)
    distances = jnp.where(transport.left_out | transport.overflow, jnp.inf, transport.upper)
    wasserstein = jnp.sum(jnp.where(on_both, distances, 0)) / jnp.maximum(jnp.sum(on_both), 1)

    head, u = transformation.head, transformation.head(z)
    target_labels, _ = target.labelled
    v = transformation.target_logits(target.features)
    lipschitz = 2 * jnp.maximum(
        _largest_gradient(head, u, labels, reference.weights),
        _largest_gradient(head, v, jnp.argmax(columns, axis=1)[target_labels], target.weights),
    )
    reweighted = class_weights @ _class_losses(reference, u)
    mismatch = -jnp.sum(class_weights * xlogy(columns, columns)) + 0.0
    return PublishedEstimate(
        bound=reweighted + mismatch + lipschitz * wasserstein,
        reweighted_reference_loss=reweighted,
        label_mismatch=mismatch,
        lipschitz=lipschitz,
        wasserstein=wasserstein,
    )


def _largest_gradient(
    head: Head, logits: Float[Array, "n r"], labels: Int[Array, " n"], weights: Float[Array, " n"]
) -> Float[Array, ""]:
    """`max_i ||W^T (softmax(u_i) - e_{y_i})||_2`, of the gradient of the loss with respect to the input of the head."""
    residuals = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    norms = jnp.linalg.norm(residuals @ head.weights, axis=1)
    return jnp.max(jnp.where(weights > 0, norms, 0))
