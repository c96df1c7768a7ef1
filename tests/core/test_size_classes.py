"""Samples are padded to few sizes, which changes no value and lets sizes share what is compiled."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from score_problems import NAMES, problem

from jaxrel import Joint, Task, task_relatedness, transferability_score
from jaxrel._core import programs
from jaxrel._core.size_classes import in_size_class, padded_rows, size_class, with_rows
from jaxrel.metrics import METRICS, h_score, nearest_neighbours_score, score_encoders
from jaxrel.metrics.held_out_discriminant import held_out_hits

# Each compiles twice here; the others are asked with the slow tests.
CHEAP = {"cka", "gbc", "h_score", "leep", "mmd", "nce", "nearest_neighbours"}


def labelled(n, *, d=4, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    return (rng.normal(size=(n, d)) + rng.normal(size=(num_classes, d))[labels]).astype(np.float32), labels


@pytest.fixture
def compilations(monkeypatch):
    """How many there were since, in this process."""
    monkeypatch.setattr(programs, "_BETWEEN_LOOKS", float("inf"))
    before = programs._compilations.new
    return lambda: programs._compilations.new - before


def test_size_classes_are_few_and_waste_little():
    sizes = np.arange(1, 20_000)
    classes = np.asarray([size_class(int(size)) for size in sizes])
    assert (classes >= sizes).all()
    assert (np.diff(classes) >= 0).all()
    assert (classes - sizes)[sizes <= 512].max() < 32
    assert ((classes - sizes) / sizes)[sizes > 512].max() < 1 / 8
    assert ((classes - sizes) / sizes)[sizes > 512].mean() < 0.05
    assert np.unique(classes).size < 80
    assert [size_class(int(size)) for size in np.unique(classes)] == np.unique(classes).tolist()


@pytest.mark.parametrize("name", [n if n in CHEAP else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_padding_changes_no_metric(name):
    metric = METRICS[name]
    data = problem(n=61)
    data |= {"labels": np.arange(61) % 3, "reference_labels": np.arange(10) % 2}
    given = [data[need] for need in metric.needs]
    padded, plain = metric.function(*given), inspect.unwrap(metric.function)(*given)
    for one, other in zip(jax.tree.leaves(padded), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=5e-5, atol=2e-6)


def test_padding_leaves_weights_and_class_counts_as_they_are():
    features, labels = labelled(70)
    options = {"weights": np.random.default_rng(1).integers(0, 3, 70), "num_classes": 5}
    padded = nearest_neighbours_score(features, labels, **options)
    plain = nearest_neighbours_score.__wrapped__(features, labels, **options)  # type: ignore[attr-defined]
    np.testing.assert_allclose(padded.value, plain.value, rtol=1e-6)


@pytest.mark.slow
def test_padding_leaves_folds_as_they_are():
    features, labels = labelled(70)
    options = {"num_folds": 4, "folds": np.arange(70) % 4}
    probe: Any = METRICS["ridge_probe"].function
    padded, plain = probe(features, labels, **options), probe.__wrapped__(features, labels, **options)
    np.testing.assert_allclose(padded.value, plain.value, rtol=1e-6)


def test_the_hits_of_transferability_are_those_of_the_unpadded_samples():
    features, labels = labelled(101)
    found = transferability_score(Task(features, labels), key=3)
    hits, _ = held_out_hits(jnp.asarray(features), jnp.asarray(labels), jnp.ones(101), jax.random.key(3), num_classes=3)
    np.testing.assert_allclose(found.hits, hits, atol=1e-6)


def test_forty_sizes_of_a_metric_share_two_programs(compilations):
    for n in (100, 139):  # classes 128 and 160
        h_score(*labelled(n))
    before = compilations()
    for n in range(100, 140):
        h_score(*labelled(n))
    assert compilations() == before


def test_forty_sizes_of_transferability_and_of_batches_share_programs(compilations):
    def both(n):
        features, labels = labelled(n)
        transferability_score(Task(features, labels), num_resamples=10)
        score_encoders([features, features + 1], labels, metrics=["gbc"])

    for n in (100, 139):
        both(n)
    before = compilations()
    for n in range(101, 139, 3):
        both(n)
    assert compilations() == before


@pytest.mark.slow
def test_twelve_sizes_of_task_relatedness_share_one_program(compilations):
    def relate(n):
        reference, target = (Task(*labelled(n, num_classes=5, seed=seed)) for seed in (0, 1))
        return task_relatedness(reference, target, method=Joint(num_steps=2, points_per_class=4))

    relate(100)
    before = compilations()
    results = {n: relate(n) for n in range(97, 121, 2)}
    assert compilations() == before
    assert results[97].computed_with.num_target == 97


@pytest.mark.slow
def test_padding_changes_no_bound(monkeypatch):
    reference, target = (Task(*labelled(100, seed=seed)) for seed in (0, 1))
    run = functools.partial(task_relatedness, reference, target, method=Joint(num_steps=30, ridge=0.01))
    padded = run()
    monkeypatch.setattr("jaxrel._core.size_classes.size_class", lambda n: n)
    assert float(padded.bound) == pytest.approx(float(run().bound), rel=1e-3)


def test_what_is_traced_sharded_or_no_array_of_numbers_is_not_padded():
    features, labels = labelled(50)
    given = {"features": [features], "labels": [labels]}
    assert {name: rows[0].shape[0] for name, rows in padded_rows(given).items()} == dict.fromkeys(
        ("weights", "features", "labels"), 64
    )
    assert padded_rows(given | {"labels": [labels.tolist()]}) == {}
    assert padded_rows(given | {"labels": [labels.astype(str)]}) == {}
    assert padded_rows(given | {"labels": [labels[:-1]]}) == {}  # left to the metric, which says what is wrong
    assert padded_rows(given | {"features": [np.ma.masked_array(features)]}) == {}
    mesh = jax.make_mesh((2,), ("samples",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(features, NamedSharding(mesh, PartitionSpec("samples")))
    assert padded_rows(given | {"features": [spread]}) == {}
    assert padded_rows(given | {"features": [jnp.asarray(features)]})["features"][0].shape == (64, 4)
    jax.jit(lambda rows: (padded_rows({"features": [rows]}) == {}) or 1 / 0)(features)
    assert in_size_class(Task(features, labels)).features.shape == (64, 4)


def test_rows_are_appended_to_arrays_of_every_dtype():
    for rows in (np.ones((3, 2), np.float64), np.ones(3, np.int32), jnp.ones((3, 2), jnp.bfloat16)):
        padded = with_rows(rows, 5)
        assert padded.shape == (5, *rows.shape[1:])
        assert padded.dtype == rows.dtype
        np.testing.assert_array_equal(np.asarray(padded[:3], float), 1)
        np.testing.assert_array_equal(np.asarray(padded[3:], float), 0)


def test_a_missing_argument_is_named_as_ever():
    with pytest.raises(TypeError, match=r"h_score\(\) missing 1 required positional argument: 'labels'"):
        h_score(labelled(10)[0])
