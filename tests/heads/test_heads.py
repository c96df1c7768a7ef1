"""Softmax regression against scikit-learn, the exact Lipschitz constant, budgets for it and penalised gradients."""

from __future__ import annotations

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.optimize import NonlinearConstraint, minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from jaxrel import Head, Task, fit_head
from jaxrel.heads import gradient_penalised_head, one_step_head

_budgeted_head = jax.jit(lambda task, ridge, budget: fit_head(task, ridge=ridge, lipschitz_budget=budget))
_penalised_head = jax.jit(gradient_penalised_head, static_argnames="num_steps")


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


def regularised_loss(task: Task, head: Head, ridge: float) -> float:
    weights, bias = np.asarray(head.weights, np.float64), np.asarray(head.bias, np.float64)
    log_probabilities = log_softmax(np.asarray(task.features, np.float64) @ weights.T + bias, axis=1)
    losses = -log_probabilities[np.arange(task.num_samples), np.asarray(task.labels)]
    return float(np.average(losses, weights=np.asarray(task.weights)) + ridge / 2 * np.sum(weights**2))


def loss_of_scipy(task: Task, ridge: float, budget: float) -> float:
    """The constrained minimum by SLSQP."""
    k, d = task.num_classes, task.num_features
    assert k is not None
    rows, columns = np.triu_indices(k, 1)

    def head(parameters: np.ndarray) -> Head:
        return Head(parameters[: k * d].reshape(k, d), parameters[k * d :])

    def squared_distances(parameters: np.ndarray) -> np.ndarray:
        weights = head(parameters).weights
        return np.sum((weights[rows] - weights[columns]) ** 2, axis=1) / budget**2

    peer = minimize(
        lambda parameters: regularised_loss(task, head(parameters), ridge),
        np.random.default_rng(0).normal(size=k * d + k) * budget / 10,
        method="SLSQP",
        constraints=NonlinearConstraint(squared_distances, -np.inf, 1),
        options={"maxiter": 1000, "ftol": 1e-10},
    )
    assert peer.success
    return float(peer.fun)


@pytest.mark.parametrize("wide", [False, pytest.param(True, marks=pytest.mark.slow)])
@hypothesis.settings(max_examples=25)
@hypothesis.given(
    seed=st.integers(0, 2**31), log_budget=st.floats(-6, 3), log_ridge=st.floats(-6, 0), log_scale=st.floats(-1, 1)
)
def test_the_budget_holds(wide, seed, log_budget, log_ridge, log_scale):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(wide):
        features = 10**log_scale * rng.normal(size=(30, 4))
        task = Task(features, rng.integers(0, 5, 30), weights=rng.choice([0.0, 1.0, 2.0], 30), num_classes=5)
        budget = 10**log_budget
        head = _budgeted_head(task, 10**log_ridge, budget)
        assert head.weights.dtype == (jnp.float64 if wide else jnp.float32)
        assert np.isfinite(head.weights).all()
        assert np.isfinite(head.bias).all()
        assert float(head.lipschitz) <= budget * (1 + (1e-14 if wide else 1e-6))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("budget", [0.05, 0.5, 1.5])
@pytest.mark.parametrize("ridge", [0.0, 0.01])
@pytest.mark.slow
def test_a_head_within_a_budget_is_that_of_scipy(ridge, budget):
    task = gaussian_task(n=60, d=3, k=4)
    head = _budgeted_head(task, ridge, budget)
    assert regularised_loss(task, head, ridge) == pytest.approx(loss_of_scipy(task, ridge, budget), rel=1e-4)
    # A shrunk unconstrained head is no answer.
    free = fit_head(task, ridge=ridge)
    shrunk = Head(free.weights * budget / free.lipschitz, free.bias)
    assert regularised_loss(task, shrunk, ridge) > regularised_loss(task, head, ridge) * (1 + 1e-3)


@pytest.mark.slow
def test_a_budget_that_is_not_reached_changes_nothing():
    task = gaussian_task()
    free = fit_head(task, ridge=0.1)
    head = fit_head(task, ridge=0.1, lipschitz_budget=1.01 * float(free.lipschitz))
    np.testing.assert_array_equal(head.weights, free.weights)
    np.testing.assert_array_equal(head.bias, free.bias)


