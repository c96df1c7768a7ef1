r"""NCTI: how close the features are to neural collapse, by three measures after discriminant analysis.

Features are projected to their first principal components. A discriminant analysis gives the discriminants L of the
samples, whitened within classes, and the class probabilities P, with the rows P_c for class c. Then

    simplex = ||L||_*,    nearest_centre = mean_i P_{i y_i},    variability = log sum_c ||P_c||_*

with the nuclear norm `||.||_*`. Closer to collapse, the first two are higher and the last is lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core import linalg
from jaxrel._core.size_classes import pads_samples
from jaxrel._core.status import HasStatus
from jaxrel.metrics.class_blocks import checked_largest_class, class_singular_values
from jaxrel.metrics.decomposition import Components, Decomposition, principal_components, rounding
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.discriminant import apart_beyond_rounding, log_probabilities_from_white, mean_own_probability
from jaxrel.metrics.hub import among_others, over_models, scaled_over_models
from jaxrel.metrics.kernels import class_means, kernel, safe_divide
from jaxrel.metrics.result import Score, ScoreStatus, make_score
from jaxrel.metrics.validation import LabelledSample, checked_labelled_sample, checked_positive_integer

__all__ = ["NctiComponents", "ncti_combine", "ncti_components"]

_LEAST_SHRINKAGE = 1e-10
_TOLERANCE = 1e-4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NctiComponents(HasStatus):
    """The parts of NCTI, of one model or with a leading axis of models.

    Attributes:
        simplex: nuclear norm of the discriminants; higher the more the class means are apart.
        nearest_centre: mean probability of the correct class, 0 to 1; higher is better.
        variability: log of the sum of the nuclear norms of the classes' probabilities; lower is better.
        status: `ScoreStatus` bits, 0 on success.
    """

    simplex: Float[Array, "*b"]
    nearest_centre: Float[Array, "*b"]
    variability: Float[Array, "*b"]
    status: Int[Array, "*b"]

    statuses: ClassVar = ScoreStatus


@no_derivative
@pads_samples
def ncti_components(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    num_components: int = 64,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    largest_class: int | None = None,
    decomposition: Decomposition | None = None,
) -> NctiComponents:
    r"""The three parts of NCTI for one model. Pass those of all models to `ncti_combine`.

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        num_components: number of principal components, at most `min(n, d)`; a new value recompiles.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice.
        num_classes: class count; needed inside `jit` and `vmap`.
        largest_class: upper bound on the size of the largest class. None computes it for concrete labels, and uses n
            for traced labels, which is slow.
        decomposition: `decompose(features, "centred", weights=weights)`, to share it between metrics; None computes it.

    Returns:
        `NctiComponents` that are invariant to shifts and rotations. Undefined for fewer than two classes, and if there
        are no more samples than classes. If every class is a single point, classes are assumed to vary by the rounding
        of the features, with `ScoreStatus.UNBOUNDED`: compare the simplex within one dtype only.

    Raises:
        ValueError: for `num_components < 1`, else see `checked_labelled_sample`.

    Source: Wang, Luo, Zheng, Huang, Baktashmotlagh, "How far pre-trained models are from neural collapse on the target
    dataset informs their transferability", ICCV 2023, and the authors' code, from which the details are taken:

    With `lambda = exp(-v)`, v the sum of the variances of the first half of the components, the analysis has two forms.
    Up to lambda = 1e-10 directions in which classes do not vary (to 1e-4 of a component's deviation within classes) are
    left out, and so are discriminants along which class means do not. Above, the covariance S within classes is shrunk,
    `(1 - lambda) S + lambda tr(S) / k I` for k components, and so is the covariance of all samples whose ratio to it
    the discriminants maximise. S is divided by n, as by scikit-learn 1.9, which does the analysis there; older ones
    divide by n - C in the first form. As in their code `||L||_*` grows as sqrt(n).

    Principal components are exact, where theirs are random projections for `num_components` below 0.8 of min(n, d)
    (which moves the parts by a few 1e-3), and fewer are taken where there are fewer, where theirs raises an error. A
    class without samples is left out.

    `O(n d min(n, d))` operations for the components, and `O(m C min(m, C))` for each class, with m up to twice
    `largest_class`.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    count = min(checked_positive_integer("num_components", num_components), *sample.features.shape)
    half = max(1, min(count, num_components // 2))
    # Rows of weight 0 are no samples, and a weight of 2 is two.
    most = jnp.minimum(min(num_components, sample.features.shape[1]), sample.total)
    return _ncti(
        sample,
        principal_components(sample, "centred", decomposition, count),
        most,
        num_components=count,
        num_leading=half,
        block_size=checked_largest_class(labels, largest_class, sample.weights),
    )


def ncti_combine(components: NctiComponents | Sequence[NctiComponents]) -> Score:
    """NCTI of each model of a model zoo, -1 to 2; higher is better.

    Each part is scaled to 0 .. 1 over the models; the score is `simplex + nearest_centre - variability`.

    Args:
        components: a sequence with the components of each model, or components with a leading axis of models.

    Returns:
        A `Score` for each model. It depends on the other models, so compare only scores of the same call. A part that
        is equal for all models, up to rounding, adds 0 (NaN in the authors' code). A model keeps the status of its
        components; if they are NaN, so is its score, and the other models are scaled without it. A single model has the
        score 0 and `ScoreStatus.SINGLE_ENCODER`.

    Raises:
        ValueError: for the components of one model without a leading axis.
    """
    parts = over_models(components, NctiComponents)
    usable = jnp.isfinite(parts.simplex + parts.nearest_centre + parts.variability)
    apart = scaled_over_models(parts.simplex, usable) + scaled_over_models(parts.nearest_centre, usable)
    value = apart - scaled_over_models(parts.variability, usable)
    return Score(jnp.where(usable, value, jnp.nan), parts.status | among_others(usable))


def _ncti_kernel(
    sample: LabelledSample,
    principal: Components,
    most: Float[Array, ""],
    *,
    num_components: int,
    num_leading: int,
    block_size: int,
) -> NctiComponents:
    total = sample.total
    values = principal.values[:num_components]
    roots = jnp.sqrt(sample.weights)[:, None]
    components = principal.rows
    variance = jnp.sum((values[:num_leading] * principal.size) ** 2) / jnp.maximum(total - 1, 1)
    shrinkage = jnp.maximum(jnp.exp(-variance), _LEAST_SHRINKAGE)
    shrunk = shrinkage > _LEAST_SHRINKAGE
    shrinkage = jnp.where(shrunk, shrinkage, 0)

    num_present = jnp.sum(sample.class_sizes > 0)
    centres = class_means(sample, components)
    within = components - sample.memberships @ centres
    whitening, vary, ridge, lead = _whitening(sample, within, values, shrinkage, shrunk, most)
    white = components @ whitening
    inside = whitening * vary
    # Elsewhere classes are points, and their means differ or do not.
    reach = jnp.max(jnp.linalg.norm(components, axis=1))
    outside = apart_beyond_rounding(centres @ (whitening * ~vary) * ridge, reach)
    log_probabilities = log_probabilities_from_white(
        sample, within @ inside, centres @ inside, safe_divide(outside, ridge) ** 2
    )
    rows = roots * jnp.exp(log_probabilities)
    class_values, fits = class_singular_values(sample, rows, block_size)
    variability = jnp.log(jnp.sum(class_values))

    # Whitened, all samples vary by 1, by what classes are apart, and by the ridge that their covariance has more than
    # that within classes. What is common to all directions is left out: next to it, next to no shrinkage, all else is
    # rounding. The rest is `1 - lambda` times the square of this.
    between = jnp.sqrt(sample.class_sizes / total)[:, None] * centres
    more_ridge = shrinkage * jnp.sum(sample.class_sizes @ centres**2) / (total * most)
    ridges = jnp.where(jnp.arange(num_components) < most, jnp.sqrt(more_ridge) * lead, 0)
    _, _, directions = linalg.svd(jnp.concatenate([between @ whitening, jnp.diag(ridges)]))
    directions = directions.T
    spread = jnp.linalg.norm(between @ whitening @ directions, axis=0)
    apart = shrunk | (spread > _TOLERANCE * jnp.max(spread))
    kept = apart & (jnp.arange(num_components) < num_present - 1)
    simplex = jnp.sum(linalg.singular_values(roots * (white @ (directions * kept))))

    undefined = (num_present < 2) | (total <= num_present)
    parts = jnp.stack([simplex, mean_own_probability(sample, log_probabilities), variability])
    finite = jnp.all(jnp.isfinite(parts))
    collapsed = ~jnp.any(vary) & (simplex > 0)
    scores = jax.vmap(
        lambda value: make_score(value, sample.status, valid=fits, undefined=undefined | ~finite, unbounded=collapsed)
    )(parts)
    simplex, nearest_centre, variability = scores.value
    return NctiComponents(simplex, nearest_centre, variability, scores.status[0])


_ncti = kernel(_ncti_kernel, static=("num_components", "num_leading", "block_size"))


def _whitening(
    sample: LabelledSample,
    within: Float[Array, "n k"],
    values: Float[Array, " k"],
    shrinkage: Float[Array, ""],
    shrunk: Bool[Array, ""],
    most: Float[Array, ""],
) -> tuple[Float[Array, "k k"], Bool[Array, " k"], Float[Array, ""], Float[Array, " k"]]:
    """Columns that make the covariance within classes the identity, 0 for those that are left out.

    And which of them classes vary along, the ridge, by which the others are divided, and by how much the inverse of the
    shrunk variance of each exceeds that of the widest: the root of it, over that of `1 - lambda`.
    """
    total = sample.total
    rows = jnp.sqrt(sample.weights)[:, None] * within
    deviations = jnp.sqrt(jnp.sum(rows**2, axis=0) / total)
    mean_variance = jnp.sum(deviations**2) / most
    negligible = rounding(within.dtype)
    vary = deviations > negligible * values / jnp.sqrt(total)
    # Without a ridge each component is in units of its own deviation, so that one tolerance serves all.
    units = jnp.where(vary & ~shrunk, deviations, 1)
    # Where every class is one point, collapse is complete: the classes then vary by the rounding of the features.
    least = negligible * values[0] / jnp.sqrt(total)
    ridge = jnp.where(jnp.any(vary), jnp.sqrt(shrinkage * mean_variance), least)
    _, widths, axes = linalg.svd(jnp.where(jnp.any(vary), rows / (units * jnp.sqrt(total)), 0))
    # Classes vary in fewer directions than there are components, as a rule: next to a small ridge the rounding counts.
    resolved = widths > negligible * widths[0]
    widths = jnp.where(resolved, widths, 0)
    roots = jnp.sqrt((1 - shrinkage) * widths**2 + ridge**2)
    lead = safe_divide(jnp.sqrt((widths[0] - widths) * (widths[0] + widths)), roots * roots[0])
    kept = roots > jnp.where(shrunk | ~jnp.any(vary), 0, _TOLERANCE)
    whitening = (axes.T / units[:, None]) * jnp.where(kept, safe_divide(jnp.ones_like(roots), roots), 0)
    return whitening, resolved, ridge, lead
