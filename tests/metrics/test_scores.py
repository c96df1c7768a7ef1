"""What all transferability metrics have in common, written once and asked of every metric in the registry.

Those of a reference and a target task take long to compile and are asked with the slow tests; `LAWS` says where a
property does not hold by definition.
"""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_problems import (
    FEATURE_BASED,
    LABELLED,
    NAMES,
    PROBABILITY_BASED,
    REAL,
    SLOW,
    problem,
    score,
    taken,
    value,
)

from jaxrel.metrics import METRICS, NEEDS, ScoreStatus, decompose

# Every class must have a sample, and clusters need more samples than there are here.
UNDEFINED = {"task_relatedness", "cross_view"}
SCALE_DEPENDENT = {
    "transrate",
    "gbc",
    "sfda",
    "discriminant",
    "etran",
    "ncti",
    "energy",
    "pactran_gaussian",
    "otdd",
} | {
    "f_otce",  # at an epsilon in squares of the features
    "jc_otce",
}
SHIFT_DEPENDENT = {"logme", "logme_regression", "rankme", "energy", "etran", "lfc"} | {
    "energy_distance",  # of one sample alone, here
    "mmd",
    "sinkhorn_divergence",
    "otdd",
}
ROTATION_DEPENDENT = {"parc", "h_score", "ridge_probe", "ridge_regression", "transferability", "energy", "etran"} | {
    "energy_distance",  # of one sample alone, here
    "mmd",
    "sinkhorn_divergence",
    "ot_nce",
    "f_otce",
    "jc_otce",
    "otdd",
}
PAIRS = {"f_otce", "jc_otce", "ot_nce", "otdd"}  # test_labelled_pair_scores.py asks the same of them and more variants.
DEALT = {"transferability"}  # At random to halves: equal samples to different ones.
RANDOM = {"nleep"}  # The starts of its mixture differ between dtypes.
NEEDS_MORE_SAMPLES = {
    "alpha_req",
    "nearest_neighbours",
    "regularised_h_score",
    "ridge_probe",
    "ridge_regression",
    "transferability",
    "ncti",
    "parc",
    "lfc",
    "silhouette",
}
NEEDS_TWO_CLASSES = {"ncti", "parc", "lfc", "silhouette"}
HEAVY = {
    "discriminant",
    "etran",
    "ncti",
    "nleep",
    "pactran_dirichlet",
    "pactran_gamma",
    "pactran_gaussian",
    "sfda",
    "transrate",
}
OTHER_OPTIONS = {
    "nearest_neighbours": ({"num_neighbours": 1}, {"num_neighbours": 4}),
    "transferability": ({"key": 1}, {"key": 2}),
    "ridge_probe": ({"ridges": np.array([0.1, 1.0])}, {"ridges": np.array([0.3, 2.0])}),
    "ridge_regression": ({"ridges": np.array([0.1, 1.0])}, {"ridges": np.array([0.3, 2.0])}),
    "nleep": ({"explained_variance": 0.7, "key": 1}, {"explained_variance": 0.9, "key": 2}),
    "transrate": ({"eps": 1e-4}, {"eps": 0.1, "equal_classes": True}),
    "gbc": ({}, {"covariance": "diagonal", "variance_floor": 0.1, "logarithm": True}),
    "sfda": ({"shrinkage": 0.1}, {"shrinkage": 0.2}),
    "discriminant": ({"shrinkage": 0.1}, {"shrinkage": 0.2}),
    "energy": ({}, {"fraction": 0.3}),
    "pactran_dirichlet": ({}, {"concentration": 2.0}),
    "pactran_gamma": ({}, {"concentration": 2.0}),
    "pactran_gaussian": ({}, {"inverse_ridge": 0.1, "prior_variance": 3.0}),
    "f_otce": ({}, {"epsilon": 0.3}),
    "jc_otce": ({}, {"label_weight": 0.2}),
    "sinkhorn_divergence": ({}, {"epsilon": 0.2}),
}


def those(names, *, without=frozenset(), compiles=False):
    """Parameters; slow are the metrics that take long to compile, some only where a test `compiles` them again."""
    slow = SLOW | (HEAVY if compiles else set())
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name in slow else [])
        for name in names
        if name not in UNDEFINED | set(without)
    ]