@pytest.mark.slow
def test_a_tiny_budget_leaves_the_prior():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), [50, 30, 20])
    head = fit_head(Task(rng.normal(size=(100, 4)) + labels[:, None], labels), lipschitz_budget=1e-6)
    assert float(head.lipschitz) <= 1e-6 * (1 + 1e-6)
    np.testing.assert_allclose(jax.nn.softmax(head.bias), [0.5, 0.3, 0.2], atol=1e-3)


@pytest.mark.parametrize(("k", "n"), [(1, 20), (2, 40), (200, 400)])
@pytest.mark.slow
def test_a_budget_for_any_number_of_classes(k, n):
    head = fit_head(gaussian_task(n=n, k=k), ridge=1e-3, lipschitz_budget=0.5)
    assert np.isfinite(head.weights).all()
    assert float(head.lipschitz) == pytest.approx(0.5 if k > 1 else 0.0, rel=1e-3)


@pytest.mark.slow
def test_a_larger_budget_has_a_smaller_loss_and_vmap_over_budgets_equals_single_fits():
    task, budgets = gaussian_task(), np.asarray([1e-3, 0.1, 0.5, 1.0, 2.0, 1e3], np.float32)
    heads = jax.jit(jax.vmap(lambda budget: fit_head(task, ridge=0.01, lipschitz_budget=budget)))(budgets)
    heads = [Head(weights, bias) for weights, bias in zip(heads.weights, heads.bias, strict=True)]
    losses = [regularised_loss(task, head, 0.01) for head in heads]
    assert (np.diff(losses) < -1e-4).all()
    for budget, head, loss in zip(budgets, heads, losses, strict=True):
        single = _budgeted_head(task, 0.01, budget)
        assert regularised_loss(task, single, 0.01) == pytest.approx(loss, rel=1e-4)
        np.testing.assert_allclose(head.weights, single.weights, atol=1e-2 * min(budget, 1))


@pytest.mark.slow
def test_another_budget_compiles_nothing():
    traces = []

    @jax.jit
    def fit(task: Task, budget: jax.Array) -> Head:
        traces.append(budget)
        return fit_head(task, lipschitz_budget=budget)

    constants = [float(fit(gaussian_task(), budget).lipschitz) for budget in (0.1, 0.2)]
    assert constants == pytest.approx([0.1, 0.2], rel=1e-3)
    assert len(traces) == 1


@pytest.mark.parametrize("budget", [0, -1.0, np.nan, np.inf, np.ones(2)])
def test_a_budget_that_is_no_positive_number_is_refused(budget):
    with pytest.raises(ValueError, match=r"lipschitz_budget must be one positive finite number.*or None"):
        fit_head(gaussian_task(), lipschitz_budget=budget)


def random_label_gradients(task: Task, head: Head, seed: int = 0) -> np.ndarray:
    """Norms of the gradients of the loss on random labels, by automatic differentiation."""
    labels = np.random.default_rng(seed).integers(0, task.num_classes, task.num_samples)
    gradient = jax.grad(lambda z, label: -jax.nn.log_softmax(head(z))[label])
    gradients = jax.jit(jax.vmap(gradient))(task.features, labels)
    return np.linalg.norm(gradients, axis=1)


@pytest.mark.parametrize(("gradient_norm", "penalty"), [(0.2, 1e10), (0.02, 1e4)])
def test_penalised_gradients_are_near_their_target_and_classify(gradient_norm, penalty):
    task = gaussian_task(n=400, d=20, k=5)
    head = _penalised_head(task, jax.random.key(0), gradient_norm=gradient_norm, penalty=penalty)
    norms = random_label_gradients(task, head)
    assert norms.mean() == pytest.approx(gradient_norm, rel=0.1)
    assert norms.max() <= float(head.lipschitz) * (1 + 1e-5)
    assert np.mean(np.argmax(head(task.features), axis=1) == task.labels) > 0.8


