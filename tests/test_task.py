"""Validation, padding and the pytree contract of Task."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pytest

from jaxrel import Task

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 2, 1])


def with_value(value: float) -> np.ndarray:
    features = FEATURES.copy()
    features[2, 1] = value
    return features


@pytest.mark.parametrize(
    ("features", "labels", "options", "message"),
    [
        (np.zeros(3), None, {}, r"features must have shape \(n, d\).*got \(3,\)"),
        (np.zeros((2, 2, 2)), None, {}, r"features must have shape .*flatten images"),
        (np.zeros((0, 3)), None, {}, r"features must have shape .*\(0, 3\)"),
        (np.zeros((3, 0)), None, {}, r"features must have shape .*\(3, 0\)"),
        (np.array([["a", "b"]]), None, {}, "features must be real numbers"),
        (FEATURES.astype(complex), None, {}, "features must be real numbers.*complex"),
        (with_value(np.nan), LABELS, {}, r"features\[2, 1\] is nan.*remove or impute"),
        (with_value(np.inf), LABELS, {}, r"features\[2, 1\] is inf"),
        (
            with_value(0).astype(np.float64) + 1e300 * np.eye(4, 3, -2),
            LABELS,
            {},
            r"features\[2, 0\] is 1e\+300, not a finite float32.*rescale",
        ),
        (FEATURES, LABELS[:3], {}, r"labels must have shape \(4,\).*got \(3,\)"),
        (FEATURES, [0.5, 1.0, 2.0, 1.0], {}, r"labels\[0\] is 0.5.*logme_regression_score.*numpy.digitize"),
        (
            FEATURES,
            np.eye(4, 3),
            {},
            r"several labels a sample are tasks of their own, Task\(features, labels\[:, j\]\)",
        ),
        (FEATURES, np.eye(4, 3), {}, r"labels must have shape \(n,\).*one-hot.*argmax"),
        (FEATURES, [0, 1, -2, 1], {}, r"labels\[2\] is -2, outside 0 \.\."),
        (FEATURES, [0, 1, 5, 1], {"num_classes": 3}, r"labels\[2\] is 5, outside 0 \.\. 2.*larger num_classes"),
        (FEATURES, [0, 1, 2**40, 1], {}, r"labels\[2\] is 1099511627776, outside 0"),
        (FEATURES, LABELS, {"num_classes": 0}, "num_classes must be at least 1"),
        (FEATURES, LABELS, {"num_classes": 2.5}, "num_classes must be an integer"),
        (FEATURES, LABELS, {"weights": np.ones(3)}, r"weights must have shape \(4,\)"),
        (FEATURES, LABELS, {"weights": [1, 1, -1, 1]}, r"weights\[2\] is -1"),
        (FEATURES, LABELS, {"weights": [1, np.nan, 1, 1]}, r"weights\[1\] is nan"),
        (FEATURES, LABELS, {"weights": np.zeros(4)}, "weights are all 0"),
        (FEATURES, LABELS, {"weights": ["a"] * 4}, "weights must be real numbers"),
        (FEATURES, LABELS, {"class_names": ["a", "b"]}, r"labels\[2\] is 2, .*class_names has 2 names"),
    ],
)
def test_bad_input_is_named(features, labels, options, message):
    with pytest.raises(ValueError, match=message):
        Task(features, labels, **options)


def test_values_of_absent_samples_are_not_looked_at():
    task = Task(with_value(np.nan), [0, 1, -7, 1], weights=[1, 1, 0, 1])
    assert task.num_classes == 2
    assert np.isfinite(task.features).all()


PARTIAL = {
    "integers": [0, -1, 2, 1],
    "floats": [0.0, np.nan, 2.0, 1.0],
    "names": np.array(["a", None, "c", "b"], dtype=object),
    "categories": pd.Categorical(["a", None, "c", "b"]),
    "nullable integers": pd.array([0, None, 2, 1], dtype="Int64"),
    "polars": pl.Series(["a", None, "c", "b"]),
}


@pytest.mark.parametrize("labels", PARTIAL.values(), ids=PARTIAL)
def test_some_samples_may_lack_a_label(labels):
    task = Task(FEATURES, labels)
    assert (task.labels.tolist(), task.num_classes, task.partly_labelled) == ([0, -1, 2, 1], 3, True)
    assert repr(task) == "Task(features(4, 3), 3 classes, partly labelled)"
    known = task.of_labelled()
    assert (known.labels.tolist(), known.weights.tolist(), known.partly_labelled) == ([0, 0, 2, 1], [1, 0, 1, 1], False)
    assert known.of_labelled() is known
    with pytest.raises(ValueError, match=r"labels\[1\] and 0 other of 4 labels are missing: .*of_labelled"):
        _ = task.labelled
    for copy in (pickle.loads(pickle.dumps(task)), jax.tree.map(lambda leaf: leaf, task), task.padded(6)):
        assert copy.partly_labelled
        assert np.asarray(copy.labels)[:4].tolist() == [0, -1, 2, 1]
    assert task.fingerprint() != known.fingerprint()


@pytest.mark.parametrize("labels", [[-1, 1, 1, -1], [-1.0, 1.0, 1.0, -1.0]])
def test_two_classes_called_minus_one_and_one_are_not_taken_for_one(labels):
    with pytest.raises(ValueError, match=r"labels are -1 and 1, and -1 marks .*: for two classes pass labels > 0"):
        Task(FEATURES, labels)
    assert Task(FEATURES, np.array(labels) > 0).num_classes == 2
    assert Task(FEATURES, labels, weights=[0, 1, 1, 0]).num_classes == 1


def test_a_task_of_no_label_is_unlabelled():
    task = Task(FEATURES, [-1] * 4, class_names=["a", "b"])
    assert (task.labels, task.partly_labelled, task.class_names) == (None, False, ("a", "b"))
    assert not Task(FEATURES, [0, 1, -1, 1], weights=[1, 1, 0, 1]).partly_labelled


def test_classes_of_some_samples_are_numbered_like_those_of_another_task():
    task = Task(FEATURES, np.array(["b", None, "c", "b"], dtype=object))
    known = Task(FEATURES, ["a", "b", "c", "a"])
    assert task.with_classes_of(known).labels.tolist() == [1, -1, 2, 1]
    assert task.with_classes_of(known).partly_labelled


def test_partly_labelled_tasks_are_traced():
    task = Task(FEATURES, [0, -1, 2, 1])
    weights = jax.jit(lambda task: task.of_labelled().weights)(task)
    assert weights.tolist() == [1, 0, 1, 1]
    with pytest.raises(ValueError, match="labels of some samples are missing"):
        jax.jit(lambda task: task.labelled[0])(task)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64, np.int8, np.uint8])
def test_everything_becomes_float32(dtype):
    task = Task(FEATURES.astype(dtype), LABELS)
    assert task.features.dtype == jnp.float32
    np.testing.assert_array_equal(task.features, FEATURES)


@pytest.mark.usefixtures("x64")
def test_float64_is_kept_where_it_is_enabled():
    assert Task(FEATURES.astype(np.float64), LABELS).features.dtype == jnp.float64
    assert Task(FEATURES, LABELS).features.dtype == jnp.float32


def test_input_is_not_changed():
    features, labels, weights = with_value(np.nan), LABELS.copy(), np.array([1.0, 1, 0, 1])
    Task(features, labels, weights=weights)
    np.testing.assert_array_equal(features, with_value(np.nan))
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(weights, [1, 1, 0, 1])


def test_padding_adds_samples_that_do_not_exist():
    task = Task(FEATURES, LABELS, class_names=["a", "b", "c"]).padded(7)
    assert task.features.shape == (7, 3)
    np.testing.assert_array_equal(task.weights, [1, 1, 1, 1, 0, 0, 0])
    assert task.class_names == ("a", "b", "c")
    with pytest.raises(ValueError, match="cannot pad 7 samples to 4"):
        task.padded(4)


def test_a_task_travels_through_jit_and_vmap_and_cannot_be_changed():
    task = Task(FEATURES, LABELS)
    doubled = jax.jit(lambda t: jax.tree.map(lambda x: x * 2, t))(task)
    assert doubled.num_classes == 3
    np.testing.assert_array_equal(doubled.features, 2 * FEATURES)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), task, task)
    assert jax.vmap(lambda t: t.features.sum())(stacked).shape == (2,)
    with pytest.raises(AttributeError, match="cannot be changed"):
        task.features = FEATURES  # type: ignore[assignment, misc]


def test_inside_jit_the_class_count_must_be_given():
    with pytest.raises(ValueError, match="num_classes must be given inside jit"):
        jax.jit(lambda x, y: Task(x, y).weights)(FEATURES, LABELS)
    weights = jax.jit(lambda x, y: Task(x, y, num_classes=3).weights)(FEATURES, LABELS)
    np.testing.assert_array_equal(weights, np.ones(4))


class Kept:
    """Rows that are somewhere else, and how often they were read."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows, self.reads = rows, 0
        self.shape, self.dtype = rows.shape, rows.dtype

    def __getitem__(self, which: object) -> np.ndarray:
        self.reads += 1
        return self._rows[which]

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise AssertionError("read as an array")


