"""Numbers that the public functions compute today on small problems, to hold later versions of the code to.

``python tests/support/recorded.py`` writes them to ``tests/fixtures/recorded.json``; ``test_recorded.py`` computes them
anew. A group of numbers is a function of the type of float; only public functions are called, each in one place. All
problems have the same few shapes, so that they share compiled programs.
"""

from __future__ import annotations

import inspect
import json
import unittest.mock
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from paths import FIXTURES

from jaxrel import (
    Joint,
    Paper,
    Relatedness,
    Task,
    evaluation,
    pseudo_labels,
    relatedness,
    task_relatedness,
    transferability_score,
    transport,
)
from jaxrel.metrics import METRICS, STREAMED, moments, moments_of_blocks, score_encoders

FILE = FIXTURES / "recorded.json"
DIGITS = {"float32": 9, "float64": 15}
NUM_CLASSES, NUM_REFERENCE_CLASSES, NUM_SOURCE_CLASSES = 3, 3, 4
NUM_SAMPLES, NUM_REFERENCE, WIDTH = 64, 32, 6
Arrays = dict[str, np.ndarray]
Numbers = dict[str, float]
Group = Callable[[str], Numbers]


# Problems


def problem(labels: np.ndarray, distance: float, dtype: str, *, width: int = WIDTH, seed: int = 0) -> Arrays:
    """Everything that metrics need, of classes whose centres are so far apart."""
    rng = np.random.default_rng(seed)
    n, centres = len(labels), distance * rng.normal(size=(NUM_CLASSES, width))
    features = centres[labels] + rng.normal(size=(n, width))
    reference_labels = np.arange(NUM_REFERENCE) % NUM_REFERENCE_CLASSES
    reference = centres[reference_labels] + 0.5 + rng.normal(size=(NUM_REFERENCE, width))
    logits = features[:, :NUM_SOURCE_CLASSES] + 0.5 * rng.normal(size=(n, NUM_SOURCE_CLASSES))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    real = {
        "features": features,
        "reference_features": reference,
        "aligned_features": np.tanh(features[:, :5]) + 0.3 * rng.normal(size=(n, 5)),
        "first_view": features + 0.3 * rng.normal(size=(n, width)),
        "second_view": features + 0.3 * rng.normal(size=(n, width)),
        "source_probabilities": probabilities,
        "targets": features[:, :2] ** 2 + rng.normal(size=(n, 2)),
        "weights": np.ones(n),
    }
    integers = {
        "labels": labels,
        "source_labels": probabilities.argmax(axis=1),
        "reference_labels": reference_labels,
        "folds": np.arange(n) % 3,
    }
    return {name: values.astype(dtype) for name, values in real.items()} | integers


def balanced() -> np.ndarray:
    """Labels in turn."""
    return np.arange(NUM_SAMPLES) % NUM_CLASSES


def separated(dtype: str) -> Arrays:
    """Classes far apart."""
    return problem(balanced(), 3.0, dtype)


def overlapping(dtype: str) -> Arrays:
    """Classes that overlap, samples of unequal weight, and every seventh absent and of features that are no numbers."""
    data = problem(balanced(), 0.6, dtype, seed=1)
    absent = np.arange(NUM_SAMPLES) % 7 == 3
    data["weights"] = np.where(absent, 0, np.array([0.5, 1, 2])[np.arange(NUM_SAMPLES) % 5 % 3]).astype(dtype)
    data["features"][absent] = np.nan
    return data


def imbalanced(dtype: str) -> Arrays:
    """Classes of 48, 12 and 4 samples."""
    return problem(np.repeat(np.arange(NUM_CLASSES), [48, 12, 4]), 1.0, dtype, seed=2)


def few(dtype: str) -> Arrays:
    """Five samples with weight, fewer than features; of unequal weight, so that no two quantiles tie."""
    data = problem(balanced(), 1.0, dtype, seed=3)
    data["weights"] = np.append([1, 0.9, 0.7, 0.6, 0.85], np.zeros(NUM_SAMPLES - 5)).astype(dtype)
    return data


def wide(dtype: str) -> Arrays:
    """More features than rows."""
    return problem(balanced(), 1.0, dtype, width=80, seed=4)


def single_class(dtype: str) -> Arrays:
    """All samples of one class."""
    return separated(dtype) | {"labels": np.zeros(NUM_SAMPLES, int)}


