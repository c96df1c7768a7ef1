"""Directions in which samples differ more than the augmented views of one sample do."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxrel._core import linalg
from jaxrel._core.programs import compiled
from jaxrel._core.standardisation import Standardisation, standardisation_of

__all__ = ["ViewWhitening", "view_whitening"]

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ViewWhitening:
    """`z -> V^T standardisation(z)`.

    Attributes:
        standardisation: that of the features without augmentation.
        directions: V, in descending order of their ratio; views of one sample have unit variance along each. The
            entry of largest size of each is positive.
        ratios: `v^T S_M v / v^T S v`, the variance between samples over that between views.
    """

    standardisation: Standardisation
    directions: Float[Array, "d r"]
    ratios: Float[Array, " r"]

    def __call__(self, features: Float[Array, "n d"]) -> Float[Array, "n r"]:
        """Coordinates of features along the directions."""
        return jnp.matmul(self.standardisation(features), self.directions, precision=_HIGHEST)


@functools.partial(compiled, static_argnames=("num_directions",))
def view_whitening(
    features: Float[Array, "n d"],
    first_view: Float[Array, "n d"],
    second_view: Float[Array, "n d"],
    weights: Float[Array, " n"],
    *,
    num_directions: int = 30,
    shrinkage: Float[ArrayLike, ""] = 0.1,
) -> ViewWhitening:
    r"""Linear discriminant analysis in which two augmented views of a sample are treated as two samples of a class.

        S_M v = lambda S v,   v^T S v = 1,   S = (1 - shrinkage) S_A + shrinkage tr(S_A) / d I

    S_A is half the mean of `(f_1 - f_2)(f_1 - f_2)^T`, the scatter of views about their sample and the stand-in for
    the scatter within classes; S_M is the covariance of `(f_1 + f_2) / 2`. All features are standardised by the mean
    and deviation of those without augmentation.

    Args:
        features: without augmentation.
        first_view, second_view: of two independent augmentations of the same samples, row by row.
        weights: not negative, of positive sum.
        num_directions: of largest ratio, at most d of them; static.
        shrinkage: in (0, 1], towards equal variance of the views along all standardised features (Ledoit and Wolf,
            2004, with a fixed share). It bounds the condition number of S by `d / shrinkage`.

    The scatter within classes that views do not show (other instances, other backgrounds) stays in S_M: directions
    tell samples apart, not only classes. `tr(S_A)` is taken to be at least eps of `tr(S_M)`: equal views give the
    principal components, with large finite ratios, and samples that are equal as well give ratios of 0.

    Time is `n d^2 + d^3`.
    """
    exists = weights[:, None] > 0
    features, first_view, second_view = (jnp.where(exists, z, 0) for z in (features, first_view, second_view))
    standardisation = standardisation_of(features, weights)
    first, second = standardisation(first_view), standardisation(second_view)
    shares = weights / jnp.sum(weights)
    middle = (first + second) / 2
    middle = middle - jnp.matmul(shares, middle, precision=_HIGHEST)
    between = _second_moment(middle, shares)
    within = _second_moment(first - second, shares) / 2

    rounding = jnp.finfo(within.dtype).eps * jnp.trace(between)
    spread = jnp.maximum(jnp.trace(within), rounding) / within.shape[0]
    target = jnp.where(spread > 0, spread, 1) * jnp.eye(within.shape[0], dtype=within.dtype)
    metric = jnp.asarray((1 - shrinkage) * within + shrinkage * target)
    ratios, directions = _generalised_eigenvectors(between, metric)
    return ViewWhitening(standardisation, directions[:, :num_directions], ratios[:num_directions])


def _second_moment(values: Float[Array, "n d"], shares: Float[Array, " n"]) -> Float[Array, "d d"]:
    root = jnp.sqrt(shares)[:, None] * values
    return jnp.matmul(root.T, root, precision=_HIGHEST)


def _generalised_eigenvectors(
    matrix: Float[Array, "d d"], metric: Float[Array, "d d"]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """`matrix v = lambda metric v` with `v^T metric v = 1`, in descending order, by `metric = L L^T`.

    The entry of largest size of each v is positive.
    """
    root = linalg.cholesky(metric)
    halfway = linalg.triangular_solve(root, matrix)
    whitened = linalg.triangular_solve(root, halfway.T)
    values, vectors = linalg.eigh(whitened)
    vectors = linalg.triangular_solve(root, vectors[:, ::-1], transposed=True)
    largest = jnp.take_along_axis(vectors, jnp.argmax(jnp.abs(vectors), axis=0)[None], axis=0)
    return jnp.maximum(values[::-1], 0), vectors * jnp.where(largest < 0, -1, 1).astype(vectors.dtype)
