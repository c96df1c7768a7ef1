"""Bootstrap of the bound over the held-out samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrel._core.checks import Key, host_generator
from jaxrel._core.programs import compiled
from jaxrel.relatedness.bound import Contributions
from jaxrel.relatedness.class_transport import LARGEST_PLAN
from jaxrel.relatedness.coupling import held_out_conditional
from jaxrel.relatedness.in_memory import block_sizes, evaluated, shareable
from jaxrel.relatedness.result import Relatedness, Transformation
from jaxrel.task import Task

__all__ = ["bound_resamples"]


def bound_resamples(
    result: Relatedness, reference: Task, target: Task, *, num_resamples: int = 1000, key: Key = 0
) -> Float[np.ndarray, " num_resamples"]:
    r"""The bound on bootstrap resamples of the samples it was evaluated on, in nats.

    The transformation stays fixed. Target samples are drawn with replacement, so the target prior varies; reference
    samples are drawn within their classes, since the bound does not depend on the class sizes of the reference. The
    transport term of a resample is its first-order expansion, `sum a' f + sum b' g + slack` with the dual potentials of
    the sample: the linearisation behind the central limit theorem of transport costs (del Barrio, Loubes, Ann. Probab.
    2019). Solving the transport problem of each resample would be biased upwards, because repeated points are farther
    from the rest.

    Args:
        result: a result of `task_relatedness`.
        reference, target: the tasks it was evaluated on (`evaluate_on` if that was given).
        num_resamples: the number of resamples, at least 1.
        key: the same key, sizes and labels draw the same samples, so that two encoders can be compared in pairs.

    Raises:
        ValueError: for a failed result, fewer than 1 resamples, a result without a method, tasks other than those it
            was evaluated on (no labels, other widths, other sample counts), or a class so large that its plan was
            blockwise (see `evaluate_bound`).
    """
    method = result.computed_with.method
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}.")
    if method is None:
        raise ValueError("result does not say how it was computed: pass the result of task_relatedness.")
    if result.messages:
        raise ValueError(f"result failed, its bound has no interval: {' '.join(result.messages)}")
    computed = result.computed_with
    width = result.transformation.head.weights.shape[1]
    _check_evaluated("reference", reference, computed.num_reference, width)
    _check_evaluated("target", target, computed.num_target, width)
    num_target, num_reference = result.transformation.conditional.shape
    reference = reference.with_classes(computed.reference_classes, num_reference)
    target = target.with_classes(computed.target_classes, num_target).of_labelled()
    reference, target = shareable(reference), shareable(target)
    sizes = block_sizes(result.transformation, reference, target)
    if sizes[0] * sizes[1] > LARGEST_PLAN:
        raise ValueError(
            f"the largest class has {sizes[0]} reference and {sizes[1]} target samples: blockwise plans have no "
            "potentials to resample with; evaluate on fewer samples for an interval."
        )
    counts = _resampled_counts(reference, target, num_resamples, key)
    # Reuse the program that gave the result: compiling another would take as long as everything else.
    _, parts = evaluated(method, result.transformation, reference, target)
    labels, weights = (reference.labels, target.labels), (reference.weights, target.weights)
    return np.asarray(_linearised_bounds(parts, result.transformation, labels, weights, counts))


def _check_evaluated(name: str, task: Task, num_samples: int | None, num_features: int) -> None:
    if not isinstance(task, Task) or task.labels is None:
        raise ValueError(f"{name} must be a Task with labels, the one the result was evaluated on.")
    if (task.num_samples, task.num_features) != (num_samples, num_features):
        raise ValueError(
            f"{name} has features {(task.num_samples, task.num_features)}, but the result was evaluated on "
            f"{(num_samples, num_features)}: pass the same samples (evaluate_on, if that was given)."
        )


def _resampled_counts(reference: Task, target: Task, num_resamples: int, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Number of times each sample is drawn: `(resamples, samples)`."""
    rng = host_generator(key)

    def counts(members: np.ndarray, num_samples: int) -> np.ndarray:
        drawn = np.zeros((num_resamples, num_samples), np.float32)
        chosen = members[rng.integers(0, members.size, (num_resamples, members.size))]
        np.add.at(drawn, (np.arange(num_resamples)[:, None], chosen), 1)
        return drawn

    counts_t = counts(np.flatnonzero(np.asarray(target.weights) > 0), target.num_samples)
    labels, live = np.asarray(reference.labels), np.asarray(reference.weights) > 0
    strata = (np.flatnonzero((labels == label) & live) for label in np.unique(labels[live]))
    counts_r = sum((counts(members, reference.num_samples) for members in strata), np.float32(0))
    return np.asarray(counts_r), counts_t


@compiled
def _linearised_bounds(
    parts: Contributions,
    transformation: Transformation,
    labels: tuple[Int[Array, " n"], Int[Array, " m"]],
    weights: tuple[Float[Array, " n"], Float[Array, " m"]],
    counts: tuple[Float[Array, "b n"], Float[Array, "b m"]],
) -> Float[Array, " b"]:
    num_target, num_reference = transformation.conditional.shape
    weights_r, weights_t = (drawn * weight for drawn, weight in zip(counts, weights, strict=True))
    class_r = jax.nn.one_hot(labels[0], num_reference, dtype=weights_r.dtype)
    class_t = jax.nn.one_hot(labels[1], num_target, dtype=weights_t.dtype)
    totals_r = weights_r @ class_r
    conditional = held_out_conditional(transformation.conditional, jnp.sum(totals_r, axis=0))

    prior = weights_t @ class_t
    prior = prior / jnp.sum(prior, axis=1, keepdims=True)
    share = weights_r / jnp.where(totals_r > 0, totals_r, 1)[:, labels[0]]
    per_class = conditional[:, labels[0]] * (
        parts.reference_loss + parts.reference_potential[:num_target]  # classes without samples may follow
    )
    log_map = jnp.log(jnp.where(conditional > 0, transformation.label_map, 1))
    mismatch = -jnp.sum(conditional * log_map, axis=1)
    target_part = weights_t @ parts.target_potential / jnp.sum(weights_t, axis=1)
    return jnp.sum(prior * (share @ per_class.T + mismatch), axis=1) + target_part + parts.slack