def test_stored_features_are_read_when_they_are_used():
    kept = Kept(FEATURES.astype(np.float64))
    task = Task(kept, ["a", "b", "c", "b"], weights=[1, 1, 0, 2])
    assert not task.in_memory
    assert (task.num_samples, task.num_features, task.num_classes, task.dtype) == (4, 3, 2, np.float32)
    assert repr(task) == "Task(stored features(4, 3), 2 classes)"
    renumbered = task.with_classes(("b", "a"), 2)
    np.testing.assert_array_equal(np.asarray(renumbered.labels)[:2], [1, 0])
    assert kept.reads == 0
    np.testing.assert_array_equal(task.rows(np.array([2, 1])), [[0, 0, 0], FEATURES[1]])
    np.testing.assert_array_equal(renumbered.rows(slice(3, 9)), FEATURES[3:])
    assert kept.reads == 2
    whole = task.loaded()
    assert whole.in_memory
    assert whole.loaded() is whole
    assert kept.reads == 3
    expected = Task(FEATURES, [0, 1, 0, 1], weights=[1, 1, 0, 2])
    jax.tree.map(np.testing.assert_array_equal, (whole.features, whole.labels), (expected.features, expected.labels))
    np.testing.assert_array_equal(task.features, whole.features)
    assert jax.jit(lambda t: t.features.sum())(task) == whole.features.sum()
    np.testing.assert_array_equal(whole.rows(slice(2)), FEATURES[:2])


