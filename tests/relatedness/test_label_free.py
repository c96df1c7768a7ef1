"""Targets without labels: pseudo-labels, class priors, and the bound on views that share neither sample nor change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from jaxrel import Joint, Task, task_relatedness
from jaxrel.pseudo_labels import (
    GaussianMixture,
    KMeans,
    ReferenceHead,
    TransportedClasses,
    ViewClusters,
    pseudo_label,
)
from jaxrel.relatedness.blocks import kept_aside
from jaxrel.relatedness.label_free import cross_view_tasks

METHOD = Joint(ridge=0.03, num_steps=30)
NUM_CLASSES, WIDTH = 4, 6


def draw(seed, n=160, *, noise=1.0):
    """Classes with centres of their own on half of the features, and a common scatter that hides them on the rest."""
    centres = np.zeros((NUM_CLASSES, WIDTH))
    centres[:, : WIDTH // 2] = 2.5 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % NUM_CLASSES)
    scatter = noise * rng.normal(size=(n, WIDTH)) * np.where(np.arange(WIDTH) < WIDTH // 2, 1, 4)
    return (centres[labels] + scatter).astype(np.float32), labels


def views_of(features, seed=3, *, noise=1.0):
    """Augmentations: noise like that of the samples."""
    rng = np.random.default_rng(seed)
    scale = noise * np.where(np.arange(WIDTH) < WIDTH // 2, 1, 4)
    return tuple((features + scale * rng.normal(size=features.shape)).astype(np.float32) for _ in range(2))


REFERENCE = Task(*draw(1))
FEATURES, LABELS = draw(2)
VIEWS = views_of(FEATURES)
UNLABELLED = Task(FEATURES, num_classes=NUM_CLASSES)


class TestPseudoLabels:
    @pytest.mark.parametrize(
        ("strategy", "least"),
        [
            (KMeans(), 0.0),
            pytest.param(GaussianMixture(), 0.0, marks=pytest.mark.slow),
            (ViewClusters(num_directions=3), 0.7),
            (ReferenceHead(), 0.7),
            pytest.param(TransportedClasses(), 0.5, marks=pytest.mark.slow),
        ],
    )
    def test_strategies_find_classes(self, strategy, least):
        found = pseudo_label(UNLABELLED, strategy, views=VIEWS, reference=REFERENCE)
        assert found.shares.shape == (160, NUM_CLASSES)
        np.testing.assert_allclose(np.sum(found.shares, axis=1), 1, atol=1e-4)
        np.testing.assert_array_equal(found.labels, np.argmax(found.shares, axis=1))
        assert adjusted_rand_score(LABELS, found.labels) >= least
        assert found.source == repr(strategy)

    def test_views_find_classes_where_something_else_varies_more(self):
        rng = np.random.default_rng(0)

        def with_nuisance(classes):
            """Twelve more features that tell four groups apart, which an augmentation draws anew."""
            groups = np.repeat(rng.choice([-1.0, 1.0], (len(classes), 2)), 6, axis=1)
            return np.hstack([classes, groups + 0.05 * rng.normal(size=groups.shape)]).astype(np.float32)

        classes = FEATURES[:, : WIDTH // 2]
        task = Task(with_nuisance(classes), num_classes=NUM_CLASSES)
        views = tuple(with_nuisance(classes + 0.5 * rng.normal(size=classes.shape)) for _ in range(2))
        plain = pseudo_label(task, KMeans())
        whitened = pseudo_label(task, ViewClusters(num_directions=3), views=views)
        assert adjusted_rand_score(LABELS, plain.labels) < 0.6
        assert adjusted_rand_score(LABELS, whitened.labels) > 0.95

    def test_classes_of_the_reference_keep_their_numbers(self):
        found = pseudo_label(Task(FEATURES), ReferenceHead(), reference=REFERENCE)
        assert (np.asarray(found.labels) == LABELS).mean() > 0.9
        assert (found.num_classes, found.count_source) == (NUM_CLASSES, "reference")

    def test_labels_shares_and_functions_of_your_own(self):
        for own in (LABELS, np.eye(NUM_CLASSES)[LABELS]):
            np.testing.assert_array_equal(pseudo_label(UNLABELLED, own).labels, LABELS)

        def by_sign(known, key, *, num_classes):
            return jax.nn.one_hot((known.features[:, 0] > 0).astype(int), num_classes)

        found = pseudo_label(Task(FEATURES, num_classes=2), by_sign)
        np.testing.assert_array_equal(found.labels, FEATURES[:, 0] > 0)
        assert found.source == "by_sign"

    def test_the_target_labels_are_not_looked_at(self):
        shuffled = Task(FEATURES, np.random.default_rng(0).permutation(LABELS), num_classes=NUM_CLASSES)
        a, b = (pseudo_label(task, KMeans()) for task in (shuffled, UNLABELLED))
        np.testing.assert_array_equal(a.labels, b.labels)

    def test_class_priors(self):
        skewed = Task(FEATURES[LABELS != 0], num_classes=NUM_CLASSES)
        found = pseudo_label(skewed, KMeans(), class_prior="uniform")
        mass = np.bincount(found.labels, weights=found.weights)
        np.testing.assert_allclose(mass / mass.sum(), 1 / NUM_CLASSES, rtol=1e-4)
        prior = (0.1, 0.2, 0.3, 0.4)
        given = pseudo_label(skewed, KMeans(), class_prior=prior)
        mass = np.bincount(given.labels, weights=given.weights)
        np.testing.assert_allclose(np.sort(mass / mass.sum()), prior, rtol=1e-4)
        sizes = np.bincount(given.labels)
        assert np.argmax(mass) == np.argmax(sizes)
        named = pseudo_label(UNLABELLED, LABELS, class_prior=prior)
        mass = np.bincount(named.labels, weights=named.weights)
        np.testing.assert_allclose(mass / mass.sum(), prior, rtol=1e-4)

    @pytest.mark.slow
    def test_the_class_count_can_be_estimated_from_views(self):
        features, _ = draw(5, 240, noise=0.4)
        views = views_of(features, noise=0.4)
        found = pseudo_label(Task(features), ViewClusters(num_directions=3), views=views)
        assert found.count_source == "estimated"
        assert found.num_classes == NUM_CLASSES

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: pseudo_label(FEATURES), "target must be a Task"),
            (lambda: pseudo_label(UNLABELLED), "ViewClusters needs views"),
            (lambda: pseudo_label(UNLABELLED, ReferenceHead()), "needs a labelled reference"),
            (lambda: pseudo_label(Task(FEATURES, num_classes=3), ReferenceHead(), reference=REFERENCE), "4 classes"),
            (lambda: pseudo_label(Task(FEATURES), KMeans()), "number of target classes is unknown"),
            (lambda: pseudo_label(UNLABELLED, views=VIEWS[:1]), "pair of arrays"),
            (lambda: pseudo_label(UNLABELLED, views=(VIEWS[0], VIEWS[1][:5])), r"views\[1\] has shape \(5, 6\)"),
            (lambda: pseudo_label(UNLABELLED, views=(VIEWS[0], VIEWS[1] * np.nan)), r"views\[1\]\[0, 0\] is not"),
            (lambda: pseudo_label(UNLABELLED, LABELS[:9]), "have shape"),
            (lambda: pseudo_label(UNLABELLED, LABELS + 1), "outside 0 .. 3"),
            (lambda: pseudo_label(UNLABELLED, LABELS * 0.5), "which is no class"),
            (lambda: pseudo_label(UNLABELLED, np.full((160, 4), 0.5)), "rows that sum to 1"),
            (lambda: pseudo_label(UNLABELLED, KMeans(), class_prior="equal"), "class_prior must be"),
            (lambda: pseudo_label(UNLABELLED, KMeans(), class_prior=(1.0, 2.0)), "4 numbers"),
            (lambda: pseudo_label(UNLABELLED, LABELS % 2, class_prior=(0.25,) * 4), "which no sample has"),
            (lambda: pseudo_label(UNLABELLED, KMeans(), key=0.5), "key must be a key of jax.random or an integer"),
        ],
    )
    def test_misuse_is_named(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestCrossView:
    def test_halves_share_no_sample_and_have_every_class(self):
        labels = np.concatenate([LABELS, [NUM_CLASSES]])  # one class of a single sample
        task = Task(np.vstack([FEATURES, FEATURES[:1]]), labels)
        first, second = kept_aside(task, every=2)
        a, b = np.asarray(first.weights) > 0, np.asarray(second.weights) > 0
        assert (a | b).all()
        np.testing.assert_array_equal(np.flatnonzero(a & b), [160])
        np.testing.assert_array_equal(np.bincount(labels[a]), [20, 20, 20, 20, 1])

    def test_learning_and_evaluation_see_other_samples_in_other_views(self):
        target = Task(FEATURES, LABELS)
        (_, learned_on), (_, evaluated_on) = cross_view_tasks(REFERENCE, target, tuple(map(jnp.asarray, VIEWS)))
        np.testing.assert_array_equal(learned_on.features, VIEWS[0])
        np.testing.assert_array_equal(evaluated_on.features, VIEWS[1])
        assert not ((np.asarray(learned_on.weights) > 0) & (np.asarray(evaluated_on.weights) > 0)).any()


class TestVerb:
    def test_the_bound_is_about_the_pseudo_labels_and_says_so(self):
        result = task_relatedness(
            REFERENCE, UNLABELLED, pseudo_labels=ViewClusters(num_directions=3), views=VIEWS, method=METHOD
        )
        assert result.messages == ()
        assert result.target_loss <= result.tight_bound <= result.bound
        assert result.computed_with.target_labels == f"pseudo-labels: {ViewClusters(num_directions=3)!r}"
        assert result.computed_with.evaluated_on == "held-out samples"
        found = result.pseudo_labels
        # Evaluated by hand on the second view of the second half.
        _, evaluated = cross_view_tasks(REFERENCE, found.task(jnp.asarray(FEATURES)), tuple(map(jnp.asarray, VIEWS)))
        logits = result.transformation.target_logits(evaluated[1].features)
        probabilities = np.asarray(jax.nn.softmax(logits) @ result.transformation.label_map.T)
        live = np.asarray(evaluated[1].weights) > 0
        assert result.computed_with.num_target == live.sum()
        losses = -np.log(probabilities[np.arange(160), np.asarray(found.labels)])[live]
        np.testing.assert_allclose(result.target_loss, losses.mean(), rtol=1e-3)

    @pytest.mark.slow
    def test_true_labels_give_the_labelled_result(self):
        labelled = task_relatedness(REFERENCE, Task(FEATURES, LABELS), method=METHOD)
        own = task_relatedness(REFERENCE, UNLABELLED, pseudo_labels=LABELS, method=METHOD)
        np.testing.assert_allclose(own.bound, labelled.bound, rtol=1e-5)
        assert labelled.pseudo_labels is None

    def test_held_out_samples_get_the_same_classes(self):
        held_out = Task(draw(7, 80)[0])
        result = task_relatedness(
            REFERENCE,
            UNLABELLED,
            evaluate_on=(Task(*draw(8, 80)), held_out),
            pseudo_labels=ReferenceHead(),
            method=METHOD,
        )
        assert result.computed_with.num_target == 80
        assert len(result.pseudo_labels.labels) == 240
        assert result.target_accuracy > 0.8

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": Task(FEATURES, LABELS), "pseudo_labels": KMeans()}, "the target has labels"),
            ({"target": UNLABELLED, "views": VIEWS}, "pass pseudo_labels too"),
            ({"target": UNLABELLED}, "or pseudo_labels="),
            (
                {
                    "target": UNLABELLED,
                    "views": VIEWS,
                    "pseudo_labels": ViewClusters(),
                    "evaluate_on": (REFERENCE,) * 2,
                },
                "the target has labels",
            ),
            (
                {
                    "target": UNLABELLED,
                    "views": VIEWS,
                    "pseudo_labels": ViewClusters(),
                    "evaluate_on": (REFERENCE, UNLABELLED),
                },
                "leave out evaluate_on",
            ),
            ({"target": Task(FEATURES[:, :3], num_classes=4), "pseudo_labels": KMeans()}, "has 3 features"),
        ],
    )
    def test_misuse_is_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            task_relatedness(REFERENCE, **{"method": METHOD, **options})
