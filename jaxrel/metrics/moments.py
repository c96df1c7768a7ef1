r"""Metrics from moments that are accumulated batch by batch: in a training loop, in a `lax.scan` or on many devices.

    state = moments.init(num_features=768, num_classes=10)
    for features, labels in batches:
        state = moments.update(state, features, labels)
    score = moments.compute("logme", state)

Some metrics depend on the samples only through their moments: the size n_c, mean m_c and variances of each class, and
the scatter within classes,

    W = sum_i w_i (x_i - m_{y_i}) (x_i - m_{y_i})^T.

The moments of two sets of samples merge into those of both: with the difference `d_c` of the means of class c and
`k_c = n_c n'_c / (n_c + n'_c)`, the scatter of both is `W + W' + sum_c k_c d_c d_c^T`.

Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979. Here
the classes share one scatter, which is stored as the triangular factor R of `W = R^T R`; a merge is a QR decomposition
of the rows of both factors. Singular values of the features are then resolved down to the rounding eps of the dtype
relative to the largest, whereas W itself resolves them only down to sqrt(eps) (3e-4 in float32).

To compute a metric, a weighted sample of `2 (C + d)` rows with the same moments is passed to its unchanged function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core import linalg
from jaxrel._core.suggestions import suggestion
from jaxrel.metrics.kernels import class_means, kernel, merged_means, own_size, safe_divide
from jaxrel.metrics.registry import METRICS
from jaxrel.metrics.result import Score
from jaxrel.metrics.validation import LabelledSample, checked_positive_integer

__all__ = ["STREAMED", "Moments", "compute", "init", "merge", "merge_across", "update"]

STREAMED = ("logme", "h_score", "regularised_h_score", "gbc", "lfc", "rankme", "alpha_req")
"""The metrics that are functions of the moments."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Moments of labelled samples, of features `origin + unit * x`.

    Attributes:
        class_sizes: weight of each class.
        means: of x in each class, 0 for one without samples.
        squares: sums of the squared deviations of x from the mean of the class.
        scatter: rows whose outer products have the sum W, the scatter of x within classes; W itself if not `factored`.
        third: `sum_i w_i ||x_i - m||^2 (x_i - m)` with the mean m of all samples.
        fourth: `sum_i w_i ||x_i - m||^4`.
        origin: one of the samples, so that constant features become exactly 0.
        unit: the largest power of 2 below the largest distance from the origin, so that no power of x overflows.
        valid: whether all samples of positive weight are finite and have a class, and no weight is negative.
        factored: whether `scatter` is a factor of W.
    """

    class_sizes: Float[Array, " c"]
    means: Float[Array, "c d"]
    squares: Float[Array, "c d"]
    scatter: Float[Array, "d d"]
    third: Float[Array, " d"]
    fourth: Float[Array, ""]
    origin: Float[Array, " d"]
    unit: Float[Array, ""]
    valid: Bool[Array, ""]
    factored: bool = field(metadata={"static": True})

    @property
    def total(self) -> Float[Array, ""]:
        """The weight of all samples."""
        return jnp.sum(self.class_sizes)

    @property
    def mean(self) -> Float[Array, " d"]:
        """Of x over all samples."""
        return safe_divide(self.class_sizes @ self.means, self.total)


def init(num_features: int, num_classes: int = 1, dtype: Any = jnp.float32, *, factored: bool = True) -> Moments:
    """The moments of no samples.

    Args:
        num_features: d.
        num_classes: C; 1 without labels.
        dtype: dtype of the sums, "float32" or, with 64-bit types enabled, "float64".
        factored: False stores the scatter W, not its triangular factor. An update is then a matrix product, not a QR
            decomposition, which is slow on accelerators; but singular values below sqrt(eps) of the largest are lost in
            rounding. That is enough for float32 features summed in float64, or for a well-conditioned covariance.

    Returns:
        A state of `O(d^2 + C d)` numbers.

    Raises:
        ValueError: for a number below 1.
    """
    d = checked_positive_integer("num_features", num_features)
    c = checked_positive_integer("num_classes", num_classes)
    return Moments(
        class_sizes=jnp.zeros(c, dtype),
        means=jnp.zeros((c, d), dtype),
        squares=jnp.zeros((c, d), dtype),
        scatter=jnp.zeros((d, d), dtype),
        third=jnp.zeros(d, dtype),
        fourth=jnp.zeros((), dtype),
        origin=jnp.zeros(d, dtype),
        unit=jnp.asarray(jnp.finfo(dtype).tiny, dtype),
        valid=jnp.asarray(True),
        factored=factored,
    )


def update(
    state: Moments,
    features: Float[ArrayLike, "m d"],
    labels: Int[ArrayLike, " m"] | None = None,
    weights: Float[ArrayLike, " m"] | None = None,
) -> Moments:
    """Add the samples of a batch to the moments.

    The function is pure: it works inside `jit`, `vmap`, `lax.scan`, `shard_map` and `pmap`, and never raises for
    values. An invalid sample makes `Moments.valid` false, which :func:`compute` reports.

    Args:
        state: from :func:`init`, :func:`update` or :func:`merge`.
        features: `(m, d)` of any number of samples, 0 included; cast to the dtype of the state.
        labels: `(m,)` integers from 0 to C - 1; None puts all samples into class 0.
        weights: `(m,)` counts; 0 is an absent sample whose features may be anything, 2 the sample twice.

    Raises:
        ValueError: for shapes that do not match, and labels that are not integers.

    `O(m d (d + C))` operations, and `O(d^3)` for a factored state.
    """
    rows = jnp.asarray(features)
    classes = jnp.zeros(rows.shape[:1], int) if labels is None else jnp.asarray(labels)
    counts = jnp.ones(rows.shape[:1]) if weights is None else jnp.asarray(weights)
    num_features = state.means.shape[1]
    if rows.ndim != 2 or rows.shape[1] != num_features:
        raise ValueError(f"features must have shape (m, {num_features}), as the state, got {rows.shape}.")
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {classes.dtype}: pass the number of each class.")
    for name, array in (("labels", classes), ("weights", counts)):
        if array.shape != rows.shape[:1]:
            raise ValueError(f"{name} must have shape {rows.shape[:1]}, as there are features, got {array.shape}.")
    updated: Moments = _update(state, rows, classes, counts) if len(rows) else state
    return updated


def merge(a: Moments, b: Moments) -> Moments:
    """Merge two states. The operation is associative and commutative up to rounding.

    Raises:
        ValueError: for states of different shapes.

    `O(d^2 + C d)` operations, and `O(d^2 (d + C))` for factored states.
    """
    if a.means.shape != b.means.shape or a.factored != b.factored:
        raise ValueError(
            f"states must be alike, got class means of {a.means.shape} and {b.means.shape}, factored {a.factored} and "
            f"{b.factored}: pass the same numbers to init."
        )
    merged: Moments = _merge(a, b)
    return merged


def merge_across(state: Moments, axis_name: Any) -> Moments:
    """Merge the states of all devices along a named axis: `lax.psum` for moments.

    Args:
        state: the state of this device, inside `shard_map`, `pmap` or `vmap`.
        axis_name: the name of the axis, or a tuple of names.

    Returns:
        The merged state, bitwise the same on all devices: the states are merged in the order of the devices.

    Time and traffic are those of one merge per device. Call it once, after the last update.
    """
    index = jax.lax.axis_index(axis_name)

    def of_device(position: Any) -> Any:
        def leaf_of_device(leaf: Array) -> Array:
            return jax.lax.psum(jnp.where(index == position, leaf, 0).astype(leaf.dtype), axis_name).astype(leaf.dtype)

        return jax.tree.map(leaf_of_device, state)

    def joined(position: Any, so_far: Any) -> Any:
        return merge(so_far, of_device(position))

    merged: Moments = jax.lax.fori_loop(1, jax.lax.axis_size(axis_name), joined, of_device(0))
    return merged


def compute(metric: str | Callable[..., Any], state: Moments, **options: Any) -> Score:
    """Compute a metric of all samples in a state.

    Args:
        metric: a name in `STREAMED`, or the function of the metric, such as `logme_score`.
        state: the state of all samples.
        options: options of the function, such as `logarithm=True` for `gbc_score`.

    Returns:
        The result of the function for all samples at once, up to rounding, with the same statuses. In float32 the
        rounding is that of the metric itself for a few hundred updates. For more updates, or to distinguish linearly
        dependent from nearly dependent features, sum in float64. Inside a transformation, a state without samples or
        with an invalid sample gives the score NaN with `ScoreStatus.INVALID_INPUT`.

    Raises:
        ValueError: for another metric; outside of transformations also for a state without samples or with an invalid
            one; and whatever the function raises.

    `O(d^2 (d + C))` operations, as for a sample of `2 (C + d)` rows.
    """
    name = _checked_name(metric)
    if not isinstance(state.valid, jax.core.Tracer):
        if not state.valid:
            raise ValueError(
                "the state has a sample of positive weight whose features are not finite or whose label is not from 0 "
                "to num_classes - 1, or a weight that is negative or not finite: check what was passed to update."
            )
        if state.total == 0:
            raise ValueError("the state has no samples: pass some of positive weight to update.")
    definition = METRICS[name]
    if name == "gbc":
        features, labels, weights = _two_of_each_class(state)
    else:
        features, labels, weights = _stand_in(state, shifted=definition.shift_invariant)
    if name == "regularised_h_score":
        options["fourth_moment"] = state.fourth / state.total
    if definition.label_free:
        score: Score = definition.function(features, weights=weights, **options)
    else:
        num_classes = len(state.class_sizes)
        score = definition.function(features, labels, weights=weights, num_classes=num_classes, **options)
    return score


def _checked_name(metric: str | Callable[..., Any]) -> str:
    """The name of a metric that is a function of the moments; ValueError for another."""
    for name in STREAMED:
        if metric in (name, METRICS[name].function):
            return name
    if isinstance(metric, str) and metric not in METRICS:
        raise ValueError(
            f"unknown metric {metric!r}{suggestion(metric, STREAMED)}: there are {', '.join(STREAMED)} for blocks."
        )
    raise ValueError(
        f"{metric} cannot be computed by block, as it depends on more than the sizes, means and variances of classes "
        f"and the covariance of the features: choose from {', '.join(STREAMED)}, or pass a sample of the rows to "
        "score_encoders."
    )


@kernel
def _update(
    state: Moments, features: Float[Array, "m d"], labels: Int[Array, " m"], weights: Float[Array, " m"]
) -> Moments:
    return _merged(state, _of_batch(state, features, labels, weights))


def _of_batch(
    like: Moments, features: Float[Array, "m d"], labels: Int[Array, " m"], weights: Float[Array, " m"]
) -> Moments:
    """The moments of a batch as a state. If factored, the scatter has a row for each sample."""
    dtype, num_classes = like.means.dtype, len(like.class_sizes)
    live = weights > 0
    features = jnp.where(live[:, None], features, 0).astype(dtype)
    known = (labels >= 0) & (labels < num_classes) & jnp.all(jnp.isfinite(features), axis=1)
    valid = jnp.all(known | ~live) & jnp.all(jnp.isfinite(weights) & (weights >= 0))
    weights = jnp.where(live, weights, 0).astype(dtype)
    origin = features[jnp.argmax(weights)]
    distances = jnp.where(live[:, None], features - origin, 0)
    unit = _unit(distances)
    memberships = jnp.where(live[:, None], jax.nn.one_hot(labels, num_classes, dtype=dtype), 0)
    sample = LabelledSample(distances / unit, weights, valid, memberships)
    means = class_means(sample, sample.features)
    rows = sample.features - memberships @ means
    scatter = jnp.sqrt(weights)[:, None] * rows
    about_mean = rows + memberships @ (means - safe_divide(weights @ sample.features, sample.total))
    norms = jnp.sum(about_mean**2, axis=1)
    return Moments(
        class_sizes=sample.class_sizes,
        means=means,
        squares=memberships.T @ (weights[:, None] * rows**2),
        scatter=scatter if like.factored else scatter.T @ scatter,
        third=(weights * norms) @ about_mean,
        fourth=(weights * norms) @ norms,
        origin=origin,
        unit=unit,
        valid=valid,
        factored=like.factored,
    )


def _unit(distances: Float[Array, "*n d"]) -> Float[Array, ""]:
    """The largest power of 2 below the largest value."""
    tiny = jnp.finfo(distances.dtype).tiny
    return jnp.where(jnp.max(jnp.abs(distances)) > tiny, own_size(distances), tiny)


def _merged(a: Moments, b: Moments) -> Moments:
    origin = jnp.where(a.total > 0, a.origin, b.origin)
    apart = jnp.where((a.total > 0) & (b.total > 0), b.origin - a.origin, 0)
    unit = jnp.maximum(jnp.maximum(a.unit, b.unit), _unit(apart))
    a, b = _moved(a, jnp.zeros_like(apart), unit), _moved(b, apart / unit, unit)
    class_sizes, means, between = merged_means(a.class_sizes, a.means, b.class_sizes, b.means)
    if a.factored:
        scatter = linalg.triangular_factor(jnp.concatenate([a.scatter, b.scatter, between]))
    else:
        scatter = a.scatter + b.scatter + between.T @ between
    merged = dataclasses.replace(
        a,
        class_sizes=class_sizes,
        means=means,
        squares=a.squares + b.squares + between**2,
        scatter=scatter,
        origin=origin,
        valid=a.valid & b.valid,
    )
    (third_a, fourth_a), (third_b, fourth_b) = _about(a, merged.mean), _about(b, merged.mean)
    return dataclasses.replace(merged, third=third_a + third_b, fourth=fourth_a + fourth_b)


_merge = kernel(_merged)


def _moved(state: Moments, shift: Float[Array, " d"], unit: Float[Array, ""]) -> Moments:
    """The same moments in a larger unit, with the shift added to x."""
    ratio = state.unit / unit
    return dataclasses.replace(
        state,
        unit=unit,
        means=jnp.where(state.class_sizes[:, None] > 0, ratio * state.means + shift, 0),
        squares=ratio**2 * state.squares,
        scatter=(ratio if state.factored else ratio**2) * state.scatter,
        third=ratio**3 * state.third,
        fourth=ratio**4 * state.fourth,
    )


def _about(state: Moments, mean: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """The third and fourth moments about another mean."""
    shift = mean - state.mean
    apart = state.means - state.mean
    scatter_along = (state.scatter @ shift) @ state.scatter if state.factored else state.scatter @ shift
    along = scatter_along + (state.class_sizes * (apart @ shift)) @ apart
    variance = jnp.sum(state.squares) + state.class_sizes @ jnp.sum(apart**2, axis=1)
    square = shift @ shift
    third = state.third - variance * shift - 2 * along - state.total * square * shift
    fourth = state.fourth - 4 * state.third @ shift + 4 * along @ shift + 2 * square * variance
    return third, fourth + state.total * square**2


_Rows = tuple[Float[Array, "m d"], Int[Array, " m"], Float[Array, " m"]]


def _stand_in_kernel(state: Moments, *, shifted: bool) -> _Rows:
    """Features, labels and weights with the class sizes, class means and scatter within classes of the state.

    All of the scatter is in the largest class. The second half of the rows has the weights and labels of the first half
    and mirrors it about the means.

    Args:
        state: the moments.
        shifted: whether to return x, which has more digits, instead of the features of the samples.
    """
    num_classes, width = state.means.shape
    largest = jnp.argmax(state.class_sizes)
    size = state.class_sizes[largest]
    # A power of 2, so that the weights sum exactly to the class sizes, which may be compared to a rank.
    of_row = own_size(size / (4 * width))
    offsets = _factor(state) / jnp.sqrt(2 * of_row)
    rows = [jnp.concatenate([state.means, state.means[largest] + side * offsets]) for side in (1, -1)]
    at_means = (state.class_sizes / 2).at[largest].add(-width * of_row)
    features = jnp.concatenate(rows)
    return (
        _if_valid(state, features if shifted else state.origin + state.unit * features),
        jnp.tile(jnp.concatenate([jnp.arange(num_classes), jnp.full(width, largest)]), 2),
        jnp.tile(jnp.concatenate([at_means, jnp.full(width, of_row)]), 2),
    )


_stand_in = kernel(_stand_in_kernel, static=("shifted",))


@kernel
def _two_of_each_class(state: Moments) -> _Rows:
    """Two samples per class with its mean and variances, centred and in the unit of the features."""
    deviations = jnp.sqrt(safe_divide(state.squares, state.class_sizes[:, None]))
    rows = jnp.concatenate([state.means + deviations, state.means - deviations]) - state.mean
    labels = jnp.arange(len(state.class_sizes))
    return _if_valid(state, state.unit * rows), jnp.tile(labels, 2), jnp.tile(state.class_sizes / 2, 2)


def _if_valid(state: Moments, features: Float[Array, "m d"]) -> Float[Array, "m d"]:
    return jnp.where(state.valid, features, jnp.nan)


def _factor(state: Moments) -> Float[Array, "d d"]:
    """Rows whose outer products have the sum W."""
    if state.factored:
        return state.scatter
    # In units of the deviation of each feature, as the rounding of a large feature would hide a small one.
    sizes = jnp.sqrt(jnp.diag(state.scatter))
    units = jnp.where(sizes > 0, sizes, 1)
    eigenvalues, axes = linalg.eigh(state.scatter / units / units[:, None])
    return jnp.sqrt(jnp.maximum(eigenvalues, 0))[:, None] * axes.T * sizes


def in_single_precision(state: Moments) -> Moments:
    """The same moments in float32, factored before precision is lost."""
    factored = dataclasses.replace(state, scatter=_factor(state), factored=True)
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == np.bool_ else leaf.astype(jnp.float32), factored)