@pytest.mark.usefixtures("x64")
def test_one_step_is_that_of_adam_on_the_undivided_objective():
    task, key, penalty = gaussian_task(n=30), jax.random.key(3), 100.0

    def losses(head: Head, labels: jax.Array) -> jax.Array:
        return -jax.nn.log_softmax(head(task.features))[np.arange(30), labels]

    def objective(head: Head, labels: jax.Array) -> jax.Array:
        def loss(z: jax.Array, label: jax.Array) -> jax.Array:
            return -jax.nn.log_softmax(head(z))[label]

        deviations = jnp.linalg.norm(jax.vmap(jax.grad(loss))(task.features, labels), axis=1) - 0.2
        return jnp.mean(losses(head, task.labels) + losses(head, labels) + penalty * deviations**2)

    heads = [_penalised_head(task, key, penalty=penalty, num_steps=steps, learning_rate=0.01) for steps in (1, 2)]
    # Adam's moments after two steps; the first gradient, at weights of zero, is that of the losses alone.
    draws = [jax.random.randint(jax.random.fold_in(key, count), (30,), 0, 4) for count in range(2)]
    zero = jax.tree.map(jnp.zeros_like, heads[0])
    first = jax.jit(jax.grad(lambda head: jnp.mean(losses(head, task.labels) + losses(head, draws[0]))))(zero)
    second = jax.jit(jax.grad(objective))(heads[0], draws[1])
    for g0, g1, one, two in zip(*map(jax.tree.leaves, (first, second, *heads)), strict=True):
        mean = (0.9 * 0.1 * g0 + 0.1 * g1) / (1 - 0.9**2)
        square = (0.999 * 0.001 * g0**2 + 0.001 * g1**2) / (1 - 0.999**2)
        np.testing.assert_allclose(two - one, -0.01 * mean / (jnp.sqrt(square) + 1e-8), rtol=1e-6, atol=1e-12)


def test_a_penalised_head_without_gradients_is_finite():
    rng = np.random.default_rng(0)
    for task in (Task(rng.normal(size=(10, 3)), np.zeros(10, int)), Task(np.zeros((10, 3)), np.arange(10) % 2)):
        head = _penalised_head(task, jax.random.key(0))
        assert np.isfinite(head.weights).all()
        assert np.isfinite(head.bias).all()


@pytest.mark.slow
def test_a_penalised_head_depends_on_its_key_alone_and_works_under_vmap():
    task, keys = gaussian_task(n=50), jax.random.split(jax.random.key(0), 2)
    heads = jax.vmap(lambda key: _penalised_head(task, key))(keys)
    for index, key in enumerate(keys):
        single = _penalised_head(task, key)
        np.testing.assert_array_equal(single.weights, _penalised_head(task, key).weights)
        np.testing.assert_allclose(heads.weights[index], single.weights, atol=1e-4)
    assert np.abs(heads.weights[0] - heads.weights[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["gradient_norm", "penalty", "learning_rate"])
def test_a_penalty_that_is_no_positive_number_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be one positive finite number"):
        gradient_penalised_head(gaussian_task(), jax.random.key(0), **{name: -1.0})


class TestOneStep:
    """Steepest descent from the shares of the classes."""

    def test_at_a_large_ridge_it_is_the_minimum(self):
        task = gaussian_task(seed=0)
        found, fitted = one_step_head(task, 1e3), fit_head(task, ridge=1e3, tolerance=1e-8)
        np.testing.assert_allclose(found.weights, fitted.weights, atol=0.02 * float(jnp.abs(fitted.weights).max()))

    @pytest.mark.parametrize("ridge", [0.0, 0.1, 2.5])
    @pytest.mark.parametrize("scale", [0.01, 1.0])
    def test_it_lowers_the_objective(self, ridge, scale):
        task = gaussian_task(seed=1)
        task = task.replaced(features=scale * task.features)
        found = one_step_head(task, ridge)
        constant = Head(jnp.zeros_like(found.weights), found.bias)
        assert regularised_loss(task, found, ridge) < regularised_loss(task, constant, ridge)

    def test_constant_features_leave_the_shares(self):
        head = one_step_head(Task(np.zeros((4, 2)), [0, 0, 0, 1]), 0.0)
        np.testing.assert_allclose(np.exp(head.bias), [0.75, 0.25], rtol=1e-6)
        assert not np.any(head.weights)
