r"""TransRate: mutual information of features and labels, with the coding rate as entropy.

For centred features Z of n samples and the n_c rows Z_c of them in class c,

    R(Z) = log det(I + Z^T Z / (n eps)) / 2,    TransRate = R(Z) - sum_c n_c / n R(Z_c).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.class_blocks import checked_largest_class, class_singular_values
from jaxrel.metrics.decomposition import Decomposition, rounding, singular_values
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, safe_divide, unit_centred
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample, checked_positive_number

__all__ = ["transrate_score"]


@no_derivative
@pads_samples
def transrate_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    eps: Float[ArrayLike, ""] = 1e-4,
    equal_classes: bool = False,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    largest_class: int | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    """Coding rate of the features minus that of the features within a class, in nats; higher is better.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        eps: distortion, in squared feature units: smaller variation is treated as noise. A new value does not
            recompile.
        equal_classes: whether classes have equal weight, not in proportion to their size.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes: class count; needed inside `jit` and `vmap`.
        largest_class: upper bound on the size of the largest class. None computes it for concrete labels, and uses n
            for traced labels, which is slow.
        decomposition: `decompose(features, "centred", weights=weights)`, to share it between metrics; None computes it.

    Returns:
        A `Score` that is invariant to shifts, rotations and appended constant features; not negative without
        `equal_classes`. It grows with the number of features, and depends on their scale if some vary by about
        `sqrt(eps)` or less: compare encoders at one scale.

    Raises:
        ValueError: for an eps that is not positive, else see `checked_labelled_sample`.

    Source: Huang, Huang, Rong, Yang, Wei, "Frustratingly easy transferability estimation", ICML 2022. The ten lines of
    code printed there are `equal_classes=True`; the definition and the authors' repository weight classes by size. The
    former grows with imbalance, as the few samples of a rare class span few directions. The authors also project the
    features, normalise them and divide by the rank, with an eps for each data set; none of that is done here.

    A class without samples is left out, where the printed code divides by 0.

    `O(n d min(n, d))` operations for all samples and `O(m r min(m, r))` for each class, with `r = min(n, d)` and m up
    to twice `largest_class`.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    distortion = checked_positive_number("eps", eps, sample.features.dtype)
    values = singular_values(sample, "centred", decomposition)
    block_size = checked_largest_class(labels, largest_class, sample.weights)
    return _transrate(sample, values, distortion, jnp.asarray(equal_classes), block_size=block_size)


def _transrate_kernel(
    sample: LabelledSample,
    values: Float[Array, " r"],
    eps: Float[Array, ""],
    equal_classes: Bool[Array, ""],
    *,
    block_size: int,
) -> Score:
    features, size = unit_centred(sample)
    rows = jnp.sqrt(sample.weights)[:, None] * features
    class_values, fits = class_singular_values(sample, rows, block_size)
    class_values = jnp.where(class_values > rounding(values.dtype) * values[0], class_values, 0)
    sizes = sample.class_sizes
    present = sizes > 0
    within = _coding_rate(class_values, size, jnp.where(present, sizes, 1)[:, None] * eps)
    shares = jnp.where(equal_classes, present / jnp.maximum(jnp.sum(present), 1), safe_divide(sizes, sample.total))
    value = _coding_rate(values, size, sample.total * eps) - shares @ within
    # Non-negative because log det is concave; rounding can break this.
    return make_score(jnp.where(equal_classes, value, jnp.maximum(value, 0)), sample.status, valid=fits)


_transrate = kernel(_transrate_kernel, static=("block_size",))


def _coding_rate(
    values: Float[Array, "*b r"], size: Float[Array, ""], noise: Float[Array, "*b 1"] | Float[Array, ""]
) -> Float[Array, "*b"]:
    """`sum log(1 + (size values)^2 / noise) / 2`, in logarithms: squares of large features would overflow."""
    positive = values > 0
    log_values = jnp.log(jnp.where(positive, values, 1)) + jnp.log(jnp.where(size > 0, size, 1))
    rates = jnp.logaddexp(0, 2 * log_values - jnp.log(noise))
    return jnp.sum(jnp.where(positive, rates, 0), axis=-1) / 2