def near(expected, rel):
    return pytest.approx(expected, rel=rel, abs=1e-7)


@pytest.mark.parametrize("name", those(NAMES, without=DEALT | PAIRS))
def test_order_of_samples_is_irrelevant(name):
    data = problem()
    order = np.random.default_rng(1).permutation(24)
    assert value(name, taken(data, order)) == near(value(name, data), 2e-5)


@pytest.mark.parametrize("name", those(FEATURE_BASED, without=PAIRS))
def test_order_of_features_is_irrelevant(name):
    data = problem()
    order = np.random.default_rng(2).permutation(6)
    permuted = data | {key: data[key][:, order] for key in REAL if data[key].shape[1] == 6}
    assert value(name, permuted) == near(value(name, data), 2e-5)


@pytest.mark.parametrize("name", those(LABELLED, compiles=True))
def test_names_and_number_of_classes_are_irrelevant(name):
    """A class without samples changes nothing, wherever it stands."""
    data = problem()
    expected = value(name, data)
    renamed = data | {"labels": np.array([5, 0, 1, 3])[data["labels"]]}
    assert value(name, renamed, num_classes=7) == near(expected, 2e-5)
    without = data | {"labels": np.array([2, 0, 9, 1])[data["labels"]]}
    assert value(name, without, num_classes=None) == near(expected, 2e-5)


@pytest.mark.parametrize("name", those([*PROBABILITY_BASED, "nce"]))
def test_names_of_source_classes_are_irrelevant(name):
    data = problem()
    names = np.asarray([2, 0, 4, 1, 3])
    renamed = data | {"source_labels": names[data["source_labels"]]}
    renamed["source_probabilities"] = np.zeros_like(data["source_probabilities"])
    renamed["source_probabilities"][:, names] = data["source_probabilities"]
    assert value(name, renamed) == near(value(name, data), 2e-5)


@pytest.mark.parametrize("name", those(NAMES, without=DEALT | PAIRS, compiles=True))
def test_weights_are_counts(name):
    """A weight of 2 is the sample twice, one of 0 no sample, whatever its features and label are."""
    data = problem()
    counts = np.ones(24, np.float32)
    counts[[1, 5, 8, 20]], counts[[0, 3, 9, 22]] = 2, 0
    weighted = data | {"weights": counts}
    repeated = taken(data, np.repeat(np.arange(24), counts.astype(int)))
    expected = value(name, repeated)
    assert value(name, weighted) == near(expected, 1e-4 if name in SLOW else 3e-5)
    rubbish = dict.fromkeys(REAL, np.nan) | {"source_probabilities": np.inf, "labels": -7, "source_labels": 99}
    for key, bad in (rubbish | {"targets": np.nan}).items():
        if key != "reference_features":
            weighted[key] = weighted[key].copy()
            weighted[key][[0, 3, 9, 22]] = bad
    assert value(name, weighted) == near(expected, 1e-4 if name in SLOW else 3e-5)


@pytest.mark.parametrize("name", those([name for name in NAMES if "reference_features" in METRICS[name].needs]))
def test_reference_weights_are_counts(name):
    data = problem()
    counts = np.asarray([2, 0, 1, 1, 2, 0, 1, 1, 1, 1], np.float32)
    rows = np.repeat(np.arange(10), counts.astype(int))
    repeated = data | {key: data[key][rows] for key in ("reference_features", "reference_labels")}
    assert value(name, data, reference_weights=counts) == near(value(name, repeated), 1e-4)


@pytest.mark.parametrize("name", those(NAMES, without=PAIRS, compiles=True))
def test_padding_is_irrelevant(name):
    """Also where there are more features than samples, but for the padding not."""
    data = problem(n=12, d=15)
    padded = {
        key: np.pad(array, ((0, 8), *((0, 0),) * (array.ndim - 1))) if key in ("weights", *taken(data, [0])) else array
        for key, array in data.items()
    }
    kept = ("reference_features", "reference_labels")
    padded |= {key: data[key] for key in kept}
    assert value(name, padded) == near(value(name, data), 1e-4 if name in SLOW else 3e-5)


