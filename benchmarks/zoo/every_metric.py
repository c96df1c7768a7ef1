"""The metrics of the registry on the zoo: which one predicts transfer?

    python benchmarks/zoo/every_metric.py --half confirmation --page

Metrics are computed as a user gets them, with default options, on the same images as in `score.py`; those of a
reference and a target task, which take quadratic memory, on half of them. Prints and writes rank correlations with the
accuracies.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from report import KINDS, RESULTS, TAU, interval, read, rows_by_name
from rich.console import Console
from rich.progress import Progress
from score import evaluated, references_of, targets_of
from zoo import FOLDER, Batch, Zoo, read_zoo

from jaxrel import Task
from jaxrel.metrics import METRICS, score_encoders
from jaxrel.pseudo_labels import Known, ReferenceHead
from jaxrel.storage.records import json_number, write_atomically

sys.path.append(str(Path(__file__).parents[1]))

from pages import markdown, write_tables

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
# No target and no reference has more classes; absent ones change no metric, and one number is compiled for once.
CLASSES = 10
QUADRATIC = ("f_otce", "ot_nce")
# Scores that `score.py` has computed on the same images.
FROM_SCORES = {
    "transferability": "transferability",
    "relatedness": "task_relatedness",
    "LogME": "logme",
    "H-score, shrinkage": "regularised_h_score",
    "ridge probe, cross-validated": "ridge_probe",
    "1-NN, leave-one-out": "nearest_neighbours",
    "transferability, label-free": "cross_view",
    "RankMe": "rankme",
    "alpha-ReQ": "alpha_req",
    "energy distance": "energy_distance",
    "MMD": "mmd",
    "confidence": "maximum_probability",
    "information maximisation": "information_maximisation",
}
# Of what the zoo has not, or of class distances that take half a minute to compile and seconds for a pair.
LEFT_OUT = ("logme_regression", "ridge_regression", "cka", "jc_otce", "otdd")
NAMES = tuple(name for name in METRICS if name not in (*FROM_SCORES.values(), *LEFT_OUT))


def found_in(batch: Batch) -> dict[str, Any]:
    """What every metric returns, with a leading axis of encoders."""
    features, labels = batch.references[references_of(batch.name)[0]]
    inputs = {
        "features": batch.target,
        "labels": batch.labels,
        "reference_features": features,
        "reference_labels": labels,
        "source_probabilities": reference_probabilities(batch.target, features, labels),
    }
    inputs["source_labels"] = inputs["source_probabilities"].argmax(axis=-1)
    halved = {
        name: array[:, ::2] if array.ndim > 2 or name == "source_labels" else array[::2]
        for name, array in inputs.items()
    }
    found: dict[str, Any] = {}
    for name in NAMES:
        given = halved if name in QUADRATIC else inputs
        arrays: dict[str, Any] = {need: given[need] for need in METRICS[name].needs}
        options: dict[str, Any] = {"features": arrays.pop("features", None), "metrics": [name], "combined": False}
        options |= {"num_classes": CLASSES, "reference_num_classes": CLASSES, "num_source_classes": CLASSES}
        found |= score_encoders(**arrays, **options)
    return found


def reference_probabilities(
    target: Float[np.ndarray, "e n d"], features: Float[np.ndarray, "e m d"], labels: Int[np.ndarray, " m"]
) -> Float[np.ndarray, "e n c"]:
    """Of the reference classes, for the target samples, under the reference head of each encoder."""
    return np.asarray(_probabilities(target, features, labels))


@jax.jit
def _probabilities(target: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
    def of_one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        known = Known(pair[0], jnp.ones(len(pair[0])), None, Task(pair[1], labels, num_classes=CLASSES))
        return ReferenceHead()(known, jax.random.key(0), num_classes=CLASSES)

    return jax.lax.map(of_one, (target, features))


def scored(zoo: Zoo, targets: Sequence[str], encoders: Int[np.ndarray, " e"]) -> dict[str, np.ndarray]:
    """Every metric, `(encoders, targets)`, larger being better."""
    table = {name: np.full((len(encoders), len(targets)), np.nan) for name in NAMES}
    groups = zoo.groups(encoders)
    order = np.concatenate([np.searchsorted(encoders, group) for group in groups])
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("metrics", total=len(groups) * len(targets))
        for column, target in enumerate(targets):
            parts: dict[str, list[Any]] = {name: [] for name in NAMES}
            for group in groups:
                found = found_in(zoo.batch(target, group))
                progress.advance(bar)
                for name in NAMES:
                    parts[name].append(found[name])
            for name, results in parts.items():
                joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *results)
                combine = METRICS[name].combine
                sign = 1 if METRICS[name].higher_is_better else -1
                table[name][order, column] = sign * (joined if combine is None else combine(joined)).value
    return table


def metric_table(report: dict[str, Any], scores: dict[str, Any]) -> str:
    """Weighted tau of every metric on both accuracies, best first."""
    rows = []
    for source, names in ((scores, FROM_SCORES), (report, dict.fromkeys(NAMES, ""))):
        found = {kind: rows_by_name(source, kind) for kind in KINDS}
        for key, name in names.items():
            entries = [found[kind][key][TAU] for kind in KINDS]
            metric = METRICS[name or key]
            needs = "labels" if not metric.label_free else "no labels"
            needs += ", reference" if "reference_features" in metric.needs else ""
            needs += ", source head" if {"source_probabilities", "source_labels"} & set(metric.needs) else ""
            needs += ", views" if "first_view" in metric.needs else ""
            cells = [f"`{metric.name}`", needs, *map(interval, entries)]
            rows.append((-entries[1]["estimate"], cells))
    rows.sort(key=lambda row: row[0])
    return markdown(["metric", "needs", *KINDS.values()], (cells for _, cells in rows))


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("development", "confirmation"), default="development")
    parser.add_argument("--zoo", type=Path, default=FOLDER, help="folder of the zoo")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--page", action="store_true", help="rewrite the table of docs/metrics.md")
    options = parser.parse_args()
    zoo = read_zoo(options.zoo)
    encoders = zoo.indices(options.half)
    targets = targets_of(options.half)
    table = scored(zoo, targets, encoders)
    evaluations = evaluated(zoo, table, options.half)
    report = {
        "half": options.half,
        "targets": targets,
        "encoders": [zoo.table[index]["name"] for index in encoders],
        "evaluations": evaluations,
        "scores": {name: [list(map(json_number, row)) for row in values] for name, values in table.items()},
    }
    path = options.output / f"zoo_metrics_{options.half}.json"
    write_atomically(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    if options.page:
        write_tables(PAGE, {"which": metric_table(report, read(options.output / f"zoo_{options.half}.json"))})


if __name__ == "__main__":
    main()
