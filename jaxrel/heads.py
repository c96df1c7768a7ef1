"""Linear heads: softmax regression and its exact Lipschitz constant."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxrel.optimise import minimise
from jaxrel.tasks import Task
from jaxrel.transport.costs import feature_distance

__all__ = ["Head", "fit_head"]


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
    task: Task, *, ridge: Float[ArrayLike, ""] = 1.0, max_iterations: int = 200, tolerance: float = 1e-4
) -> Head:
    r"""Softmax regression with a ridge, by L-BFGS from zero.

        mean_i -log softmax(W z_i + w0)_{y_i} + ridge / 2 * ||W||_F^2

    Args:
        task: labelled samples; their weights count. Features are used as they are (standardise them for a ridge
            that means the same on every feature).
        ridge: in the units of the loss (nats); scikit-learn's C is `1 / (ridge * n)`. The bias is not penalised.
        max_iterations: L-BFGS iterations at most.
        tolerance: stops when no entry of the gradient exceeds it.

    Raises:
        ValueError: for a task without labels.

    Works under `jit` and `vmap` (with `num_classes` given to the task).
    """
    labels, num_classes = task.labelled
    sample_weights = task.weights / jnp.sum(task.weights)

    def objective(head: Head) -> Float[Array, ""]:
        log_probabilities = jax.nn.log_softmax(head(task.features))
        losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
        return jnp.sum(sample_weights * losses) + ridge / 2 * jnp.sum(head.weights**2)

    start = Head(
        weights=jnp.zeros((num_classes, task.num_features), task.features.dtype),
        bias=jnp.zeros(num_classes, task.features.dtype),
    )
    return minimise(objective, start, max_iterations=max_iterations, tolerance=tolerance)
