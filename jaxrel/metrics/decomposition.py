r"""Singular value decompositions of the features, which many metrics can share.

    diag(sqrt(weights)) X = U diag(s) V^T

for features X as they are ("raw"), minus their mean ("centred"), or also divided by their standard deviations
("standardised"). For float32 features it is computed from the eigenvectors of their Gram matrix in float64. Squared, a
singular value of 1e-4 of the largest would be lost in float32 rounding, but float64 resolves one of 1e-6 to a relative
accuracy of 1e-4. For float64 features, or without float64, X itself is decomposed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxrel._core import linalg
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, own_size, safe_divide, standardised, unit_centred, unit_scale
from jaxrel.metrics.validation import Sample, checked_sample

__all__ = [
    "Components",
    "Coordinates",
    "Decomposition",
    "DecompositionKind",
    "coordinates",
    "decompose",
    "principal_components",
    "right_singular",
    "rounding",
    "singular_values",
    "singular_values_of",
]

DecompositionKind = Literal["raw", "centred", "standardised"]
# In rank-deficient features of 200 to 50,000 samples, zero singular values are up to 5 roundings of the largest.
_ROUNDINGS = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Decomposition:
    """Left singular vectors and values of weighted features, `r = min(n, d)`, in descending order.

    Attributes:
        vectors: left singular vectors, 0 for values that are only rounding and for samples of weight 0.
        values: singular values of features scaled to a largest absolute value from 1 to 2 (unless standardised); 0 for
            values that are only rounding.
        size: factor that restores the scale of the features.
        kind: which features were decomposed.
    """

    vectors: Float[Array, "n r"]
    values: Float[Array, " r"]
    size: Float[Array, ""]
    kind: DecompositionKind = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Components:
    """The samples in coordinates along the first right singular vectors, which are principal components if centred.

    Attributes:
        rows: coordinates; 0 along directions of value 0, and for samples of weight 0.
        values, size: as in `Decomposition`, for all directions.
    """

    rows: Float[Array, "n k"]
    values: Float[Array, " r"]
    size: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Coordinates:
    """Columns `diag(sqrt(weights)) targets` in the coordinates of a decomposition's left singular vectors.

    Attributes:
        values: as in `Decomposition`.
        coefficients: coordinates; 0 along directions of value 0.
        unexplained: squared norm outside of the other directions.
    """

    values: Float[Array, " r"]
    coefficients: Float[Array, "r t"]
    unexplained: Float[Array, " t"]


@no_derivative
def decompose(
    features: Float[ArrayLike, "n d"], kind: DecompositionKind, *, weights: Float[ArrayLike, " n"] | None = None
) -> Decomposition:
    """Decompose features once, to share the result between metrics of the same features and weights.

        centred = decompose(features, "centred")
        transrate_score(features, labels, decomposition=centred)
        pactran_gaussian_score(features, labels, decomposition=centred)

    Args:
        features: `(n, d)`.
        kind: "raw", "centred" or "standardised"; `METRICS[name].decomposition` is the kind that a metric uses.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice.

    Raises:
        ValueError: for another kind, else see `checked_sample`.

    `O(n d min(n, d))` operations, `O(n d)` memory.
    """
    if kind not in get_args(DecompositionKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(DecompositionKind))}, got {kind!r}.")
    decomposition: Decomposition = _decompose(
        checked_sample(features, weights, shift_invariant=kind != "raw"), kind=kind
    )
    return decomposition


def _checked(sample: Sample, kind: DecompositionKind, given: Any) -> Decomposition:
    """The given decomposition, checked.

    Raises:
        ValueError: if it is not a decomposition of this kind and of features of this shape.
    """
    num_samples, width = sample.features.shape
    shape = (num_samples, min(num_samples, width))
    if not isinstance(given, Decomposition) or given.kind != kind or given.vectors.shape != shape:
        found = f"a {given.kind} one of {given.vectors.shape}" if isinstance(given, Decomposition) else repr(given)
        raise ValueError(
            f"decomposition must be a {kind} one with vectors of shape {shape}, got {found}: "
            f"pass decompose(features, {kind!r}, weights=weights)."
        )
    return given


def principal_components(sample: Sample, kind: DecompositionKind, given: Any, count: int | None = None) -> Components:
    """The first `count` principal components, or all, by the given decomposition or a new one.

    Raises:
        ValueError: if the argument is not a decomposition of this kind and of features of this shape.
    """
    count = min(sample.features.shape) if count is None else count
    if given is None:
        found: Components = _components(Sample(sample.features, sample.weights, sample.valid), kind=kind, count=count)
    else:
        found = _components_along(_checked(sample, kind, given), sample.weights, count=count)
    return found


def coordinates(sample: Sample, kind: DecompositionKind, targets: Float[Array, "n t"], given: Any) -> Coordinates:
    """Coordinates of the targets by the given decomposition or a new one. Raises as `principal_components`."""
    if given is None:
        found: Coordinates = _coordinates(Sample(sample.features, sample.weights, sample.valid), targets, kind=kind)
    else:
        found = _coordinates_along(_checked(sample, kind, given), sample.weights, targets)
    return found


def singular_values(sample: Sample, kind: DecompositionKind, given: Any) -> Float[Array, " r"]:
    """Singular values by the given decomposition or a new one. Raises as `principal_components`."""
    if given is None:
        values: Float[Array, " r"] = _singular_values(sample, kind=kind)
        return values
    return _checked(sample, kind, given).values


def right_singular(rows: Float[Array, "n d"]) -> tuple[Float[Array, " r"], Float[Array, "r d"]]:
    """Singular values and right singular vectors; for n > d from the triangular factor, which has the same ones."""
    if linalg.has_double(rows.dtype):
        return linalg.in_double(lambda rows: _by_gram_matrix(rows)[1:])(rows)
    triangular = linalg.triangular_factor(rows) if rows.shape[0] > rows.shape[1] else rows
    _, values, axes = linalg.svd(triangular)
    return values, axes


def singular_values_of(rows: Float[Array, "n d"]) -> Float[Array, " r"]:
    """Singular values in descending order, with 0 for values that are only rounding."""
    tall = rows if rows.shape[0] >= rows.shape[1] else rows.T
    if linalg.has_double(rows.dtype):
        return jnp.sqrt(linalg.in_double(linalg.gram_eigenvalues)(tall))
    return linalg.singular_values(tall)  # LAPACK takes some thirty times as long for a wide matrix.


def rounding(dtype: Any) -> float:
    """Size, relative to the largest, below which a singular value is only rounding."""
    return _ROUNDINGS * float(jnp.finfo(dtype).eps)


def _rows(sample: Sample, kind: DecompositionKind) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """The matrix to decompose, and its size."""
    if kind == "raw":
        features, size = unit_scale(sample.features), own_size(sample.features)
    elif kind == "centred":
        features, size = unit_centred(sample)
    else:
        features, size = standardised(sample), jnp.ones((), sample.features.dtype)
    return jnp.sqrt(sample.weights)[:, None] * features, size


def _decompose_kernel(sample: Sample, *, kind: DecompositionKind) -> Decomposition:
    rows, size = _rows(sample, kind)
    return Decomposition(*_resolved_directions(rows), size, kind)


def _resolved_directions(rows: Float[Array, "n d"]) -> tuple[Float[Array, "n r"], Float[Array, " r"]]:
    decompose = linalg.in_double(_by_gram_matrix) if linalg.has_double(rows.dtype) else linalg.svd
    vectors, values, _ = decompose(rows)
    values = _resolved(values)
    return jnp.where(values > 0, vectors, 0), values


def _resolved(values: Float[Array, " r"], dtype: Any = None) -> Float[Array, " r"]:
    """Replace values that are only rounding by 0, in the dtype of the features."""
    return jnp.where(values > rounding(dtype or values.dtype) * values[0], values, 0)


def _by_gram_matrix(rows: Float[Array, "n d"]) -> tuple[Float[Array, "n r"], Float[Array, " r"], Float[Array, "r d"]]:
    """Left singular vectors, singular values and right singular vectors, from the eigenvectors of the squares."""
    if rows.shape[0] < rows.shape[1]:
        squares, vectors = linalg.gram_eigenvectors(rows.T)
        values = jnp.sqrt(squares)
        return vectors, values, safe_divide(vectors.T @ rows, values[:, None])
    squares, axes = linalg.gram_eigenvectors(rows)
    values = jnp.sqrt(squares)
    return safe_divide(rows @ axes, values), values, axes.T


def _components_kernel(sample: Sample, *, kind: DecompositionKind, count: int) -> Components:
    rows, size = _rows(sample, kind)
    values, axes = right_singular(rows)
    values = _resolved(values)
    along = jnp.where(values[:count] > 0, rows @ axes[:count].T, 0)
    return Components(safe_divide(along, jnp.sqrt(sample.weights)[:, None]), values, size)


def _components_along_kernel(decomposition: Decomposition, weights: Float[Array, " n"], *, count: int) -> Components:
    values = decomposition.values
    along = decomposition.vectors[:, :count] * values[:count]
    return Components(safe_divide(along, jnp.sqrt(weights)[:, None]), values, decomposition.size)


def _coordinates_kernel(sample: Sample, targets: Float[Array, "n t"], *, kind: DecompositionKind) -> Coordinates:
    rows, _ = _rows(sample, kind)
    columns = jnp.sqrt(sample.weights)[:, None] * targets
    if linalg.has_double(rows.dtype):
        return linalg.in_double(_coordinates_by_gram_matrix)(rows, columns)
    (num_samples, width), num_targets = rows.shape, targets.shape[1]
    outside = jnp.zeros(num_targets, rows.dtype)
    if num_samples > width + num_targets:
        # Rotate the samples so that [rows, columns] is triangular, which changes neither values nor coordinates.
        triangular = linalg.triangular_factor(jnp.concatenate([rows, columns], axis=1))
        rows, columns = triangular[:width, :width], triangular[:, width:]
        columns, outside = columns[:width], jnp.sum(columns[width:] ** 2, axis=0)
    vectors, values = _resolved_directions(rows)
    return _along(vectors, values, columns, outside)


def _coordinates_by_gram_matrix(rows: Float[Array, "n d"], columns: Float[Array, "n t"]) -> Coordinates:
    """Sum the unexplained part over samples, as the difference of two squared norms would be only rounding."""
    _, values, axes = _by_gram_matrix(rows)
    values = _resolved(values, jnp.float32)[:, None]
    coefficients = safe_divide(axes @ (rows.T @ columns), values)
    explained = rows @ (axes.T @ safe_divide(coefficients, values))
    return Coordinates(values[:, 0], coefficients, jnp.sum((columns - explained) ** 2, axis=0))


def _coordinates_along_kernel(
    decomposition: Decomposition, weights: Float[Array, " n"], targets: Float[Array, "n t"]
) -> Coordinates:
    columns = jnp.sqrt(weights)[:, None] * targets
    return _along(decomposition.vectors, decomposition.values, columns, jnp.zeros(targets.shape[1], columns.dtype))


def _along(
    vectors: Float[Array, "m r"], values: Float[Array, " r"], columns: Float[Array, "m t"], outside: Float[Array, " t"]
) -> Coordinates:
    coefficients = vectors.T @ columns
    return Coordinates(values, coefficients, outside + jnp.sum((columns - vectors @ coefficients) ** 2, axis=0))


def _singular_values_kernel(sample: Sample, *, kind: DecompositionKind) -> Float[Array, " r"]:
    return _resolved(singular_values_of(_rows(sample, kind)[0]))


_decompose = kernel(_decompose_kernel, static=("kind",))
_components = kernel(_components_kernel, static=("kind", "count"))
_components_along = kernel(_components_along_kernel, static=("count",))
_coordinates = kernel(_coordinates_kernel, static=("kind",))
_coordinates_along = kernel(_coordinates_along_kernel)
_singular_values = kernel(_singular_values_kernel, static=("kind",))
