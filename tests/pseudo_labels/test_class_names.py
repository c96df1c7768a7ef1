"""Pseudo-labels of class names: nearest names against a definition in NumPy, what is refused, transformations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import Joint, Task, task_relatedness
from jaxrel.pseudo_labels import ClassNames, pseudo_label
from jaxrel.relatedness.label_free import pseudo_labelled_tasks

RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(30, 5))
PROMPTS = RNG.normal(size=(4, 3, 5)) * 10.0 ** RNG.integers(-3, 4, (4, 3, 1))
FEATURES = Task(RNG.normal(size=(30, 2)))


def cosines(samples: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    classes = (prompts / np.linalg.norm(prompts, axis=-1, keepdims=True)).mean(1)
    classes /= np.linalg.norm(classes, axis=-1, keepdims=True)
    expected: np.ndarray = samples @ classes.T / np.linalg.norm(samples, axis=1, keepdims=True)
    return expected


def test_the_nearest_name_is_the_class_however_long_the_vectors_are():
    similar = cosines(SAMPLES, PROMPTS)
    lengths = 10.0 ** RNG.integers(-30, 31, (30, 1))
    found = pseudo_label(FEATURES, ClassNames(SAMPLES * lengths, PROMPTS))
    np.testing.assert_array_equal(found.shares, np.eye(4)[similar.argmax(1)])
    assert (found.num_classes, found.count_source, found.source) == (4, "strategy", "ClassNames(4 classes)")
    single = pseudo_label(FEATURES, ClassNames(SAMPLES, PROMPTS[:, 0]))
    np.testing.assert_array_equal(single.labels, cosines(SAMPLES, PROMPTS[:, :1]).argmax(1))


def test_a_temperature_gives_the_softmax_of_cosines():
    found = pseudo_label(FEATURES, ClassNames(SAMPLES, PROMPTS, temperature=0.1))
    weights = np.exp(cosines(SAMPLES, PROMPTS) / 0.1)
    np.testing.assert_allclose(found.shares, weights / weights.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    assert found.source == "ClassNames(4 classes, temperature=0.1)"


def test_named_classes_take_a_prior_in_their_order():
    prior = (0.4, 0.1, 0.2, 0.3)
    for target in (FEATURES, Task(FEATURES.features, num_classes=4)):
        found = pseudo_label(target, ClassNames(SAMPLES, PROMPTS), class_prior=prior)
        mass = np.bincount(found.labels, found.weights)
        np.testing.assert_allclose(mass / mass.sum(), prior, rtol=1e-5)


def test_samples_of_weight_0_are_not_looked_at():
    weights = np.arange(30) > 3
    harmed = np.where(weights[:, None], SAMPLES, np.nan)
    found = pseudo_label(Task(FEATURES.features, weights=weights), ClassNames(harmed, PROMPTS))
    np.testing.assert_array_equal(found.labels[4:], cosines(SAMPLES, PROMPTS).argmax(1)[4:])
    assert np.isfinite(found.shares).all()


def test_inside_jit_and_vmap_as_outside():
    batch = np.stack([SAMPLES, SAMPLES[::-1]])

    @jax.jit
    @jax.vmap
    def label(samples):
        return pseudo_label(FEATURES, ClassNames(samples, jnp.asarray(PROMPTS))).labels

    expected = [pseudo_label(FEATURES, ClassNames(samples, PROMPTS)).labels for samples in batch]
    np.testing.assert_array_equal(label(batch), np.stack(expected))


def test_held_out_samples_follow_those_of_training():
    reference = Task(FEATURES.features, np.arange(30) % 2)
    parts = [Task(FEATURES.features[rows]) for rows in (slice(20), slice(20, None))]
    names, expected = ClassNames(SAMPLES, PROMPTS), cosines(SAMPLES, PROMPTS).argmax(1)
    (_, target), held_out, _ = pseudo_labelled_tasks(
        reference, parts[0], (reference, parts[1]), labels=names, views=None, class_prior="clusters", key=0
    )
    assert held_out is not None
    np.testing.assert_array_equal(target.labels, expected[:20])
    np.testing.assert_array_equal(held_out[1].labels, expected[20:])


@pytest.mark.slow
def test_a_bound_is_about_the_named_classes():
    rng = np.random.default_rng(1)
    centres, labels = 3 * rng.normal(size=(3, 4)), np.arange(90) % 3
    features = centres[labels] + rng.normal(size=(90, 4))
    names = ClassNames(np.eye(3)[labels] + 0.1, np.eye(3))
    reference, target = Task(features, labels), Task(features + 1)
    result = task_relatedness(
        reference,
        Task(target.features[:60]),
        evaluate_on=(reference, Task(target.features[60:])),
        pseudo_labels=names,
        method=Joint(num_steps=5),
    )
    assert result.pseudo_labels is not None
    np.testing.assert_array_equal(result.pseudo_labels.labels, labels)
    assert result.target_loss <= result.bound


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ClassNames(SAMPLES[0], PROMPTS), r"samples must have shape \(n, t\), got \(5,\)"),
        (lambda: ClassNames(SAMPLES, PROMPTS[0, 0]), r"names must have shape \(k, t\) or \(k, p, t\), got \(5,\)"),
        (lambda: ClassNames(SAMPLES, PROMPTS[:, :0]), r"got \(4, 0, 5\)"),
        (lambda: ClassNames(SAMPLES, PROMPTS[..., :4]), "samples have width 5 and names 4: embed both"),
        (lambda: ClassNames(SAMPLES, PROMPTS[:1]), "one class: pass at least two"),
        (lambda: ClassNames(SAMPLES, PROMPTS, temperature=0), "temperature is 0: pass a positive number"),
        (lambda: ClassNames(SAMPLES, np.full((2, 5), np.nan)), r"row \[0\] of names is 0 or not finite \(2 such"),
        (lambda: ClassNames(SAMPLES, PROMPTS * (np.arange(3) < 2)[:, None]), r"row \[0, 2\] of names is 0"),
        (
            lambda: ClassNames(SAMPLES, np.stack([PROMPTS[:, 0], -PROMPTS[:, 0]], 1)),
            "row .0. of the means over prompts",
        ),
        (lambda: ClassNames(["a"], PROMPTS), "samples must be real numbers"),
        (
            lambda: pseudo_label(FEATURES, ClassNames(SAMPLES * (np.arange(30) != 7)[:, None], PROMPTS)),
            r"row \[7\] of samples is 0 or not finite \(1 such",
        ),
        (lambda: pseudo_label(FEATURES, ClassNames(SAMPLES[:9], PROMPTS)), "has 9 rows, the target 30 samples"),
        (
            lambda: pseudo_label(Task(FEATURES.features, num_classes=3), ClassNames(SAMPLES, PROMPTS)),
            "ClassNames has 4 names, but num_classes is 3: leave num_classes out",
        ),
    ],
)
def test_misuse_of_names_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
