"""Mean silhouette coefficient: how much closer samples are to their own class than to the nearest other class."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.kernels import about_median, kernel, safe_divide
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample

__all__ = ["silhouette_score"]

# Number of samples whose distances to all others are formed at a time.
_BLOCK = 256


@pads_samples
def silhouette_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Mean silhouette coefficient (MSC) of the classes, -1 to 1; higher is better.

    A sample with mean distance a to the other samples of its class, and b to the nearest other class, has the
    coefficient `(b - a) / max(a, b)`. It is 0 for the only sample of a class, or if both distances are 0.

    Args:
        features: `(n, d)`; Euclidean distance.
        labels: `(n,)` integers.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice, as two samples of the class.
        num_classes: class count; needed inside `jit` and `vmap`. Absent classes have no effect.

    Returns:
        A `Score` that is invariant to shifts, scale and rotation. Undefined if all samples have the same class. In
        float32 distances below about 1e-3 of the distance to the centre of the samples are 0.

    Raises:
        ValueError: see `checked_labelled_sample`.

    Source: Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis", Journal
    of Computational and Applied Mathematics, 1987; as in scikit-learn, but defined where each class has one sample.

    `O(n^2 (d + c))` operations, `O(256 n + n d)` memory.
    """
    return _silhouette(checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True))


@kernel
def _silhouette(sample: LabelledSample) -> Score:
    features = about_median(sample.features, sample.weights)
    norms = jnp.sum(features**2, axis=1)
    weighted = sample.weights[:, None] * sample.memberships
    sizes = sample.class_sizes
    index = jnp.arange(norms.shape[0])
    classes = jnp.argmax(sample.memberships, axis=1)
    rounding = 8 * jnp.finfo(features.dtype).eps

    def coefficient(
        row: tuple[Float[Array, " d"], Float[Array, ""], Int[Array, ""], Float[Array, " c"]],
    ) -> Float[Array, ""]:
        point, norm, position, membership = row
        squared = norm + norms - 2 * (features @ point)
        squared = jnp.where(squared > rounding * (norm + norms), squared, 0)
        distances = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
        sums = distances @ weighted
        # Summed, as beside a heavy sample the difference to the size of the class is a rounding.
        but_one = jnp.where(index == position, jnp.maximum(sample.weights - 1, 0), sample.weights)
        others = jnp.sum(jnp.where(classes == classes[position], but_one, 0))
        inside = safe_divide(sums @ membership, others)
        elsewhere = (sizes > 0) & (membership == 0)
        outside = jnp.min(jnp.where(elsewhere, safe_divide(sums, sizes), jnp.inf))
        return jnp.where(others > 0, safe_divide(outside - inside, jnp.maximum(inside, outside)), 0)

    rows = (features, norms, index, sample.memberships)
    coefficients = jax.lax.map(coefficient, rows, batch_size=_BLOCK)
    value = safe_divide(sample.weights @ coefficients, sample.total)
    return make_score(value, sample.status, undefined=jnp.sum(sizes > 0) < 2)
