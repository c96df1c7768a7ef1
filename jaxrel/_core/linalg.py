"""Factorisations of matrices, of a batch one after the other on CPUs.

Two batched calls of LAPACK that run at the same time, in two threads or in one program, can each hold a thread of
jaxlib that the other waits for, for good. A CPU gains nothing from a batch that a loop over it would not. Only `solve`
has a reverse-mode derivative.

The eigenvalues of a Gram matrix are the squares of singular values, in less than half the time. In float32 the square
of one of 1e-4 of the largest would drown in rounding: see `in_double`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = [
    "cholesky",
    "eigh",
    "gram_eigenvalues",
    "gram_eigenvectors",
    "has_double",
    "in_double",
    "least_squares",
    "singular_values",
    "solve",
    "svd",
    "triangular_factor",
    "triangular_solve",
]

# Columns of a block of a Gram matrix, at least, and blocks, at most.
_LEAST_BLOCK, _MOST_BLOCKS = 512, 4


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


def triangular_solve(
    lower: Float[Array, "n n"], right_sides: Float[Array, "n k"], *, transposed: bool = False
) -> Float[Array, "n k"]:
    """`lower^-1 right_sides`, or with the transpose of the lower triangular matrix."""

    def solved(lower: Array, y: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(lower, y, lower=True, trans=int(transposed))

    return _unbatched(solved)(lower, right_sides)


def least_squares(matrix: Float[Array, "n k"], right_side: Float[Array, " n"]) -> Float[Array, " k"]:
    """The shortest x for which `||matrix x - right_side||` is least."""
    return _unbatched(lambda matrix, y: jnp.linalg.lstsq(matrix, y)[0])(matrix, right_side)


def solve(matrix: Float[Array, "n n"], right_sides: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """`matrix^-1 right_sides`, factorised once for the solution and its derivatives."""
    factors = _unbatched(lambda matrix: jax.scipy.linalg.lu_factor(matrix))(jax.lax.stop_gradient(matrix))

    def product(x: Float[Array, "n k"]) -> Float[Array, "n k"]:
        return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)

    def solver(trans: int) -> Callable[..., Any]:
        solved = _unbatched(lambda factors, y: jax.scipy.linalg.lu_solve(factors, y, trans=trans))
        return lambda _, y: solved(factors, y)

    solution: Array = jax.lax.custom_linear_solve(product, right_sides, solver(0), solver(1))
    return solution


def has_double(dtype: Any) -> bool:
    """Whether `in_double` has more digits than numbers of this type."""
    return bool(dtype == jnp.float32) and jax.default_backend() != "tpu"


def in_double(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of arrays of float32, computed in float64 and rounded, whether or not 64-bit types are enabled.

    Of a batch one after the other: JAX enables these types while it traces, not while it transforms what it has traced.
    """

    def rounded(*arrays: Array) -> Any:
        with jax.enable_x64(True):
            results = function(*(array.astype(jnp.float64) for array in arrays))
            return jax.tree.map(lambda result: result.astype(jnp.float32), results)

    in_turn: Callable[..., Any] = jax.custom_batching.sequential_vmap(rounded)
    return in_turn


def gram_eigenvectors(matrix: Float[Array, "n m"]) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """Eigenvalues of `matrix^T matrix`, in descending order, and the eigenvectors as columns."""
    vectors, values = jax.lax.linalg.eigh(_lower_gram(matrix), symmetrize_input=False)
    return jnp.maximum(values[::-1], 0), vectors[:, ::-1]


def gram_eigenvalues(matrix: Float[Array, "n m"]) -> Float[Array, " m"]:
    """Those of `gram_eigenvectors`; of large matrices in half the time, by bisection of a tridiagonal one."""
    if matrix.shape[1] <= _LEAST_BLOCK:
        return gram_eigenvectors(matrix)[0]
    _, diagonal, beside, _ = jax.lax.linalg.tridiagonal(_lower_gram(matrix))
    return jnp.maximum(jax.scipy.linalg.eigh_tridiagonal(diagonal, beside, eigvals_only=True)[::-1], 0)


def _lower_gram(matrix: Float[Array, "n m"]) -> Float[Array, "m m"]:
    """The lower triangle of `matrix^T matrix`; of what is above the diagonal, only blocks on it are computed."""
    width = matrix.shape[1]
    block = max(_LEAST_BLOCK, -(-width // _MOST_BLOCKS))
    ends = range(block, width + block, block)
    rows = [matrix[:, end - block : end].T @ matrix[:, :end] for end in ends]
    return jnp.concatenate([jnp.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows])


def _in_turn(function: Callable[[Array], Any], matrix: Float[Array, "*b n m"]) -> Any:
    function = _unbatched(function)
    for _ in range(matrix.ndim - 2):
        function = jax.vmap(function)
    return function(matrix)


def _unbatched(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which `jax.vmap` calls for one element of a batch after the other on CPUs."""
    return jax.custom_batching.sequential_vmap(function) if jax.default_backend() == "cpu" else function
