"""Score every encoder of the zoo on every target, and say what each score is worth.

    python benchmarks/zoo/score.py

Choices are made on the encoders and targets of development; `--half confirmation` is for the end. Prints a table of
rank correlations with the accuracies and writes it as JSON. All encoders of one width are scored in one batched call;
the seconds of a score are those of such calls, compilation apart, divided by the pairs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from members import DEVELOPMENT_TARGETS, TARGETS
from report import KINDS, read, write_page
from rich.console import Console
from rich.progress import Progress
from zoo import FOLDER, Batch, Zoo, read_zoo

from jaxrel import Task, metrics
from jaxrel.evaluation import compare_scores, evaluate_scores
from jaxrel.metrics.cross_view import cross_view_hits
from jaxrel.metrics.held_out_discriminant import balanced_shares, held_out_hits
from jaxrel.metrics.task_relatedness import METHOD
from jaxrel.pseudo_labels import KMeans, Known, ReferenceHead, Strategy, ViewClusters
from jaxrel.relatedness import Joint, Relatedness, task_relatedness
from jaxrel.relatedness.blocks import kept_aside
from jaxrel.relatedness.label_free import cross_view_tasks
from jaxrel.storage.records import write_atomically
from jaxrel.transport import PointCloud, sinkhorn

RESULTS = Path(__file__).parents[1] / "results"
STATISTIC = "weighted_kendall_tau_symmetric"
RECIPE, LABEL_FREE_RECIPE = "transferability", "transferability, label-free"
FORMER_LABEL_FREE = "cross-view probe, hits of equal worth"  # computed by an earlier version, kept for comparison
COMPARED = ("transformed head", "LogME", "ridge probe, cross-validated", "relatedness, features, A = I")
REFERENCE_CLASSES = 10
CLUSTERS = 10  # of label-free scores that need a count: no target has more classes, and emoji have nine
LEARNED = replace(METHOD, certificate_gap=0.1, certificate_iterations=40)
FIXED = Joint(setting="fixed", space="feature", head_ridge=0.1, certificate_gap=0.1, certificate_iterations=40)
# Points of the reference and of the target in one class of half of 1,000 images, at most; clusters may be larger.
CLASS_BLOCKS = (256, 256)
CLUSTER_BLOCKS = (256, 512)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seen:
    """What scores may look at, under one encoder; a batch of encoders has a leading axis."""

    target: Float[Array, "n d"]
    views: tuple[Float[Array, "n d"], Float[Array, "n d"]]
    references: tuple[Float[Array, "m d"], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Labels:
    """Labels, which are the same for all encoders."""

    target: Int[Array, " n"]
    references: tuple[Int[Array, " m"], ...]
    num_classes: int = field(metadata={"static": True})


Rule = Callable[[Seen, Labels], Array | dict[str, Array]]


def metric(function: Callable[..., metrics.Score]) -> Rule:
    """A metric of the target's features and labels."""
    return lambda seen, labels: function(seen.target, labels.target, num_classes=labels.num_classes).value


def on_clusters(strategy: Strategy, function: Callable[..., metrics.Score]) -> Rule:
    """The same of features and pseudo-labels."""
    return lambda seen, labels: function(seen.target, clusters(strategy, seen, labels), num_classes=CLUSTERS).value


def against_reference(function: Callable[..., metrics.Score]) -> Rule:
    """A distance of features, on half of the samples: its memory is quadratic."""
    return lambda seen, _: function(seen.target[::2], seen.references[0][::2]).value


def wasserstein(seen: Seen, _: Labels) -> Array:
    """Minus the 1-Wasserstein distance of features, on half of the samples, within 1 %."""
    return -sinkhorn(PointCloud(seen.target[::2], seen.references[0][::2]), relative_gap=0.01).upper


def confidence(function: Callable[..., metrics.Score]) -> Rule:
    """A score of the class probabilities that the reference head gives to the target samples."""

    def rule(seen: Seen, labels: Labels) -> Array:
        known = Known(seen.target, jnp.ones(len(seen.target)), None, reference_of(seen, labels, 0))
        probabilities = ReferenceHead()(known, jax.random.key(0), num_classes=REFERENCE_CLASSES)
        return function(probabilities).value

    return rule