@pytest.mark.parametrize("name", those(NAMES, without=PAIRS, compiles=True))
def test_jit_and_vmap_over_encoders(name):
    """Values that are unknown cannot be refused: a bad encoder has NaN and a status, the others are as ever."""
    problems = [problem(seed) | {"labels": problem()["labels"]} for seed in (0, 1)]
    plain = np.stack([value(name, data) for data in problems])
    varying = [key for key in METRICS[name].needs if key not in ("labels", "reference_labels")]
    bad = {key: np.full_like(problems[0][key], -1 if key == "source_labels" else np.nan) for key in varying}
    stacked = {key: jnp.stack([data[key] for data in (*problems, bad)]) for key in varying}
    batch = jax.jit(jax.vmap(lambda arrays: score(name, problems[0] | arrays)))(stacked)
    np.testing.assert_allclose(batch.value[:2], plain, rtol=1e-4 if name in SLOW else 3e-5)
    assert np.all(np.isnan(batch.value[2]))
    np.testing.assert_array_equal(batch.status, [0, 0, ScoreStatus.INVALID_INPUT])
    assert len(batch.messages) == 1


@pytest.mark.parametrize("name", those(LABELLED, compiles=True))
def test_labels_and_weights_may_be_traced(name):
    data = problem()
    unknown = {key: data[key] for key in ("labels", "weights")}
    compiled = jax.jit(lambda arrays: score(name, data | arrays))
    assert np.asarray(compiled(unknown).value) == near(value(name, data), 1e-4 if name in SLOW else 3e-5)
    for key, bad in (("labels", data["labels"] + 1), ("weights", -data["weights"])):
        assert int(compiled(unknown | {key: bad}).status) == ScoreStatus.INVALID_INPUT


@pytest.mark.parametrize("name", those(NAMES, without=RANDOM | PAIRS))
def test_float32_against_float64(name):
    single = value(name, problem())
    assert single.dtype == np.float32
    real = (*REAL, "source_probabilities", "targets")
    half = problem() | {key: jnp.asarray(problem()[key], jnp.bfloat16) for key in real}
    assert score(name, half).value.dtype == jnp.float32
    with jax.enable_x64(True):
        double = value(name, problem(dtype=np.float64))
        assert double.dtype == np.float64
        assert single == near(double, 1e-3 if name in SLOW else 1e-4)


@pytest.mark.parametrize("name", those(FEATURE_BASED, without={"otdd"}))
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_any_scale_has_a_value(name, scale):
    data = problem()
    scaled = value(name, data | {key: data[key] * np.float32(scale) for key in REAL})
    assert np.all(np.isfinite(scaled))
    if name not in SCALE_DEPENDENT:
        assert scaled == near(value(name, data), 1e-4)


@pytest.mark.parametrize("name", those(FEATURE_BASED, without=SHIFT_DEPENDENT))
def test_shift_is_irrelevant(name):
    data = problem()
    shift = np.random.default_rng(3).normal(size=6).astype(np.float32)
    tolerance = 1e-3 if name in SLOW else 1e-4
    assert value(name, data | {"features": data["features"] + shift}) == near(value(name, data), tolerance)


@pytest.mark.parametrize("name", those(FEATURE_BASED, without=ROTATION_DEPENDENT))
def test_rotation_is_irrelevant(name):
    data = problem()
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0].astype(np.float32)
    assert value(name, data | {"features": data["features"] @ rotation}) == near(value(name, data), 1e-4)


@pytest.mark.parametrize("name", those(FEATURE_BASED))
def test_constant_feature_and_collapsed_features(name):
    data = problem()
    row = np.random.default_rng(5).normal(size=6).astype(np.float32)
    for column, level in ((0, 2.5), (slice(None), 1e6), (slice(None), 0), (slice(None), row)):
        constant = data | {key: data[key].copy() for key in ("features", "reference_features")}
        constant["features"][:, column] = constant["reference_features"][:, column] = level
        result = score(name, constant)
        defined = name != "alpha_req" or column == 0
        expected = (0 if column == 0 else ScoreStatus.CONSTANT_FEATURES) | (0 if defined else ScoreStatus.UNDEFINED)
        if name in ("logme_regression", "ridge_regression"):  # Of targets, one class of which is none.
            expected = int(result.status) & ScoreStatus.UNBOUNDED | expected
        assert int(result.status) == expected
        assert bool(np.all(np.isfinite(result.value))) == defined


