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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from members import DEVELOPMENT_TARGETS, TARGETS
from rich.console import Console
from rich.progress import track
from zoo import FOLDER, Batch, Zoo, read_zoo

from jaxrel import Task, scores
from jaxrel.evaluation import evaluate_scores
from jaxrel.pseudo_labels import KMeans, Known, ViewClusters
from jaxrel.pseudo_labels.cross_view import cross_view_hits
from jaxrel.relatedness import Joint, Relatedness, joint_relatedness
from jaxrel.relatedness.blocks import kept_aside
from jaxrel.relatedness.label_free import cross_view_tasks
from jaxrel.store import write_atomically

RESULTS = Path(__file__).parents[1] / "results"
REFERENCE_CLASSES = 10
CLUSTERS = 10  # of label-free scores that need a count: no target has more classes, and emoji have nine
LEARNED = Joint(ridge=0.03, num_steps=100, points_per_class=25, certificate_gap=0.05, certificate_sweeps=200)
FIXED = Joint(setting="fixed", space="feature", head_ridge=0.1, certificate_gap=0.05, certificate_sweeps=200)
# Points of the reference and of the target in one class of half of 1,000 images, at most; clusters may be larger.
CLASS_BLOCKS = (256, 256)
CLUSTER_BLOCKS = (256, 512)
# The reference of a target: clothes, or digits where the target shows clothes.
REFERENCES = {"fashion-mnist": "mnist"}
DEFAULT_REFERENCE = "fashion-mnist"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seen:
    """What scores may look at, under one encoder; a batch of encoders has a leading axis."""

    target: Float[Array, "n d"]
    first_view: Float[Array, "n d"]
    second_view: Float[Array, "n d"]
    reference: Float[Array, "m d"]

    @property
    def views(self) -> tuple[Array, Array]:
        """Both views."""
        return self.first_view, self.second_view


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Labels:
    """Labels, which are the same for all encoders."""

    target: Int[Array, " n"]
    reference: Int[Array, " m"]
    num_classes: int = field(metadata={"static": True})


Rule = Callable[[Seen, Labels], Array | dict[str, Array]]


def metric(function: Callable[..., scores.Score]) -> Rule:
    """A metric of the target's features and labels."""
    return lambda seen, labels: function(seen.target, labels.target, num_classes=labels.num_classes).value


def on_clusters(strategy: ViewClusters | KMeans, function: Callable[..., scores.Score]) -> Rule:
    """The same of features and pseudo-labels."""
    return lambda seen, _: function(seen.target, clusters(strategy, seen), num_classes=CLUSTERS).value


def against_reference(function: Callable[..., scores.Score]) -> Rule:
    """A distance of features, on half of the samples: its memory is quadratic."""
    return lambda seen, _: function(seen.target[::2], seen.reference[::2]).value


def clusters(strategy: ViewClusters | KMeans, seen: Seen) -> Int[Array, " n"]:
    """Pseudo-labels of the target."""
    known = Known(seen.target, jnp.ones(len(seen.target)), seen.views)
    return strategy(known, jax.random.key(0), num_classes=CLUSTERS).argmax(axis=1)


def cross_view(seen: Seen, _: Labels) -> Array:
    """How well a probe of half of the samples tells the clusters of the others in their views."""
    return cross_view_hits(seen.target, *seen.views, jnp.ones(len(seen.target)), jax.random.key(0)).mean()


def relatedness(method: Joint) -> Rule:
    """The bound with the target's labels, learned on one half and evaluated on the other."""

    def rule(seen: Seen, labels: Labels) -> dict[str, Array]:
        (reference, held_reference), (target, held_target) = (
            kept_aside(task, every=2) for task in tasks_of(seen, labels, labels.target, labels.num_classes)
        )
        return parts_of(bound((reference, target), (held_reference, held_target), method, CLASS_BLOCKS))

    return rule


def relatedness_on_clusters(seen: Seen, labels: Labels) -> dict[str, Array]:
    """The bound on pseudo-labels, learned on one view of one half and evaluated on the other view of the other."""
    tasks = tasks_of(seen, labels, clusters(ViewClusters(), seen), CLUSTERS)
    return parts_of(bound(*cross_view_tasks(*tasks, seen.views), LEARNED, CLUSTER_BLOCKS))


def tasks_of(seen: Seen, labels: Labels, target_labels: Array, num_classes: int) -> tuple[Task, Task]:
    """The reference and the target."""
    reference = Task(seen.reference, labels.reference, num_classes=REFERENCE_CLASSES)
    return reference, Task(seen.target, target_labels, num_classes=num_classes)