def clusters(strategy: Strategy, seen: Seen, labels: Labels, count: int = CLUSTERS) -> Int[Array, " n"]:
    """Pseudo-labels of the target."""
    known = Known(seen.target, jnp.ones(len(seen.target)), seen.views, reference_of(seen, labels, 0))
    return strategy(known, jax.random.key(0), num_classes=count).argmax(axis=1)


def cross_view(**options: Any) -> Rule:
    """How well a probe of half of the samples tells the clusters of the others in their views."""

    def rule(seen: Seen, _: Labels) -> Array:
        weights = jnp.ones(len(seen.target))
        return cross_view_hits(seen.target, *seen.views, weights, jax.random.key(0), **options).mean()

    return rule


def relatedness(method: Joint, reference: int = 0) -> Rule:
    """The bound with the target's labels, learned on one half and evaluated on the other."""

    def rule(seen: Seen, labels: Labels) -> dict[str, Array]:
        target = Task(seen.target, labels.target, num_classes=labels.num_classes)
        halves = [kept_aside(task, every=2) for task in (reference_of(seen, labels, reference), target)]
        learned_on, evaluated_on = zip(*halves, strict=True)
        return parts_of(bound(learned_on, evaluated_on, method, CLASS_BLOCKS))

    return rule


def held_out(**options: Any) -> Rule:
    """The recipe of `transferability_score` with labels."""

    def rule(seen: Seen, labels: Labels) -> Array:
        weights, count = jnp.ones(len(seen.target)), labels.num_classes
        hits, _ = held_out_hits(seen.target, labels.target, weights, jax.random.key(0), num_classes=count, **options)
        return balanced_shares(labels.target, weights, num_classes=count) @ hits

    return rule


def transformed_head(seen: Seen, labels: Labels) -> Array:
    """Accuracy of the transformed head `t -> B softmax(M t + m)`, learned on half of both tasks, on the other half."""
    tasks = (reference_of(seen, labels, 0), Task(seen.target, labels.target, num_classes=labels.num_classes))
    halves = [[half.weights for half in kept_aside(task, every=2)] for task in tasks]

    def hits(fold: tuple[Array, Array, Array]) -> Array:
        *weights, key = fold
        reference, target = (task.replaced(weights=half) for task, half in zip(tasks, weights, strict=True))
        transformation = METHOD.fit(reference, target, None, key)
        return transformation.target_classes(transformation.target_logits(seen.target)) == labels.target

    reference_halves, target_halves = map(jnp.stack, halves)
    folds = (reference_halves, target_halves, jax.random.split(jax.random.key(0)))
    first, second = jax.vmap(hits)(folds)
    return jnp.mean(jnp.where(halves[1][1] > 0, first, second))


def relatedness_on_clusters(method: Joint, strategy: Strategy, count: int = CLUSTERS) -> Rule:
    """The bound on pseudo-labels, learned on one view of one half and evaluated on the other view of the other."""

    def rule(seen: Seen, labels: Labels) -> dict[str, Array]:
        target = Task(seen.target, clusters(strategy, seen, labels, count), num_classes=count)
        tasks = cross_view_tasks(reference_of(seen, labels, 0), target, seen.views)
        return parts_of(bound(*tasks, method, CLUSTER_BLOCKS))

    return rule


def reference_of(seen: Seen, labels: Labels, which: int) -> Task:
    """A reference task."""
    return Task(seen.references[which], labels.references[which], num_classes=REFERENCE_CLASSES)


def bound(
    learned_on: tuple[Task, Task], evaluated_on: tuple[Task, Task], method: Joint, blocks: tuple[int, int]
) -> Relatedness:
    """Task-relatedness."""
    return task_relatedness(*learned_on, evaluate_on=evaluated_on, method=method, block_sizes=blocks)


def parts_of(result: Relatedness) -> dict[str, Array]:
    """What of a bound might predict accuracies, each larger where transfer promises more."""
    return {
        "": -result.bound,
        ", reference loss": -result.reweighted_reference_loss,
        ", distribution mismatch": -result.distribution_mismatch,
        ", target loss": -result.target_loss,
        ", target accuracy": result.target_accuracy,
    }


