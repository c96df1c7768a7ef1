"""Linear heads, their exact Lipschitz constant and their loss."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrel.task import Task
from jaxrel.transport.costs import feature_distance

__all__ = ["Head", "cross_entropy", "zero_head"]


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
        """`max_{k,l} ||w_k - w_l||_2`, the Lipschitz constant of differences of two logits."""
        distances = feature_distance(self.weights, self.weights).reshape(-1)
        # The derivative of `jnp.max` compares distances that a compiler may round differently, which gives 0 / 0.
        return distances[jnp.argmax(distances)]


def zero_head(task: Task, num_classes: int) -> Head:
    """The head that gives all classes the same probability."""
    dtype = task.features.dtype
    return Head(weights=jnp.zeros((num_classes, task.num_features), dtype), bias=jnp.zeros(num_classes, dtype))


def cross_entropy(logits: Float[Array, "*b k"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """`-log softmax(u)_y`."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
