"""Shared parts of the metric kernels: compilation, scaling, centring, class means, entropy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.programs import compiled
from jaxrel._core.standardisation import standardisation_of
from jaxrel._core.threads import few_threads
from jaxrel.metrics.validation import LabelledSample, Sample

__all__ = [
    "about_median",
    "centred",
    "class_means",
    "entropy",
    "gram_product",
    "kernel",
    "least_reaching",
    "own_size",
    "safe_divide",
    "standardised",
    "unit_centred",
    "unit_scale",
]


def kernel(function: Callable[..., Any], *, static: tuple[str, ...] = ()) -> Any:
    """Compile a pure function of arrays, with matrix products in the full precision of the dtype.

    On a CPU it returns only when the computation is done, because the number of threads is limited until then.
    """

    @functools.wraps(function)
    def precise(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **options)

    program = compiled(precise, static_argnames=static)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with few_threads(arguments) as limited:
            result = program(*arguments, **options)
            return jax.block_until_ready(result) if limited else result

    return call


def safe_divide(numerator: Float[Array, "*#b"], denominator: Float[Array, "*#b"]) -> Float[Array, "*b"]:
    """The quotient, or 0 where the denominator is 0."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def unit_scale(features: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Scale features to a largest absolute value from 1 to 2 (or all 0), so that squares neither overflow nor vanish.

    The divisor is a power of 2, which is exact: equal values stay equal however the compiler fuses later operations.
    """
    exponent = -_exponent(features)
    half = exponent // 2
    # Divide in two steps, as the power itself can overflow; `ldexp` on every feature takes several times as long.
    one = jnp.ones((), features.dtype)
    return features * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)


def own_size(features: Float[Array, "*_"]) -> Float[Array, ""]:
    """The power of 2 by which `unit_scale` divides."""
    return jnp.ldexp(jnp.ones((), features.dtype), _exponent(features))


def _exponent(features: Float[Array, "*_"]) -> Int[Array, ""]:
    """Exponent of the largest power of 2 not above the largest absolute value."""
    return jnp.frexp(jnp.max(jnp.abs(features)))[1] - 1


def centred(features: Float[Array, "n d"], weights: Float[Array, " n"]) -> Float[Array, "n d"]:
    """Features minus their weighted mean, 0 for weight 0. A second pass removes the rounding of the first.

    Means are taken relative to one of the samples, so that equal samples become exactly 0. `unit_scale` would otherwise
    magnify their rounding.
    """
    features = jnp.where(weights[:, None] > 0, features - features[jnp.argmax(weights)], 0)
    for _ in range(2):
        features = features - weights @ features / jnp.sum(weights)
    return jnp.where(weights[:, None] > 0, features, 0)


def unit_centred(sample: Sample) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """Centred features with a largest value from 1 to 2, and the factor that restores their scale."""
    features = centred(unit_scale(sample.features), sample.weights)
    return unit_scale(features), own_size(sample.features) * own_size(features)


def about_median(features: Float[Array, "n d"], weights: Float[Array, " n"]) -> Float[Array, "n d"]:
    """Features relative to a central sample, with a largest value from 1 to 2, for distances from products.

    `||x - y||^2 = ||x||^2 + ||y||^2 - 2 <x, y>` has an error of some roundings of the norms, and a single outlier moves
    the mean away from all other samples. Weiszfeld's iteration finds the geometric median; the sample nearest to it is
    the origin, so that the subtracted vector is not rounded.
    """
    features = unit_scale(features)
    points, live = jax.lax.stop_gradient(features), weights > 0

    def norms_about(origin: Float[Array, " d"]) -> Float[Array, " n"]:
        return jnp.where(live, jnp.linalg.norm(points - origin, axis=1), jnp.inf)

    centre = weights @ points / jnp.sum(weights)
    for _ in range(4):
        norms = norms_about(centre)
        least = jnp.finfo(norms.dtype).eps * jnp.max(jnp.where(live, norms, 0))
        pull = safe_divide(weights, jnp.where(live, jnp.maximum(norms, least), 0))
        centre = jnp.where(jnp.sum(pull) > 0, safe_divide(pull @ points, jnp.sum(pull)), centre)
    origin = points[jnp.argmin(norms_about(centre))]
    # Distances do not depend on the origin, so its derivative is 0.
    return unit_scale(jnp.where(live[:, None], features - origin, 0))


def standardised(sample: Sample) -> Float[Array, "n d"]:
    """Features of mean 0 and variance 1; features that are constant up to rounding become exactly 0."""
    rows = standardisation_of(sample.features, sample.weights, smallest_scale=0)(sample.features)
    rows = centred(rows, sample.weights)
    varies = sample.weights @ rows**2 > 0.5 * sample.total
    return jnp.where(varies, rows, 0)


def least_reaching(
    values: Float[Array, "*n"], weigh: Callable[[Bool[Array, "*n"]], Float[Array, ""]], mass: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """The least of non-negative values such that it and all smaller ones weigh at least `mass`; inf if none does.

    `weigh` gives the weight of a subset. The search bisects the bits, which have the same order as non-negative
    numbers: about 30 sums instead of a sort.
    """
    integer = jnp.int32 if values.dtype == jnp.float32 else jnp.int64
    # Adding +0 makes a negative zero positive, whose bits would otherwise be the least of all.
    bits = jax.lax.bitcast_convert_type(values + 0, integer)
    infinity = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, values.dtype), integer)

    def halved(ends: tuple[Int[Array, ""], Int[Array, ""]]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        below, reaching = ends
        middle = below + (reaching - below) // 2
        enough = weigh(bits <= middle) >= mass
        return jnp.where(enough, below, middle), jnp.where(enough, middle, reaching)

    # Often the smallest value is enough.
    least = jnp.min(bits)
    enough = weigh(bits <= least) >= mass
    start = jnp.where(enough, least - 1, least), jnp.where(enough, least, infinity)
    _, reaching = jax.lax.while_loop(lambda ends: ends[1] - ends[0] > 1, halved, start)
    return jax.lax.bitcast_convert_type(reaching, values.dtype)


def class_means(sample: LabelledSample, features: Float[Array, "n d"]) -> Float[Array, "c d"]:
    """Mean of each class, 0 for a class without samples. A second pass removes the rounding of the first."""
    shares = safe_divide(sample.weights[:, None] * sample.memberships, sample.class_sizes).T
    means = shares @ features
    return means + shares @ (features - sample.memberships @ means)


def merged_means(
    sizes_a: Float[Array, " c"], means_a: Float[Array, "c d"], sizes_b: Float[Array, " c"], means_b: Float[Array, "c d"]
) -> tuple[Float[Array, " c"], Float[Array, "c d"], Float[Array, "c d"]]:
    """Merged class sizes and means of two sets of samples, and rows for the scatter between the sets.

    The sum of the outer products of the rows is the scatter within classes of the union minus that of the two sets.
    """
    sizes = sizes_a + sizes_b
    shares = safe_divide(sizes_b, sizes)[:, None]
    known = (sizes_a > 0)[:, None]
    differences = jnp.where(known & (sizes_b > 0)[:, None], means_b - means_a, 0)
    between = jnp.sqrt(sizes_a[:, None] * shares) * differences
    return sizes, jnp.where(known, means_a + shares * differences, means_b), between


def gram_product(x: Float[Array, "n d"], y: Float[Array, "n e"]) -> Float[Array, ""]:
    """`<x x^T, y y^T> = ||x^T y||^2`, the sum of products of the entries of two Gram matrices.

    `O(n d e)` operations and `O(d e)` memory, or `O(n^2 (d + e))` and `O(n^2)` if that is less work.
    """
    (n, d), e = x.shape, y.shape[1]
    if n * (d + e) < d * e:
        return jnp.sum((x @ x.T) * (y @ y.T))
    return jnp.sum((x.T @ y) ** 2)


def entropy(probabilities: Float[Array, "*b c"]) -> Float[Array, "*b"]:
    """`-sum p log p` in nats, `0 log 0 = 0`."""
    positive = probabilities > 0
    return -jnp.sum(jnp.where(positive, probabilities * jnp.log(jnp.where(positive, probabilities, 1)), 0), axis=-1)
