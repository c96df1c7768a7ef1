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

from jaxrel.scores.kernels import centred, kernel, own_size, safe_divide, unit_centred, unit_scale
from jaxrel.scores.validation import LabelledSample, Sample, checked_sample
from jaxrel.standardisation import standardisation_of

__all__ = [
    "Decomposition",
    "DecompositionKind",
    "checked_decomposition",
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

    def class_coefficients(self, sample: LabelledSample) -> Float[Array, "r c"]:
        """Coordinates of the weighted class indicators, `vectors^T diag(sqrt(weights)) memberships`."""
        return self.vectors.T @ (jnp.sqrt(sample.weights)[:, None] * sample.memberships)

    def components(self, sample: Sample) -> Float[Array, "n r"]:
        """The samples in coordinates along the right singular vectors: principal components, if centred."""
        return safe_divide(self.vectors * self.values, jnp.sqrt(sample.weights)[:, None])


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
    decomposition: Decomposition = _decompose(checked_sample(features, weights), kind=kind)
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


def singular_values(sample: Sample, kind: DecompositionKind, given: Any) -> Float[Array, " r"]:
    """Those of `checked_decomposition`, without its vectors: in less time where it is not given."""
    if given is None:
        values: Float[Array, " r"] = _singular_values(sample, kind=kind)
        return values
    return checked_decomposition(sample, kind, given).values


def right_singular(rows: Float[Array, "n d"]) -> tuple[Float[Array, " r"], Float[Array, "r d"]]:
    """Singular values and right singular vectors; where n > d, those of the triangular factor, which are the same."""
    triangular = jnp.linalg.qr(rows, mode="r") if rows.shape[0] > rows.shape[1] else rows
    _, values, axes = jnp.linalg.svd(triangular, full_matrices=False)
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
        standardised = standardisation_of(sample.features, sample.weights, smallest_scale=0)(sample.features)
        features, size = centred(standardised, sample.weights), jnp.ones((), sample.features.dtype)
    return jnp.sqrt(sample.weights)[:, None] * features, size


def _decompose_kernel(sample: Sample, *, kind: DecompositionKind) -> Decomposition:
    rows, size = _rows(sample, kind)
    vectors, values, _ = jnp.linalg.svd(rows, full_matrices=False)
    resolved = values > rounding(values.dtype) * values[0]
    return Decomposition(vectors * resolved, values * resolved, size, kind)


def _singular_values_kernel(sample: Sample, *, kind: DecompositionKind) -> Float[Array, " r"]:
    values = jnp.linalg.svd(_rows(sample, kind)[0], compute_uv=False)
    return jnp.where(values > rounding(values.dtype) * values[0], values, 0)


_decompose = kernel(_decompose_kernel, static=("kind",))
_singular_values = kernel(_singular_values_kernel, static=("kind",))
