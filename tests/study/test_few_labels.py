"""Targets of which some samples have labels, in a study: what is scored, and what is said of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxrel
from jaxrel import Task, metrics
from jaxrel.study import FeatureArrays, Record, Settings, Study, run

METHOD = jaxrel.Joint(num_steps=5, points_per_class=10)
FAST = Settings(resamples=20, method=METHOD, strict=True)


def few_labels(*, n: int = 80, num_labelled: int = 30, seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = 2 * np.eye(3, 6)[labels] + rng.normal(size=(n, 6))
    return Task(features, np.where(np.arange(n) < num_labelled, labels, -1))


def views_of(task: Task) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    first, second = (np.asarray(task.features) + 0.3 * rng.normal(size=task.features.shape) for _ in range(2))
    return first, second


def records(target: FeatureArrays, *names: str, settings: Settings = FAST, **options: Any) -> list[Record]:
    return list(run(Study(["net"], [target], metrics=names, settings=settings, **options).plan()).entries)


def test_views_are_taken_where_there_are_any() -> None:
    task = few_labels()
    views = views_of(task)
    (alone,) = records(FeatureArrays("mine", {"net": task}), "transferability")
    (both,) = records(FeatureArrays("mine", {"net": task}, views={"net": views}), "transferability")
    assert alone.value == pytest.approx(float(jaxrel.transferability_score(task)))
    assert both.value == pytest.approx(float(jaxrel.transferability_score(task, views=views)))
    assert alone.texts["recipe"].endswith("of those that have a label (30 labels of 80 samples, 100% of the value)")
    assert both.texts["recipe"].endswith("cross-view probe on all (30 labels of 80 samples, 49% of the value)")


def test_other_metrics_are_of_the_samples_with_a_label() -> None:
    task = few_labels()
    known = np.asarray(task.labels) >= 0
    given = np.asarray(task.features)[known], np.asarray(task.labels)[known]
    mine = FeatureArrays("mine", {"net": task}, views={"net": views_of(task)})
    found = records(mine, "logme", "cross_view", "h_score")
    values = {record.metric: record.value for record in found}
    assert values["logme"] == pytest.approx(float(metrics.logme_score(*given).value), rel=1e-5)
    assert values["h_score"] == pytest.approx(float(metrics.h_score(*given).value), rel=1e-5)


def test_a_number_without_an_interval_needs_all_labels() -> None:
    settings = Settings(resamples=0, strict=True)
    with pytest.raises(ValueError, match=r"some samples of 'mine' have no label: .*at least 2 resamples"):
        records(FeatureArrays("mine", {"net": few_labels()}), "transferability", settings=settings)


@pytest.mark.slow
def test_a_bound_is_about_the_samples_with_a_label() -> None:
    reference, (task, held_out) = few_labels(num_labelled=80, seed=2), (few_labels(), few_labels(seed=3))
    source = FeatureArrays("known", {"net": (reference, reference)})
    (found,) = records(FeatureArrays("mine", {"net": (task, held_out)}), "bound", references=[source])
    assert found.texts["target_labels"] == "given, of 30 of 80 samples"
    known = [Task(np.asarray(part.features)[:30], np.asarray(part.labels)[:30]) for part in (task, held_out)]
    expected = jaxrel.task_relatedness(reference, known[0], evaluate_on=(reference, known[1]), method=METHOD)
    assert found.value == pytest.approx(float(expected.bound), rel=1e-3)
    assert found.resamples


def test_a_probe_learns_from_the_samples_with_a_label() -> None:
    task, held_out = few_labels(n=120, num_labelled=60), few_labels(n=120, num_labelled=60, seed=3)
    (found,) = records(FeatureArrays("mine", {"net": (task, held_out)}), "probe_accuracy")
    known = [Task(np.asarray(part.features)[:60], np.asarray(part.labels)[:60]) for part in (task, held_out)]
    (expected,) = records(FeatureArrays("mine", {"net": (known[0], known[1])}), "probe_accuracy")
    assert found.value == expected.value > 0.5
    assert found.numbers["test_samples"] == 60


@pytest.mark.slow
def test_a_bound_is_about_the_labelled_samples_of_a_reference() -> None:
    reference, task = few_labels(num_labelled=60, seed=2), few_labels(num_labelled=80)
    known = Task(np.asarray(reference.features)[:60], np.asarray(reference.labels)[:60])
    mine = FeatureArrays("mine", {"net": (task, task)})
    values = [
        records(mine, "bound", references=[FeatureArrays("known", {"net": (given, given)})])[0].value
        for given in (reference, known)
    ]
    assert values[0] == pytest.approx(values[1], rel=0.05)


def test_a_bound_needs_all_labels_of_the_reference() -> None:
    with pytest.raises(ValueError, match=r"some samples of reference have no label: pass task\.of_labelled\(\)"):
        jaxrel.task_relatedness(few_labels(), few_labels(num_labelled=80))
    traced = jax.jit(lambda task: jaxrel.task_relatedness(task.of_labelled(), task, method=METHOD).bound)
    assert np.isfinite(float(traced(few_labels())))


@pytest.mark.parametrize("num_samples", [40, 60])
def test_samples_with_a_label_are_drawn_first(num_samples: int, tmp_path: Path) -> None:
    mine = FeatureArrays("mine", {"net": few_labels()})
    study = Study(["net"], [mine], metrics=["transferability"], samples=[num_samples], settings=FAST)
    (found,) = run(study.plan(), output=tmp_path).entries
    labels, samples = map(int, re.findall(r"\d+", found.texts["recipe"])[-3:-1])
    assert (samples, labels) == (num_samples, 30)