@pytest.mark.parametrize("name", those(NAMES))
def test_one_sample(name):
    result = score(name, problem() | {"weights": np.eye(24, dtype=np.float32)[5]})
    needs_more = name in NEEDS_MORE_SAMPLES
    assert bool(int(result.status) & ScoreStatus.UNDEFINED) == needs_more
    assert int(result.status) & ScoreStatus.CONSTANT_FEATURES
    assert bool(int(result.status) & ScoreStatus.SINGLE_CLASS) == (name in LABELLED)
    assert bool(np.all(np.isnan(result.value))) == needs_more


@pytest.mark.parametrize("name", those(LABELLED))
def test_one_class(name):
    result = score(name, problem() | {"labels": np.zeros(24, int)})
    undefined = name in NEEDS_TWO_CLASSES
    assert int(result.status) & ~ScoreStatus.UNBOUNDED == ScoreStatus.SINGLE_CLASS | (
        ScoreStatus.UNDEFINED if undefined else 0
    )
    assert bool(np.all(np.isfinite(result.value))) != undefined


@pytest.mark.parametrize("name", those(FEATURE_BASED, without=RANDOM | PAIRS, compiles=True))
def test_more_features_than_samples(name):
    # At the sizes of test_padding_is_irrelevant, whose programs these are.
    with jax.enable_x64(True):
        double = value(name, problem(n=12, d=15, dtype=np.float64))
    assert np.all(np.isfinite(double))
    assert value(name, problem(n=12, d=15)) == near(double, 1e-3 if name in SLOW else 1e-4)


@pytest.mark.parametrize("name", those(NAMES))
def test_other_values_need_no_compilation(name, caplog):
    options = OTHER_OPTIONS.get(name, ({}, {}))
    value(name, problem(0), **options[0])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        score(name, problem(3) | {"weights": np.full(24, 2, np.float32)}, **options[1])
    assert not [record for record in caplog.records if "Compiling" in record.message]


@pytest.mark.parametrize("name", those(NAMES))
def test_inputs_are_not_changed(name):
    data = problem()
    for array in data.values():
        array.flags.writeable = False
    value(name, data)
    assert all(np.array_equal(array, problem()[key]) for key, array in data.items())