def constant(dtype: str) -> Arrays:
    """Equal samples."""
    data = separated(dtype)
    names = ("features", "aligned_features", "first_view", "second_view", "source_probabilities", "targets")
    return data | {name: np.broadcast_to(data[name][:1], data[name].shape) for name in names}


def one_each(dtype: str) -> Arrays:
    """One sample of each class."""
    data = separated(dtype)
    data["weights"][NUM_CLASSES:] = 0
    return data


# Metrics

OPTIONS = {
    "num_classes": NUM_CLASSES,
    "reference_num_classes": NUM_REFERENCE_CLASSES,
    "num_source_classes": NUM_SOURCE_CLASSES,
    "block_sizes": (16, 64),
    "largest_class": 64,
    "num_components": 3,
}
# These have programs that take longest to compile.
PAIRS = ("task_relatedness", "f_otce", "jc_otce", "ot_nce", "otdd", "cross_view")
HEAVY = (
    "discriminant",
    "etran",
    "ncti",
    "nleep",
    "pactran_dirichlet",
    "pactran_gamma",
    "pactran_gaussian",
    "sfda",
    "transrate",
)
LIGHT = tuple(name for name in METRICS if name not in PAIRS + HEAVY)


def metric_result(name: str, data: Mapping[str, np.ndarray]) -> Any:
    """What a metric returns."""
    metric = METRICS[name]
    accepted = inspect.signature(metric.function).parameters
    options: dict[str, Any] = {key: option for key, option in OPTIONS.items() if key in accepted}
    if name in ("ridge_probe", "ridge_regression"):
        options |= {"folds": data["folds"], "num_folds": 3}
    return metric.function(*(data[need] for need in metric.needs), weights=data["weights"], **options)


def fields(result: Any, *names: str) -> Numbers:
    """Attributes that are numbers, or the entries of those that are small arrays."""
    found: Numbers = {}
    for name in names:
        values = np.asarray(getattr(result, name))
        if values.ndim == 0:
            found[name] = values.item()
        else:
            found |= {f"{name}[{','.join(map(str, index))}]": value.item() for index, value in np.ndenumerate(values)}
    return found


def prefixed(prefix: str, numbers: Mapping[str, float]) -> Numbers:
    """The numbers under longer names."""
    return {f"{prefix}/{name}": value for name, value in numbers.items()}


def metrics(names: tuple[str, ...], *problems: Callable[[str], Arrays]) -> Group:
    """The group of these metrics on these problems."""

    def group(dtype: str) -> Numbers:
        found: Numbers = {}
        for make in problems:
            data = make(dtype)
            for name in names:
                result = metric_result(name, data)
                found |= prefixed(f"{make.__name__}/{name}", fields(result, *vars(result)))
        return found

    return group


def statuses(names: tuple[str, ...]) -> Group:
    """The group of what metrics say of problems that they cannot tell anything about."""

    def group(dtype: str) -> Numbers:
        return {
            f"{make.__name__}/{name}": int(metric_result(name, data).status)
            for make in (single_class, constant, one_each)
            for data in (make(dtype),)
            for name in names
        }

    return group


def hub(dtype: str) -> Numbers:
    """Metrics that compare three encoders, and one that does not."""
    data = separated(dtype)
    encoders = [data["features"] + noise * data["first_view"][::-1] for noise in (0, 1, 3)]
    found = score_encoders(
        [encoder.astype(dtype) for encoder in encoders],
        data["labels"],
        metrics=("ncti", "etran", "gbc"),
        num_classes=NUM_CLASSES,
    )
    return {
        key: value for name, score in found.items() for key, value in prefixed(name, fields(score, "value")).items()
    }


def streamed(dtype: str) -> Numbers:
    """Metrics of blocks of rows."""
    data = overlapping(dtype)
    parts = [slice(start, start + 24) for start in range(0, NUM_SAMPLES, 24)]
    blocks = (tuple(data[name][part] for name in ("features", "labels", "weights")) for part in parts)
    state = moments_of_blocks(blocks, num_classes=NUM_CLASSES)
    return {name: float(moments.compute(name, state)) for name in STREAMED}


# Task-relatedness

