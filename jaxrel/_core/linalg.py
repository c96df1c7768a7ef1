"""Factorisations of matrices, of a batch one after the other on CPUs.

Two batched calls of LAPACK that run at the same time, in two threads or in one program, can each hold a thread of
jaxlib that the other waits for, for good. A CPU gains nothing from a batch that a loop over it would not. There is no
reverse-mode derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["cholesky", "eigh", "singular_values", "svd", "triangular_factor"]


def svd(matrix: Float[Array, "*b n m"]) -> tuple[Float[Array, "*b n r"], Float[Array, "*b r"], Float[Array, "*b r m"]]:
    """Left singular vectors, singular values and right singular vectors, `r = min(n, m)`."""
    return _in_turn(lambda each: jnp.linalg.svd(each, full_matrices=False), matrix)


def singular_values(matrix: Float[Array, "*b n m"]) -> Float[Array, "*b r"]:
    """Singular values, in descending order."""
    return _in_turn(lambda each: jnp.linalg.svd(each, full_matrices=False, compute_uv=False), matrix)


def triangular_factor(matrix: Float[Array, "*b n m"]) -> Float[Array, "*b r m"]:
    """R of the QR decomposition."""
    return _in_turn(lambda each: jnp.linalg.qr(each, mode="r"), matrix)


def cholesky(matrix: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """Lower triangular factor of symmetric, positive definite matrices."""
    return _in_turn(jnp.linalg.cholesky, matrix)


def eigh(matrix: Float[Array, "*b n n"]) -> tuple[Float[Array, "*b n"], Float[Array, "*b n n"]]:
    """Eigenvalues of symmetric matrices, in ascending order, and eigenvectors."""
    return _in_turn(lambda each: tuple(jnp.linalg.eigh(each)), matrix)


def _in_turn(function: Callable[[Array], Any], matrix: Float[Array, "*b n m"]) -> Any:
    if jax.default_backend() == "cpu":
        function = jax.custom_batching.sequential_vmap(function)
    for _ in range(matrix.ndim - 2):
        function = jax.vmap(function)
    return function(matrix)
