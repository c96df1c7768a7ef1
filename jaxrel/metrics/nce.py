r"""NCE: how well source classes determine target labels, if each sample has both.

NCE = -H(Y | Z) = sum_{y, z} P(y, z) log P(y | z),   P(y, z) = share of samples of label y and source label z.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.arrays import to_array
from jaxrel._core.labels import encoded_labels
from jaxrel._core.size_classes import pads_samples
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel, safe_divide
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample

__all__ = ["nce_score"]


@no_derivative
@pads_samples
def nce_score(
    source_labels: Int[ArrayLike, " n"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    num_source_classes: int | None = None,
) -> Score:
    """Negative conditional entropy of the labels given the source labels, in nats; higher is better.

    Args:
        source_labels: `(n,)` integers or names: source classes of the target samples, such as predictions of a source
            head.
        labels: `(n,)` integers.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes, num_source_classes: class counts; needed inside `jit` and `vmap`. Absent classes have no effect.

    Returns:
        A `Score` between minus the entropy of the labels, if the two are independent, and 0, if the source label
        determines the label. It is not symmetric in its arguments.

    Raises:
        ValueError: for source labels that are not integers or out of range, else see `checked_labelled_sample`.

    Source: Tran, Nguyen, Hassner, "Transferability and hardness of supervised classification tasks", ICCV 2019. Nothing
    is added to empty cells, `0 log 0 = 0`; some implementations add 1e-5 to each, which lowers the score.

    `O(n c)` operations, `O((n + s) c)` memory for s source classes.

    Examples:
        >>> print(f"{nce_score([0, 0, 1, 1], [0, 1, 2, 2]).value:.3f}")
        -0.347
    """
    num_samples = (*to_array("source_labels", source_labels).shape, 0)[0]
    sample = checked_labelled_sample(np.zeros((num_samples, 1)), labels, weights, num_classes)
    source, count, known = _checked_source(source_labels, sample.weights > 0, num_source_classes)
    # The only input for a sample is its source class.
    features = jnp.where(sample.weights > 0, source, 0).astype(sample.features.dtype)[:, None]
    sample = dataclasses.replace(sample, features=features)
    return _nce(sample, source, known, num_source_classes=count)


def _nce_kernel(
    sample: LabelledSample, source: Int[Array, " n"], known: Bool[Array, ""], *, num_source_classes: int
) -> Score:
    weighted = sample.weights[:, None] * sample.memberships
    joint = jax.ops.segment_sum(weighted, source, num_source_classes)
    conditional = safe_divide(joint, jnp.sum(joint, axis=1, keepdims=True))
    logarithms = jnp.log(jnp.where(conditional > 0, conditional, 1))
    value = safe_divide(jnp.sum(joint * logarithms), sample.total)
    return make_score(jnp.minimum(value, 0), sample.status, valid=known)


_nce = kernel(_nce_kernel, static=("num_source_classes",))


def _checked_source(
    source_labels: Any, live: Bool[Array, " n"], num_source_classes: Any
) -> tuple[Int[Array, " n"], int, Bool[Array, ""]]:
    """Source labels, their class count, and whether all are in range."""
    known = None if isinstance(live, jax.core.Tracer) else np.asarray(live)
    source, count, _ = encoded_labels(
        source_labels,
        known,
        live.shape[0],
        num_classes=num_source_classes,
        name="source_labels",
        count_name="num_source_classes",
    )
    return source, count, ~jnp.any(live & ((source < 0) | (source >= count)))
