"""The number to rank by: recipes with and without labels, intervals, invariances, misuse."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrel
from jaxrel import Joint, Task, transferability_score
from jaxrel.transferability import LABEL_FREE_RECIPE, LABELLED_RECIPE, resampled_means, transformed_head_hits

FAST = Joint(ridge=0.03, num_steps=30, points_per_class=10)
CENTRES = np.random.default_rng(0).normal(size=(3, 8))


def sample(quality: float, *, n: int = 60, seed: int = 1, shift: float = 0.0, noise: float = 1.0) -> Task:
    """Three classes, further apart the larger the quality."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = quality * CENTRES[labels] + noise * rng.normal(size=(n, 8)) + shift
    return Task(features, labels, num_classes=3)


def views_of(task: Task, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = np.asarray(task.features)
    return features + 0.3 * rng.normal(size=features.shape), features + 0.3 * rng.normal(size=features.shape)


labelled = functools.partial(transferability_score, method=FAST, num_resamples=200)


def test_labelled_recipe_knows_good_features_from_none() -> None:
    reference = sample(3.0, seed=2)
    good, none = (labelled(sample(quality, shift=1.0), reference=reference) for quality in (3.0, 0.0))
    assert good.recipe == LABELLED_RECIPE
    assert float(good) > 0.9
    assert 0.1 < float(none) < 0.6
    assert good.raise_if_failed() is good


def test_label_free_recipe_tells_what_views_keep_from_what_they_change() -> None:
    target = Task(sample(5.0, n=120).features)
    kept = transferability_score(target, views=views_of(target))
    changed = transferability_score(target, views=views_of(Task(np.asarray(target.features)[::-1].copy())))
    assert kept.recipe == LABEL_FREE_RECIPE
    assert float(kept) > float(changed) + 0.2


def test_a_collapsed_encoder_is_not_perfect() -> None:
    constant = np.ones((60, 8))
    assert float(transferability_score(Task(constant), views=(constant, constant))) == 0


def test_hits_are_the_value_and_the_interval_is_about_it() -> None:
    target = sample(1.0)
    weights = np.linspace(0.5, 1, 60)
    weighted = Task(target.features, target.labels, weights=weights, num_classes=3)
    found = labelled(weighted, reference=sample(2.0, seed=2))
    live = np.asarray(weighted.weights)
    assert float(found) == pytest.approx(float(live @ np.asarray(found.hits) / live.sum()), rel=1e-6)
    assert 0 <= float(found.lower) < float(found) < float(found.upper) <= 1
    wide = labelled(weighted, reference=sample(2.0, seed=2), confidence=0.99)
    assert float(wide.upper - wide.lower) > float(found.upper - found.lower)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hits = rng.random(100) < 0.7
        low, high = np.quantile(resampled_means(hits, np.ones(100), num_resamples=400, seed=trial), [0.05, 0.95])
        covered += low <= 0.7 <= high
    assert 0.83 <= covered / 200 <= 0.96  # 0.9; of 200 trials, three deviations are 0.064


def test_resamples_of_equal_samples_are_paired() -> None:
    hits, weights = np.arange(20) % 2, np.ones(20)
    other = resampled_means(1 - hits, weights, seed=3)
    np.testing.assert_allclose(resampled_means(hits, weights, seed=3) + other, 1)


def test_resamples_weigh_samples_as_the_value_does() -> None:
    hits, weights = np.arange(200) % 2, np.where(np.arange(200) % 2, 3.0, 1.0)
    assert resampled_means(hits, weights).mean() == pytest.approx(0.75, abs=0.01)
    absent = np.where(np.arange(200) < 100, weights, 0)
    np.testing.assert_allclose(resampled_means(hits, absent), resampled_means(hits[:100], weights[:100]))


def test_labels_of_a_fold_do_not_reach_its_hits() -> None:
    """Wrong labels in the half that is judged change no prediction there, so hits become misses."""
    target, reference = sample(3.0), sample(3.0, seed=2)
    labels = np.asarray(target.labels)
    key = jax.random.key(0)
    second = np.asarray(jaxrel.relatedness.blocks.kept_aside(target, every=2)[1].weights) > 0
    # Equal numbers of every class in both halves, before and after.
    moved = np.where(second, (labels + 1) % 3, labels)
    swapped = Task(target.features, moved, num_classes=3)
    again = np.asarray(jaxrel.relatedness.blocks.kept_aside(swapped, every=2)[1].weights) > 0
    np.testing.assert_array_equal(again, second)
    compute = jax.jit(transformed_head_hits)
    before, _ = compute(reference, target, key, method=FAST)
    after, _ = compute(reference, swapped, key, method=FAST)
    assert np.asarray(before)[second].mean() > 0.9
    assert np.asarray(after)[second].mean() < 0.1


def test_scale_shift_and_absent_samples_change_nothing() -> None:
    target, reference = sample(1.5), sample(2.0, seed=2)
    plain = labelled(target, reference=reference)
    moved = labelled(
        Task(4 * np.asarray(target.features) + 2, target.labels, num_classes=3),
        reference=Task(4 * np.asarray(reference.features) - 1, reference.labels, num_classes=3),
    )
    np.testing.assert_allclose(moved.hits, plain.hits)
    padded = Task(
        np.concatenate([target.features[:54], np.full((6, 8), 1e6)]),
        target.labels,
        weights=np.concatenate([np.ones(54), np.zeros(6)]),
        num_classes=3,
    )
    found = labelled(padded, reference=reference)
    assert float(found) == pytest.approx(float(plain), abs=0.1)
    np.testing.assert_array_equal(found.hits[54:], 0)


@pytest.mark.slow
def test_many_encoders_at_once() -> None:
    target, reference = sample(1.5), sample(2.0, seed=2)
    stack = jnp.stack([target.features, 2 * target.features, target.features[:, ::-1]])
    references = jnp.stack([reference.features, reference.features, reference.features[:, ::-1]])

    def one(features: jax.Array, reference_features: jax.Array) -> jax.Array:
        pair = reference.replaced(features=reference_features), target.replaced(features=features)
        return transformed_head_hits(*pair, jax.random.key(0), method=FAST)[0].mean()

    batched = jax.jit(jax.vmap(one))(stack, references)
    np.testing.assert_allclose(batched, float(labelled(target, reference=reference)), atol=0.04)


@pytest.mark.slow
def test_a_class_of_one_sample_is_judged_all_the_same() -> None:
    target = Task(np.concatenate([sample(3.0).features, 9 * np.ones((1, 8))]), [*sample(3.0).labels, 3])
    reference = sample(3.0, seed=2, n=80)
    reference = Task(reference.features, np.arange(80) % 4)
    found = labelled(target, reference=reference)
    assert found.hits.shape == (61,)
    assert np.isfinite(float(found))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (sample(1.0), {}, "reference is needed where the target has labels"),
        (sample(1.0), {"reference": sample(1.0), "views": views_of(sample(1.0))}, "leave out views, or the labels"),
        (sample(1.0), {"reference": Task(sample(1.0).features)}, "reference has no labels"),
        (sample(1.0), {"reference": sample(1.0), "method": jaxrel.Paper()}, "method must be a Joint"),
        (sample(1.0), {"reference": sample(1.0), "confidence": 1.0}, "confidence is 1.0"),
        (sample(1.0), {"reference": sample(1.0), "num_resamples": 1}, "num_resamples is 1"),
        (sample(1.0), {"reference": sample(1.0), "seed": 1.5}, "seed must be an integer"),
        (sample(1.0), {"reference": sample(1.0), "seed": -1}, "seed must be between"),
        (Task(sample(1.0).features), {}, "pass views"),
        (Task(sample(1.0).features), {"views": views_of(sample(1.0, n=30))}, r"views\[0\] has shape"),
        (Task(sample(1.0, n=30).features), {"views": views_of(sample(1.0, n=30))}, "at least 40 are needed"),
        (np.zeros((3, 2)), {}, "target must be a Task"),
    ],
)
def test_misuse_is_named_before_any_work(target: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transferability_score(target, **options)


def test_features_that_are_too_large_have_a_status_or_a_number() -> None:
    huge = Task(1e30 * np.asarray(sample(3.0).features), sample(3.0).labels)
    found = labelled(huge, reference=sample(3.0, seed=2))
    assert bool(found.messages) != bool(np.isfinite(float(found)) and int(found.status) == 0)
