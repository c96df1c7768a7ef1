"""The number to rank by: recipes with and without labels, chance, intervals, invariances, misuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import Task, transferability_score
from jaxrel._core.halves import second_half
from jaxrel.metrics import ScoreStatus
from jaxrel.metrics.held_out_discriminant import balanced_shares, held_out_hits
from jaxrel.metrics.stratified_resamples import resampled_means
from jaxrel.metrics.transferability import (
    COMBINED_RECIPE,
    LABEL_FREE_RECIPE,
    LABELLED_RECIPE,
    PARTLY_LABELLED_RECIPE,
    VIEWS_IN_LABELS,
)

CENTRES = np.random.default_rng(0).normal(size=(3, 8))


def sample(quality: float, *, n: int = 60, seed: int = 1) -> Task:
    """Three classes, further apart the larger the quality."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return Task(quality * CENTRES[labels] + rng.normal(size=(n, 8)), labels, num_classes=3)


def classes(sizes: list[int], *, quality: float, d: int, seed: int = 0) -> Task:
    """Gaussian classes of these sizes; of quality 0 they are the same."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return Task(quality * rng.normal(size=(len(sizes), d))[labels] + rng.normal(size=(labels.size, d)), labels)


def views_of(task: Task, *, seed: int = 0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = np.asarray(task.features)
    first, second = (features + noise * rng.normal(size=features.shape) for _ in range(2))
    return first, second


def test_good_features_are_known_from_none() -> None:
    good, none = (transferability_score(sample(quality)) for quality in (3.0, 0.0))
    assert good.recipe == LABELLED_RECIPE
    assert float(good) > 0.95
    assert float(none.lower) < 1 / 3 < float(none.upper)
    assert good.raise_if_failed() is good
    assert good.resamples.shape == (1000,)


def test_discriminant_against_numpy() -> None:
    """With the halves as dealt; everything else from its definition, in float64."""
    task, key = sample(0.7), jax.random.key(3)
    weights = np.random.default_rng(2).choice([0.0, 0.5, 1.0], 60).astype(np.float32)
    labels = np.asarray(task.labels)
    found, _ = held_out_hits(task.features, labels, weights, key, num_classes=3, num_repeats=1, shrinkage=0.3)
    second = np.asarray(second_half(jnp.asarray(labels), jnp.asarray(weights), jax.random.split(key, 1)[0]))
    points, total = np.asarray(task.features, np.float64), weights.sum()
    points = points - weights @ points / total
    points = points / np.sqrt(weights @ points**2 / total)
    for judged in (second, ~second):
        train = np.where(judged, 0, weights).astype(np.float64)
        means = np.stack([np.average(points, axis=0, weights=train * (labels == c)) for c in range(3)])
        within = points - means[labels]
        covariance = 0.7 * (train[:, None] * within).T @ within / train.sum() + 0.3 * np.eye(8)
        gaps = points[:, None] - means
        distances = np.einsum("ncd,de,nce->nc", gaps, np.linalg.inv(covariance), gaps)
        expected = (distances.argmin(axis=1) == labels) & (weights > 0)
        np.testing.assert_array_equal(np.asarray(found)[judged], expected[judged])


def test_halves_have_equal_parts_of_every_class_and_do_not_see_absent_samples() -> None:
    labels, weights = np.repeat([0, 1, 2], [8, 5, 1]), np.ones(14)
    key = jax.random.key(0)
    halves = np.asarray(second_half(jnp.asarray(labels), jnp.asarray(weights), key))
    np.testing.assert_array_equal(np.bincount(labels, halves), [4, 2, 0])
    absent = np.insert(weights, 3, 0.0)
    again = np.asarray(second_half(jnp.asarray(np.insert(labels, 3, 1)), jnp.asarray(absent), key))
    np.testing.assert_array_equal(np.delete(again, 3), halves)


@pytest.mark.parametrize("sizes", [[3] * 10, [2, 18, 100]])
def test_noise_has_the_value_of_chance(sizes: list[int]) -> None:
    """Whatever the sizes of classes, and with more features than samples; left out one at a time, 0.01 of ten."""
    labels = jnp.repeat(jnp.arange(len(sizes)), jnp.asarray(sizes), total_repeat_length=sum(sizes))
    weights = jnp.ones(labels.size)

    def one(key: jax.Array) -> jax.Array:
        features = jax.random.normal(key, (labels.size, 64))
        hits, _ = held_out_hits(features, labels, weights, key, num_classes=len(sizes))
        return balanced_shares(labels, weights, num_classes=len(sizes)) @ hits

    values = np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(0), 300), batch_size=50))
    assert values.mean() == pytest.approx(1 / len(sizes), abs=4 * values.std() / np.sqrt(300))


def test_imbalance_is_no_merit() -> None:
    """5 : 500 of noise is told right 99 % of the time by a constant guess."""
    noise, signal = (transferability_score(classes([5, 500], quality=quality, d=32)) for quality in (0.0, 2.0))
    assert float(noise.majority) == pytest.approx(500 / 505)
    assert float(noise) == pytest.approx(0.5, abs=0.12)
    assert float(noise.accuracy) > 0.9
    assert float(signal) > 0.95
    assert float(signal.lower) > float(noise.upper)


@pytest.mark.parametrize("num_classes", [2, 20, 50])
def test_separable_classes_are_told_apart_however_many_there_are(num_classes: int) -> None:
    assert float(transferability_score(classes([10] * num_classes, quality=4.0, d=64))) > 0.99


def test_more_features_than_samples() -> None:
    found = transferability_score(classes([6] * 4, quality=2.0, d=200))
    assert float(found) > 0.9
    assert found.messages == ()


def test_few_labels_have_a_wide_interval() -> None:
    """Also where all of them are told right: of 20 right answers nobody concludes 100 %."""
    found = transferability_score(classes([5] * 4, quality=4.0, d=16))
    assert float(found) == 1
    assert 0.8 < float(found.lower) < 0.95


def test_classes_of_one_and_two_samples() -> None:
    two = transferability_score(classes([2] * 10, quality=5.0, d=32))
    assert float(two) > 0.95
    lonely = transferability_score(classes([10, 10, 1], quality=5.0, d=32))
    assert float(lonely) == 1  # the class of one sample cannot be judged, and counts neither way
    assert float(lonely.accuracy) == 1
    assert float(lonely.hits[-1]) == 0


def test_an_empty_class_changes_nothing() -> None:
    task = sample(0.7)
    gap = Task(task.features, 2 * np.asarray(task.labels), num_classes=6)
    np.testing.assert_array_equal(transferability_score(gap).hits, transferability_score(task).hits)


def test_constant_features_have_chance_and_a_status() -> None:
    for level in (0.0, 3.3, 1e6):
        found = transferability_score(Task(np.full((60, 8), level), sample(1.0).labels))
        assert float(found) == pytest.approx(1 / 3, rel=1e-6)
        assert int(found.status) == ScoreStatus.CONSTANT_FEATURES
        with pytest.raises(RuntimeError, match="same features"):
            found.raise_if_failed()


def test_hits_are_the_values_and_the_interval_is_about_them() -> None:
    weights = np.linspace(0.5, 1, 60)
    weighted = Task(sample(0.7).features, sample(0.7).labels, weights=weights, num_classes=3)
    found = transferability_score(weighted)
    live, hits, labels = (np.asarray(array) for array in (weighted.weights, found.hits, weighted.labels))
    balanced = [np.average(hits[labels == c], weights=live[labels == c]) for c in range(3)]
    assert float(found) == pytest.approx(np.mean(balanced), rel=1e-6)
    assert float(found.accuracy) == pytest.approx(np.average(hits, weights=live), rel=1e-6)
    assert 0 <= float(found.lower) < float(found) < float(found.upper) <= 1
    assert float(found.lower) == pytest.approx(np.quantile(found.resamples, 0.05), rel=1e-5)
    wide = transferability_score(weighted, confidence=0.99)
    assert float(wide.upper - wide.lower) > float(found.upper - found.lower)


def test_scale_shift_and_duplicates() -> None:
    task = sample(0.7)
    plain = transferability_score(task)
    features = np.asarray(task.features)
    for changed in (4 * features + 2, 1e-20 * features, 1e20 * features, np.hstack([features, features])):
        found = transferability_score(Task(changed, task.labels))
        np.testing.assert_allclose(found.hits, plain.hits, atol=0.34)  # a tie may fall the other way
        assert float(found) == pytest.approx(float(plain), abs=0.02)
    # An offset of 3e4 leaves four digits of the features in float32.
    assert float(transferability_score(Task(features + 3e4, task.labels))) == pytest.approx(float(plain), abs=0.02)


def test_float32_against_float64() -> None:
    single = transferability_score(sample(0.7))
    assert single.value.dtype == np.float32
    with jax.enable_x64(True):
        task = sample(0.7)
        double = transferability_score(Task(np.asarray(task.features, np.float64), task.labels))
        assert double.value.dtype == np.float64
        np.testing.assert_allclose(single.hits, double.hits)


def test_absent_samples_do_not_exist() -> None:
    task, features = sample(0.7), np.asarray(sample(0.7).features)
    weights = np.ones(60)
    weights[[3, 10, 40, 41]] = 0
    rubbish = np.where(weights[:, None] > 0, features, 1e6)
    found = transferability_score(Task(rubbish, task.labels, weights=weights))
    alone = transferability_score(Task(features[weights > 0], np.asarray(task.labels)[weights > 0]))
    np.testing.assert_array_equal(np.asarray(found.hits)[weights > 0], alone.hits)
    np.testing.assert_array_equal(np.asarray(found.hits)[weights == 0], 0)
    np.testing.assert_allclose(found.resamples, alone.resamples, rtol=1e-6)


def test_many_encoders_at_once() -> None:
    task = sample(0.7)
    stack = jnp.stack([task.features, 2 * task.features, sample(2.0).features])
    one = jax.vmap(lambda rows: held_out_hits(rows, task.labels, task.weights, jax.random.key(0), num_classes=3)[0])
    expected = [transferability_score(Task(rows, task.labels)).hits for rows in stack]
    np.testing.assert_allclose(one(stack), expected)


# Streamed.


def stored(folder: Path, task: Task) -> Task:
    np.save(folder / "features.npy", np.asarray(task.features))
    return Task(np.load(folder / "features.npy", mmap_mode="r"), task.labels, weights=task.weights)


def least_budget(task: Task) -> int:
    """That a target which is streamed needs, as it says itself."""
    with pytest.raises(ValueError, match="memory_budget of 1 bytes is too small") as caught:
        transferability_score(task, memory_budget=1)
    return int(re.findall(r"[\d,]+(?= bytes, pass)", str(caught.value))[0].replace(",", ""))


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_streamed_target_has_the_numbers_of_the_whole(offset: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    labels = np.sort(rng.choice(4, 1200, p=[0.5, 0.3, 0.19, 0.01]))  # so that blocks lack classes
    features = (1.5 * rng.normal(size=(4, 8))[labels] + rng.normal(size=(1200, 8))).astype(np.float32) + offset
    features[:, 5] = 7.1
    task = Task(features, labels, weights=rng.choice([0.0, 0.5, 1.0], 1200))
    whole = transferability_score(task, num_resamples=20)
    mapped = stored(tmp_path, task)
    for given, budget in ((task, least_budget(task)), (mapped, least_budget(mapped) + 50_000)):
        found = transferability_score(given, num_resamples=20, memory_budget=budget)
        assert np.count_nonzero(np.asarray(found.hits) != np.asarray(whole.hits)) <= (1 if offset else 0)
        for name in ("value", "lower", "upper", "accuracy", "majority", "status"):
            assert float(getattr(found, name)) == pytest.approx(
                float(getattr(whole, name)), abs=1e-3 if offset else 1e-5
            )
        assert found.hits.shape == (1200,)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_streamed_target_may_have_any_size_and_constant_features(size: float) -> None:
    task = sample(2.0, n=600)
    features = size * np.asarray(task.features)
    for rows in (features, np.full_like(features, size)):
        given = Task(rows, task.labels)
        whole, streamed = (transferability_score(given, memory_budget=of) for of in (None, least_budget(given)))
        np.testing.assert_array_equal(streamed.hits, whole.hits)
        assert int(streamed.status) == int(whole.status)


def test_a_stored_target_that_fits_is_taken_whole_and_streams_in_float64(tmp_path: Path) -> None:
    task = sample(0.7, n=600)
    np.testing.assert_array_equal(transferability_score(stored(tmp_path, task)).hits, transferability_score(task).hits)
    with jax.enable_x64(True):
        wide = Task(np.asarray(task.features, np.float64), task.labels)
        streamed = transferability_score(wide, memory_budget=least_budget(wide))
        assert streamed.value.dtype == np.float64
        np.testing.assert_array_equal(streamed.hits, transferability_score(wide).hits)


def test_what_a_budget_cannot_hold_is_refused_with_what_would_do(tmp_path: Path) -> None:
    task = sample(1.0, n=600)
    with pytest.raises(ValueError, match="whole number of bytes"):
        transferability_score(task, memory_budget=1e9)
    unlabelled = Task(task.features)
    with pytest.raises(ValueError, match=r"with views the target is used whole.*pass a random subset"):
        transferability_score(unlabelled, views=views_of(task), memory_budget=1000)
    features = np.asarray(task.features).copy()
    features[412, 3] = np.nan
    np.save(tmp_path / "features.npy", features)
    bad = Task(np.load(tmp_path / "features.npy", mmap_mode="r"), task.labels)
    for budget in (None, least_budget(bad)):
        with pytest.raises(ValueError, match=r"features\[412, 3\] is nan"):
            transferability_score(bad, memory_budget=budget)
    weighted = Task(bad.rows(slice(None)), task.labels, weights=np.arange(600) != 412)
    assert float(transferability_score(weighted, memory_budget=least_budget(weighted))) > 0.5


# Intervals.


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], [80, 20])
    covered = 0
    for trial in range(200):
        hits = rng.random(100) < np.where(strata, 0.9, 0.6)
        shares = 0.5 / np.bincount(strata)[strata]
        means = resampled_means(hits, shares, strata=strata, num_resamples=300, key=trial)
        low, high = np.quantile(means, [0.05, 0.95])
        covered += low <= 0.75 <= high
    assert 0.83 <= covered / 200 <= 0.97  # 0.9; of 200 trials, three deviations are 0.064


def test_resamples_of_equal_samples_are_paired() -> None:
    hits, shares = np.arange(20) % 2, np.ones(20)
    first, second = resampled_means(hits, shares, key=3), resampled_means(np.ones(20), shares, key=3)
    other = resampled_means(1 - hits, shares, key=3)
    assert np.std(first + other - second) < 0.05 < np.std(first)
    assert np.all(second - first > 0)


def test_resamples_weigh_samples_as_the_value_does() -> None:
    hits, shares = np.arange(200) % 2, np.where(np.arange(200) % 2, 3.0, 1.0)
    assert resampled_means(hits, shares).mean() == pytest.approx(0.75, abs=0.01)
    absent = np.where(np.arange(200) < 100, shares, 0)
    np.testing.assert_allclose(resampled_means(hits, absent), resampled_means(hits[:100], shares[:100]))


def test_deviation_of_resamples_is_that_of_the_balanced_mean() -> None:
    strata, rng = np.repeat([0, 1], [400, 40]), np.random.default_rng(1)
    hits = rng.random(440) < 0.5
    shares = 0.5 / np.bincount(strata)[strata]
    by_class = [np.var(hits[strata == c], ddof=1) / np.sum(strata == c) for c in range(2)]
    found = resampled_means(hits, shares, strata=strata, num_resamples=4000)
    assert found.std() == pytest.approx(np.sqrt(sum(by_class)) / 2, rel=0.08)


# Without labels.


def test_label_free_recipe_tells_what_views_keep_from_what_they_change() -> None:
    target = Task(sample(5.0, n=120).features)
    kept = transferability_score(target, views=views_of(target))
    changed = transferability_score(target, views=views_of(Task(np.asarray(target.features)[::-1].copy())))
    assert kept.recipe == LABEL_FREE_RECIPE
    assert float(kept) > float(changed) + 0.2
    assert np.isnan(float(kept.majority))


def test_an_encoder_collapsed_to_a_few_points_is_below_a_good_one() -> None:
    rng = np.random.default_rng(0)
    features = 10 * rng.normal(size=(20, 8))[np.arange(240) % 20] + rng.normal(size=(240, 8))
    good = float(transferability_score(Task(features), views=views_of(Task(features))))
    values = []
    for count in (1, 2, 3, 5, 12):
        points = Task(rng.normal(size=(count, 8))[np.arange(240) % count])
        # Nothing is told from the views of each point but the point, and that surely.
        values.append(float(transferability_score(points, views=views_of(points, noise=1e-3))))
    assert values[0] == 0
    assert max(values[:4]) < 0.5 * good
    assert values[4] < good


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (sample(1.0), {"confidence": 1.0}, "confidence is 1.0"),
        (sample(1.0), {"num_resamples": 1}, "num_resamples is 1"),
        (sample(1.0), {"key": 1.5}, "key must be .* an integer"),
        (sample(1.0), {"key": -1}, "key must be .* an integer from 0"),
        (Task(sample(1.0).features, np.zeros(60, int)), {}, "same label"),
        (Task(sample(1.0).features, np.arange(60)), {}, "no target class has two samples"),
        (Task(sample(1.0).features), {}, "pass views"),
        (Task(sample(1.0).features), {"views": views_of(sample(1.0, n=30))}, r"views\[0\] has shape"),
        (Task(sample(1.0, n=30).features), {"views": views_of(sample(1.0, n=30))}, "at least 40 are needed"),
        (np.zeros((3, 2)), {}, "target must be a Task"),
    ],
)
def test_misuse_is_named_before_any_work(target: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transferability_score(target, **options)


def partly(task: Task, num_labelled: int, *, seed: int = 0) -> Task:
    """The same samples, of which so many have a label."""
    labels = np.array(task.labels)
    labels[np.random.default_rng(seed).permutation(labels.size)[num_labelled:]] = -1
    return Task(task.features, labels, num_classes=task.num_classes)


def test_labels_and_views_are_mixed_by_what_they_are_worth() -> None:
    task = partly(sample(0.8, n=100), 30)
    views = views_of(task)
    both = transferability_score(task, views=views)
    by_labels = transferability_score(task)
    by_views = transferability_score(Task(task.features), views=views)
    assert (by_labels.recipe, both.recipe) == (PARTLY_LABELLED_RECIPE, COMBINED_RECIPE)
    assert int(both.num_labelled) == int(by_labels.num_labelled) == 30
    share = 30 / (30 + VIEWS_IN_LABELS * (1 - 30 / 100))
    assert float(both.label_share) == pytest.approx(share)
    assert (float(by_labels.label_share), float(by_views.label_share)) == (1, 0)
    assert float(both) == pytest.approx(share * float(by_labels) + (1 - share) * float(by_views), abs=1e-6)
    np.testing.assert_allclose(both.resamples, share * by_labels.resamples + (1 - share) * by_views.resamples, 1e-5)
    assert both.lower < both.value < both.upper
    known = np.asarray(task.labels) >= 0
    np.testing.assert_array_equal(both.hits[known], by_labels.hits[known])
    np.testing.assert_array_equal(both.hits[~known], by_views.hits[~known])
    assert not by_labels.hits[~known].any()


def test_labels_of_some_samples_are_scored_like_a_target_of_these() -> None:
    task = partly(sample(0.8, n=100), 40)
    rows = np.flatnonzero(np.asarray(task.labels) >= 0)
    alone = Task(np.asarray(task.features)[rows], np.asarray(task.labels)[rows])
    hits, _ = held_out_hits(
        alone.features, alone.labels, alone.weights, jax.random.key(0), num_classes=3, num_repeats=12
    )
    found = transferability_score(task)
    np.testing.assert_allclose(found.hits[rows], hits, atol=1e-6)
    assert float(found.majority) == pytest.approx(np.bincount(alone.labels).max() / 40)


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 0]])
def test_labels_that_tell_nothing_leave_the_views(labels: list[int]) -> None:
    task = sample(0.8)
    views = views_of(task)
    few = Task(task.features, labels + [-1] * (60 - len(labels)), num_classes=3)
    found = transferability_score(few, views=views)
    expected = transferability_score(Task(task.features), views=views)
    assert (float(found), float(found.lower)) == (float(expected), float(expected.lower))
    assert (float(found.label_share), found.messages) == (0, ())
    assert np.isnan(float(found.accuracy))
    assert found.recipe == LABEL_FREE_RECIPE
    with pytest.raises(ValueError, match=r"the same label|two samples"):
        transferability_score(few)


def test_the_number_goes_from_that_of_views_to_that_of_labels() -> None:
    task = sample(1.0, n=120)
    views = views_of(task)
    shares = [float(transferability_score(partly(task, m), views=views).label_share) for m in (6, 30, 60, 119)]
    assert shares == sorted(shares)
    assert shares[-1] > 0.99
    nearly = transferability_score(partly(task, 119), views=views)
    assert float(nearly) == pytest.approx(float(transferability_score(task)), abs=0.03)


def test_views_are_not_looked_at_where_all_samples_have_a_label() -> None:
    task = sample(1.0)
    found, expected = (transferability_score(task, **given) for given in ({"views": views_of(task)}, {}))
    assert (float(found), float(found.lower), found.recipe) == (float(expected), float(expected.lower), expected.recipe)
    assert float(found.label_share) == 1


def test_a_missing_label_that_is_not_seen_is_no_number() -> None:
    labels = np.where(np.arange(60) < 30, np.arange(60) % 3, -1)
    score = jax.jit(lambda labels: transferability_score(Task(sample(1.0).features, labels, num_classes=3)))(labels)
    assert np.isnan(float(score))
    assert ScoreStatus(int(score.status)) & ScoreStatus.UNDEFINED


def test_few_labels_are_traced_over_encoders() -> None:
    tasks = [partly(sample(quality, n=64), 24) for quality in (0.5, 1.0)]
    views = [views_of(task) for task in tasks]

    def both(task: Task, first: Any, second: Any) -> Any:
        return transferability_score(task, views=(first, second), num_resamples=50)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    together = jax.jit(jax.vmap(both))(stacked, *map(np.stack, zip(*views, strict=True)))
    alone = [both(task, *pair) for task, pair in zip(tasks, views, strict=True)]
    np.testing.assert_allclose(together.value, [float(one) for one in alone], atol=1e-5)
    np.testing.assert_allclose(together.label_share, [float(one.label_share) for one in alone], rtol=1e-6)
    np.testing.assert_allclose(together.hits, np.stack([one.hits for one in alone]), atol=1e-6)


def test_absent_samples_count_for_no_label_and_no_view() -> None:
    task = partly(sample(0.8, n=100), 30)
    views = views_of(task)
    padded = tuple(np.concatenate([view, np.full((20, 8), 7.0)]) for view in views)
    found = transferability_score(task.padded(120), views=padded)
    expected = transferability_score(task, views=views)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    assert float(found.label_share) == pytest.approx(float(expected.label_share))


def test_few_labels_of_a_stored_target(tmp_path: Path) -> None:
    task = partly(sample(0.8, n=3000), 200)
    np.save(tmp_path / "features.npy", np.asarray(task.features))
    stored = Task(np.load(tmp_path / "features.npy", mmap_mode="r"), task.labels, num_classes=3)
    found = transferability_score(stored, memory_budget=200_000)
    assert float(found) == pytest.approx(float(transferability_score(task)), abs=1e-6)
    with pytest.raises(ValueError, match="with views the target is used whole"):
        transferability_score(stored, views=views_of(task), memory_budget=200_000)