LABELLED: dict[str, Rule] = {
    "LogME": metric(metrics.logme_score),
    "H-score, shrinkage": metric(metrics.regularised_h_score),
    "ridge probe, cross-validated": metric(metrics.ridge_probe_score),
    "1-NN, leave-one-out": metric(metrics.nearest_neighbours_score),
    RECIPE: held_out(),
    "transformed head": transformed_head,
    "relatedness": relatedness(LEARNED),
    "relatedness, features, A = I": relatedness(FIXED),
}
LABEL_FREE: dict[str, Rule] = {
    LABEL_FREE_RECIPE: cross_view(),
    "relatedness on view clusters": relatedness_on_clusters(LEARNED, ViewClusters()),
    "H-score on view clusters": on_clusters(ViewClusters(), metrics.regularised_h_score),
    "H-score on k-means": on_clusters(KMeans(), metrics.regularised_h_score),
    "LogME on k-means": on_clusters(KMeans(), metrics.logme_score),
    "RankMe": lambda seen, _: metrics.rankme_score(seen.target).value,
    "alpha-ReQ": lambda seen, _: metrics.alpha_req_score(seen.target).value,
    "energy distance": against_reference(metrics.energy_distance_score),
    "MMD": against_reference(metrics.mmd_score),
    "W1": wasserstein,
    "confidence": confidence(metrics.maximum_probability_score),
    "information maximisation": confidence(metrics.information_maximisation_score),
}
Rules = Mapping[str, Rule]


def inputs_of(batch: Batch) -> tuple[Seen, Labels]:
    """A batch on the device."""
    features, labels = zip(*(batch.references[name] for name in references_of(batch.name)), strict=True)
    first, second = map(jnp.asarray, batch.views)
    seen = Seen(jnp.asarray(batch.target), (first, second), tuple(map(jnp.asarray, features)))
    return seen, Labels(jnp.asarray(batch.labels), tuple(map(jnp.asarray, labels)), batch.num_classes)


def references_of(target: str) -> tuple[str, ...]:
    """The reference of a target, clothes, or digits where the target shows clothes; and another."""
    first = "mnist" if target == "fashion-mnist" else "fashion-mnist"
    second = "mnist" if target == "animal-mnist" else "animal-mnist"
    return first, second


