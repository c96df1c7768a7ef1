"""Softmax regression against scikit-learn, and the exact Lipschitz constant."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxrel import Head, Task, fit_head


def gaussian_task(n: int = 200, d: int = 6, k: int = 4, seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    return Task(rng.normal(size=(k, d))[labels] + rng.normal(size=(n, d)), labels)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_head_is_that_of_scikit_learn(ridge):
    task = gaussian_task()
    head = fit_head(task, ridge=ridge, max_iterations=500, tolerance=1e-9)
    peer = LogisticRegression(C=1 / (ridge * task.num_samples), tol=1e-10, max_iter=2000)
    peer.fit(np.asarray(task.features), np.asarray(task.labels))
    np.testing.assert_allclose(head.weights, peer.coef_, atol=1e-6)
    np.testing.assert_allclose(head.bias - head.bias.mean(), peer.intercept_ - peer.intercept_.mean(), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_weight_is_a_duplicate_and_a_weight_of_zero_is_no_sample():
    task = gaussian_task(n=40)
    counts = np.arange(40) % 3
    features, labels = np.asarray(task.features), np.asarray(task.labels)
    weighted = fit_head(Task(features, labels, weights=counts), tolerance=1e-8)
    repeated = fit_head(Task(features.repeat(counts, 0), labels.repeat(counts)), tolerance=1e-8)
    np.testing.assert_allclose(weighted.weights, repeated.weights, atol=1e-6)


def test_lipschitz_constant_is_the_largest_distance_of_two_rows():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(7, 5)).astype(np.float32)
    expected = max(np.linalg.norm(a - b) for a in weights for b in weights)
    head = Head(jnp.asarray(weights), jnp.zeros(7))
    assert float(head.lipschitz) == pytest.approx(expected, rel=1e-5)
    assert float(Head(jnp.ones((1, 5)), jnp.zeros(1)).lipschitz) == 0.0


def test_fitting_works_under_jit_and_vmap():
    tasks = [gaussian_task(seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    heads = jax.jit(jax.vmap(fit_head))(stacked)
    for index, task in enumerate(tasks):
        np.testing.assert_allclose(heads.weights[index], fit_head(task).weights, atol=1e-4)


def test_a_task_without_labels_is_refused():
    with pytest.raises(ValueError, match="no labels"):
        fit_head(Task(np.ones((3, 2))))
