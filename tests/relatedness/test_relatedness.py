"""The verb end to end: errors, invariances, reproducibility, transformations of JAX, and the figures it must reach."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from paths import BENCHMARKS
from problems import cost_matrix

import jaxrel
from jaxrel import Head, Joint, Relatedness, Task, fit_head, task_relatedness
from jaxrel.relatedness import bound_resamples, in_memory, resampling
from jaxrel.relatedness.result import Status

FAST = Joint(num_steps=20, ridge=0.01, certificate_gap=0.001)
CONVERGED = Joint(num_steps=300, ridge=0.01, learning_rate=0.03, certificate_gap=0.001)
FEATURES = BENCHMARKS / "data" / "mnist_fmnist_features.npz"


def clusters(
    num_classes: int = 3, *, n: int = 60, d: int = 5, seed: int = 0, spread: float = 0.5, dtype: type = np.float32
) -> Task:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    centres = 3 * np.random.default_rng(99).normal(size=(10, d))[:num_classes]
    return Task((centres[labels] + spread * rng.normal(size=(n, d))).astype(dtype), labels)


def leaves_without(result: Relatedness) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


class TestErrors:
    """Each names the argument, the position and the remedy, before any work."""

    reference, target = clusters(seed=0), clusters(seed=1)

    def changed(self, **fields):
        arguments = {"features": self.target.features, "labels": self.target.labels} | fields
        return Task(arguments.pop("features"), arguments.pop("labels"), **arguments)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"space": "logits"}, r"space must be one of \('prediction', 'feature'\), got 'logits'"),
            ({"cost": "squared"}, r"cost must be one of .*'margin'.*got 'squared'"),
            ({"space": "feature", "cost": "margin"}, r"cost must be one of \('euclidean',\) in feature space"),
            ({"learn_head": 1}, "learn_head must be True or False"),
            ({"ridge": -1.0}, "ridge must be at least 0"),
            ({"ridge": float("nan")}, "ridge must be a finite number, got nan"),
            ({"epsilon": 0.0}, "epsilon must be positive"),
            ({"num_steps": 2.5}, "num_steps must be an integer"),
            ({"sinkhorn_iterations": 0}, "sinkhorn_iterations must be at least 1"),
            ({"certificate_iterations": "many"}, "certificate_iterations must be an integer, got 'many'"),
            ({"points_per_class": 0}, "points_per_class must be an integer of at least 1"),
        ],
    )
    def test_method(self, options, message):
        with pytest.raises(ValueError, match=message):
            Joint(**options)

    def test_unknown_option(self):
        with pytest.raises(TypeError, match="steps"):
            Joint(steps=3)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda s: {"target": np.ones((3, 5))}, "target must be a Task, got ndarray: pass Task"),
            (lambda s: {"target": Task(s.target.features)}, "target has no labels: pass Task"),
            (lambda s: {"target": clusters(d=4)}, "target has 4 features and reference has 5"),
            (lambda s: {"target": s.changed(num_classes=5)}, "target has no sample of class 3 of its 5 classes"),
            (
                lambda s: {"reference": s.changed(num_classes=4, class_names=["a", "b", "c", "dog"])},
                r"reference has no sample of class 3 \(dog\)",
            ),
            (lambda s: {"evaluate_on": s.target}, "evaluate_on must be a pair"),
            (lambda s: {"evaluate_on": (s.reference, Task(s.target.features))}, r"evaluate_on\[1\] has no labels"),
            (lambda s: {"evaluate_on": (clusters(4), s.target)}, r"evaluate_on\[0\] labels\[3\] is 3.*leave such"),
            (
                lambda s: {"method": "joint"},
                r"method must be a Joint\(...\), a Paper\(...\) or a Method of your own, got 'joint'",
            ),
            (lambda s: {"key": 1.5}, "key must be .* an integer, got 1.5"),
            (lambda s: {"key": 2**32}, "key must be .* an integer from 0"),
            (lambda s: {"key": -1}, "key must be .* an integer from 0"),
            (lambda s: {"head": np.ones((3, 5))}, "head must be a Head"),
            (lambda s: {"head": Head(jnp.ones((3, 4)), jnp.ones(3))}, r"head has weights \(3, 4\).*needs \(3, 5\)"),
            (lambda s: {"head": Head(jnp.ones((3, 5)), jnp.array([0, jnp.inf, 0]))}, r"head.bias\[1\] is not finite"),
        ],
    )
    def test_arguments(self, make, message):
        arguments = {"reference": self.reference, "target": self.target} | make(self)
        with pytest.raises(ValueError, match=message):
            task_relatedness(arguments.pop("reference"), arguments.pop("target"), **arguments)


METHODS = [
    FAST,
    dataclasses.replace(FAST, cost="range"),
    dataclasses.replace(FAST, cost="euclidean"),
    dataclasses.replace(FAST, learn_head=False, ridge=None),
    dataclasses.replace(FAST, space="feature", cost="euclidean"),
    dataclasses.replace(FAST, space="feature", cost="euclidean", learn_head=False),
]


@pytest.mark.parametrize(
    ("method", "num_reference"),
    [
        (METHODS[0], 4),
        *(pytest.param(method, 4, marks=pytest.mark.slow) for method in METHODS[1:]),
        *(pytest.param(METHODS[index], 2, marks=pytest.mark.slow) for index in (0, 4)),
    ],
    ids=lambda value: value if isinstance(value, int) else f"{value.space}-{value.cost}-{value.learn_head}",
)
def test_every_method_gives_an_ordered_finite_bound(method, num_reference):
    reference, target = clusters(num_reference, seed=0), clusters(3, seed=1)
    result = task_relatedness(
        reference, target, evaluate_on=(clusters(num_reference, seed=2), clusters(3, seed=3)), method=method
    ).raise_if_failed()
    assert 0 <= float(result.target_loss) <= float(result.tight_bound) <= float(result.bound) + 1e-6
    assert float(result.distribution_mismatch_lower) <= float(result.distribution_mismatch_upper)
    t = result.transformation
    np.testing.assert_allclose(t.conditional.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(t.label_map.sum(0), 1, rtol=1e-5)
    np.testing.assert_allclose(t.coupling.sum(), 1, rtol=1e-5)
    if method.space == "feature":
        expected = t.head.weights @ np.linalg.inv(t.feature_map.matrix)
        np.testing.assert_allclose(t.target_map.weights, expected, atol=1e-4)
    if num_reference == 2:  # T4
        assert float(result.label_mismatch) >= np.log(3) - np.log(2) - 1e-5
    else:
        assert float(result.label_mismatch) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "target"),
    [
        (clusters(3), clusters(1, seed=1)),  # K_T = 1
        (clusters(1), clusters(3, seed=1)),  # K_R = 1
        (clusters(3, n=3), clusters(3, n=3, seed=1)),  # one sample per class
        (clusters(1, n=1), clusters(1, n=1)),  # one sample
        (clusters(2, n=10, d=50), clusters(4, n=12, d=50)),  # d > n
        (Task(np.ones((6, 6)), np.arange(6) % 2), Task(np.ones((6, 6)), np.arange(6) % 3)),  # constant features
        (Task(1e30 * np.eye(6), np.arange(6) % 2), Task(1e-30 * np.eye(6), np.arange(6) % 3)),  # huge, tiny
        (clusters(2), Task(np.r_[np.zeros((57, 5)), np.ones((3, 5))], np.repeat([0, 1], [57, 3]))),  # imbalance
    ],
)
def test_degenerate_tasks_have_a_finite_bound(reference, target):
    result = task_relatedness(reference, target, method=FAST).raise_if_failed()
    assert float(result.target_loss) <= float(result.tight_bound) + 1e-5
    assert float(result.tight_bound) <= float(result.bound) + 1e-5


@pytest.mark.slow
def test_a_given_head_is_used_as_given_and_speaks_of_raw_features():
    reference, target = clusters(), clusters(seed=1)
    shifted = Task(np.asarray(reference.features) * 3 + 2, reference.labels)
    head = fit_head(shifted, ridge=0.1)
    fixed = dataclasses.replace(FAST, learn_head=False)
    result = task_relatedness(shifted, target, method=fixed, head=head)
    np.testing.assert_allclose(
        result.transformation.reference_logits(shifted.features), head(shifted.features), rtol=1e-3, atol=1e-3
    )
    learned = task_relatedness(shifted, target, method=FAST, head=head)
    assert not np.allclose(learned.transformation.head.weights, result.transformation.head.weights)


@pytest.mark.slow
def test_a_related_task_has_a_smaller_bound_than_an_unrelated_one():
    reference, related = clusters(seed=0), clusters(seed=1)
    rng = np.random.default_rng(0)
    unrelated = Task(rng.normal(size=(60, 5)), np.arange(60) % 3)
    bounds = [float(task_relatedness(reference, target).bound) for target in (related, unrelated)]
    assert bounds[0] < 0.3 < 0.9 < bounds[1]


@functools.cache
def converged_bound():
    """Of the tasks as they are, which every invariance is compared with."""
    return float(task_relatedness(clusters(seed=0), clusters(seed=1), method=CONVERGED).bound)


class TestInvariances:
    reference, target = clusters(seed=0), clusters(seed=1)

    def bound(self, reference=None, target=None, method=CONVERGED):
        return float(task_relatedness(reference or self.reference, target or self.target, method=method).bound)

    def test_padding_changes_nothing(self):
        padded = self.bound(self.reference.padded(80), self.target.padded(75))
        assert padded == pytest.approx(converged_bound(), rel=5e-3)

    def test_shift_and_scale_of_features_change_nothing(self):
        moved = Task(np.asarray(self.target.features) * 1000 + 500, self.target.labels)
        assert self.bound(target=moved) == pytest.approx(converged_bound(), abs=5e-4)

    def test_order_of_samples_and_names_of_classes_hardly_matter(self):
        order = np.random.default_rng(0).permutation(60)
        names = np.array([2, 0, 1])
        features, labels = np.asarray(self.target.features), np.asarray(self.target.labels)
        shuffled = Task(features[order], names[labels[order]])
        assert self.bound(target=shuffled) == pytest.approx(converged_bound(), abs=0.02)

    @pytest.mark.slow
    def test_half_precision_is_upcast(self):
        half = Task(self.target.features.astype(jnp.bfloat16), self.target.labels)
        assert self.bound(target=half) == pytest.approx(converged_bound(), abs=0.02)

    @pytest.mark.slow
    def test_float64_agrees_with_float32(self):
        with jax.enable_x64(True):
            tasks = [clusters(seed=seed, dtype=np.float64) for seed in (0, 1)]
            result = task_relatedness(*tasks, method=CONVERGED)
            assert result.bound.dtype == jnp.float64
            wide = float(result.bound)
        assert wide == pytest.approx(converged_bound(), abs=0.02)

    def test_inputs_are_not_changed(self):
        before = [np.array(leaf) for leaf in jax.tree.leaves((self.reference, self.target))]
        self.bound(method=FAST)
        for old, new in zip(before, jax.tree.leaves((self.reference, self.target)), strict=True):
            np.testing.assert_array_equal(old, new)


class TestTransformations:
    """Inside a user's jit, vmap, pmap and shard_map it is as outside; no new number compiles again."""

    def tasks(self, seed=0):
        return clusters(seed=seed), clusters(seed=seed + 1)

    def related(self, reference, target, seed, method=FAST):
        return task_relatedness(reference, target, method=method, key=seed)

    def outside(self, *seeds):
        return [float(self.related(*self.tasks(seed), seed).bound) for seed in seeds]

    def stacked(self, seeds):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(self.tasks(seed) for seed in seeds))

    @pytest.mark.slow
    def test_vmap_over_seeds_references_and_targets(self):
        seeds = (0, 10)
        for given in (jnp.array(seeds), jax.vmap(jax.random.key)(jnp.array(seeds))):
            batch = jax.jit(jax.vmap(self.related))(*self.stacked(seeds), given)
            assert batch.messages == ()
            np.testing.assert_allclose(batch.bound, self.outside(*seeds), rtol=1e-3)

    @pytest.mark.slow
    @pytest.mark.parametrize("transform", ["pmap", "shard_map"])
    def test_four_devices(self, transform):
        seeds = (0, 10, 20, 30)

        def bound(reference, target, seed):
            return self.related(reference, target, seed).bound

        if transform == "pmap":
            spread = jax.pmap(bound)(*self.stacked(seeds), jnp.array(seeds))
        else:
            mesh = jax.make_mesh((4,), ("pairs",), axis_types=(jax.sharding.AxisType.Auto,))
            spec = jax.sharding.PartitionSpec("pairs")
            mapped = jax.shard_map(jax.vmap(bound), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
            spread = jax.jit(mapped)(*self.stacked(seeds), jnp.array(seeds))
        assert len(spread.sharding.device_set) == 4
        np.testing.assert_allclose(spread, self.outside(*seeds), rtol=1e-3)

    def test_under_jit_it_is_as_outside_and_new_numbers_do_not_compile_again(self):
        traces = 0

        @jax.jit
        def counted(reference, target, seed, method):
            nonlocal traces
            traces += 1
            return self.related(reference, target, seed, method)

        for seed, changes in enumerate(
            (
                {},
                {"num_steps": 9, "sinkhorn_iterations": 4},
                {"epsilon": 1.0, "head_ridge": 0.3, "certificate_iterations": 5},
            )
        ):
            method = dataclasses.replace(FAST, **changes)
            inside, outside = (related(*self.tasks(seed), seed, method) for related in (counted, self.related))
            assert float(inside.bound) == pytest.approx(float(outside.bound), rel=1e-3)
            np.testing.assert_allclose(inside.coupling, outside.coupling, atol=1e-4)
            changes = {"method": None, "key": None}
            assert inside.computed_with == dataclasses.replace(outside.computed_with, **changes)
        assert traces == 1

    @pytest.mark.slow
    def test_held_out_samples_and_a_budget_that_is_chosen(self):
        method = dataclasses.replace(FAST, learn_head=False, lipschitz_budget="validated")
        held_out = self.tasks(5)

        def related(reference, target):
            return task_relatedness(reference, target, evaluate_on=held_out, method=method, block_sizes=(24, 24))

        inside, outside = jax.jit(related)(*self.tasks()), related(*self.tasks())
        assert float(inside.bound) == pytest.approx(float(outside.bound), rel=1e-3)
        assert inside.computed_with.evaluated_on == "held-out samples"

    def test_shapes_are_checked_and_class_counts_asked_for(self):
        reference, target = self.tasks()
        with pytest.raises(ValueError, match="num_classes must be given inside jit"):
            jax.jit(lambda x, y: task_relatedness(Task(x, y), target))(reference.features, reference.labels)
        with pytest.raises(ValueError, match="target has 4 features and reference has 5"):
            jax.jit(task_relatedness)(reference, clusters(d=4))

    @pytest.mark.slow
    def test_bound_is_differentiable_in_the_features_it_is_evaluated_on(self):
        reference, target = self.tasks()
        transformation = task_relatedness(reference, target, method=FAST).transformation

        def loss(features):
            moved = target.replaced(features=features)
            return jaxrel.relatedness.evaluate_bound(transformation, reference, moved, method=FAST).target_loss

        gradient = jax.jit(jax.grad(loss))(target.features)
        direction = np.random.default_rng(0).normal(size=gradient.shape).astype(np.float32)
        step = 1e-2
        difference = (loss(target.features + step * direction) - loss(target.features - step * direction)) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=2e-2, abs=1e-4)