def test_stored_features_are_checked_when_they_are_read(tmp_path):
    path = tmp_path / "features"
    np.memmap(path, np.float32, "w+", shape=(4, 3))[:] = with_value(np.nan)
    task = Task(np.memmap(path, np.float32, "r", shape=(4, 3)), LABELS)
    with pytest.raises(ValueError, match=r"features\[2, 1\] is nan.*remove or impute"):
        task.loaded()
    with pytest.raises(ValueError, match=r"target.features\[2, 1\] is nan"):
        task.check_values("target", 2)
    absent = Task(np.memmap(path, np.float32, "r", shape=(4, 3)), LABELS, weights=[1, 1, 0, 1])
    absent.check_values("target", 2)
    assert np.isfinite(absent.features).all()


@pytest.mark.usefixtures("x64")
def test_stored_float64_is_kept_where_it_is_enabled():
    task = Task(Kept(FEATURES.astype(np.float64)))
    assert task.dtype == task.rows(slice(2)).dtype == task.features.dtype == np.float64
    assert Task(Kept(FEATURES.astype(int))).dtype == np.float32


@pytest.mark.parametrize(
    ("features", "message"),
    [(Kept(np.zeros((0, 3))), r"must have shape \(n, d\)"), (np.zeros((2, 3), "M8[s]"), "must be real numbers")],
)
def test_stored_features_of_no_use_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        Task(features)