TERMS = (
    "bound",
    "tight_bound",
    "reweighted_reference_loss",
    "label_mismatch",
    "distribution_mismatch",
    "distribution_mismatch_lower",
    "transformed_reference_loss",
    "target_loss",
    "target_accuracy",
    "status",
)
STEPS = 20
LEARNED = Joint(ridge=0.03, num_steps=STEPS)
METHODS: dict[str, Joint | Paper] = {
    "learned": LEARNED,
    "learned_features": Joint(setting="learned_features", ridge=0.03, num_steps=STEPS, cost="range"),
    "fixed": Joint(setting="fixed", ridge=0.03, num_steps=STEPS, cost="euclidean"),
    "feature_space": Joint(space="feature", ridge=0.03, num_steps=STEPS, class_map="soft"),
    "paper": Paper(num_steps=STEPS, batch_size=30),
}


def tasks(data: Arrays) -> tuple[Task, Task]:
    """The reference and the target of a problem."""
    reference = Task(data["reference_features"], data["reference_labels"], num_classes=NUM_REFERENCE_CLASSES)
    return reference, Task(data["features"], data["labels"], weights=data["weights"], num_classes=NUM_CLASSES)


def relatedness_terms(result: Relatedness) -> Numbers:
    """Every term, and what the published code would have reported."""
    found = fields(result, *TERMS) | prefixed("transformation", fields(result.transformation, "ridge"))
    found |= prefixed("class_terms", fields(result.class_terms, "distribution_mismatch"))
    if result.published is not None:
        found |= prefixed("published", fields(result.published, "bound", "lipschitz", "wasserstein"))
    return found


def related(name: str, *problems: Callable[[str], Arrays]) -> Group:
    """The group of a method on these problems, evaluated on their training samples."""

    def group(dtype: str) -> Numbers:
        found: Numbers = {}
        for make in problems:
            result = task_relatedness(*tasks(make(dtype)), method=METHODS[name])
            found |= prefixed(f"{name}/{make.__name__}", relatedness_terms(result))
        return found

    return group


def related_held_out(dtype: str) -> Numbers:
    """Evaluation on other samples, with quantiles of the bound on resamples of them."""
    reference, target = tasks(overlapping(dtype))
    held_out = tasks(problem(balanced(), 0.6, dtype, seed=11))
    result = task_relatedness(reference, target, evaluate_on=held_out, method=LEARNED)
    resamples = relatedness.bound_resamples(result, *held_out, num_resamples=50)
    quantiles = dict(zip(("10%", "50%", "90%"), np.quantile(resamples, (0.1, 0.5, 0.9)).tolist(), strict=True))
    return relatedness_terms(result) | prefixed("resamples", quantiles)


def related_in_blocks(dtype: str) -> Numbers:
    """The certificate in blocks, which for tasks of this size is that of the whole."""
    with unittest.mock.patch("jaxrel.relatedness.streaming.plan.fits_whole", return_value=False):
        result = task_relatedness(*tasks(overlapping(dtype)), method=LEARNED, memory_budget=2**31)
    return relatedness_terms(result)


def label_free(dtype: str) -> Numbers:
    """Targets without labels, with pseudo-labels from a reference, and from views."""
    data = separated(dtype)
    reference, _ = tasks(data)
    unlabelled = Task(data["features"], num_classes=NUM_CLASSES)
    transported = task_relatedness(
        reference, unlabelled, method=LEARNED, pseudo_labels=pseudo_labels.TransportedClasses()
    )
    viewed = task_relatedness(
        reference,
        unlabelled,
        method=LEARNED,
        pseudo_labels=pseudo_labels.ViewClusters(num_directions=3),
        views=(data["first_view"], data["second_view"]),
    )
    return prefixed("transported", relatedness_terms(transported)) | prefixed("views", relatedness_terms(viewed))


# The number to rank by, and pseudo-labels


def transferability(dtype: str) -> Numbers:
    """With labels and, from views, without."""
    found: Numbers = {}
    names = ("value", "lower", "upper", "accuracy", "majority", "status")
    for make in (separated, overlapping, imbalanced):
        _, target = tasks(make(dtype))
        found |= prefixed(f"{make.__name__}/labels", fields(transferability_score(target, num_resamples=100), *names))
    for make in (separated, imbalanced):
        data = make(dtype)
        views = data["first_view"], data["second_view"]
        result = transferability_score(Task(data["features"]), views=views, num_resamples=100)
        found |= prefixed(f"{make.__name__}/views", fields(result, *names))
    return found


