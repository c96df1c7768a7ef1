"""What was tried on the development half of the zoo, and why the recipe is what it is.

    python benchmarks/zoo/variants.py

Every row changes one thing, on the small encoders. Confirmation encoders and targets are not looked at. Prints tables
and writes them as JSON; `--only` computes some of them and keeps the others of the JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from members import DEVELOPMENT_TARGETS, IMAGENET
from report import read
from rich.console import Console
from rich.table import Table
from score import (
    CLASS_BLOCKS,
    CLUSTER_BLOCKS,
    LEARNED,
    RESULTS,
    STATISTIC,
    Labels,
    Rule,
    Rules,
    Seen,
    bound,
    clusters,
    cross_view,
    held_out,
    metric,
    parts_of,
    reference_of,
    relatedness,
    relatedness_on_clusters,
    scored,
)
from zoo import FOLDER, read_zoo

from jaxrel import Task, metrics
from jaxrel.encoders import ImageAugmentation
from jaxrel.evaluation import compare_scores, evaluate_score
from jaxrel.pseudo_labels import KMeans, ReferenceHead, TransportedClasses, ViewClusters
from jaxrel.relatedness.blocks import kept_aside
from jaxrel.storage.records import write_atomically


def views_of_features(rule: Rule, perturb: Any) -> Rule:
    """The rule with views made of features alone, for where there are no inputs to augment."""

    def changed(seen: Seen, labels: Labels) -> Any:
        first, second = (perturb(seen.target, key) for key in jax.random.split(jax.random.key(1)))
        return rule(replace(seen, views=(first, second)), labels)

    return changed


def with_noise(features: jax.Array, key: jax.Array) -> jax.Array:
    """Noise of half the deviation of each feature."""
    return features + 0.5 * jnp.std(features, axis=0) * jax.random.normal(key, features.shape)


def with_dropout(features: jax.Array, key: jax.Array) -> jax.Array:
    """Half of the features of each sample at their mean."""
    return jnp.where(jax.random.bernoulli(key, 0.5, features.shape), features, features.mean(axis=0))


def target_as_reference(seen: Seen, labels: Labels) -> dict[str, jax.Array]:
    """The bound whose reference is the target itself: learned on one half of both, evaluated on the other."""
    target = Task(seen.target, labels.target, num_classes=labels.num_classes)
    half, rest = kept_aside(target, every=2)
    return parts_of(bound((half, half), (half, rest), LEARNED, CLASS_BLOCKS))


def one_view(seen: Seen, labels: Labels) -> dict[str, jax.Array]:
    """View clusters, learned and evaluated on the features that made them, of two halves."""
    target = Task(seen.target, clusters(ViewClusters(), seen, labels), num_classes=10)
    halves = [kept_aside(task, every=2) for task in (reference_of(seen, labels, 0), target)]
    learned_on, evaluated_on = zip(*halves, strict=True)
    return parts_of(bound(learned_on, evaluated_on, LEARNED, CLUSTER_BLOCKS))


def scaled(augmentation: ImageAugmentation, factor: float) -> ImageAugmentation:
    """Every range of an augmentation times a factor."""
    return ImageAugmentation(
        **{name: factor * value for name, value in asdict(augmentation).items() if name != "mirror"}
    )


def neighbours(count: int) -> Rule:
    """Leave-one-out accuracy of the nearest neighbours."""
    return metric(partial(metrics.nearest_neighbours_score, num_neighbours=count))


def mean_of(*rules: Rule) -> Rule:
    """The mean of two accuracies."""
    return lambda seen, labels: jnp.mean(jnp.stack([jnp.asarray(rule(seen, labels)) for rule in rules]), axis=0)


RECIPES = {
    "held-out discriminant": held_out(),
    "shrinkage 0.1": held_out(shrinkage=0.1),
    "shrinkage 0.2": held_out(shrinkage=0.2),
    "shrinkage 0.4": held_out(shrinkage=0.4),
    "shrinkage 1": held_out(shrinkage=1.0),
    "one repeat": held_out(num_repeats=1),
    "mean with 10-NN": mean_of(held_out(), neighbours(10)),
    "10-NN, leave-one-out": neighbours(10),
    "1-NN, leave-one-out": neighbours(1),
    "ridge probe, cross-validated": metric(metrics.ridge_probe_score),
}
BOUNDS = {
    "labels": relatedness(LEARNED),
    "labels, 50 steps": relatedness(replace(LEARNED, num_steps=50)),
    "labels, ridge 0.3": relatedness(replace(LEARNED, ridge=0.3)),
    "labels, other reference": relatedness(LEARNED, reference=1),
    "labels, target as reference": target_as_reference,
    "labels, head fixed, ridge 0.1": relatedness(replace(LEARNED, setting="learned_features", head_ridge=0.1)),
    "labels, head within budget 1": relatedness(replace(LEARNED, setting="learned_features", lipschitz_budget=1.0)),
    "view clusters": relatedness_on_clusters(LEARNED, ViewClusters()),
    "view clusters, same view": one_view,
    "view clusters, 5": relatedness_on_clusters(LEARNED, ViewClusters(), 5),
    "view clusters, 20": relatedness_on_clusters(LEARNED, ViewClusters(), 20),
    "k-means": relatedness_on_clusters(LEARNED, KMeans()),
    "reference head": relatedness_on_clusters(LEARNED, ReferenceHead()),
    "transported classes": relatedness_on_clusters(LEARNED, TransportedClasses()),
}
PROBES = {
    "cross-view probe": cross_view(),
    "clusters: 5": cross_view(cluster_counts=(5,)),
    "clusters: 10": cross_view(cluster_counts=(10,)),
    "clusters: 20": cross_view(cluster_counts=(20,)),
    "clusters: 5, 10, 20, 50, 100": cross_view(cluster_counts=(5, 10, 20, 50, 100)),
    "ridge 0.01": cross_view(ridge=0.01),
    "ridge 1": cross_view(ridge=1.0),
    "10 directions": cross_view(num_directions=10),
    "60 directions": cross_view(num_directions=60),
    "views of features: noise": views_of_features(cross_view(), with_noise),
    "views of features: dropout": views_of_features(cross_view(), with_dropout),
}
DEFAULT = ImageAugmentation()
AUGMENTATIONS = {
    "views: half as strong": scaled(DEFAULT, 0.5),
    "views: twice as strong": scaled(DEFAULT, 2.0),
    "views: moved alone": replace(DEFAULT, contrast=0.0, brightness=0.0, noise=0.0),
    "views: light and noise alone": replace(DEFAULT, rotation=0.0, scaling=0.0, shift=0.0),
}
# The row of each table that the others are compared with.
SECTIONS = {"labels": "held-out discriminant", "cross-view probe": "cross-view probe", "relatedness": "labels"}
# What of a bound predicts; the rest of its parts is in `score.py`.
PARTS = ("", ", target loss", ", target accuracy")


def rows_of(base: str, table: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The statistic of every score, and the paired difference to the one that nothing was changed of."""
    rows = []
    for name, values in table.items():
        row: dict[str, Any] = {"name": name}
        for kind, accuracies in truth.items():
            found = getattr(evaluate_score(values, accuracies, missing="worst"), STATISTIC).mean
            difference = compare_scores(values, table[base], accuracies, statistic=STATISTIC, missing="worst")
            row[kind] = {
                "tau": float(found.estimate),
                "difference": [float(getattr(difference.difference, end)) for end in ("estimate", "lower", "upper")],
            }
        rows.append(row)
    return rows