@pytest.mark.slow
def test_two_fresh_processes_with_one_seed_agree_to_the_last_bit():
    program = """
import json, numpy as np
from jaxrel import Joint, Task, task_relatedness
rng = np.random.default_rng(0)
tasks = [Task(rng.normal(size=(50, 6)) + i, np.arange(50) % 3) for i in range(2)]
result = task_relatedness(*tasks, method=Joint(num_steps=30), key=7)
print(json.dumps([float(result.bound).hex(), float(result.target_loss).hex(), float(result.tight_bound).hex()]))
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert json.loads(outputs[0]) == json.loads(outputs[1])


@functools.cache
def resampled_result():
    return task_relatedness(TestResamples.reference, TestResamples.target, method=FAST)


class TestResamples:
    reference, target = clusters(seed=0, spread=2.0, n=120), clusters(seed=1, spread=2.0, n=120)

    @property
    def result(self):
        return resampled_result()

    @pytest.mark.slow
    def test_resamples_centre_on_the_bound_and_repeat_with_the_seed(self):
        resamples = bound_resamples(self.result, self.reference, self.target, num_resamples=400)
        assert resamples.shape == (400,)
        assert np.mean(resamples) == pytest.approx(
            float(self.result.bound), abs=3 * resamples.std() / np.sqrt(400) + 1e-3
        )
        again = bound_resamples(self.result, self.reference, self.target, num_resamples=400)
        np.testing.assert_array_equal(resamples, again)
        other = bound_resamples(self.result, self.reference, self.target, num_resamples=400, key=1)
        assert not np.array_equal(resamples, other)

    def test_they_need_no_evaluation_of_their_own(self):
        tasks = clusters(seed=0), clusters(seed=1)
        result = task_relatedness(*tasks, method=FAST)
        assert not result.messages
        before = in_memory._evaluate._cache_size()
        bound_resamples(result, *tasks, num_resamples=10)
        assert in_memory._evaluate._cache_size() == before

    @pytest.mark.slow
    def test_every_sample_once_is_the_bound_itself(self):
        tasks = self.reference, self.target
        same, parts = FAST.evaluate(self.result.transformation, *tasks, (120, 120))
        labels, weights = (tuple(getattr(task, name) for task in tasks) for name in ("labels", "weights"))
        once = (jnp.ones((1, 120)),) * 2
        linearised = resampling._linearised_bounds(parts, self.result.transformation, labels, weights, once)
        assert float(linearised[0]) == pytest.approx(float(same.bound), rel=1e-5)

    @pytest.mark.slow
    def test_their_spread_is_that_of_fresh_samples(self):
        """The linearised bootstrap against the bound evaluated on new samples of the same population."""
        spread = bound_resamples(self.result, self.reference, self.target).std()
        evaluate = jax.jit(jaxrel.relatedness.evaluate_bound)
        fresh = [
            evaluate(
                self.result.transformation,
                clusters(seed=100 + seed, spread=2.0, n=120),
                clusters(seed=300 + seed, spread=2.0, n=120),
                method=FAST,
            ).bound
            for seed in range(60)
        ]
        assert 0.6 < spread / np.std(fresh) < 1.7

    @pytest.mark.slow
    def test_a_class_without_samples_changes_nothing(self):
        wider = Task(self.target.features, self.target.labels, num_classes=5)
        before = bound_resamples(self.result, self.reference, self.target, num_resamples=5)
        after = bound_resamples(self.result, self.reference, wider, num_resamples=5)
        np.testing.assert_allclose(after, before, rtol=1e-4)

    def test_errors(self):
        reference, target = clusters(seed=0), clusters(seed=1)
        result = task_relatedness(reference, target, method=FAST)
        with pytest.raises(ValueError, match="num_resamples must be at least 1"):
            bound_resamples(result, reference, target, num_resamples=0)
        for task, message in (
            (np.ones((60, 5)), "reference must be a Task with labels"),
            (Task(reference.features), "reference must be a Task with labels"),
            (clusters(n=30), r"reference has features \(30, 5\), but the result was evaluated on \(60, 5\)"),
        ):
            with pytest.raises(ValueError, match=message):
                bound_resamples(result, task, target)
        failed = dataclasses.replace(result, status=jnp.asarray(int(Status.NOT_FINITE)))
        with pytest.raises(ValueError, match="result failed"):
            bound_resamples(failed, reference, target)


@pytest.mark.slow
@pytest.mark.parametrize(("learn_head", "limit"), [(True, 1.00), (False, 1.60)])
def test_mnist_to_fashion_mnist_held_out(learn_head, limit):
    """Where the published code reports a bound of 16.60: learned on the train arrays, judged by exact transport."""
    arrays = np.load(FEATURES, allow_pickle=False)

    def task(name: str) -> Task:
        return Task(arrays[f"{name}_features"], arrays[f"{name}_labels"], num_classes=10)

    held_out = task("reference_test"), task("target_test")
    result = task_relatedness(
        task("reference_train"), task("target_train"), evaluate_on=held_out, method=Joint(learn_head=learn_head)
    ).raise_if_failed()
    t = result.transformation
    u, v = (
        np.asarray(x, np.float64)
        for x in (t.reference_logits(held_out[0].features), t.target_logits(held_out[1].features))
    )
    reference_labels, target_labels = (np.asarray(x.labels) for x in held_out)
    exact = 0.0
    for k in range(10):
        c = np.flatnonzero(np.asarray(t.conditional)[k])
        assert c.size == 1
        rows, columns = u[reference_labels == c[0]], v[target_labels == k]
        cost = cost_matrix("margin", rows, columns, np.asarray(t.label_map, np.float64)[k])
        exact += (
            len(columns)
            / len(v)
            * ot.emd2(np.full(len(rows), 1 / len(rows)), np.full(len(columns), 1 / len(columns)), cost)
        )
    assert float(result.distribution_mismatch_lower) <= exact + 1e-5
    assert exact <= float(result.distribution_mismatch) + 1e-5
    exact_bound = float(result.reweighted_reference_loss + result.label_mismatch) + exact
    assert exact_bound <= float(result.bound) + 1e-5 <= limit
    assert float(result.target_loss) <= float(result.tight_bound) <= float(result.bound) + 1e-5


def test_importing_the_package_imports_nothing_heavy():
    program = (
        "import sys, jax; before = set(sys.modules); import jaxrel;"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    heavy = {"flax", "optax", "ott", "scipy", "tensorflow_datasets", "matplotlib", "rich"}
    assert not heavy & set(json.loads(loaded.replace("'", '"')))
    assert set(jaxrel.__all__) <= set(dir(jaxrel))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxrel.nothing  # noqa: B018
