"""Softmax regression with a ridge."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxrel._core.checks import positive_number
from jaxrel._core.optimise import minimise
from jaxrel.heads.head import Head, cross_entropy, zero_head
from jaxrel.heads.lipschitz import minimise_within
from jaxrel.task import Task

__all__ = ["fit_head", "one_step_head"]


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
        subject to max_{k,l} ||w_k - w_l||_2 <= lipschitz_budget, if one is given

    Args:
        task: labelled samples; their weights count. Features are used as they are (standardise them for a ridge
            that means the same on every feature).
        ridge: in the units of the loss (nats); scikit-learn's C is `1 / (ridge * n)`. The bias is not penalised.
        lipschitz_budget: the largest `Head.lipschitz` (logits per unit of feature distance); None for no constraint.
            It holds up to rounding, whatever the tolerance. If the unconstrained fit is within the budget, it is
            returned; otherwise an augmented Lagrangian starts from it. The number may be traced, so a new budget does
            not recompile; whether one is given is static.
        max_iterations: the largest number of L-BFGS iterations; with a budget, in each round of the augmented
            Lagrangian.
        tolerance: stops when no entry of the gradient exceeds it. With a budget also the relative error allowed in
            the squared norms of the constraints: the loss is then within about `tolerance` times its slope along W of
            the optimum.

    Raises:
        ValueError: for a task without labels; for a budget that is not one positive finite number (not checked
            inside a transformation, where it is unknown).

    Works under `jit` and `vmap` (with `num_classes` given to the task).

    Examples:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> features = 3 * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(60, 4))
        >>> head = fit_head(Task(features, labels))
        >>> print(f"{np.mean(np.argmax(head(features), axis=1) == labels):.2f}")
        1.00
    """
    labels, num_classes = task.labelled
    sample_weights = task.weights / jnp.sum(task.weights)

    def objective(head: Head) -> Float[Array, ""]:
        return jnp.sum(sample_weights * cross_entropy(head(task.features), labels)) + ridge / 2 * jnp.sum(
            head.weights**2
        )

    start = zero_head(task, num_classes)
    if lipschitz_budget is None:
        return minimise(objective, start, max_iterations=max_iterations, tolerance=tolerance)
    advice = "pass the largest distance of two rows of the weights, or None for no constraint"
    budget = positive_number("lipschitz_budget", lipschitz_budget, advice, start.weights.dtype)
    free = minimise(objective, start, max_iterations=max_iterations, tolerance=tolerance)
    bounded = minimise_within(objective, free, budget, max_iterations=max_iterations, tolerance=tolerance)
    within = free.lipschitz <= budget
    return jax.tree.map(functools.partial(jnp.where, within), free, bounded)


def one_step_head(task: Task, ridge: Float[ArrayLike, ""]) -> Head:
    r"""The head after one step of steepest descent on the objective of `fit_head`, from the shares of the classes.

    The length of the step minimises the second-order expansion along the gradient G,
    `t = ||G||^2 / (mean_i Var_p(G z_i) + ridge ||G||^2)` for the shares p. Use it where the head is only the start of
    further learning: without the loops of a regression, the program is smaller and compiles sooner.
    """
    labels, num_classes = task.labelled
    sample_weights = task.weights / jnp.sum(task.weights)
    memberships = jax.nn.one_hot(labels, num_classes, dtype=task.dtype)
    shares = sample_weights @ memberships
    descent = (sample_weights[:, None] * (memberships - shares)).T @ task.features
    logits = task.features @ descent.T
    variance = sample_weights @ ((logits - (logits @ shares)[:, None]) ** 2 @ shares)
    size = jnp.sum(descent**2)
    curvature = variance + ridge * size
    step = jnp.where(curvature > 0, size / jnp.where(curvature > 0, curvature, 1), 0)
    return Head(step * descent, jnp.log(jnp.where(shares > 0, shares, 1)))
