r"""Balanced accuracy of a linear discriminant on samples that it was not fitted to.

With the covariance S of the standardised features within classes, class means m_c, and t the mean variance,

    class of x = argmax_c x^T A m_c - m_c^T A m_c / 2,   A = ((1 - lambda) S + lambda t I)^{-1}:

linear discriminant analysis with equal priors, shrunk towards the nearest class mean. A closed form: one Cholesky
factor for each half serves all classes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from jaxrel._core import linalg
from jaxrel._core.checks import Key, checked_key
from jaxrel._core.halves import second_half
from jaxrel._core.programs import compiled
from jaxrel._core.size_classes import pads_samples
from jaxrel._core.standardisation import standardisation_of
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample

__all__ = ["balanced_shares", "held_out_discriminant_score", "held_out_hits"]

SHRINKAGE = 0.7
NUM_REPEATS = 3
# Samples whose responses to all classes are formed at a time.
_BLOCK = 1024


@no_derivative
@pads_samples
def held_out_discriminant_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    key: Key = 0,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    """Balanced accuracy of a shrunk linear discriminant on the half it was not fitted to, 0 to 1; higher is better.

    The value of `jaxrel.transferability_score` with target labels.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        key: of `jax.random`, or an integer; deals the samples of each class to halves.
        weights: 0 is an absent sample; only their ratios matter. A sample of weight 2 falls into one half, two equal
            samples into both.
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score`: 1 / K for constant features and, on average, for noise, 1 for a single class. Undefined where no
        class has two samples.

    Raises:
        ValueError: for an integer key out of 0 .. 2^32 - 1, else see `checked_labelled_sample`.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    return _held_out_discriminant(sample, checked_key(key))


@kernel
def _held_out_discriminant(sample: LabelledSample, key: PRNGKeyArray) -> Score:
    num_classes = sample.memberships.shape[1]
    labels = jnp.argmax(sample.memberships, axis=1)
    hits, _ = held_out_hits(sample.features, labels, sample.weights, key, num_classes=num_classes)
    shares = balanced_shares(labels, sample.weights, num_classes=num_classes)
    return make_score(jnp.minimum(shares @ hits, 1), sample.status, undefined=jnp.sum(shares) <= 0)


@functools.partial(compiled, static_argnames=("num_classes", "num_repeats"))
def held_out_hits(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    key: PRNGKeyArray,
    *,
    num_classes: int,
    num_repeats: int = NUM_REPEATS,
    shrinkage: Float[ArrayLike, ""] = SHRINKAGE,
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """How often the discriminant of the other half names the class of each sample; and whether features vary at all.

    Each repeat deals the samples of each class to two halves, and judges each half by the discriminant of the other.
    The prediction for a sample then depends on its features alone, whatever its class: over features that know nothing
    of the labels, the balanced accuracy is `1 / number of classes` on average, however unequal the classes are. (Left
    out one at a time, a sample would be missing from the mean of its own class alone, which for few samples in many
    dimensions puts it below chance.)

    Args:
        features: `(n, d)`; standardised by all samples, without their labels.
        labels: `(n,)`, `0 .. num_classes - 1`; a class without samples is never predicted.
        weights: `(n,)`; 0 is an absent sample.
        key: deals the samples.
        num_classes, num_repeats: static.
        shrinkage: lambda, in (0, 1].

    Returns:
        Hits from 0 to 1, 0 for a sample that is absent or the only one of its class, which nothing can be learned of
        without seeing it. Classes of equal response share a hit: 1 / K each where all features are constant.

    Pure; under `vmap` over encoders. `O(r (n d^2 + d^3 + n d c))` operations for r repeats and c classes, and
    `O(n d + d^2 + c d)` memory. With fewer samples than features these are rotated to n coordinates first.
    """
    with jax.default_matmul_precision("highest"):
        points, spread = _coordinates(features, weights)
        halves = jax.vmap(lambda key: second_half(labels, weights, key))(jax.random.split(key, num_repeats))

        def judged(second: Bool[Array, " n"]) -> Float[Array, " n"]:
            train = jnp.where(second, 0, weights)
            return jnp.where(second, _hits(points, labels, train, spread, shrinkage, num_classes), 0)

        folds = jnp.concatenate([halves, ~halves])
        hits = jnp.sum(jax.lax.map(judged, folds), axis=0) / num_repeats
        return jnp.where(weights > 0, hits, 0), spread > 0


def balanced_shares(labels: Int[Array, " n"], weights: Float[Array, " n"], *, num_classes: int) -> Float[Array, " n"]:
    """Share of each sample in the mean over classes: equal for all classes of two samples or more, 0 for the others."""
    exists = (weights > 0).astype(weights.dtype)
    sizes = jax.ops.segment_sum(exists, labels, num_classes)
    totals = jax.ops.segment_sum(weights, labels, num_classes)
    judged = sizes > 1
    by_class = jnp.where(judged, 1 / jnp.where(judged, totals, 1), 0) / jnp.maximum(jnp.sum(judged), 1)
    return weights * by_class[labels]


def _coordinates(
    features: Float[Array, "n d"], weights: Float[Array, " n"]
) -> tuple[Float[Array, "n r"], Float[Array, ""]]:
    """Standardised features, exactly 0 where constant, in `r = min(n, d)` coordinates; and their mean variance t."""
    n, d = features.shape
    points = jnp.where(weights[:, None] > 0, standardisation_of(features, weights)(features), 0)
    shares = weights / jnp.sum(weights)
    variances = shares @ points**2
    varies = variances > (16 * jnp.finfo(points.dtype).eps) ** 2
    points = jnp.where(varies, points, 0)
    spread = jnp.sum(jnp.where(varies, variances, 0)) / d
    return linalg.triangular_factor(points.T).T if n < d else points, spread


def _hits(
    points: Float[Array, "n r"],
    labels: Int[Array, " n"],
    train: Float[Array, " n"],
    spread: Float[Array, ""],
    shrinkage: Float[ArrayLike, ""],
    num_classes: int,
) -> Float[Array, " n"]:
    """Whether the discriminant of the training weights names the class of each sample."""
    totals = jax.ops.segment_sum(train, labels, num_classes)
    present = totals > 0
    by_class = jnp.where(present, 1 / jnp.where(present, totals, 1), 0)
    means = by_class[:, None] * jax.ops.segment_sum(train[:, None] * points, labels, num_classes)
    residuals = points - means[labels]
    within = (train[:, None] * residuals).T @ residuals / jnp.sum(train)
    ridge = shrinkage * jnp.where(spread > 0, spread, 1)
    matrix = jnp.asarray((1 - shrinkage) * within + ridge * jnp.eye(within.shape[0], dtype=within.dtype))
    slopes = jax.scipy.linalg.cho_solve((linalg.cholesky(matrix), True), means.T)
    offsets = jnp.where(present, -jnp.sum(means.T * slopes, axis=0) / 2, -jnp.inf)

    def hit(row: tuple[Float[Array, " r"], Int[Array, ""]]) -> Float[Array, ""]:
        point, label = row
        responses = point @ slopes + offsets
        largest = responses == jnp.max(responses)
        return largest[label] / jnp.sum(largest)

    return jax.lax.map(hit, (points, labels), batch_size=_BLOCK)
