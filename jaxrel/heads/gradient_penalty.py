"""The head of the published scheme: a penalty on the norms of gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxrel._core.checks import positive_number
from jaxrel.heads.head import Head, cross_entropy, zero_head
from jaxrel.task import Task

__all__ = ["gradient_penalised_head"]


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

    Stop early. A penalty this large dominates the losses, and a head that minimises only the penalty need not classify.
    The first steps, from zero weights where the penalty is flat, follow the losses; later steps trade accuracy for
    equal gradient norms. Use few steps, or a smaller penalty for a fit that converges.

    Args:
        task: labelled samples; their weights count.
        key: draws the random labels.
        gradient_norm: the target norm, in nats per unit of feature distance. Published: 0.2 at small scale, 0.02
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
    start = zero_head(task, num_classes)
    dtype = start.weights.dtype
    target = positive_number("gradient_norm", gradient_norm, "pass the norm aimed at", dtype)
    weight = positive_number("penalty", penalty, "pass the weight of the penalty", dtype)
    rate = 0.05 * target / task.num_features**0.5
    if learning_rate is not None:
        rate = positive_number("learning_rate", learning_rate, "pass Adam's step, or None", dtype)

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


def _gradient_norms(head: Head, features: Float[Array, "n d"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    """`||W^T (softmax(W z_i + w0) - e_{y_i})||_2`, whose derivative where it is 0 is 0."""
    import optax

    residuals = jax.nn.softmax(head(features)) - jax.nn.one_hot(labels, head.bias.size, dtype=features.dtype)
    gradients = jnp.matmul(residuals, head.weights, precision=jax.lax.Precision.HIGHEST)
    return optax.safe_norm(gradients, 0, axis=1)
