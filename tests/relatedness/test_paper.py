"""The published scheme: its plan, objective, settings, presets and the estimate it reports."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.special import log_softmax, softmax, xlogy

from jaxrel import Head, Paper, Task, task_relatedness
from jaxrel.relatedness.methods import paper
from jaxrel.relatedness.minibatches import sampler_of

FAST = Paper(num_steps=40, batch_size=48, certificate_gap=0.001)


def rotated(d, angle):
    rotation = np.eye(d)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation


def clusters(num_classes, *, seed, n=30, d=4, angle=0.0, order=None):
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(5).normal(size=(num_classes, d)) @ rotated(d, angle)
    labels = np.arange(n * num_classes) % num_classes
    order = np.arange(num_classes) if order is None else np.asarray(order)
    features = centres[order][labels] + rng.normal(size=(labels.size, d))
    return Task(features.astype(np.float32), labels, num_classes=num_classes)


HEAD = Head(jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32), jnp.zeros(3))


@functools.cache
def solved(setting, num_target=3):
    reference, target = clusters(3, seed=0), clusters(num_target, seed=1, angle=0.5)
    held_out = clusters(3, seed=2), clusters(num_target, seed=3, angle=0.5)
    result = task_relatedness(
        reference, target, evaluate_on=held_out, method=dataclasses.replace(FAST, setting=setting), head=HEAD
    )
    return result.raise_if_failed(), held_out


class TestEstimate:
    @pytest.mark.slow
    @pytest.mark.parametrize("setting", ["learned", "learned_features", "fixed"])
    def test_every_part_by_its_definition(self, setting):
        result, (reference, target) = solved(setting)
        t = jax.tree.map(lambda x: np.asarray(x, np.float64), result.transformation)
        z = (np.asarray(reference.features) - t.reference_standardisation.mean) / t.reference_standardisation.scale
        x = (np.asarray(target.features) - t.target_standardisation.mean) / t.target_standardisation.scale
        y, k = np.asarray(reference.labels), np.asarray(target.labels)
        u = z @ t.head.weights.T + t.head.bias
        estimate = result.published

        losses = -log_softmax(u, axis=1)[np.arange(len(y)), y]
        reweighted = sum(t.prior[c] * losses[y == c].mean() for c in range(3))
        np.testing.assert_allclose(estimate.reweighted_reference_loss, reweighted, rtol=1e-5)
        mismatch = -np.sum(t.prior * xlogy(t.label_map, t.label_map))
        np.testing.assert_allclose(estimate.label_mismatch, mismatch, rtol=1e-4, atol=1e-6)

        moved = z @ t.feature_map.matrix.T + t.feature_map.offset
        group = t.label_map.argmax(0)[y]
        distances = []
        for label in range(3):
            a, b = moved[group == label], x[k == label]
            if len(a):
                distances.append(ot.emd2([], [], ot.dist(a, b, "euclidean")))
        assert np.mean(distances) <= estimate.wasserstein * (1 + 1e-5)
        np.testing.assert_allclose(estimate.wasserstein, np.mean(distances), rtol=2e-3)

        v = x @ t.target_map.weights.T + t.target_map.bias
        norms = [
            np.linalg.norm((softmax(logits, axis=1) - np.eye(3)[labels]) @ t.head.weights, axis=1).max()
            for logits, labels in ((u, y), (v, t.label_map.argmax(1)[k]))
        ]
        np.testing.assert_allclose(estimate.lipschitz, 2 * max(norms), rtol=1e-4)
        np.testing.assert_allclose(
            estimate.bound,
            estimate.reweighted_reference_loss + estimate.label_mismatch + estimate.lipschitz * estimate.wasserstein,
            rtol=1e-6,
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("setting", ["learned", "learned_features", "fixed"])
    def test_the_certified_bound_beside_it_holds(self, setting):
        result, _ = solved(setting)
        assert 0 < float(result.target_loss) <= float(result.tight_bound) <= float(result.bound) + 1e-5

    @pytest.mark.slow
    def test_joint_has_none(self):
        from jaxrel import Joint

        task = clusters(2, seed=0, n=8)
        assert task_relatedness(task, task, method=Joint(setting="fixed")).published is None


class TestSettings:
    def test_fixed_changes_nothing(self):
        t = solved("fixed")[0].transformation
        np.testing.assert_array_equal(t.feature_map.matrix, np.eye(4))
        np.testing.assert_array_equal(t.feature_map.offset, 0)
        np.testing.assert_array_equal(np.sort(np.asarray(t.conditional), axis=1), [[0, 0, 1]] * 3)

    def test_learned_features_keeps_the_classes(self):
        t, fixed = solved("learned_features")[0].transformation, solved("fixed")[0].transformation
        np.testing.assert_array_equal(t.conditional, fixed.conditional)
        np.testing.assert_array_equal(t.label_map, fixed.label_map)
        assert np.abs(np.asarray(t.feature_map.matrix) - np.eye(4)).max() > 0.01

    def test_learned_moves_label_map_and_prior(self):
        t = solved("learned")[0].transformation
        np.testing.assert_allclose(np.asarray(t.label_map).sum(0), 1, rtol=1e-5)
        np.testing.assert_allclose(np.asarray(t.conditional).sum(1), 1, rtol=1e-5)
        assert (np.asarray(t.label_map) > 0).all()
        np.testing.assert_allclose(np.asarray(t.prior).sum(), 1, rtol=1e-5)

    def test_learning_the_map_brings_the_features_nearer(self):
        assert solved("learned_features")[0].published.wasserstein < 0.9 * solved("fixed")[0].published.wasserstein

    def test_the_exact_lipschitz_constant_has_the_inverse_in_it(self):
        t = solved("learned_features")[0].transformation
        M = np.asarray(t.head.weights) @ np.linalg.inv(np.asarray(t.feature_map.matrix))
        expected = max(np.linalg.norm(a - b) for a in M for b in M)
        np.testing.assert_allclose(t.target_map.lipschitz, expected, rtol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("num_target", [2, 5])
    def test_other_class_counts(self, num_target):
        reference, target = clusters(3, seed=0), clusters(num_target, seed=1)
        result = task_relatedness(reference, target, method=FAST, head=HEAD).raise_if_failed()
        assert np.isfinite(result.bound)
        assert float(result.target_loss) <= float(result.bound)

    def test_presets(self):
        small, large = Paper(), Paper(preset="large")
        assert (small.batch_size, small.num_steps, small.prior_learning_rate, small.gradient_norm) == (
            500,
            1001,
            1e-4,
            0.2,
        )
        assert (large.num_steps, large.prior_learning_rate, large.gradient_norm) == (2001, 1e-3, 0.02)
        assert 1000 <= large.batch_size <= 2500
        assert Paper(preset="large", num_steps=7).num_steps == 7

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"setting": "free"}, r"setting must be one of \('learned', 'learned_features', 'fixed'\), got 'free'"),
            ({"preset": "huge"}, r"preset must be one of \('small', 'large'\), got 'huge'"),
            ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
            ({"learning_rate": 0.0}, "learning_rate must be positive"),
            ({"num_steps": 1.5}, "num_steps must be an integer"),
            ({"penalty": -1.0}, "penalty must be at least 0"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            Paper(**options)

    def test_init_is_for_joint(self):
        result, _ = solved("fixed")
        with pytest.raises(ValueError, match=r"such as Joint\(...\), not Paper"):
            task_relatedness(clusters(3, seed=0), clusters(3, seed=1), method=FAST, init=result)


def variables(rng, num_target, num_reference, d=4):
    return paper._Variables(
        matrix=jnp.asarray(np.eye(d) + 0.1 * rng.normal(size=(d, d))),
        inverse=jnp.asarray(np.eye(d) + 0.1 * rng.normal(size=(d, d))),
        offset=jnp.asarray(rng.normal(size=d)),
        map_logits=jnp.asarray(rng.uniform(size=(num_target, num_reference))),
        prior_logits=jnp.asarray(rng.normal(size=num_reference)),
    )


@pytest.mark.usefixtures("x64")
class TestStep:
    @pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 5)])
    def test_the_class_plan_is_the_one_of_least_label_distance(self, shape):
        rng = np.random.default_rng(0)
        state, prior = variables(rng, *shape), rng.dirichlet(np.ones(shape[0]))
        plan = np.asarray(jax.jit(paper._class_plan)(state, jnp.asarray(prior)))
        B, D = softmax(np.asarray(state.map_logits), axis=0), softmax(np.asarray(state.prior_logits))
        distances = np.linalg.norm(B.T[None] - np.eye(shape[0])[:, None], axis=-1)
        np.testing.assert_allclose(plan.sum(1), prior, atol=1e-12)
        np.testing.assert_allclose(plan.sum(0), D, atol=1e-12)
        np.testing.assert_allclose((plan * distances).sum(), ot.emd2(prior, D, distances), atol=2.5e-3)

    def test_in_the_limit_of_lambda_the_exact_joint_plan_has_the_same_classes(self):
        """Brute force: one exact plan over all points, for feature distance + 1e8 times label distance."""
        rng = np.random.default_rng(1)
        state = dataclasses.replace(variables(rng, 3, 3), prior_logits=jnp.zeros(3))
        B = softmax(np.asarray(state.map_logits), axis=0)
        labels = np.arange(12) % 3
        label_distance = np.linalg.norm(B.T[labels][:, None] - np.eye(3)[labels][None], axis=-1)
        cost = np.linalg.norm(rng.normal(size=(12, 1, 4)) - rng.normal(size=(1, 12, 4)), axis=-1) + 1e8 * label_distance
        plan = ot.emd([], [], cost)
        by_class = np.eye(3)[labels].T @ plan @ np.eye(3)[labels]  # reference class, target class
        ours = np.asarray(jax.jit(paper._class_plan)(state, jnp.full(3, 1 / 3)))
        np.testing.assert_allclose(ours, by_class.T, atol=0.02)

    def test_objective_by_its_definition(self):
        rng = np.random.default_rng(2)
        state = variables(rng, 3, 2)
        reference, target = clusters(2, seed=0, n=6), clusters(3, seed=1, n=6)
        prior, Q = jnp.asarray([0.2, 0.3, 0.5]), jnp.asarray(rng.dirichlet(np.ones(2), 3))
        batch = sampler_of(reference, target, 4).draw(Q, jax.random.key(0))
        plan = jnp.asarray(rng.dirichlet(np.ones(16), 3).reshape(3, 4, 4))
        coupling, class_losses = prior[:, None] * Q, jnp.asarray([0.7, 1.3])
        method = Paper(label_weight=5.0)
        value = jax.jit(paper._objective)(state, coupling, plan, batch, class_losses, prior, method)

        B, D = softmax(np.asarray(state.map_logits), axis=0), softmax(np.asarray(state.prior_logits))
        A, inverse = np.asarray(state.matrix), np.asarray(state.inverse)
        expected = -np.sum(D * xlogy(B, B)) + D @ np.asarray(class_losses) + np.sum((np.asarray(prior) - B @ D) ** 2)
        expected += np.sum((A @ inverse - np.eye(4)) ** 2) + np.sum((inverse @ A - np.eye(4)) ** 2)
        for k in range(3):
            for i in range(4):
                for j in range(4):
                    moved = A @ np.asarray(batch.z[k, i]) + np.asarray(state.offset)
                    expected += 2 * float(prior[k] * plan[k, i, j]) * np.sum((moved - np.asarray(batch.t[k, j])) ** 2)
            for c in range(2):
                expected += 2 * 5.0 * float(coupling[k, c]) * np.sum((B[:, c] - np.eye(3)[k]) ** 2)
        np.testing.assert_allclose(value, expected, rtol=1e-8)


@pytest.mark.slow
def test_vmap_over_seeds_equals_single_runs_and_numbers_do_not_compile_again():
    traces: list[None] = []
    reference, target = clusters(3, seed=0), clusters(3, seed=1, angle=0.5)

    @jax.jit
    def over_seeds(keys, method):
        traces.append(None)
        return jax.vmap(lambda key: task_relatedness(reference, target, head=HEAD, method=method, key=key))(keys)

    keys = jax.random.split(jax.random.key(0), 3)
    many = over_seeds(keys, FAST)
    over_seeds(keys, dataclasses.replace(FAST, num_steps=11, learning_rate=0.003, label_weight=10.0, plan_gap=0.1))
    assert len(traces) == 1
    one = task_relatedness(reference, target, head=HEAD, method=FAST, key=keys[1])
    np.testing.assert_allclose(many.bound[1], one.bound, rtol=1e-3)
    np.testing.assert_allclose(many.published.bound[1], one.published.bound, rtol=1e-3)
    assert np.ptp(np.asarray(many.bound)) > 0
    assert isinstance(many.raise_if_failed().published, paper.PublishedEstimate)


@pytest.mark.slow
def test_without_a_head_one_is_fitted_with_the_gradient_penalty():
    reference, target = clusters(3, seed=0), clusters(3, seed=1)
    heads = [
        task_relatedness(
            reference, target, method=dataclasses.replace(FAST, setting="fixed", gradient_norm=norm)
        ).transformation.head.lipschitz
        for norm in (0.02, 0.2)
    ]
    assert 0 < float(heads[0]) < float(heads[1])
