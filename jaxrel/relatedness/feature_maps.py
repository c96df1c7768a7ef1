"""Affine maps that carry standardised reference features onto standardised target features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrel._core import linalg
from jaxrel.heads import Head

__all__ = ["AffineMap", "FeatureMap", "LowRankFeatureMap", "identity_map"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FeatureMap:
    """`z -> A z + b` with a full matrix A."""

    matrix: Float[Array, "d d"]
    offset: Float[Array, " d"]

    def __call__(self, features: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Mapped features."""
        return jnp.matmul(features, self.matrix.T, precision=jax.lax.Precision.HIGHEST) + self.offset

    def carried(self, head: Head) -> Head:
        """The head with the same logits on mapped features: `M = W A^-1`, `m = w0 - M b`."""
        weights = linalg.solve(self.matrix.T, head.weights.T).T
        return Head(weights=weights, bias=head.bias - weights @ self.offset)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRankFeatureMap:
    """`z -> z + U (V^T z) + b`, the identity plus a matrix of rank r: 2 d r numbers instead of d^2."""

    left: Float[Array, "d r"]
    right: Float[Array, "d r"]
    offset: Float[Array, " d"]

    def __call__(self, features: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Mapped features."""
        projected = jnp.matmul(features, self.right, precision=jax.lax.Precision.HIGHEST)
        moved = jnp.matmul(projected, self.left.T, precision=jax.lax.Precision.HIGHEST)
        return features + moved + self.offset

    def carried(self, head: Head) -> Head:
        """`M = W A^-1`, `m = w0 - M b`, by the identity `(I + U V^T)^-1 = I - U (I + V^T U)^-1 V^T` (Woodbury)."""
        rank = self.left.shape[1]
        small = jnp.eye(rank, dtype=self.left.dtype) + self.right.T @ self.left
        correction = linalg.solve(small.T, (head.weights @ self.left).T).T
        weights = head.weights - correction @ self.right.T
        return Head(weights=weights, bias=head.bias - weights @ self.offset)


AffineMap: TypeAlias = FeatureMap | LowRankFeatureMap


def identity_map(num_features: int, rank: int | None, dtype: jnp.dtype) -> AffineMap:
    """The identity, as a full matrix or with a low-rank correction of the given rank.

    V starts with orthonormal columns of the cosine basis rather than at 0, where U and V would have no gradient.
    """
    offset = jnp.zeros(num_features, dtype)
    if rank is None:
        return FeatureMap(jnp.eye(num_features, dtype=dtype), offset)
    angles = jnp.pi * (jnp.arange(num_features, dtype=dtype)[:, None] + 0.5) * jnp.arange(rank, dtype=dtype)
    basis = jnp.cos(angles / num_features)
    basis = basis / jnp.linalg.norm(basis, axis=0)
    return LowRankFeatureMap(left=jnp.zeros((num_features, rank), dtype), right=basis, offset=offset)
