r"""Singular value decompositions of the features, which many metrics can share.

    diag(sqrt(weights)) X = U diag(s) V^T

for features X as they are ("raw"), minus their mean ("centred"), or divided by their deviations as well
("standardised"). A decomposition of X, not the eigenvectors of a Gram matrix: squared, a singular value of 1e-4 of the
largest would drown in the rounding of float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from jaxrel._core import linalg
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, own_size, safe_divide, standardised, unit_centred, unit_scale
from jaxrel.metrics.validation import Sample, checked_sample

__all__ = [
    "Coordinates",
    "Decomposition",
    "DecompositionKind",
    "checked_decomposition",
    "coordinates",
    "decompose",
    "right_singular",
    "rounding",
    "singular_values",
]

DecompositionKind = Literal["raw", "centred", "standardised"]
# Rank-deficient features of 200 to 50,000 samples have singular values of up to 5 roundings of the largest.
_ROUNDINGS = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Decomposition:
    """Left singular vectors and values of weighted features, `r = min(n, d)`, in descending order.

    Attributes:
        vectors: 0 for values that are rounding, and for samples of weight 0.
        values: of features of a largest absolute value from 1 to 2 (if not standardised); 0 for those that are
            rounding.
        size: number to multiply the values by for the features' own scale.
        kind: what was decomposed.
    """

    vectors: Float[Array, "n r"]
    values: Float[Array, " r"]
    size: Float[Array, ""]
    kind: DecompositionKind = field(metadata={"static": True})

    @property
    def resolved(self) -> Bool[Array, " r"]:
        """Which values are not rounding."""
        return self.values > 0

    def components(self, sample: Sample) -> Float[Array, "n r"]:
        """The samples in coordinates along the right singular vectors: principal components, if centred."""
        return safe_divide(self.vectors * self.values, jnp.sqrt(sample.weights)[:, None])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Coordinates:
    """Columns `diag(sqrt(weights)) targets` in the coordinates of a decomposition's left singular vectors.

    Attributes:
        values: as in `Decomposition`.
        coefficients: 0 along directions whose value is.
        unexplained: squared norm of what is outside of the other directions.
    """

    values: Float[Array, " r"]
    coefficients: Float[Array, "r t"]
    unexplained: Float[Array, " t"]


@no_derivative
def decompose(
    features: Float[ArrayLike, "n d"], kind: DecompositionKind, *, weights: Float[ArrayLike, " n"] | None = None
) -> Decomposition:
    """The decomposition that several metrics of the same features and weights can share.

        centred = decompose(features, "centred")
        transrate_score(features, labels, decomposition=centred)
        pactran_gaussian_score(features, labels, decomposition=centred)

    Args:
        features: `(n, d)`.
        kind: "raw", "centred" or "standardised"; `METRICS[name].decomposition` says which one a metric takes.
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


def checked_decomposition(sample: Sample, kind: DecompositionKind, given: Any) -> Decomposition:
    """The one that was given, or one computed now.

    Raises:
        ValueError: if what was given is not a decomposition of this kind and of features of this shape.
    """
    if given is None:
        decomposition: Decomposition = _decompose(Sample(sample.features, sample.weights, sample.valid), kind=kind)
        return decomposition
    num_samples, width = sample.features.shape
    shape = (num_samples, min(num_samples, width))
    if not isinstance(given, Decomposition) or given.kind != kind or given.vectors.shape != shape:
        found = f"a {given.kind} one of {given.vectors.shape}" if isinstance(given, Decomposition) else repr(given)
        raise ValueError(
            f"decomposition must be a {kind} one with vectors of shape {shape}, got {found}: "
            f"pass decompose(features, {kind!r}, weights=weights)."
        )
    return given


def coordinates(sample: Sample, kind: DecompositionKind, targets: Float[Array, "n t"], given: Any) -> Coordinates:
    """Those along the directions of `checked_decomposition`, without its n rows: in less time where it is not given."""
    if given is None:
        found: Coordinates = _coordinates(Sample(sample.features, sample.weights, sample.valid), targets, kind=kind)
    else:
        found = _coordinates_along(checked_decomposition(sample, kind, given), sample.weights, targets)
    return found


def singular_values(sample: Sample, kind: DecompositionKind, given: Any) -> Float[Array, " r"]:
    """Those of `checked_decomposition`, without its vectors: in less time where it is not given."""
    if given is None:
        values: Float[Array, " r"] = _singular_values(sample, kind=kind)
        return values
    return checked_decomposition(sample, kind, given).values


def right_singular(rows: Float[Array, "n d"]) -> tuple[Float[Array, " r"], Float[Array, "r d"]]:
    """Singular values and right singular vectors; where n > d, those of the triangular factor, which are the same."""
    triangular = linalg.triangular_factor(rows) if rows.shape[0] > rows.shape[1] else rows
    _, values, axes = linalg.svd(triangular)
    return values, axes


def rounding(dtype: Any) -> float:
    """Size, relative to the largest, below which a singular value is rounding."""
    return _ROUNDINGS * float(jnp.finfo(dtype).eps)


def _rows(sample: Sample, kind: DecompositionKind) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """What is decomposed, and its size."""
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
    vectors, values, _ = linalg.svd(rows)
    resolved = values > rounding(values.dtype) * values[0]
    return vectors * resolved, values * resolved


def _coordinates_kernel(sample: Sample, targets: Float[Array, "n t"], *, kind: DecompositionKind) -> Coordinates:
    rows, _ = _rows(sample, kind)
    columns = jnp.sqrt(sample.weights)[:, None] * targets
    (num_samples, width), num_targets = rows.shape, targets.shape[1]
    outside = jnp.zeros(num_targets, rows.dtype)
    if num_samples > width + num_targets:
        # A rotation of samples changes neither values nor coordinates: the one that makes [rows, columns] triangular.
        triangular = linalg.triangular_factor(jnp.concatenate([rows, columns], axis=1))
        rows, columns = triangular[:width, :width], triangular[:, width:]
        columns, outside = columns[:width], jnp.sum(columns[width:] ** 2, axis=0)
    vectors, values = _resolved_directions(rows)
    return _along(vectors, values, columns, outside)


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
    values = linalg.singular_values(_rows(sample, kind)[0])
    return jnp.where(values > rounding(values.dtype) * values[0], values, 0)


_decompose = kernel(_decompose_kernel, static=("kind",))
_coordinates = kernel(_coordinates_kernel, static=("kind",))
_coordinates_along = kernel(_coordinates_along_kernel)
_singular_values = kernel(_singular_values_kernel, static=("kind",))