def bound(
    learned_on: tuple[Task, Task], evaluated_on: tuple[Task, Task], method: Joint, blocks: tuple[int, int]
) -> Relatedness:
    """Task-relatedness."""
    key = jax.random.key(0)
    return joint_relatedness(*learned_on, *evaluated_on, None, key, method=method, block_sizes=blocks)


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
    "LogME": metric(scores.logme_score),
    "H-score, shrinkage": metric(scores.regularised_h_score),
    "ridge probe, cross-validated": metric(scores.ridge_probe_score),
    "1-NN, leave-one-out": metric(scores.nearest_neighbours_score),
    "relatedness": relatedness(LEARNED),
    "relatedness, features, A = I": relatedness(FIXED),
}
LABEL_FREE: dict[str, Rule] = {
    "cross-view probe": cross_view,
    "relatedness on view clusters": relatedness_on_clusters,
    "H-score on view clusters": on_clusters(ViewClusters(), scores.regularised_h_score),
    "H-score on k-means": on_clusters(KMeans(), scores.regularised_h_score),
    "LogME on k-means": on_clusters(KMeans(), scores.logme_score),
    "RankMe": lambda seen, _: scores.rankme_score(seen.target).value,
    "alpha-ReQ": lambda seen, _: scores.alpha_req_score(seen.target).value,
    "energy distance": against_reference(scores.energy_distance_score),
    "MMD": against_reference(scores.mmd_score),
}
# Compiled once for each shape, over a leading axis of encoders.
RULES = {name: jax.jit(jax.vmap(rule, in_axes=(0, None))) for name, rule in (LABELLED | LABEL_FREE).items()}
_compiled: dict[tuple[str, tuple[int, ...]], Callable[..., Any]] = {}


def compiled(name: str, shape: tuple[int, ...], inputs: tuple[Seen, Labels]) -> Callable[..., Any]:
    """A score, compiled ahead for inputs of this shape."""
    if (name, shape) not in _compiled:
        _compiled[name, shape] = RULES[name].lower(*inputs).compile()
    return _compiled[name, shape]


def inputs_of(batch: Batch) -> tuple[Seen, Labels]:
    """A batch on the device."""
    reference, reference_labels = batch.references[REFERENCES.get(batch.name, DEFAULT_REFERENCE)]
    seen = Seen(*map(jnp.asarray, (batch.target, *batch.views, reference)))
    return seen, Labels(jnp.asarray(batch.labels), jnp.asarray(reference_labels), batch.num_classes)


def scored(zoo: Zoo, target: str, encoders: Int[np.ndarray, " e"]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Every score of these encoders on a target, and the seconds that each took."""
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for batch in zoo.batches(target, encoders):
        positions = np.searchsorted(encoders, batch.encoders)
        inputs = inputs_of(batch)
        shape = (*batch.target.shape, batch.num_classes)
        for name in RULES:
            compute = compiled(name, shape, inputs)
            start = time.perf_counter()
            value = jax.device_get(jax.block_until_ready(compute(*inputs)))
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
            for suffix, part in (value if isinstance(value, dict) else {"": value}).items():
                found.setdefault(name + suffix, np.full(len(encoders), np.nan))[positions] = part
    return found, seconds


def static_scores(zoo: Zoo, encoders: Int[np.ndarray, " e"], num_targets: int) -> dict[str, np.ndarray]:
    """Scores that do not look at the target; an encoder that has no classes of its own is ranked last."""
    records = [zoo.table[index] for index in encoders]
    columns = {
        "number of parameters": [record["num_parameters"] for record in records],
        "reference accuracy": [record["reference_accuracy"] or 0.0 for record in records],
    }
    return {name: np.tile(np.asarray(column)[:, None], num_targets) for name, column in columns.items()}


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("development", "confirmation"), default="development")
    parser.add_argument("--zoo", type=Path, default=FOLDER, help="folder of the zoo")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    zoo = read_zoo(options.zoo)
    encoders = zoo.indices(options.half)
    targets = DEVELOPMENT_TARGETS if options.half == "development" else TARGETS
    columns: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for target in track(targets, "targets", console=Console(stderr=True)):
        found, took = scored(zoo, target, encoders)
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
        for name, value in took.items():
            seconds[name] = seconds.get(name, 0.0) + value / (len(targets) * len(encoders))
    table = {name: np.stack(values, axis=1) for name, values in columns.items()}
    table |= static_scores(zoo, encoders, len(targets))
    evaluations = {}
    for kind in ("fine_tuned", "probe"):
        truth = np.stack([zoo.truth(kind, target)[:, encoders] for target in targets], axis=-1)
        # An encoder that has collapsed fits its own clusters exactly, and LogME has no maximum there.
        evaluation = evaluate_scores(table, truth, statistic="weighted_kendall_tau_symmetric", missing="worst")
        print(f"\n{kind}, {options.half}: {len(encoders)} encoders, targets {', '.join(targets)}\n")
        print(evaluation.to_text())
        evaluations[kind] = evaluation.rows
    report = {
        "half": options.half,
        "targets": targets,
        "encoders": [zoo.table[index]["name"] for index in encoders],
        "seconds": seconds,
        "evaluations": evaluations,
        "scores": {name: values.tolist() for name, values in table.items()},
    }
    path = options.output / f"zoo_{options.half}.json"
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