@pytest.mark.parametrize("name", those(NAMES, without={"nce"}))
def test_bad_input_is_named(name):
    """NCE has no features: its input is checked beside its definition."""
    metric, data = METRICS[name], problem()
    first = metric.needs[0]
    holed = np.where(np.arange(len(data[first]))[:, None] == 3, np.nan, data[first])
    for key, bad, message in (
        (first, data[first][0], "must have shape"),
        (first, holed, r"features\[3, 0\] is nan"),
        (first, data[first].astype(str), "real numbers"),
        ("weights", np.zeros(24), "all 0"),
        ("weights", -np.ones(24), r"weights\[0\] is -1"),
        ("weights", np.ones(5), "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            score(name, data | {key: bad})


@pytest.mark.parametrize("name", those(LABELLED))
def test_bad_labels_are_named(name):
    metric, data = METRICS[name], problem()
    for bad, message in (
        (data["labels"] + 1, r"outside 0 \.\. 3"),
        (data["labels"] / 2, "which is no class"),
        (None, "needs labels"),
        (np.eye(4)[data["labels"]], r"must have shape \(n,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            score(name, data | {"labels": bad})
    with pytest.raises(ValueError, match="num_classes must be given"):
        jax.eval_shape(metric.function, *(data[need] for need in metric.needs))


@pytest.mark.parametrize("name", those([name for name in NAMES if METRICS[name].decomposition]))
def test_decompositions_can_be_shared(name):
    data = problem()
    data["weights"][:2] = (2, 0)
    kind = METRICS[name].decomposition
    assert kind is not None
    shared = {
        other: decompose(data["features"], other, weights=data["weights"])
        for other in ("raw", "centred", "standardised")
    }
    assert value(name, data, decomposition=shared[kind]) == near(value(name, data), 1e-5)
    wrong = [shared[other] for other in shared if other != kind]
    for bad in (*wrong, decompose(data["features"][:9], kind), data["features"]):
        with pytest.raises(ValueError, match=f"must be a {kind} one with vectors of shape"):
            score(name, data, decomposition=bad)


def test_decompositions_are_of_known_kinds():
    with pytest.raises(ValueError, match="raw, centred, standardised"):
        decompose(problem()["features"], "whitened")


@pytest.mark.parametrize("name", those([name for name in NAMES if not METRICS[name].differentiable]))
def test_what_has_no_derivative_refuses_it(name):
    data = problem()
    first = METRICS[name].needs[0]
    if name == "nce":  # Of integers.
        first = "weights"

    def number(array):
        return jnp.sum(score(name, data | {first: array}).value)

    for derivative in (jax.grad(number), jax.jit(jax.grad(number))):
        with pytest.raises(ValueError, match="has no derivative"):
            derivative(jnp.asarray(data[first]))


@pytest.mark.parametrize("name", [name for name in NAMES if METRICS[name].differentiable])
def test_derivatives_of_duplicated_and_rank_deficient_features_are_finite(name):
    data = problem()
    for key in REAL:
        data[key] = np.maximum(data[key], 0)
        data[key][1] = data[key][0]
        data[key][:, 1] = data[key][:, 0]
    first = METRICS[name].needs[0]
    for array in (data[first], np.broadcast_to(data[first][:1], data[first].shape)):
        slopes = jax.grad(lambda array: score(name, data | {first: array}).value)(jnp.asarray(array))
        assert bool(jnp.all(jnp.isfinite(slopes)))


@pytest.mark.parametrize("name", those(LABELLED, compiles=True))
def test_class_ids_with_gaps_and_classes_without_samples_change_nothing(name):
    """With the options by default, of which the number of mixture components depends on the classes."""
    data = problem()
    labels = np.unique(data["labels"], return_inverse=True)[1]
    metric, options = METRICS[name], {"num_source_classes": 5} if name == "nce" else {}
    reference = {"reference_labels": data["reference_labels"] // 2}

    def number(labels, **given):
        arrays = data | reference | {"labels": labels}
        result = metric.function(*(arrays[need] for need in metric.needs), **options, **given)
        return np.asarray(jax.tree.leaves(result)[0])

    expected = number(labels)
    assert number(200 + 10 * labels) == near(expected, 2e-5)
    assert number(2 * labels, num_classes=7) == near(expected, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if METRICS[name].differentiable])
@pytest.mark.usefixtures("x64")
def test_derivatives(name):
    data = problem(dtype=np.float64)
    first = METRICS[name].needs[0]
    data["source_probabilities"][:, 3] = 0.1
    data["source_probabilities"] /= data["source_probabilities"].sum(axis=1, keepdims=True)
    direction = np.random.default_rng(4).normal(size=data[first].shape)
    direction -= direction.mean(axis=1, keepdims=True)
    if first == "source_probabilities":
        direction *= 0.1 * data[first].min(axis=1, keepdims=True)

    def along(step):
        return score(name, data | {first: data[first] + step * direction}).value

    step = 1e-6
    numerical = (float(along(step)) - float(along(-step))) / (2 * step)
    assert float(jax.jit(jax.grad(along))(0.0)) == pytest.approx(numerical, rel=1e-4)


def test_registry():
    assert len(METRICS) >= 35
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.source
        assert set(metric.needs) <= set(NEEDS)
        assert metric.label_free == (not {"labels", "targets"} & set(metric.needs))
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {"otdd"}
    assert {name for name, metric in METRICS.items() if metric.combine} == {"ncti", "etran"}
    assert METRICS["rankme"].label_free
    assert not METRICS["logme"].label_free
