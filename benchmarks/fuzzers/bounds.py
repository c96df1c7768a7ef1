"""`target_loss <= tight_bound <= bound`, and every term against float64: random transformations and hostile samples.

Costs, dtypes and sizes take turns in small batches, so that a run of any length is spread evenly over them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax, logsumexp

from fuzzers.tally import Tally
from jaxrel import Head, Joint, Task
from jaxrel._core.standardisation import identity_standardisation
from jaxrel.relatedness import FeatureMap, Transformation, evaluate_bound

__all__ = ["batches"]

_SIZES = ((8, 7, 2, 3), (5, 9, 3, 2))  # reference and target samples and classes
_FEATURES = 3
_METHODS = {
    "margin": Joint(cost="margin", certificate_iterations=60),
    "range": Joint(cost="range", certificate_iterations=60),
    "euclidean": Joint(cost="euclidean", certificate_iterations=60),
    "feature": Joint(space="feature", certificate_iterations=60),
}
_PROBLEMS, _AT_ONCE = 512, 8


def batches(rng: np.random.Generator) -> Iterator[Tally]:
    """Round after round over sizes, costs and dtypes."""
    while True:
        for sizes in _SIZES:
            for dtype in (np.float32, np.float64):
                for cost in _METHODS:
                    yield _tally(rng, sizes, cost, dtype)


def _tally(rng: np.random.Generator, sizes: tuple[int, int, int, int], cost: str, dtype: Any) -> Tally:
    problems = [_problem(rng, sizes, cost == "feature") for _ in range(_PROBLEMS)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    with jax.enable_x64(dtype == np.float64):
        stacked = jax.tree.map(lambda leaf: leaf if leaf.dtype.kind == "i" else _normal(leaf.astype(dtype)), stacked)
        steps = jax.tree.map(lambda leaf: leaf.reshape(-1, _AT_ONCE, *leaf.shape[1:]), stacked)
        found, u, v = (np.asarray(z).reshape(_PROBLEMS, *z.shape[2:]) for z in _evaluated(steps, cost=cost))
    leaves, structure = jax.tree.flatten(stacked)
    each = (jax.tree.unflatten(structure, leaf) for leaf in zip(*leaves, strict=True))
    exact = np.array([_losses(problem, *logits) for problem, *logits in zip(each, u, v, strict=True)])
    target, tight, bound, lower, upper, reweighted, _, transformed, status = found.astype(np.float64).T
    refused = status > 0
    size = np.maximum(np.nan_to_num(exact[:, :3].sum(axis=1), posinf=1e30), 1)
    # Both sides as they are reported, and the loss that is reported against that of the same logits in float64.
    ordered = (target <= tight) & (tight <= bound) & (lower <= upper)
    unit = 64 * float(np.finfo(dtype).eps)
    terms = np.stack([reweighted, transformed, target], axis=1)
    with np.errstate(invalid="ignore"):
        off = np.where(terms == exact[:, :3], 0, np.abs(terms - exact[:, :3]))
        near = np.all(off <= unit * (1 + np.abs(exact[:, :3])), axis=1)
        certain = exact[:, 2] <= tight * (1 + 1e-15)
        false = ~refused & ~(ordered & near & certain)
        worst = np.where(false, np.maximum(target - tight, exact[:, 2] - tight) / size, 0)
    example = ""
    if false.any():
        k = int(np.argmax(false))
        example = f"found {found[k]}, exact {exact[k]}, ordered {ordered[k]}, near {near[k]}, certain {certain[k]}"
    name = f"{cost}, {np.dtype(dtype).name}"
    return Tally(name, _PROBLEMS, int(false.sum()), int(refused.sum()), float(np.nan_to_num(worst).max()), example)


@functools.partial(jax.jit, static_argnames="cost")
def _evaluated(steps: Any, *, cost: str) -> Any:
    def one(problem: Any) -> Any:
        transformation, reference, target = problem
        r = evaluate_bound(transformation, reference, target, method=_METHODS[cost])
        terms = (
            r.target_loss, r.tight_bound, r.bound, r.distribution_mismatch_lower, r.distribution_mismatch,
            r.reweighted_reference_loss, r.label_mismatch, r.transformed_reference_loss,
            r.status.astype(r.bound.dtype),
        )  # fmt: skip
        logits = (
            transformation.reference_logits(reference.features),
            transformation.target_logits(target.features),
        )
        return jnp.stack(terms), *logits

    return jax.lax.map(jax.vmap(one), steps)


def _problem(rng: np.random.Generator, sizes: tuple[int, int, int, int], feature_space: bool) -> Any:
    """A transformation, and samples with light weights, absent classes, far away or not, of any size."""
    n, m, num_reference, num_target = sizes
    conditional = rng.dirichlet(np.full(num_reference, rng.choice([0.01, 0.5, 5.0])), num_target)
    if rng.random() < 0.3:
        conditional = np.eye(num_reference)[rng.integers(0, num_reference, num_target)]
    prior = rng.dirichlet(np.full(num_target, rng.choice([0.1, 1.0]))) + 1e-6
    prior /= prior.sum()
    coupling = prior[:, None] * conditional
    column = coupling.sum(axis=0)
    label_map = np.where(column > 0, coupling / np.where(column > 0, column, 1), prior[:, None])
    scale = 10.0 ** rng.uniform(-3, 3)
    weights, bias = scale * rng.normal(size=(num_reference, _FEATURES)), rng.normal(size=num_reference)
    matrix, offset = scale * rng.normal(size=(num_reference, _FEATURES)), rng.normal(size=num_reference)
    feature_map = None
    # NumPy arrays, which become arrays of JAX in the dtype that is fuzzed.
    head_of, feature_map_of, transformation_of = (cast(Any, kind) for kind in (Head, FeatureMap, Transformation))
    if feature_space:
        mapping = rng.normal(size=(_FEATURES, _FEATURES)) + rng.choice([0.0, 3.0]) * np.eye(_FEATURES)
        shift = rng.normal(size=_FEATURES)
        matrix = weights @ np.linalg.inv(mapping)
        offset = bias - matrix @ shift
        feature_map = feature_map_of(mapping, shift)
    transformation = transformation_of(
        conditional=conditional,
        coupling=coupling,
        prior=column,
        label_map=label_map,
        head=head_of(weights, bias),
        target_map=head_of(matrix, offset),
        feature_map=feature_map,
        ridge=np.zeros(()),
        validation_bound=np.full((), np.inf),
        reference_standardisation=jax.tree.map(np.asarray, identity_standardisation(_FEATURES, np.dtype("float32"))),
        target_standardisation=jax.tree.map(np.asarray, identity_standardisation(_FEATURES, np.dtype("float32"))),
    )
    far = 10.0 ** rng.uniform(3, 7) if rng.random() < 0.3 else 0.0
    return transformation, _task(rng, n, num_reference, far), _task(rng, m, num_target, far)


def _task(rng: np.random.Generator, size: int, num_classes: int, far: float) -> Task:
    labels = rng.integers(0, num_classes, size)
    features = rng.normal(size=(size, _FEATURES)) * 10.0 ** rng.uniform(-2, 2) + far * rng.normal(size=_FEATURES)
    weights = rng.choice([0.0, 0.5, 1.0, 1e-8, 1e-20], size, p=[0.2, 0.3, 0.4, 0.05, 0.05])
    weights[rng.integers(size)] = 1.0
    given = (features, labels.astype(np.int32), weights)
    return Task.tree_unflatten((num_classes, None, False), given)


def _normal(values: np.ndarray) -> np.ndarray:
    """Without the numbers that XLA takes for 0."""
    return np.where(np.abs(values) < np.finfo(values.dtype).tiny, 0, values)


def _losses(problem: Any, u: np.ndarray, v: np.ndarray) -> tuple[float, float, float]:
    """Re-weighted, transformed and target loss of the logits and numbers as they are, in float64."""
    transformation, reference, target = jax.tree.map(
        lambda leaf: leaf if leaf.dtype.kind == "i" else leaf.astype(np.float64), problem
    )
    u, v = u.astype(np.float64), v.astype(np.float64)
    c, w, k, s = reference.labels, reference.weights, target.labels, target.weights
    totals = np.bincount(c, w, transformation.conditional.shape[1])
    losses = -log_softmax(u, axis=1)[np.arange(len(c)), c]
    result = np.zeros(3)
    for i in np.flatnonzero(np.bincount(k, s, len(transformation.conditional)) > 0):
        row = np.where(totals > 0, transformation.conditional[i], 0)
        if row.sum() == 0:
            return (np.inf,) * 3
        cloud = row[c] / row.sum() * w / np.where(totals > 0, totals, 1)[c]
        within = np.where(k == i, s, 0)
        share = within.sum() / s.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            log_row = np.log(transformation.label_map[i])
            of_u, of_v = (_class_loss(logits, log_row) for logits in (u, v))
        parts = ((cloud, losses), (cloud, of_u), (within / within.sum(), of_v))
        result += [share * np.sum(np.where(p > 0, p * np.where(p > 0, x, 0), 0)) for p, x in parts]
    return float(result[0]), float(result[1]), float(result[2])


def _class_loss(logits: np.ndarray, log_row: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=1, keepdims=True)
    return logsumexp(logits, axis=1) - logsumexp(logits + log_row, axis=1)
