"""How well a score ranks encoders: correlations with the ground truth, and the regret of choosing the best score.

All take `score` and `truth` of shape `(*b, m)`, one entry for each of m encoders, larger meaning better; leading axes
are batches and broadcast. Encoders with `where` False do not exist. A value that is not a number makes the result so;
infinite values have their place in every order. Concrete values are compared as they are given, in float64 or as
integers; inside a transformation, where they are unknown, in the dtype of the arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from jaxrel._core.arrays import number_array, truth_array

__all__ = [
    "STATISTICS",
    "kendall_tau",
    "pair_signs",
    "pearson",
    "representable",
    "spearman",
    "top_1_regret",
    "weighted_kendall_tau",
]

Statistic = Callable[..., Float[Array, "*b"]]


def kendall_tau(
    score: Float[ArrayLike, "*b m"],
    truth: Float[ArrayLike, "*b m"],
    *,
    where: Bool[ArrayLike, "*b m"] | None = None,
) -> Float[Array, "*b"]:
    r"""Kendall's tau-b (Kendall, Biometrika 1945), equal to `scipy.stats.kendalltau(score, truth)`.

    tau = sum_ij sgn(x_i - x_j) sgn(y_i - y_j) / sqrt(sum_ij sgn(x_i - x_j)^2 sum_ij sgn(y_i - y_j)^2)

    so a pair that is tied in either has no effect on the numerator.

    Args:
        score, truth: one entry for each encoder.
        where: mask of the encoders to use; None means all.

    Returns:
        A number in [-1, 1]; NaN if all scores or all truths are tied, or if there are fewer than two encoders.

    Raises:
        ValueError: for shapes that do not fit together.

    Examples:
        >>> print(f"{kendall_tau([0.1, 0.4, 0.3], [0.5, 0.8, 0.9]):.3f}")
        0.333
    """
    score, truth, where = _as_pair(score, truth, where)
    return _agreement(pair_signs(score, where), pair_signs(truth, where), jnp.ones((), score.dtype))


def weighted_kendall_tau(
    score: Float[ArrayLike, "*b m"],
    truth: Float[ArrayLike, "*b m"],
    *,
    convention: str,
    where: Bool[ArrayLike, "*b m"] | None = None,
) -> Float[Array, "*b"]:
    r"""Kendall's tau with additive hyperbolic weights (Vigna, WWW 2015): the best encoders count most.

    A pair of encoders with ranks r and s (0 is the best) has weight 1 / (r + 1) + 1 / (s + 1) in each sum of
    `kendall_tau`. The ranks follow a convention, which differs between published tables:

    - `"by_truth"`: ranks by decreasing truth, ties by decreasing score. It is
      `scipy.stats.weightedtau(truth, score, rank=None)`.
    - `"by_score"`: ranks by decreasing score, ties by decreasing truth. It is
      `scipy.stats.weightedtau(score, truth, rank=None)`.
    - `"symmetric"`: the mean of the two, `scipy.stats.weightedtau(score, truth)` in either order of the arguments.

    `rank=None` of SciPy ranks by the first argument; only `rank=False` takes the position in the array as the rank,
    which means something where encoders come sorted by their accuracy and is not offered here.

    Args:
        score, truth, where: as in `kendall_tau`.
        convention: one of the three above. There is no default, so that every call states its convention.

    Returns:
        As `kendall_tau`.

    Raises:
        ValueError: as `kendall_tau`, and for an unknown convention.

    Examples:
        >>> print(f"{weighted_kendall_tau([0.1, 0.4, 0.3], [0.5, 0.8, 0.9], convention='by_truth'):.3f}")
        0.182
    """
    if convention not in ("by_truth", "by_score", "symmetric"):
        raise ValueError(f'convention is {convention!r}: pass "by_truth", "by_score" or "symmetric".')
    score, truth, where = _as_pair(score, truth, where)
    score_signs, truth_signs = pair_signs(score, where), pair_signs(truth, where)
    by_truth = _agreement(score_signs, truth_signs, _hyperbolic_weights(truth_signs, score_signs, where))
    by_score = _agreement(score_signs, truth_signs, _hyperbolic_weights(score_signs, truth_signs, where))
    return {"by_truth": by_truth, "by_score": by_score, "symmetric": (by_truth + by_score) / 2}[convention]


def spearman(
    score: Float[ArrayLike, "*b m"],
    truth: Float[ArrayLike, "*b m"],
    *,
    where: Bool[ArrayLike, "*b m"] | None = None,
) -> Float[Array, "*b"]:
    """Spearman's rho, the correlation of ranks with ties at their mean; equal to `scipy.stats.spearmanr`.

    Args:
        score, truth, where: as in `kendall_tau`.

    Returns:
        As `kendall_tau`.

    Raises:
        ValueError: as `kendall_tau`.
    """
    score, truth, where = _as_pair(score, truth, where)
    # Encoders below minus encoders above are twice the mean rank up to a constant.
    ranks = (jnp.sum(pair_signs(values, where), axis=-1) for values in (score, truth))
    return pearson(*ranks, where=where)


def pearson(
    score: Float[ArrayLike, "*b m"],
    truth: Float[ArrayLike, "*b m"],
    *,
    where: Bool[ArrayLike, "*b m"] | None = None,
) -> Float[Array, "*b"]:
    """Pearson's correlation of the values themselves; equal to `scipy.stats.pearsonr`.

    Args:
        score, truth, where: as in `kendall_tau`.

    Returns:
        As `kendall_tau`; also NaN where a value is infinite, as it is at no distance from the others.

    Raises:
        ValueError: as `kendall_tau`.
    """
    score, truth, where = _as_pair(score, truth, where, "pearson")
    product = jnp.sum(_unit_deviations(score, where) * _unit_deviations(truth, where), axis=-1)
    return jnp.clip(product, -1, 1)


def top_1_regret(
    score: Float[ArrayLike, "*b m"],
    truth: Float[ArrayLike, "*b m"],
    *,
    where: Bool[ArrayLike, "*b m"] | None = None,
) -> Float[Array, "*b"]:
    """The regret of choosing the encoder with the highest score: the best truth minus the truth of the chosen one.

    Among encoders tied for the highest score one is chosen at random; the expectation is returned.

    Args:
        score, truth, where: as in `kendall_tau`.

    Returns:
        A number >= 0 in the unit of the truth, smaller being better; NaN where no encoder counts.

    Raises:
        ValueError: as `kendall_tau`.

    Examples:
        >>> print(f"{top_1_regret([0.1, 0.4, 0.3], [0.5, 0.8, 0.9]):.3f}")
        0.100
    """
    score, truth, where = _as_pair(score, truth, where, "top_1_regret")
    best_score = jnp.max(score, axis=-1, where=where, initial=-jnp.inf, keepdims=True)
    chosen = where & (score == best_score)
    regret = jnp.max(truth, axis=-1, where=where, initial=-jnp.inf, keepdims=True) - truth
    return jnp.mean(regret, axis=-1, where=chosen)


STATISTICS: Mapping[str, Statistic] = MappingProxyType(
    {
        "kendall_tau": kendall_tau,
        "weighted_kendall_tau_symmetric": functools.partial(weighted_kendall_tau, convention="symmetric"),
        "weighted_kendall_tau_by_truth": functools.partial(weighted_kendall_tau, convention="by_truth"),
        "spearman": spearman,
        "pearson": pearson,
        "top_1_regret": top_1_regret,
    }
)
"""The statistics by the names that every option `statistic` of this package takes."""


def pair_signs(values: Float[Array, "*b m"], where: Bool[Array, "*b m"]) -> Float[Array, "*b m m"]:
    """`sgn(v_i - v_j)` for each pair of encoders that count, else 0; equal infinities are tied."""
    own, other = values[..., :, None], values[..., None, :]
    signs = jnp.where(own == other, 0, jnp.sign(own - other))
    return jnp.where(where[..., :, None] & where[..., None, :], signs, 0)


def _agreement(
    x: Float[Array, "*b m m"], y: Float[Array, "*b m m"], weights: Float[Array, "*#b m m"] | Float[Array, ""]
) -> Float[Array, "*b"]:
    """Weighted cosine of the angle between two arrays of signs."""
    inner, x_norm, y_norm = (jnp.sum(weights * product, axis=(-2, -1)) for product in (x * y, x * x, y * y))
    return jnp.clip(inner / jnp.sqrt(x_norm * y_norm), -1, 1)


def _hyperbolic_weights(
    first: Float[Array, "*b m m"], second: Float[Array, "*b m m"], where: Bool[Array, "*b m"]
) -> Float[Array, "*b m m"]:
    """`1 / (r_i + 1) + 1 / (r_j + 1)` for the ranks r by decreasing `first`, ties by decreasing `second`."""
    position = jnp.arange(first.shape[-1])
    # Encoders tied in both are alike in every sum, so that any order of theirs gives the same agreement.
    order = jnp.where(first != 0, first, jnp.where(second != 0, second, jnp.sign(position[:, None] - position)))
    rank = jnp.sum((order < 0) & where[..., None, :], axis=-1)
    weights = 1 / (rank + 1).astype(first.dtype)
    return weights[..., :, None] + weights[..., None, :]


def _unit_deviations(values: Float[Array, "*b m"], where: Bool[Array, "*b m"]) -> Float[Array, "*b m"]:
    """Deviations from the mean, divided by their norm; NaN where all values are equal."""
    deviations = values - jnp.mean(values, axis=-1, where=where, keepdims=True)
    deviations = jnp.where(where, deviations, 0)
    # First by the largest, so that squares neither overflow nor vanish.
    deviations = deviations / jnp.max(jnp.abs(deviations), axis=-1, keepdims=True)
    deviations = deviations / jnp.linalg.norm(deviations, axis=-1, keepdims=True)
    # The rounded mean of equal values may differ from them.
    first = jnp.take_along_axis(values, jnp.argmax(where, axis=-1, keepdims=True), axis=-1)
    constant = jnp.all((values == first) | ~where, axis=-1, keepdims=True)
    return jnp.where(constant, jnp.nan, deviations)


def _as_pair(
    score: Float[ArrayLike, "*b m"],
    truth: Float[ArrayLike, "*b m"],
    where: Bool[ArrayLike, "*b m"] | None,
    statistic: str = "order",
) -> tuple[Float[Array, "*b m"], Float[Array, "*b m"], Bool[Array, "*b m"]]:
    score, truth = number_array("score", score), number_array("truth", truth)
    where = True if where is None else truth_array("where", where)
    shapes = (score.shape, truth.shape, np.shape(where))
    if score.ndim < 1 or shapes[0][-1:] != shapes[1][-1:] or shapes[2][-1:] not in ((), shapes[0][-1:]):
        raise ValueError(
            f"score, truth and where have shapes {shapes}: pass (*b, m), one entry for each of m encoders."
        )
    try:
        shape = jnp.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ValueError(f"the batch axes of score, truth and where do not broadcast: {shapes}.") from error
    score, truth = representable(score, truth, where, statistic)
    dtype = jnp.promote_types(jnp.promote_types(score.dtype, truth.dtype), jnp.float32)
    where = jnp.broadcast_to(jnp.asarray(where, bool), shape)
    score, truth = (jnp.where(where, values.astype(dtype), 0) for values in (score, truth))
    return score, truth, where


def representable(
    score: Float[ArrayLike, "*b m"], truth: Float[ArrayLike, "*b m"], where: Bool[ArrayLike, "*b m"], statistic: str
) -> tuple[Real[Array, "*s m"], Real[Array, "*t m"]]:
    """Scores and truths of which float32 keeps all that a statistic depends on.

    Concrete ones become ranks, but for `pearson` deviations in units of the largest, and for `top_1_regret` truths what
    they are below the best. Those inside a transformation stay as they are.
    """
    if any(isinstance(values, jax.core.Tracer) for values in (score, truth, where)):
        return jnp.asarray(score), jnp.asarray(truth)
    of_score, of_truth = {"pearson": (_deviations, _deviations), "top_1_regret": (_ranks, _below_best)}.get(
        statistic, (_ranks, _ranks)
    )
    with np.errstate(all="ignore"):  # Infinite values leave what is not a number, which is passed on.
        forms = (
            form(*np.broadcast_arrays(np.asarray(values), np.asarray(where, bool)))
            for form, values in ((of_score, score), (of_truth, truth))
        )
        return tuple(jnp.asarray(values) for values in forms)  # type: ignore[return-value]


def _ranks(values: np.ndarray, where: np.ndarray) -> Float[np.ndarray, "*b m"]:
    """Number of smaller values that differ, NaN for what is not a number."""
    values = np.where(where, values, 0)
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    higher = np.cumsum(ordered[..., 1:] != ordered[..., :-1], axis=-1)
    ranks = np.zeros(values.shape)
    np.put_along_axis(ranks, order[..., 1:], higher, axis=-1)
    return np.where(values == values, ranks, np.nan)


def _deviations(values: np.ndarray, where: np.ndarray) -> Float[np.ndarray, "*b m"]:
    """From the mean, in units of the largest."""
    values = np.where(where, values, 0).astype(np.float64)
    values = values / _positive(np.max(np.abs(values), axis=-1, keepdims=True))
    values = np.where(where, values - np.mean(values, axis=-1, where=where, keepdims=True), 0)
    return values / _positive(np.max(np.abs(values), axis=-1, keepdims=True))


def _below_best(values: np.ndarray, where: np.ndarray) -> Float[np.ndarray, "*b m"]:
    """Minus the largest, where that is finite."""
    values = values.astype(np.float64)
    best = np.max(values, axis=-1, where=where, initial=-np.inf, keepdims=True)
    return np.where(np.isfinite(best), values - best, values)


def _positive(size: np.ndarray) -> np.ndarray:
    return np.where(size > 0, size, 1)
