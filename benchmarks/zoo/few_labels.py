"""What a few labels are worth: chosen at random or by `samples_to_label`, alone and with views of all samples.

    python benchmarks/zoo/few_labels.py --page
    python benchmarks/zoo/few_labels.py --zoo benchmarks/data/zoo/second --page

Scores the small encoders of a zoo, of both halves, on every target, of which 20 to 200 of 1,000 samples have labels.
Prints the weighted Kendall tau with the accuracies, writes it as JSON and, with `--page`, into the documentation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from members import IMAGENET
from report import FEW_LABELS, KINDS, RESULTS, SECOND, TAU, write_page
from rich.console import Console
from rich.progress import Progress
from zoo import FOLDER, Batch, Zoo, read_zoo

from jaxrel import Task, transferability_score
from jaxrel.evaluation import bootstrap_intervals, ceiling, compare_scores, samples_to_label
from jaxrel.metrics import Score, logme_score, nearest_neighbours_score
from jaxrel.storage.records import write_atomically

COUNTS = (20, 50, 100, 200)
NUM_DRAWS = 4
WORTHS = (0, 10, 25, 50, 100, 200)  # of views, in labels
COMPARED = (
    ("all labels", "all labels, LogME"),
    ("all labels", "all labels, nearest neighbours"),
    ("100 random, views worth 50", "100 random, views worth 0"),
    ("100 random, views worth 50", "views"),
    ("100 random, views worth 50", "100 random, LogME"),
    ("100 random, views worth 50", "100 random, nearest neighbours"),
)
PEERS: dict[str, Callable[..., Score]] = {"LogME": logme_score, "nearest neighbours": nearest_neighbours_score}

Scores = dict[str, Float[np.ndarray, "d e"]]


def choices(features: list[np.ndarray], count: int) -> Iterator[tuple[str, Int[np.ndarray, " m"]]]:
    """The samples that are labelled, and how they are chosen."""
    for seed in range(NUM_DRAWS):
        yield "random", np.random.default_rng(seed).permutation(len(features[0]))[:count]
    yield "consensus", samples_to_label([Task(rows) for rows in features], num_samples=count)


def scores_of(features: list[np.ndarray], views: list[Any], labels: np.ndarray, done: Callable[[], None]) -> Scores:
    """Every score of all encoders on one target, for each draw of the labels; larger is better."""
    num_classes = int(labels.max()) + 1

    def of_all(score: Callable[..., Any]) -> Float[np.ndarray, " e"]:
        return np.array([float(score(rows, pair)) for rows, pair in zip(features, views, strict=True)])

    def by_peers(rows: Any) -> dict[str, np.ndarray]:
        return {
            name: of_all(lambda own, _, metric=metric: metric(own[rows], labels[rows]).value)
            for name, metric in PEERS.items()
        }

    by_views = of_all(lambda own, pair: transferability_score(Task(own), views=pair, num_resamples=2))
    by_all = of_all(lambda own, _: transferability_score(Task(own, labels), num_resamples=2))
    found: dict[str, list[np.ndarray]] = {"views": [by_views], "all labels": [by_all]}
    found |= {f"all labels, {name}": [values] for name, values in by_peers(slice(None)).items()}
    done()
    for count in COUNTS:
        for how, rows in choices(features, count):
            known = np.where(np.isin(np.arange(len(labels)), rows), labels, -1)
            judged = [
                transferability_score(Task(own, known, num_classes=num_classes), num_resamples=2) for own in features
            ]
            by_labels, num_labelled = np.array([float(score) for score in judged]), int(judged[0].num_labelled)
            of_draw = by_peers(rows)
            for worth in WORTHS:
                share = num_labelled / (num_labelled + worth * (1 - num_labelled / len(labels)))
                of_draw[f"views worth {worth}"] = share * by_labels + (1 - share) * by_views
            for name, values in of_draw.items():
                found.setdefault(f"{count} {how}, {name}", []).append(values)
            done()
    return {name: np.stack(values) for name, values in found.items()}


def scored(zoo: Zoo, encoders: Int[np.ndarray, " e"]) -> dict[str, Float[np.ndarray, "d e t"]]:
    """Every score on all targets."""
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("scores", total=len(zoo.targets) * (1 + len(COUNTS) * (NUM_DRAWS + 1)))
        tables = []
        for target in zoo.targets:
            batches: list[Batch] = [zoo.batch(target, group) for group in zoo.groups(encoders)]
            rows = [row for batch in batches for row in batch.target]
            views = [pair for batch in batches for pair in zip(*batch.views, strict=True)]
            order = np.argsort(np.concatenate([batch.encoders for batch in batches]))
            rows, views = ([of[place] for place in order] for of in (rows, views))
            tables.append(scores_of(rows, views, batches[0].labels, lambda: progress.advance(bar)))
    return {name: np.stack([table[name] for table in tables], axis=-1) for name in tables[0]}


def evaluated(zoo: Zoo, encoders: Int[np.ndarray, " e"], table: dict[str, np.ndarray]) -> dict[str, Any]:
    """The weighted tau of each score with each kind of accuracy, its mean over the draws and over targets."""
    found: dict[str, Any] = {}
    for name, values in table.items():
        found[name] = {}
        for kind in KINDS:
            truth = np.stack([zoo.truth(kind, target)[:, encoders].mean(axis=0) for target in zoo.targets], axis=-1)
            tau = bootstrap_intervals(values, truth, statistic=TAU)
            ends = {end: float(np.mean(getattr(tau.mean, end))) for end in ("estimate", "lower", "upper")}
            per_target = np.asarray(tau.per_target.estimate).reshape(-1, len(zoo.targets)).mean(axis=0)
            found[name][kind] = ends | {"per_target": dict(zip(zoo.targets, per_target.tolist(), strict=True))}
        print(f"{name:40}", *(f"{kind} {found[name][kind]['estimate']:.3f}" for kind in KINDS))
    return found


def differences(zoo: Zoo, encoders: Int[np.ndarray, " e"], table: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """By how much scores predict better than what they stand beside, on the same resamples of the encoders.

    Of scores that have several draws of the labels it is the mean of the draws' differences and ends.
    """
    truth = {
        kind: np.stack([zoo.truth(kind, target)[:, encoders].mean(axis=0) for target in zoo.targets], axis=-1)
        for kind in KINDS
    }
    found = []
    for score, baseline in COMPARED:
        entry: dict[str, Any] = {"score": score, "baseline": baseline}
        draws = np.broadcast_arrays(table[score], table[baseline])
        for kind, accuracies in truth.items():
            paired = [
                compare_scores(ours, theirs, accuracies, statistic=TAU).difference
                for ours, theirs in zip(*draws, strict=True)
            ]
            entry[kind] = {
                end: float(np.mean([getattr(draw, end) for draw in paired])) for end in ("estimate", "lower", "upper")
            }
        found.append(entry)
        print(f"{score:36} minus {baseline:36}", *(f"{kind} {entry[kind]['estimate']:+.3f}" for kind in KINDS))
    return found


def ceilings(zoo: Zoo, encoders: Int[np.ndarray, " e"]) -> dict[str, dict[str, float]]:
    """What the true accuracies would have with those that were observed, in the mean over targets."""
    num_test = np.array([zoo.table[0]["num_test"][target] for target in zoo.targets])
    found = {}
    for kind in KINDS:
        truth = np.stack([zoo.truth(kind, target)[:, encoders] for target in zoo.targets], axis=-1)
        mean = ceiling(truth, num_test=num_test, statistic=TAU).mean
        found[kind] = {end: float(getattr(mean, end)) for end in ("estimate", "lower", "upper")}
    return found


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=FOLDER, help="folder of the zoo")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--page", action="store_true", help="rewrite the tables of the documentation")
    options = parser.parse_args()
    zoo = read_zoo(options.zoo)
    encoders = np.array([index for index, record in enumerate(zoo.table) if record["group"] != IMAGENET])
    table = scored(zoo, encoders)
    report = {
        "encoders": [zoo.table[index]["name"] for index in encoders],
        "targets": zoo.targets,
        "evaluations": evaluated(zoo, encoders, table),
        "differences": differences(zoo, encoders, table),
        "ceiling": ceilings(zoo, encoders),
    }
    path = options.output / (FEW_LABELS if options.zoo == FOLDER else SECOND)
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
    if options.page:
        write_page(options.output)


if __name__ == "__main__":
    main()
