"""Label maps: supports of Q, soft starts, pruning, selection of reference classes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import Joint, Task, task_relatedness
from jaxrel.heads import Head
from jaxrel.relatedness import restricted_to_classes, select_reference_classes
from jaxrel.relatedness.blocks import class_order
from jaxrel.relatedness.class_maps import initial_logits, pruned
from jaxrel.relatedness.methods.joint_objective import Parameters

FAST = Joint(num_steps=60, ridge=0.01, learning_rate=0.05, points_per_class=20)
CENTRES = 4 * np.random.default_rng(7).normal(size=(6, 5))


def clusters(classes, *, seed, n=60, names=None):
    """Class k of the task is the cluster `classes[k]`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n * len(classes)) % len(classes)
    features = CENTRES[np.asarray(classes)][labels] + rng.normal(size=(labels.size, CENTRES.shape[1]))
    return Task(features.astype(np.float32), labels, num_classes=len(classes), class_names=names)


def conditional_at_start(class_map, target, reference):
    orders = (class_order(*task.labelled, task.weights) for task in (target, reference))
    logits, support = initial_logits(class_map, target, next(orders), reference, next(orders))
    head = Head(jnp.zeros((1, 1)), jnp.zeros(1))
    Q = np.asarray(Parameters(head, head, logits, support).conditional())
    np.testing.assert_allclose(np.sum(Q, axis=1), 1, rtol=1e-6)
    return Q


class TestStart:
    reference, target = clusters(range(6), seed=0), clusters((3, 1, 5), seed=1)

    def test_assigned_finds_the_same_clusters_and_leaves_no_class_out(self):
        Q = conditional_at_start("assigned", self.target, self.reference)
        assert Q[0, 3] > 0
        assert Q[1, 1] > 0
        assert Q[2, 5] > 0
        np.testing.assert_array_equal((Q > 0).sum(0), 1)

    def test_soft_leans_on_the_assigned_class_and_excludes_none(self):
        Q = conditional_at_start("soft", self.target, self.reference)
        assert (Q > 0).all()
        np.testing.assert_array_equal(Q.argmax(1), (3, 1, 5))

    def test_soft_gives_classes_that_look_alike_each_a_class_of_its_own(self):
        Q = conditional_at_start("soft", clusters((0, 0, 0), seed=1), clusters(range(3), seed=0))
        assert sorted(Q.argmax(1)) == [0, 1, 2]
        assert Q.max(1).min() > 0.45

    def test_identity_and_given(self):
        np.testing.assert_array_equal(
            conditional_at_start("identity", self.target, self.reference), np.eye(3, 6, dtype=np.float32)
        )
        Q = conditional_at_start((2, (0, 4), 2), self.target, self.reference)
        np.testing.assert_allclose(Q[0], np.eye(6)[2])
        np.testing.assert_allclose(Q[1], (np.eye(6)[0] + np.eye(6)[4]) / 2)
        np.testing.assert_allclose(Q[2], np.eye(6)[2])

    @pytest.mark.parametrize("class_map", [(0, 1), (0, 1, 6)])
    def test_a_map_that_does_not_fit_is_refused(self, class_map):
        with pytest.raises(ValueError, match="must name, for each of 3 target classes, reference classes below 6"):
            task_relatedness(self.reference, self.target, method=dataclasses.replace(FAST, class_map=class_map))

    @pytest.mark.parametrize("class_map", ["nearest", (), ((),), (0.5,), (True,), (-1,), [0, 1, 2]])
    def test_an_unknown_map_is_refused(self, class_map):
        with pytest.raises(ValueError, match="class_map must be 'assigned', 'soft', 'identity' or a tuple"):
            Joint(class_map=class_map)


