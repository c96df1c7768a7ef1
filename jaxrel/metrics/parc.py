r"""PARC: rank correlation of the dissimilarities of samples in features and in labels.

For standardised features the dissimilarity of samples i and j is `1 - corr(z_i, z_j)`, with the correlation taken over
features. For one-hot labels it is 0 within a class and constant between classes. PARC is Spearman's correlation of the
two over all pairs of samples. As the second takes only two values, with mean ranks r of the first,

    PARC = -cov(r, same) / sqrt(var(r) var(same)),   same = [y_i = y_j],

which needs a histogram of dissimilarities within and between classes, but no sorting of pairs.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, safe_divide, standardised
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample

__all__ = ["parc_score"]

# Rows whose dissimilarities are formed at a time.
_BLOCK = 256
# Cells of the histogram for each unit of dissimilarity, which is at most 2: about 16 roundings of float32 each. Exact
# ties at 0, 1 and 2 lie in the middle of a cell.
_RESOLUTION = 2**19


@no_derivative
@pads_samples
def parc_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Spearman's correlation of feature and label dissimilarities of all pairs, -1 to 1; higher is better.

    Args:
        features: `(n, d)`; each is standardised first, as in the authors' code.
        labels: `(n,)` integers.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice, so that it forms a pair with itself.
        num_classes: class count; needed inside `jit` and `vmap`. Absent classes change nothing.

    Returns:
        A `Score` that is invariant to the shift and scale of each feature. A sample whose standardised features are all
        equal correlates with no sample, not even with its copies. If this holds for all samples, or all samples are
        equal, the score is 0. Undefined if no two samples share a class, or all samples do.

    Raises:
        ValueError: see `checked_labelled_sample`.

    Source: Bolya, Mittapalli, Hoffman, "Scalable diverse model selection for accessible transfer learning", NeurIPS
    2021. Deviations: the score is not multiplied by 100. Pairs of one class are tied; the authors compute their label
    dissimilarities in floating point, as 0 for some classes and 1e-16 for others, and rank the rounding (which moves
    their score by up to 0.03 on small data). Dissimilarities that differ by less than 2e-6 are treated as tied.
    Features are not reduced to 32 principal components first, as this needs 32 features and samples and standardises
    the components: pass reduced features if you want this.

    `O(n^2 d)` operations; memory for `O(256 n)` numbers and 2^21 cells, never for all pairs.
    """
    return _parc(checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True))


@kernel
def _parc(sample: LabelledSample) -> Score:
    between, within = _histograms(sample, _directions(standardised(sample)))
    pairs = between + within
    cumulative = jnp.cumsum(pairs)
    total = cumulative[-1]
    # Mean ranks relative to their mean and to the number of pairs; exactly 0 where all pairs are tied.
    ranks = safe_divide(2 * cumulative - pairs - total, 2 * total)
    covariance = -safe_divide(within @ ranks, total)
    different, same = safe_divide(jnp.sum(between), total), safe_divide(jnp.sum(within), total)
    spread = jnp.sqrt(safe_divide(pairs @ ranks**2, total))
    spread = jnp.where(spread > 8 * jnp.finfo(spread.dtype).eps, spread, 0)
    value = safe_divide(covariance, spread * jnp.sqrt(different * same))
    return make_score(jnp.clip(value, -1, 1), sample.status, undefined=(different <= 0) | (same <= 0))


def _directions(features: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows of mean 0 and norm 1, whose products are correlations; 0 where a row is constant up to rounding."""
    largest = jnp.max(jnp.abs(features), axis=1, keepdims=True)
    rows = features - jnp.mean(features, axis=1, keepdims=True)
    rows = rows - jnp.mean(rows, axis=1, keepdims=True)
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    # Standardisation leaves the roundings of numbers of about 1 also in rows of smaller ones.
    rounding = 8 * jnp.finfo(rows.dtype).eps * math.sqrt(rows.shape[1]) * jnp.maximum(largest, 1)
    return jnp.where(norms > rounding, safe_divide(rows, norms), 0)


def _histograms(sample: LabelledSample, directions: Float[Array, "n d"]) -> Float[Array, "2 b"]:
    """How many ordered pairs of different samples have each dissimilarity: between classes, and within."""
    num_cells = 2 * _RESOLUTION + 1
    classes = jnp.argmax(sample.memberships, axis=1)
    index = jnp.arange(classes.shape[0])
    # Relative to the largest, as only their ratios count from here on and products of large ones overflow.
    unit = jnp.max(sample.weights)
    copies, masses = (safe_divide(values, unit) for values in (jnp.maximum(sample.weights - 1, 0), sample.weights))

    def cells(correlations: Float[Array, "*b"]) -> Int[Array, "*b"]:
        return jnp.clip(jnp.round((1 - correlations) * _RESOLUTION), 0, num_cells - 1).astype(jnp.int32)

    def add(
        counts: Float[Array, "2 b"],
        block: tuple[Float[Array, "r d"], Float[Array, " r"], Int[Array, " r"], Int[Array, " r"]],
    ) -> tuple[Float[Array, "2 b"], None]:
        rows, weights, labels, position = block
        same = (labels[:, None] == classes).astype(jnp.int32)
        others = jnp.where(position[:, None] == index, copies, masses)
        # Counted apart and then added: one by one, small weights would be lost in large counts.
        found = jnp.zeros_like(counts).at[same, cells(rows @ directions.T)].add(weights[:, None] * others)
        return counts + found, None

    size = min(_BLOCK, classes.shape[0])
    padding = -classes.shape[0] % size
    blocks = jax.tree.map(
        lambda rows: jnp.pad(rows, ((0, padding), *((0, 0),) * (rows.ndim - 1))).reshape(-1, size, *rows.shape[1:]),
        (directions, masses, classes, index),
    )
    counts, _ = jax.lax.scan(add, jnp.zeros((2, num_cells), directions.dtype), blocks)
    return counts