def shown(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows for the terminal."""
    table = Table("changed", "probe", "difference", "fine-tuned", "difference", title=title)
    for row in rows:
        cells = [row["name"]]
        for kind in ("probe", "fine_tuned"):
            difference = row[kind]["difference"]
            cells += [f"{row[kind]['tau']:.2f}", "{:+.2f} ({:+.2f} to {:+.2f})".format(*difference)]
        table.add_row(*cells)
    return table


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=FOLDER, help="folder of the zoo")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="tables to compute anew")
    options = parser.parse_args()
    zoo = read_zoo(options.zoo)
    encoders = np.array([i for i in zoo.indices("development") if zoo.table[i]["group"] != IMAGENET])

    def compute(rules: Rules, augmentation: ImageAugmentation = DEFAULT) -> dict[str, np.ndarray]:
        return scored(replace(zoo, augmentation=augmentation), rules, DEVELOPMENT_TARGETS, encoders)[0]

    def probes() -> dict[str, np.ndarray]:
        found = compute(PROBES)
        for name, augmentation in AUGMENTATIONS.items():
            found |= compute({name: cross_view()}, augmentation)
        return found

    def bounds() -> dict[str, np.ndarray]:
        found = compute(BOUNDS)
        kept = {name + part: found[name + part] for name in BOUNDS for part in PARTS}
        return kept | {
            "labels, better of two references": np.maximum(found["labels"], found["labels, other reference"])
        }

    truth = {
        kind: np.stack([zoo.truth(kind, target)[:, encoders].mean(axis=0) for target in DEVELOPMENT_TARGETS], axis=1)
        for kind in ("probe", "fine_tuned")
    }
    path = options.output / "zoo_variants.json"
    report: dict[str, Any] = read(path) if set(options.only) < set(SECTIONS) else {}
    report |= {"statistic": STATISTIC, "encoders": len(encoders), "targets": DEVELOPMENT_TARGETS}
    computed = {"labels": lambda: compute(RECIPES), "cross-view probe": probes, "relatedness": bounds}
    console = Console()
    for title in options.only:
        report[title] = rows_of(SECTIONS[title], computed[title](), truth)
        console.print(shown(title, report[title]))
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