def test_pruning_drops_what_is_below_a_thousandth_of_the_largest_share():
    Q = np.array([[0.9, 0.0999, 0.0001], [0.5, 0.5, 0.0]])
    kept = np.asarray(pruned(Q))
    assert kept[0, 2] == 0
    np.testing.assert_allclose(kept.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(kept[0, 0] / kept[0, 1], 9.009, rtol=1e-3)
    np.testing.assert_array_equal(kept[1], Q[1])


def test_soft_maps_find_the_classes_and_drive_irrelevant_ones_to_weight_zero():
    reference, target = clusters(range(6), seed=0), clusters((3, 1, 5), seed=1)
    method = dataclasses.replace(FAST, class_map="soft", num_steps=200)
    result = task_relatedness(reference, target, method=method).raise_if_failed()
    np.testing.assert_array_equal(np.asarray(result.transformation.conditional).argmax(1), (3, 1, 5))
    np.testing.assert_array_equal(np.asarray(result.transformation.prior) > 0, [False, True, False, True, False, True])
    # The label mismatch is 0 once each used class belongs to one target class.
    assert float(result.label_mismatch) < 1e-6


@pytest.mark.slow
def test_a_class_that_is_two_reference_classes_leans_on_these():
    reference = clusters(range(4), seed=0)
    target = clusters((0, 1), seed=1)
    both = restricted_to_classes(reference, (2, 3))
    merged = Task(
        np.concatenate([target.features, both.features]),
        np.concatenate([target.labels, np.full(both.num_samples, 2)]),
    )
    result = task_relatedness(reference, merged, method=dataclasses.replace(FAST, class_map="soft", num_steps=200))
    Q = np.asarray(result.transformation.conditional)
    np.testing.assert_allclose(Q[2, 2:].sum(), 1, atol=0.05)
    np.testing.assert_array_equal(Q[:2].argmax(1), (0, 1))


@pytest.mark.slow
def test_a_given_map_is_never_left():
    reference, target = clusters(range(4), seed=0), clusters((0, 1), seed=1)
    result = task_relatedness(reference, target, method=dataclasses.replace(FAST, class_map=(1, (0, 2))))
    Q = np.asarray(result.transformation.conditional)
    np.testing.assert_array_equal(Q[0], np.eye(4)[1])
    assert Q[1, 1] == Q[1, 3] == 0


class TestSelection:
    reference = clusters(range(6), seed=0, names=list("abcdef"))
    target = clusters((3, 1), seed=1)

    def test_nearest_takes_the_own_classes_first(self):
        assert select_reference_classes(self.reference, self.target, num_classes=2) == (1, 3)

    def test_nearest_prefers_the_own_class_of_a_far_target_class_to_another_near_one(self):
        rng = np.random.default_rng(0)

        def at(*places):
            labels = np.arange(40 * len(places)) % len(places)
            positions = np.array(places)[labels] + 0.05 * rng.normal(size=labels.size)
            return Task(positions[:, None].astype(np.float32), labels)

        # Standardised: reference classes at -0.76, -0.65, 1.41, target classes at -1 and 1.
        reference, target = at(-1.0, -0.9, 1.0), at(-1.0, 3.0)
        assert select_reference_classes(reference, target, num_classes=2) == (0, 2)

    def test_nearest_goes_on_with_the_smallest_distance_from_any_class(self):
        selected = select_reference_classes(self.reference, self.target, num_classes=3)
        assert {1, 3} < set(selected)
        (third,) = set(selected) - {1, 3}
        others = [c for c in range(6) if c not in (1, 3)]
        distances = np.linalg.norm(CENTRES[others][:, None] - CENTRES[[3, 1]], axis=-1).min(1)
        assert third == others[int(distances.argmin())]

    @pytest.mark.slow
    def test_learned_takes_the_classes_of_largest_prior(self):
        method = dataclasses.replace(FAST, class_map="soft", num_steps=100)
        selected = select_reference_classes(self.reference, self.target, num_classes=2, rule="learned", method=method)
        assert selected == (1, 3)

    def test_random_depends_on_the_seed_alone(self):
        draws = {
            select_reference_classes(self.reference, self.target, num_classes=3, rule="random", key=seed)
            for seed in range(20)
        }
        assert len(draws) > 5
        assert all(len(set(draw)) == 3 and draw == tuple(sorted(draw)) for draw in draws)
        again = select_reference_classes(self.reference, clusters((0, 4), seed=9), num_classes=3, rule="random", key=3)
        assert again in draws

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_classes": 0}, "num_classes must be an integer between 1 and 6, got 0"),
            ({"num_classes": 7}, "num_classes must be an integer between 1 and 6, got 7"),
            ({"num_classes": 2, "rule": "best"}, "rule must be 'nearest', 'learned' or 'random', got 'best'"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            select_reference_classes(self.reference, self.target, **options)

    def test_restriction_renumbers_in_the_order_given(self):
        small = restricted_to_classes(self.reference, (5, 2))
        assert small.class_names == ("f", "c")
        assert small.num_classes == 2
        chosen = np.isin(np.asarray(self.reference.labels), (5, 2))
        np.testing.assert_array_equal(small.features, np.asarray(self.reference.features)[chosen])
        np.testing.assert_array_equal(small.labels, np.asarray(self.reference.labels)[chosen] == 2)

    @pytest.mark.parametrize("classes", [(0, 0), (6,), (-1,)])
    def test_restriction_refuses_classes_that_do_not_exist(self, classes):
        with pytest.raises(ValueError, match="classes must be different numbers below 6"):
            restricted_to_classes(self.reference, classes)

    def test_tasks_of_another_width_or_with_an_empty_class_are_refused(self):
        with pytest.raises(ValueError, match="target has 4 features and reference has 5"):
            select_reference_classes(self.reference, Task(np.ones((2, 4)), [0, 1]), num_classes=2)
        empty = Task(self.target.features, self.target.labels, num_classes=3)
        with pytest.raises(ValueError, match="target has no sample of class 2"):
            select_reference_classes(self.reference, empty, num_classes=2)
