r"""NCE: how well source classes determine target labels, if each sample has one of both.

NCE = -H(Y | Z) = sum_{y, z} P(y, z) log P(y | z),   P(y, z) = share of samples of label y and source label z.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel.scores.kernels import kernel, safe_divide
from jaxrel.scores.result import Score, make_score
from jaxrel.scores.validation import LabelledSample, checked_labelled_sample, checked_positive_integer

__all__ = ["nce_score"]


def nce_score(
    source_labels: Int[ArrayLike, " n"],
    labels: Int[ArrayLike, " n"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    num_source_classes: int | None = None,
) -> Score:
    """Minus the conditional entropy of the labels given the source labels, in nats; higher is better.

    Args:
        source_labels: `(n,)` integers `0 .. num_source_classes - 1`: source classes of the target samples, such as the
            ones that a source head predicts.
        labels: `(n,)` integers.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice (only their ratios matter here).
        num_classes, num_source_classes: class counts; needed inside `jit` and `vmap`. Absent classes change nothing.

    Returns:
        A `Score` between minus the entropy of the labels, where the two are independent, and 0, where the source label
        determines the label. It is not symmetric: swapped arguments give another score.

    Raises:
        ValueError: for source labels that are not integers or out of range, else see `checked_labelled_sample`.

    Source: Tran, Nguyen, Hassner, "Transferability and hardness of supervised classification tasks", ICCV 2019. Nothing
    is added to empty cells, `0 log 0 = 0`; some implementations add 1e-5 to each, which lowers the score.

    `O(n c)` operations, `O((n + s) c)` memory for s source classes.
    """
    shape = np.shape(source_labels)
    if len(shape) != 1:
        raise ValueError(
            f"source_labels must have shape (n,), got {shape}: for probabilities pass probabilities.argmax(axis=1), or "
            "use leep_score."
        )
    sample = checked_labelled_sample(jnp.zeros((shape[0], 1)), labels, weights, num_classes)
    source, count, known = _checked_source(source_labels, sample.weights > 0, num_source_classes)
    return _nce(sample, source, known, num_source_classes=count)


def _nce_kernel(
    sample: LabelledSample, source: Int[Array, " n"], known: Bool[Array, ""], *, num_source_classes: int
) -> Score:
    weighted = sample.weights[:, None] * sample.memberships
    joint = jax.ops.segment_sum(weighted, source, num_source_classes)
    conditional = safe_divide(joint, jnp.sum(joint, axis=1, keepdims=True))
    logarithms = jnp.log(jnp.where(conditional > 0, conditional, 1))
    value = safe_divide(jnp.sum(joint * logarithms), sample.total)
    return make_score(jnp.minimum(value, 0), valid=sample.valid & known)


_nce = kernel(_nce_kernel, static=("num_source_classes",))


def _checked_source(
    source_labels: Any, live: Bool[Array, " n"], num_source_classes: Any
) -> tuple[Int[Array, " n"], int, Bool[Array, ""]]:
    """Source labels, their class count, and whether all are in range."""
    source = source_labels if isinstance(source_labels, jax.core.Tracer) else np.asarray(source_labels)
    if not jnp.issubdtype(source.dtype, jnp.integer):
        raise ValueError(f"source_labels must be integers 0 .. num_source_classes - 1, got dtype {source.dtype}.")
    if num_source_classes is None:
        if isinstance(source, jax.core.Tracer) or isinstance(live, jax.core.Tracer):
            raise ValueError("num_source_classes must be given inside jit or vmap: label values are unknown there.")
        num_source_classes = int(np.max(source, where=np.asarray(live), initial=0)) + 1
    count = checked_positive_integer("num_source_classes", num_source_classes)
    outside = live & ((source < 0) | (source >= count))
    if not isinstance(outside, jax.core.Tracer) and bool(jnp.any(outside)):
        row = int(jnp.argmax(outside))
        raise ValueError(
            f"source_labels[{row}] is {int(source[row])}, outside 0 .. {count - 1} ({int(jnp.sum(outside))} such "
            "labels): number the classes from 0, or pass a larger num_source_classes."
        )
    return jnp.asarray(source, jnp.int32), count, ~jnp.any(outside)
