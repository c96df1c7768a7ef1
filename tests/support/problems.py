"""Random relatedness problems and their terms by brute force in numpy float64: the oracle of the bound's tests."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import ot
from scipy.special import log_softmax, logsumexp, softmax, xlogy

from jaxrel import Head, Task
from jaxrel._core.standardisation import identity_standardisation
from jaxrel.relatedness import FeatureMap, Transformation

NUM_FEATURES = 3


@dataclass(frozen=True)
class Problem:
    """A transformation and the samples it is evaluated on."""

    transformation: Transformation
    reference: Task
    target: Task


def random_conditional(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    """Q: every entry positive, one per row, or some zeros."""
    if kind == "hard":
        return np.eye(shape[1])[rng.integers(0, shape[1], shape[0])]
    Q = rng.dirichlet(np.full(shape[1], 0.5), shape[0])
    if kind == "sparse":
        keep = rng.random(shape) < 0.5
        keep[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = True
        Q = np.where(keep, Q + 1e-3, 0)
    return Q / Q.sum(1, keepdims=True)


def random_task(rng: np.random.Generator, num_classes: int, *, padded: int, every_class: bool) -> Task:
    """A few samples with unequal weights and classes, padded to one size; classes may be absent."""
    size = rng.integers(num_classes, padded + 1)
    labels = rng.integers(0, num_classes, size)
    if every_class:
        labels[:num_classes] = np.arange(num_classes)
    features = rng.normal(size=(size, NUM_FEATURES)) * rng.uniform(0.1, 3) + rng.normal(size=NUM_FEATURES)
    weights = rng.choice([0.5, 1.0, 2.0], size)
    return Task(features, labels, weights=weights, num_classes=num_classes).padded(padded)


def random_problem(
    seed: int,
    *,
    num_target: int,
    num_reference: int,
    coupling: str,
    scale: float = 1.0,
    space: str = "prediction",
    held_out: bool = True,
    padded: int = 10,
) -> Problem:
    """A problem whose label map comes from another target prior (held-out) or from the evaluated one."""
    rng = np.random.default_rng(seed)
    reference = random_task(rng, num_reference, padded=padded, every_class=not held_out)
    target = random_task(rng, num_target, padded=padded, every_class=not held_out)
    Q = random_conditional(rng, (num_target, num_reference), coupling)
    prior = rng.dirichlet(np.ones(num_target)) + 1e-3
    prior /= prior.sum()
    if not held_out:
        prior = np.bincount(np.asarray(target.labels), np.asarray(target.weights), num_target).astype(np.float64)
        prior /= prior.sum()
    J = prior[:, None] * Q
    D = J.sum(0)
    B = np.where(D > 0, J / np.where(D > 0, D, 1), prior[:, None])
    W, w0 = scale * rng.normal(size=(num_reference, NUM_FEATURES)), rng.normal(size=num_reference)
    feature_map = None
    M, m = scale * rng.normal(size=(num_reference, NUM_FEATURES)), rng.normal(size=num_reference)
    if space == "feature":
        A, b = rng.normal(size=(NUM_FEATURES, NUM_FEATURES)) + 2 * np.eye(NUM_FEATURES), rng.normal(size=NUM_FEATURES)
        M = W @ np.linalg.inv(A)
        m = w0 - M @ b
        feature_map = FeatureMap(jnp.asarray(A), jnp.asarray(b))
    identity = identity_standardisation(NUM_FEATURES, jnp.asarray(W).dtype)
    transformation = Transformation(
        conditional=jnp.asarray(Q),
        coupling=jnp.asarray(J),
        prior=jnp.asarray(D),
        label_map=jnp.asarray(B),
        head=Head(jnp.asarray(W), jnp.asarray(w0)),
        target_map=Head(jnp.asarray(M), jnp.asarray(m)),
        feature_map=feature_map,
        ridge=jnp.asarray(0.0),
        validation_bound=jnp.asarray(np.inf),
        reference_standardisation=identity,
        target_standardisation=identity,
    )
    return Problem(transformation, reference, target)


def cost_matrix(name: str, u: np.ndarray, v: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Ground costs of prediction space, straight from their definitions."""
    delta = v[None, :, :] - u[:, None, :]
    if name == "range":
        return delta.max(-1) - delta.min(-1)
    if name == "euclidean":
        return np.sqrt(2) * np.linalg.norm(delta - delta.mean(-1, keepdims=True), axis=-1)
    with np.errstate(divide="ignore"):
        r = softmax(u + np.log(row), axis=1)
    return delta.max(-1) - np.einsum("nc,nmc->nm", r, delta)


def feature_cost_matrix(problem: Problem) -> np.ndarray:
    """`tau ||A z + b - t||` between all samples."""
    t = problem.transformation
    z = np.asarray(problem.reference.features) @ np.asarray(t.feature_map.matrix).T + np.asarray(t.feature_map.offset)
    M = np.asarray(t.target_map.weights)
    tau = max(np.linalg.norm(a - b) for a in M for b in M)
    return tau * np.linalg.norm(z[:, None] - np.asarray(problem.target.features)[None], axis=-1)


def brute_force(problem: Problem, cost: str) -> dict[str, float]:
    """Every term of the bound on the problem's samples, class by class, with exact transport."""
    t = jax.tree.map(np.asarray, problem.transformation)
    live_r, live_t = np.asarray(problem.reference.weights) > 0, np.asarray(problem.target.weights) > 0
    z, c, w = (np.asarray(x)[live_r] for x in jax.tree.leaves(problem.reference))
    x, k, s = (np.asarray(x)[live_t] for x in jax.tree.leaves(problem.target))
    u, v = z @ t.head.weights.T + t.head.bias, x @ t.target_map.weights.T + t.target_map.bias
    K_T, K_R = t.conditional.shape
    prior = np.array([s[k == i].sum() for i in range(K_T)]) / s.sum()
    present = np.isin(np.arange(K_R), c)
    totals = np.array([w[c == i].sum() for i in range(K_R)])
    terms = dict.fromkeys(("reweighted", "mismatch", "transformed", "target_loss", "transport"), 0.0)
    for i in np.flatnonzero(prior > 0):
        Q = np.where(present, t.conditional[i], 0)
        if Q.sum() == 0:
            return dict.fromkeys(terms, np.inf)
        Q = Q / Q.sum()
        cloud = Q[c] * w / totals[c]
        with np.errstate(divide="ignore"):
            log_row = np.log(t.label_map[i])
            terms["mismatch"] -= prior[i] * sum(q * b for q, b in zip(Q, log_row, strict=True) if q > 0)
        terms["reweighted"] += prior[i] * cloud @ -log_softmax(u, axis=1)[np.arange(len(c)), c]
        loss_u = logsumexp(u, axis=1) - logsumexp(u + log_row, axis=1)
        loss_v = logsumexp(v, axis=1) - logsumexp(v + log_row, axis=1)
        terms["transformed"] += prior[i] * sum(a * loss for a, loss in zip(cloud, loss_u, strict=True) if a > 0)
        uniform = s[k == i] / s[k == i].sum()
        terms["target_loss"] += prior[i] * uniform @ loss_v[k == i]
        if cost == "feature":
            C = feature_cost_matrix(problem)[np.ix_(live_r, live_t)][:, k == i]
        else:
            C = cost_matrix(cost, u, v[k == i], t.label_map[i])
        terms["transport"] += prior[i] * ot.emd2(cloud / cloud.sum(), uniform, C)
    return terms


def entropy(p: np.ndarray) -> float:
    """Shannon entropy in nats."""
    return float(-xlogy(p, p).sum())