def scored_group(
    zoo: Zoo, rules: Rules, targets: Sequence[str], group: Int[np.ndarray, " e"], done: Callable[[], None]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Every score `(e, targets)` of encoders of one width, and the seconds of all of them, compilation apart.

    What is compiled serves all targets of a shape, and is let go of with the group: see `jaxrel._core.programs`.
    """
    found: dict[str, np.ndarray] = {}
    seconds = dict.fromkeys(rules, 0.0)
    executables: dict[tuple[str, str], Callable[..., Any]] = {}
    for column, target in enumerate(targets):
        inputs = inputs_of(zoo.batch(target, group))
        for name, rule in rules.items():
            key = name, str(jax.tree.map(jnp.shape, inputs))
            if key not in executables:
                # Over a leading axis of encoders.
                executables[key] = jax.jit(jax.vmap(rule, in_axes=(0, None))).lower(*inputs).compile()
            start = time.perf_counter()
            value = jax.device_get(jax.block_until_ready(executables[key](*inputs)))
            seconds[name] += time.perf_counter() - start
            for suffix, part in (value if isinstance(value, dict) else {"": value}).items():
                found.setdefault(name + suffix, np.full((len(group), len(targets)), np.nan))[:, column] = part
            done()
    return found, seconds


def scored(
    zoo: Zoo, rules: Rules, targets: Sequence[str], encoders: Int[np.ndarray, " e"]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Every score, `(encoders, targets)`, and the mean seconds of one."""
    table: dict[str, np.ndarray] = {}
    seconds = dict.fromkeys(rules, 0.0)
    groups = zoo.groups(encoders)
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("scores", total=len(groups) * len(targets) * len(rules))
        for group in groups:
            found, took = scored_group(zoo, rules, targets, group, lambda: progress.advance(bar))
            for name, values in found.items():
                rows = table.setdefault(name, np.full((len(encoders), len(targets)), np.nan))
                rows[np.searchsorted(encoders, group)] = values
            for name in rules:
                seconds[name] += took[name] / (len(encoders) * len(targets))
    return table, seconds


def static_scores(zoo: Zoo, encoders: Int[np.ndarray, " e"], num_targets: int) -> dict[str, np.ndarray]:
    """Scores that do not look at the target; an encoder that has no classes of its own is ranked last."""
    records = [zoo.table[index] for index in encoders]
    columns = {
        "number of parameters": [record["num_parameters"] for record in records],
        "reference accuracy": [record["reference_accuracy"] or 0.0 for record in records],
    }
    return {name: np.tile(np.asarray(column)[:, None], num_targets) for name, column in columns.items()}


def differences(
    table: Mapping[str, np.ndarray], truth: Mapping[str, Float[np.ndarray, "s e t"]]
) -> list[dict[str, Any]]:
    """By how much each recipe predicts better than each score it has to stand against, on the same resamples."""
    pairs = [(RECIPE, baseline) for baseline in COMPARED] + [
        (LABEL_FREE_RECIPE, baseline)
        for baseline in (FORMER_LABEL_FREE, *COMPARED, *LABEL_FREE)
        if baseline != LABEL_FREE_RECIPE and baseline in table
    ]
    found = []
    for score, baseline in pairs:
        entry: dict[str, Any] = {"score": score, "baseline": baseline}
        for kind, accuracies in truth.items():
            paired = compare_scores(
                table[score], table[baseline], accuracies.mean(axis=0), statistic=STATISTIC, missing="worst"
            )
            entry[kind] = {end: float(getattr(paired.difference, end)) for end in ("estimate", "lower", "upper")}
            entry[kind]["share_below_zero"] = float(paired.share_below_zero)
        found.append(entry)
    return found


def targets_of(half: str) -> tuple[str, ...]:
    """The targets that the encoders of a half are scored on."""
    return DEVELOPMENT_TARGETS if half == "development" else TARGETS


def evaluated(zoo: Zoo, table: Mapping[str, np.ndarray], half: str) -> dict[str, Any]:
    """How well each score predicts the accuracies of each kind; printed as well."""
    encoders, targets = zoo.indices(half), targets_of(half)
    num_test = np.array([zoo.table[0]["num_test"][target] for target in targets])
    evaluations = {}
    for kind in KINDS:
        truth = accuracies_of(zoo, kind, half)
        # An encoder that has collapsed fits its own clusters exactly, and LogME has no maximum there.
        evaluation = evaluate_scores(table, truth, num_test=num_test, statistic=STATISTIC, missing="worst")
        print(f"\n{kind}, {half}: {len(encoders)} encoders, targets {', '.join(targets)}\n")
        print(evaluation.to_text())
        evaluations[kind] = evaluation.rows
    return evaluations


def accuracies_of(zoo: Zoo, kind: str, half: str) -> Float[np.ndarray, "s e t"]:
    """What the encoders of a half reached on its targets."""
    encoders = zoo.indices(half)
    return np.stack([zoo.truth(kind, target)[:, encoders] for target in targets_of(half)], axis=-1)


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("development", "confirmation"), default="development")
    parser.add_argument("--zoo", type=Path, default=FOLDER, help="folder of the zoo")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--only", nargs="+", metavar="SCORE", help="compute these, and keep the others of the JSON")
    parser.add_argument("--page", action="store_true", help="rewrite the tables and the figure of the documentation")
    options = parser.parse_args()
    zoo = read_zoo(options.zoo)
    encoders = zoo.indices(options.half)
    targets = targets_of(options.half)
    path = options.output / f"zoo_{options.half}.json"
    rules = LABELLED | LABEL_FREE
    table, seconds = scored(zoo, {name: rules[name] for name in options.only or rules}, targets, encoders)
    if options.only:
        earlier = read(path)
        table, seconds = {**earlier["scores"], **table}, {**earlier["seconds"], **seconds}
        kept = (*rules, FORMER_LABEL_FREE)
        of_rule = {name: [key for key in table if key == name or key.startswith(f"{name}, ")] for name in kept}
        table = {key: np.array(table[key]) for keys in of_rule.values() for key in keys}
    table |= static_scores(zoo, encoders, len(targets))
    evaluations = evaluated(zoo, table, options.half)
    report = {
        "half": options.half,
        "targets": targets,
        "encoders": [zoo.table[index]["name"] for index in encoders],
        "seconds": seconds,
        "evaluations": evaluations,
        "differences": differences(table, {kind: accuracies_of(zoo, kind, options.half) for kind in KINDS}),
        "scores": {name: values.tolist() for name, values in table.items()},
    }
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
    if options.page:
        write_page(options.output)


if __name__ == "__main__":
    main()
