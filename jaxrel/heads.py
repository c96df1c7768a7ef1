"""Linear heads: softmax regression, its exact Lipschitz constant, a budget for it and a penalty on gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxrel.optimise import minimise
from jaxrel.tasks import Task
from jaxrel.transport.costs import feature_distance, squared_distance

__all__ = ["Head", "cross_entropy", "fit_head", "gradient_penalised_head"]

# Augmented Lagrangian. Four to nine rounds are used. A larger first penalty takes fewer of them, each less
# well-conditioned: up to five times the iterations for a hundred classes.
_MAX_ROUNDS = 20
_FIRST_PENALTY = 3.0  # In units of the sum of the multipliers for each class.
_GROWTH = 4.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Head:
    """The affine map `z -> W z + w0` to logits."""

    weights: Float[Array, "k d"]
    bias: Float[Array, " k"]

    def __call__(self, features: Float[Array, "*b d"]) -> Float[Array, "*b k"]:
        """Logits."""
        return jnp.matmul(features, self.weights.T, precision=jax.lax.Precision.HIGHEST) + self.bias

    @property
    def lipschitz(self) -> Float[Array, ""]:
        """`max_{k,l} ||w_k - w_l||_2`: no difference of two logits changes faster with the features."""
        return jnp.max(feature_distance(self.weights, self.weights))


def fit_head(
    task: Task,
    *,
    ridge: Float[ArrayLike, ""] = 1.0,
    lipschitz_budget: Float[ArrayLike, ""] | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
) -> Head:
    r"""Softmax regression with a ridge, by L-BFGS from zero.

        mean_i -log softmax(W z_i + w0)_{y_i} + ridge / 2 * ||W||_F^2
        subject to max_{k,l} ||w_k - w_l||_2 <= lipschitz_budget, where there is one

    Args:
        task: labelled samples; their weights count. Features are used as they are (standardise them for a ridge
            that means the same on every feature).
        ridge: in the units of the loss (nats); scikit-learn's C is `1 / (ridge * n)`. The bias is not penalised.
        lipschitz_budget: the largest `Head.lipschitz` (logits for a unit of feature distance); None for no
            constraint. It holds to rounding whatever the tolerance. The fit without it is the answer where that is
            within the budget; else an augmented Lagrangian starts there. A number may be traced: another budget
            compiles nothing. Given or not is static.
        max_iterations: L-BFGS iterations at most; with a budget, in each round of the augmented Lagrangian.
        tolerance: stops when no entry of the gradient exceeds it. With a budget also the relative error allowed in
            the squared norms of the constraints: the loss is then within about `tolerance` times its slope along W of
            the optimum.

    Raises:
        ValueError: for a task without labels; for a budget that is not one positive finite number (not checked
            inside a transformation, where it is unknown).

    Works under `jit` and `vmap` (with `num_classes` given to the task).
    """
    labels, num_classes = task.labelled
    sample_weights = task.weights / jnp.sum(task.weights)

    def objective(head: Head) -> Float[Array, ""]:
        return jnp.sum(sample_weights * cross_entropy(head(task.features), labels)) + ridge / 2 * jnp.sum(
            head.weights**2
        )

    start = _zero_head(task, num_classes)
    if lipschitz_budget is None:
        return minimise(objective, start, max_iterations=max_iterations, tolerance=tolerance)
    advice = "pass the largest distance of two rows of the weights, or None for no constraint"
    budget = _positive_number("lipschitz_budget", lipschitz_budget, advice, start.weights.dtype)
    free = minimise(objective, start, max_iterations=max_iterations, tolerance=tolerance)
    bounded = _minimise_within(objective, free, budget, max_iterations=max_iterations, tolerance=tolerance)
    within = free.lipschitz <= budget
    return jax.tree.map(functools.partial(jnp.where, within), free, bounded)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Round:
    """State between two rounds of the augmented Lagrangian."""

    count: Int[Array, ""]
    head: Head  # V = W / budget, and the bias
    multipliers: Float[Array, "k k"]  # nu = lambda / mu
    penalty: Float[Array, ""]  # mu
    residual: Float[Array, ""]


def _minimise_within(
    objective: Callable[[Head], Float[Array, ""]],
    free: Head,
    budget: Float[Array, ""],
    *,
    max_iterations: int,
    tolerance: float,
) -> Head:
    r"""The minimum over `max_{k,l} ||w_k - w_l||_2 <= budget`, from the free minimum (returned where it is feasible).

    With `V = W / budget` and `g_kl = ||v_k - v_l||^2 - 1 <= 0`, a round minimises the augmented Lagrangian

        F(V, w0) + mu / 2 * sum_{k<l} max(0, g_kl + nu_kl)^2

    and then sets `nu <- max(0, g + nu)`, until no entry of nu changes by more than `tolerance`. That change is the
    largest violation and the largest slack of a constraint with a positive multiplier `mu nu`.
    """
    # A gradient in V is `budget` times that in W: for a small budget it would pass any tolerance. The one in the bias
    # is not, and is known to a few eps.
    eps = jnp.finfo(budget.dtype).eps
    unit = jnp.minimum(jnp.maximum(budget, 8 * eps / jnp.maximum(tolerance, eps)), 1)

    def scaled_objective(head: Head) -> Float[Array, ""]:
        return objective(Head(budget * head.weights, head.bias)) / unit

    def unfinished(state: _Round) -> Array:
        return (state.count < _MAX_ROUNDS) & (state.residual > tolerance)

    def step(state: _Round) -> _Round:
        def lagrangian(head: Head) -> Float[Array, ""]:
            # Each pair counts twice in the sum, hence mu / 4.
            return scaled_objective(head) + state.penalty / 4 * jnp.sum(_shifted(head, state.multipliers) ** 2)

        head = minimise(lagrangian, state.head, max_iterations=max_iterations, tolerance=tolerance)
        multipliers = _shifted(head, state.multipliers)
        residual = jnp.max(jnp.abs(multipliers - state.multipliers))
        # mu grows at constant lambda = mu nu.
        return _Round(state.count + 1, head, multipliers / _GROWTH, state.penalty * _GROWTH, residual)

    head = jax.lax.while_loop(unfinished, step, _first_round(scaled_objective, free, budget)).head
    weights = budget * head.weights
    constant = Head(weights, head.bias).lipschitz
    return Head(weights * jnp.where(constant > budget, budget / constant, 1), head.bias)


def _shifted(head: Head, multipliers: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """`max(0, g + nu)`."""
    return jnp.maximum(squared_distance(head.weights, head.weights) - 1 + multipliers, 0)


def _first_round(scaled_objective: Callable[[Head], Float[Array, ""]], free: Head, budget: Float[Array, ""]) -> _Round:
    r"""The free head shrunk to the budget, and a penalty in units of the multipliers.

    At the optimum `grad F = -sum lambda_kl grad g_kl` and `<V, grad g_kl> = 2` for each active pair, so the sum of the
    multipliers is half the slope of F along V.
    """
    constant = free.lipschitz
    start = Head(free.weights / jnp.maximum(constant, budget), free.bias)
    radial = Head(start.weights, jnp.zeros_like(start.bias))
    _, slope = jax.jvp(scaled_objective, (start,), (radial,))
    k = free.bias.size
    return _Round(
        count=jnp.zeros((), jnp.int32),
        head=start,
        multipliers=jnp.zeros((k, k), slope.dtype),
        penalty=_FIRST_PENALTY / k * jnp.abs(slope) / 2,
        residual=jnp.where(constant > budget, jnp.inf, 0).astype(slope.dtype),
    )


def gradient_penalised_head(
    task: Task,
    key: PRNGKeyArray,
    *,
    gradient_norm: Float[ArrayLike, ""] = 0.2,
    penalty: Float[ArrayLike, ""] = 1e10,
    num_steps: int = 50,
    learning_rate: Float[ArrayLike, ""] | None = None,
) -> Head:
    r"""The head of the published scheme of task-relatedness (Mehra, Zhang and Hamm, NeurIPS 2024), by Adam from zero.

        mean_i loss(z_i, y_i) + mean_i loss(z_i, r_i) + penalty * mean_i (||grad_z loss(z_i, r_i)||_2 - gradient_norm)^2

    `loss(z, y) = -log softmax(W z + w0)_y`, whose gradient in z is `W^T (softmax(W z + w0) - e_y)`; the labels r_i are
    uniform on the classes and drawn anew at each full-batch step.

    This controls the gradients on average, at the samples. `Head.lipschitz` bounds them everywhere, exactly, and is
    larger: `W^T (p - e_y) = sum_k p_k (w_k - w_y)` never exceeds it. The authors' head on their data has 1.06 at a
    target of 0.2. `fit_head(task, lipschitz_budget=...)` bounds that constant itself.

    Stop early: a penalty this large drowns the losses, and the heads that minimise it alone
    need not classify: the first steps, from weights of zero where the penalty is flat, follow the losses, and further
    ones trade accuracy for equal gradient norms. Use few steps, or a smaller penalty for a fit that converges.

    Args:
        task: labelled samples; their weights count.
        key: draws the random labels.
        gradient_norm: the norm aimed at, in nats for a unit of feature distance. Published: 0.2 at small scale, 0.02
            at large scale.
        penalty: its weight. Published: 1e10 at small scale, 1e4 at large scale.
        num_steps: steps of Adam.
        learning_rate: of Adam; None for `0.05 * gradient_norm / sqrt(d)`, which takes a row of weights from zero to a
            norm of `gradient_norm` in 20 steps.

    Raises:
        ValueError: for a task without labels; for a gradient norm, penalty or learning rate that is not one positive
            finite number (not checked inside a transformation, where it is unknown).

    Pure; works under `jit` and `vmap` (with `num_classes` given to the task).
    """
    import optax

    labels, num_classes = task.labelled
    sample_weights = task.weights / jnp.sum(task.weights)
    start = _zero_head(task, num_classes)
    dtype = start.weights.dtype
    target = _positive_number("gradient_norm", gradient_norm, "pass the norm aimed at", dtype)
    weight = _positive_number("penalty", penalty, "pass the weight of the penalty", dtype)
    rate = 0.05 * target / task.num_features**0.5
    if learning_rate is not None:
        rate = _positive_number("learning_rate", learning_rate, "pass Adam's step, or None", dtype)

    # Adam does not see the scale of an objective whose epsilon has the same scale, and divided by 1 + penalty no square
    # of a gradient overflows.
    optimiser = optax.scale_by_adam(eps=1e-8 / (1 + weight))

    def objective(head: Head, random_labels: Int[Array, " n"]) -> Float[Array, ""]:
        losses = cross_entropy(head(task.features), labels) + cross_entropy(head(task.features), random_labels)
        deviations = _gradient_norms(head, task.features, random_labels) - target
        return jnp.sum(sample_weights * (losses / (1 + weight) + weight / (1 + weight) * deviations**2))

    def step(count: Int[Array, ""], carry: tuple[Head, optax.OptState]) -> tuple[Head, optax.OptState]:
        head, state = carry
        random_labels = jax.random.randint(jax.random.fold_in(key, count), labels.shape, 0, num_classes)
        gradient = jax.grad(objective)(head, random_labels)
        updates, state = optimiser.update(gradient, state)
        return jax.tree.map(lambda parameter, update: parameter - rate * update, head, updates), state

    head, _ = jax.lax.fori_loop(0, num_steps, step, (start, optimiser.init(start)))
    return head


def _zero_head(task: Task, num_classes: int) -> Head:
    dtype = task.features.dtype
    return Head(weights=jnp.zeros((num_classes, task.num_features), dtype), bias=jnp.zeros(num_classes, dtype))


def cross_entropy(logits: Float[Array, "*b k"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """`-log softmax(u)_y`."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]


def _gradient_norms(head: Head, features: Float[Array, "n d"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    """`||W^T (softmax(W z_i + w0) - e_{y_i})||_2`, whose derivative where it is 0 is 0."""
    import optax

    residuals = jax.nn.softmax(head(features)) - jax.nn.one_hot(labels, head.bias.size, dtype=features.dtype)
    gradients = jnp.matmul(residuals, head.weights, precision=jax.lax.Precision.HIGHEST)
    return optax.safe_norm(gradients, 0, axis=1)


def _positive_number(name: str, value: Float[ArrayLike, ""], advice: str, dtype: jnp.dtype) -> Float[Array, ""]:
    if not isinstance(value, jax.core.Tracer):
        number = np.asarray(value)
        if number.shape != () or not (np.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be one positive finite number, got {value}: {advice}.")
    return jnp.asarray(value, dtype)