def pseudo_labelled(dtype: str) -> Numbers:
    """Sizes of the classes that strategies find, and how uncertain they are."""
    data = separated(dtype)
    reference, _ = tasks(data)
    target = Task(data["features"], num_classes=NUM_CLASSES)
    strategies: dict[str, pseudo_labels.Strategy] = {
        "k_means": pseudo_labels.KMeans(),
        "mixture": pseudo_labels.GaussianMixture(),
        "views": pseudo_labels.ViewClusters(num_directions=3),
        "reference_head": pseudo_labels.ReferenceHead(),
        "transported": pseudo_labels.TransportedClasses(),
    }
    found: Numbers = {}
    for name, strategy in strategies.items():
        views = data["first_view"], data["second_view"]
        labels = pseudo_labels.pseudo_label(target, strategy, views=views, reference=reference)
        shares = np.asarray(labels.shares, np.float64)
        found[f"{name}/entropy"] = float(-np.sum(shares * np.log(np.maximum(shares, 1e-300))) / NUM_SAMPLES)
        sizes = np.sort(np.asarray(labels.sizes))
        found |= {f"{name}/size[{i}]": float(size) for i, size in enumerate(sizes)}
    return found


# Transport


def clouds(dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two clouds of 16 points in three dimensions, with weights of which some are 0."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(16, 3)), rng.normal(size=(16, 3)) + 0.7
    a, b = rng.uniform(0.2, 1, 16), rng.uniform(0.2, 1, 16)
    a[3] = b[7] = 0
    x, y, a, b = (values.astype(dtype) for values in (x, y, a / a.sum(), b / b.sum()))
    return x, y, a, b


ENDS = ("value", "lower", "upper", "status")


def solved(dtype: str) -> Numbers:
    """Sinkhorn's algorithm to an epsilon or a gap, on points and arrays, in both forms and with forbidden pairs."""
    x, y, a, b = clouds(dtype)
    cloud = transport.PointCloud(jnp.asarray(x), jnp.asarray(y))
    cost = np.asarray(transport.cost_array(cloud))
    forbidden = np.where(np.arange(16)[:, None] % 4 == np.arange(16) % 4, np.inf, cost).astype(dtype)
    absolute = transport.SinkhornConfig(epsilon_unit="cost")
    logarithmic = transport.SinkhornConfig(inner="log", epsilon_unit="cost")
    results = {
        "cloud": transport.sinkhorn(cloud, a, b, epsilon=0.1, config=absolute),
        "array": transport.sinkhorn(cost, a, b, relative_gap=0.01),
        "squared": transport.sinkhorn(cost**2, a, b, relative_gap=0.01),
        "forbidden": transport.sinkhorn(forbidden, a, b, relative_gap=0.01),
        "masked": transport.sinkhorn(cost, where_a=a > 0, where_b=b > 0, relative_gap=0.01),
        "infeasible": transport.sinkhorn(np.full_like(cost, np.inf), a, b, relative_gap=0.01),
        "log": transport.sinkhorn(cost, a, b, epsilon=0.1, config=logarithmic),
    }
    return {
        key: value for name, result in results.items() for key, value in prefixed(name, fields(result, *ENDS)).items()
    }


def between_clouds(dtype: str) -> Numbers:
    """The divergence, blockwise bounds, assignments and costs of pairs of logits."""
    x, y, a, b = clouds(dtype)
    divergence = transport.sinkhorn_divergence(x, y, a, b, epsilon=0.1)
    cloud = transport.PointCloud(jnp.asarray(x), jnp.asarray(y))
    blockwise = transport.blockwise_interval(cloud, a, b, block_size=6)
    matching = transport.assignment(transport.cost_array(cloud))
    row = jnp.asarray([0.5, 0.3, 0.2], dtype)
    costs = {
        "margin": transport.margin_cost(jnp.asarray(x), jnp.asarray(y), jnp.log(row)),
        "range": transport.range_cost(jnp.asarray(x), jnp.asarray(y)),
        "euclidean": transport.euclidean_cost(jnp.asarray(x), jnp.asarray(y)),
    }
    found = prefixed("divergence", fields(divergence, "value", "status"))
    found |= prefixed("blockwise", fields(blockwise, "lower", "upper", "status"))
    found |= prefixed("assignment", fields(matching, "value", "status"))
    return found | {f"cost/{name}": float(jnp.mean(values)) for name, values in costs.items()}


def between_classes(dtype: str) -> Numbers:
    """Distances of classes as Gaussians and as clouds, and how classes are assigned by them."""
    data = separated(dtype)
    sides = (
        (data["reference_features"], data["reference_labels"], NUM_REFERENCE_CLASSES),
        (data["features"], data["labels"], NUM_CLASSES),
    )
    moments = [transport.gaussian_moments(jnp.asarray(x), jnp.asarray(labels), count)[:2] for x, labels, count in sides]
    bures = np.asarray(transport.bures_distances(*moments[0], *moments[1]))
    (points_x, weights_x), (points_y, weights_y) = (transport.gather_classes(*side, 24) for side in sides)
    distances = transport.class_distances(points_x, points_y, weights_x=weights_x, weights_y=weights_y)
    assigned = np.asarray(transport.assign_classes(distances.upper.T))
    found = {f"bures[{r},{t}]": value.item() for (r, t), value in np.ndenumerate(bures)}
    found |= prefixed("distances", fields(distances, "upper"))
    return found | {f"assigned[{t}]": int(row.argmax()) for t, row in enumerate(assigned)}


# Evaluation


def evaluated(dtype: str) -> Numbers:
    """Rank correlations of scores with accuracies, and their intervals over encoders."""
    rng = np.random.default_rng(6)
    truth = rng.uniform(0.3, 0.9, (12, 2)).astype(dtype)
    score = (truth + 0.2 * rng.normal(size=truth.shape)).astype(dtype)
    found: Numbers = {}
    for convention in ("by_truth", "by_score", "symmetric"):
        values = evaluation.weighted_kendall_tau(score.T, truth.T, convention=convention)
        found |= {f"weighted/{convention}[{t}]": value.item() for t, value in enumerate(np.asarray(values))}
    for name in ("kendall_tau", "pearson", "spearman", "top_1_regret"):
        values = getattr(evaluation, name)(score.T, truth.T)
        found |= {f"{name}[{t}]": value.item() for t, value in enumerate(np.asarray(values))}
    for statistic in ("kendall_tau", "pearson"):
        interval = evaluation.bootstrap_intervals(score, truth, statistic=statistic, num_resamples=200).mean
        found |= prefixed(f"interval/{statistic}", fields(interval, "estimate", "lower", "upper"))
    difference = evaluation.bootstrap_difference(score, score[::-1], truth, num_resamples=200)
    return found | prefixed("difference", fields(difference.difference, "estimate", "lower", "upper"))


GROUPS: dict[str, Group] = {
    "metrics": metrics(LIGHT, separated, overlapping, imbalanced, few),
    "metrics_heavy": metrics(HEAVY, separated, overlapping, imbalanced, few),
    "metrics_wide": metrics(LIGHT + HEAVY, wide),
    **{f"metric_{name}": metrics((name,), separated, overlapping, imbalanced) for name in PAIRS},
    "statuses": statuses(LIGHT),
    "statuses_heavy": statuses(HEAVY),
    "hub": hub,
    "streamed": streamed,
    **{f"related_{name}": related(name, separated, overlapping) for name in METHODS},
    "related_held_out": related_held_out,
    "related_in_blocks": related_in_blocks,
    "label_free": label_free,
    "transferability": transferability,
    "pseudo_labelled": pseudo_labelled,
    "solved": solved,
    "between_clouds": between_clouds,
    "between_classes": between_classes,
    "evaluated": evaluated,
}
CASES = tuple((group, dtype) for group in GROUPS for dtype in DIGITS)
# Those that take a minute to compile in all; the others are slow tests, to be run too before and after code moves.
QUICK = {
    "float32": (
        "metrics",
        "statuses",
        "metric_f_otce",
        "metric_ot_nce",
        "metric_cross_view",
        "related_learned",
        "transferability",
        "evaluated",
    ),
    "float64": ("transferability",),
}


def compute(group: str, dtype: str) -> Numbers:
    """The numbers of a group, by names that start with the type and the group."""
    with jax.enable_x64(dtype == "float64"):
        return prefixed(f"{dtype}/{group}", GROUPS[group](dtype))


def rounded(number: float, digits: int) -> float:
    """The number to so many significant digits; integers as they are."""
    return number if isinstance(number, int) else float(f"{number:.{digits}g}")


def record() -> None:
    """Write the file anew."""
    numbers: Numbers = {}
    for group, dtype in CASES:
        numbers |= {name: rounded(number, DIGITS[dtype]) for name, number in compute(group, dtype).items()}
    FILE.write_text(json.dumps(numbers, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    record()
