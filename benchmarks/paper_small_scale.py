"""Task-relatedness at small scale: the published scheme against this library, and a grid of pairs of tasks.

    python benchmarks/small_encoders.py --fashion-mnist FOLDER      # once: four encoders and their features
    python benchmarks/paper_small_scale.py

Four parts; `--only NAME ...` runs some of them and keeps the others of the results file.

published: MNIST -> Fashion-MNIST on the features and the head of `data/mnist_fmnist_features.npz`, five seeds of
`Paper("learned")`, evaluated as published and certified; its time for a step, and the time `Joint` needs for a bound
of at most 0.95, beside a re-enactment of the published loop in numpy and POT on the same machine.
grid: every encoder with every pair of its tasks; validation and held-out bounds of the chain fixed ->
learned_features -> learned, the loss of a linear probe, and how they correlate.
reference_classes: what more reference classes than target classes do to the bound.
reference_difficulty: what wrong labels in the reference do to it.
"""

from __future__ import annotations

import os

# The plans of the peer are solved in one thread, and so is its algebra: on two, it waits for its own pool.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import itertools
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import ot
from mnist_to_fashion import load as load_stored
from published_scheme import run as run_published
from rich.console import Console
from rich.table import Table
from scipy import stats
from sklearn.linear_model import LogisticRegression
from small_encoders import FOLDER as ENCODERS
from small_encoders import SETS
from small_encoders import load as load_encoded

from jaxrel import Head, Joint, Paper, Relatedness, Task, __version__, task_relatedness
from jaxrel._core.programs import release_if_many
from jaxrel.relatedness import restricted_to_classes

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "paper_small_scale.json"
FIGURE = HERE.parent / "docs" / "paper_small_scale.png"
FAST_JOINT = Joint(ridge=0.001, num_steps=120, learning_rate=0.02)
SETTINGS: tuple[Literal["fixed", "learned_features", "learned"], ...] = ("fixed", "learned_features", "learned")
TERMS = ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch")
TRAIN, HELD_OUT = 4000, 2000  # sizes to which the grid's tasks are padded, so that they share compilations
CONSOLE = Console(markup=False, width=120)

Part = dict[str, Any]


def stored_head() -> Head:
    """The published head of the stored features."""
    arrays = np.load(HERE / "data" / "mnist_fmnist_features.npz", allow_pickle=False)
    return Head(jnp.asarray(arrays["head_weight"]), jnp.asarray(arrays["head_bias"]))


def stored_tasks() -> tuple[Task, Task, tuple[Task, Task]]:
    """Reference, target and held-out samples of the stored features."""
    held_out = load_stored("reference_test"), load_stored("target_test")
    return load_stored("reference_train"), load_stored("target_train"), held_out


def exact_class_wasserstein(result: Relatedness, reference: Task, target: Task) -> float:
    """The published distribution term with POT's exact solver: the mean over classes of W1 in feature space."""
    t = result.transformation
    assert t.feature_map is not None
    z = np.asarray(t.feature_map(t.reference_standardisation(reference.features)), np.float64)
    x = np.asarray(t.target_standardisation(target.features), np.float64)
    labels_r, _ = reference.labelled
    labels_t, num_classes = target.labelled
    standing_for = np.argmax(np.asarray(t.label_map), axis=0)[np.asarray(labels_r)]
    distances = []
    for k in range(num_classes):
        rows, columns = z[standing_for == k], x[np.asarray(labels_t) == k]
        uniform = [np.full(len(points), 1 / len(points)) for points in (rows, columns)]
        distances.append(ot.emd2(*uniform, ot.dist(rows, columns, "euclidean"), numItermax=1_000_000))
    return float(np.mean(distances))


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall time of a call whose result is waited for."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def cold_joint() -> Part:
    """First and second call of `Joint` in this fresh process."""
    reference, target, held_out = stored_tasks()

    def call() -> Relatedness:
        return task_relatedness(reference, target, evaluate_on=held_out, method=FAST_JOINT)

    first = seconds_of(call)
    warm = float(np.median([seconds_of(call) for _ in range(5)]))
    return {"seconds_first": first, "seconds_warm": warm, "bound": float(call().raise_if_failed().bound)}


def published(seeds: int = 5, peer_steps: int = 50) -> Part:
    """The published scheme, here and re-enacted."""
    reference, target, held_out = stored_tasks()
    head = stored_head()
    rows = []
    for seed in range(seeds):
        result = task_relatedness(
            reference, target, evaluate_on=held_out, method=Paper(), head=head, key=seed
        ).raise_if_failed()
        estimate = result.published
        assert estimate is not None
        rows.append(
            {
                "wasserstein_exact": exact_class_wasserstein(result, *held_out),
                "wasserstein_certified": float(estimate.wasserstein),
                "accuracy": float(result.target_accuracy),
                "target_loss": float(result.target_loss),
                "published_estimate": float(estimate.bound),
                "published_lipschitz": float(estimate.lipschitz),
                "label_mismatch": float(estimate.label_mismatch),
                "certified_bound": float(result.bound),
                "lipschitz_with_inverse": float(result.transformation.target_map.lipschitz),
            }
        )

    def seconds_of_paper(steps: int) -> float:
        method = Paper(num_steps=steps)
        repeats = [
            seconds_of(lambda: task_relatedness(reference, target, evaluate_on=held_out, method=method, head=head))
            for _ in range(3)
        ]
        return float(np.median(repeats))

    # The difference of two lengths leaves out set-up and evaluation.
    short, long = 51, 551
    paper_step = (seconds_of_paper(long) - seconds_of_paper(short)) / (long - short)
    peer = run_published(
        np.asarray(reference.features),
        np.asarray(reference.labels),
        np.asarray(target.features),
        np.asarray(target.labels),
        np.asarray(head.weights),
        np.asarray(head.bias),
        num_reference_classes=10,
        num_target_classes=10,
        num_steps=peer_steps,
    )
    cold = subprocess.run(
        [sys.executable, __file__, "--cold-joint"], capture_output=True, text=True, check=True, cwd=HERE
    )
    joint = json.loads(cold.stdout.splitlines()[-1])
    peer_step = float(np.median(peer.seconds))
    return {
        "seeds": rows,
        "peer_seconds_per_step": peer_step,
        "peer_plan_seconds_per_step": float(np.median(peer.plan_seconds)),
        "peer_steps_timed": peer_steps,
        "paper_seconds_per_step": paper_step,
        "paper_speedup_per_step": peer_step / paper_step,
        "joint": joint,
        "joint_speedup_first_call": 1001 * peer_step / joint["seconds_first"],
        "joint_speedup_warm": 1001 * peer_step / joint["seconds_warm"],
    }


def show_published(part: Part) -> None:
    """Print the comparison with the published scheme."""
    table = Table(title="Paper('learned'), MNIST -> Fashion-MNIST, held-out, mean and deviation over seeds")
    for column in ("figure", "mean", "deviation"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name in part["seeds"][0]:
        values = [row[name] for row in part["seeds"]]
        table.add_row(name.replace("_", " "), f"{np.mean(values):.3f}", f"{np.std(values, ddof=1):.3f}")
    CONSOLE.print(table)
    joint = part["joint"]
    CONSOLE.print(
        f"A step: re-enacted {1e3 * part['peer_seconds_per_step']:.1f} ms "
        f"(of which its plan {1e3 * part['peer_plan_seconds_per_step']:.1f}), "
        f"Paper {1e3 * part['paper_seconds_per_step']:.2f} ms: {part['paper_speedup_per_step']:.1f} times faster.\n"
        f"Joint to a held-out bound of {joint['bound']:.3f}: {joint['seconds_first']:.1f} s compilation included, "
        f"{joint['seconds_warm']:.2f} s warm: {part['joint_speedup_first_call']:.1f} and "
        f"{part['joint_speedup_warm']:.0f} times faster than 1,001 re-enacted steps.",
        soft_wrap=True,
    )


def grid_task(encoder: str, name: str) -> tuple[Task, Task]:
    """Training and held-out samples, padded to the sizes that all tasks share."""
    train, held_out = load_encoded(ENCODERS, encoder, name)
    return train.padded(TRAIN), held_out.padded(HELD_OUT)


def probe(encoder: str, name: str) -> Part:
    """Held-out loss and accuracy of softmax regression; its ridge by every fourth training sample."""
    train, held_out = load_encoded(ENCODERS, encoder, name)
    x, y = np.asarray(train.features), np.asarray(train.labels)
    mean, scale = x.mean(0), np.maximum(x.std(0), 0.1 * np.sqrt(np.mean(x.std(0) ** 2)))
    x, x_new, y_new = (x - mean) / scale, (np.asarray(held_out.features) - mean) / scale, np.asarray(held_out.labels)

    def loss(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> float:
        return float(-np.mean(np.log(np.maximum(model.predict_proba(x)[np.arange(len(y)), y], 1e-12))))

    aside = np.arange(len(y)) % 4 == 3
    candidates = [1e-4, 1e-3, 1e-2, 1e-1]
    losses = [
        loss(LogisticRegression(C=c, max_iter=300).fit(x[~aside], y[~aside]), x[aside], y[aside]) for c in candidates
    ]
    model = LogisticRegression(C=candidates[int(np.argmin(losses))], max_iter=300).fit(x, y)
    return {"probe_loss": loss(model, x_new, y_new), "probe_accuracy": float(model.score(x_new, y_new))}


def chain(reference: tuple[Task, Task], target: tuple[Task, Task]) -> dict[str, Part]:
    """The three settings, each started from the one before and never worse on the samples kept aside."""
    rows: dict[str, Part] = {}
    result = None
    for setting in SETTINGS:
        method = Joint(setting=setting, early_stopping=True)
        result = task_relatedness(
            reference[0], target[0], evaluate_on=(reference[1], target[1]), method=method, init=result
        ).raise_if_failed()
        names = ("bound", "tight_bound", *TERMS, "distribution_mismatch_lower", "target_loss", "target_accuracy")
        rows[setting] = {name: float(getattr(result, name)) for name in names}
        rows[setting]["validation_bound"] = float(result.transformation.validation_bound)
    return rows


def grid() -> Part:
    """Every encoder, every ordered pair of different tasks."""
    probes = {f"{encoder}/{name}": probe(encoder, name) for encoder in SETS for name in SETS}
    pairs = []
    for encoder, (reference, target) in itertools.product(SETS, itertools.permutations(SETS, 2)):
        release_if_many()
        tasks = grid_task(encoder, reference), grid_task(encoder, target)
        CONSOLE.print(f"{encoder}: {reference} -> {target}", style="dim")
        row = {"encoder": encoder, "reference": reference, "target": target, "settings": chain(*tasks)}
        pairs.append(row | probes[f"{encoder}/{target}"])
    return {"pairs": pairs, "probes": probes, "violations": violations(pairs), "correlations": correlations(pairs)}


def violations(pairs: list[Part]) -> Part:
    """Where the order of the settings fails, on the samples kept aside and held-out, and the certificate."""

    def falls(row: Part, name: str) -> bool:
        bounds = [row["settings"][setting][name] for setting in SETTINGS]
        return bounds[0] >= bounds[1] >= bounds[2]

    def certified(row: Part) -> bool:
        return all(s["target_loss"] <= s["tight_bound"] <= s["bound"] + 1e-5 for s in row["settings"].values())

    def name(row: Part) -> str:
        return f"{row['encoder']}: {row['reference']} -> {row['target']}"

    return {
        "validation": [name(row) for row in pairs if not falls(row, "validation_bound")],
        "held_out": [name(row) for row in pairs if not falls(row, "bound")],
        "certificate": [name(row) for row in pairs if not certified(row)],
    }


def correlations(pairs: list[Part], resamples: int = 2000) -> dict[str, Part]:
    """Spearman's rank correlation with the probe's loss; 95 % intervals by resampling (encoder, target) clusters."""
    generator = np.random.default_rng(0)
    clusters: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(pairs):
        clusters.setdefault((row["encoder"], row["target"]), []).append(index)
    members = list(clusters.values())
    draws = [
        np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        for _ in range(resamples)
    ]
    truth = np.array([row["probe_loss"] for row in pairs])
    measured = {}
    for setting in SETTINGS:
        for name in ("bound", "target_loss", *TERMS):
            values = np.array([row["settings"][setting][name] for row in pairs])
            if np.ptp(values) < 1e-6:
                continue  # A constant has no correlation: the label mismatch of ten classes on ten.
            resampled = [stats.spearmanr(values[draw], truth[draw]).statistic for draw in draws]
            low, high = np.nanquantile(resampled, [0.025, 0.975])
            correlation = float(stats.spearmanr(values, truth).statistic)
            measured[f"{setting} {name}"] = {"spearman": correlation, "low": float(low), "high": float(high)}
    return measured


def show_grid(part: Part) -> None:
    """Print the pairs of the encoders' own tasks, violations and correlations; draw the figure."""
    own = [row for row in part["pairs"] if row["encoder"] == row["reference"]]
    table = Table(
        title="held-out bounds, nats; the encoder was trained on the reference (validation bound in brackets)"
    )
    for column in ("pair", *SETTINGS, "loss", "probe loss", "probe accuracy"):
        table.add_column(column.replace("_", " "), justify="left" if column == "pair" else "right")
    for row in own:
        bounds = [f"{s['bound']:.2f} ({s['validation_bound']:.2f})" for s in (row["settings"][k] for k in SETTINGS)]
        table.add_row(
            f"{row['reference']} -> {row['target']}",
            *bounds,
            f"{row['settings']['learned']['target_loss']:.2f}",
            f"{row['probe_loss']:.2f}",
            f"{row['probe_accuracy']:.1%}",
        )
    CONSOLE.print(table)
    for name, failing in part["violations"].items():
        CONSOLE.print(
            f"{name}: {len(failing)} of {len(part['pairs'])} pairs out of order {failing or ''}", soft_wrap=True
        )
    table = Table(title="Spearman correlation with the probe's loss, all pairs, 95 % interval")
    for column in ("figure", "correlation", "interval"):
        table.add_column(column)
    for name, row in part["correlations"].items():
        table.add_row(name.replace("_", " "), f"{row['spearman']:.2f}", f"{row['low']:.2f} .. {row['high']:.2f}")
    CONSOLE.print(table)
    draw(own)


def draw(pairs: list[Part]) -> None:
    """Stacked terms of the three settings beside the loss of a linear probe, per pair."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 5.5), sharex=True, sharey=True, layout="constrained")
    colours = ("#4477aa", "#ccbb44", "#ee6677")
    positions = np.arange(len(pairs))
    for axis, setting in zip(axes, SETTINGS, strict=True):
        left = np.zeros(len(pairs))
        for term, colour in zip(TERMS, colours, strict=True):
            width = np.array([row["settings"][setting][term] for row in pairs])
            axis.barh(positions, width, left=left, color=colour, label=term.replace("_", " "))
            left += width
        losses = [row["settings"][setting]["target_loss"] for row in pairs]
        axis.plot(losses, positions, "k|", markersize=12, markeredgewidth=2, label="target loss of the bounded head")
        axis.plot([row["probe_loss"] for row in pairs], positions, "ko", markersize=5, label="loss of a linear probe")
        axis.axvline(np.log(10), color="grey", linestyle=":", label="constant guess")
        axis.set_title(setting.replace("_", " "))
        axis.set_xlabel("nats, held-out")
    axes[0].set_yticks(positions, [f"{row['reference']} → {row['target']}" for row in pairs])
    axes[0].invert_yaxis()
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)


def paired(values: np.ndarray) -> Part:
    """Mean of paired differences with a 95 % interval (Student's t)."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "low": float(values.mean() - half), "high": float(values.mean() + half)}


def reference_classes(draws: int = 10) -> Part:
    """Bounds of a target of four classes for 4, 6, 8 and 10 reference classes, drawn at random and nested.

    The encoder was trained on MNIST, the reference is MNIST, the target four classes of Fashion-MNIST.
    """
    generator = np.random.default_rng(0)
    counts = (4, 6, 8, 10)
    train, held_out = load_encoded(ENCODERS, "mnist", "mnist")
    target = [restricted_to_classes(task, (0, 1, 5, 8)) for task in load_encoded(ENCODERS, "mnist", "fashion-mnist")]
    bounds: dict[str, list[list[float]]] = {"assigned": [], "soft": []}
    for draw_index in range(draws):
        release_if_many()
        order = generator.permutation(10)
        CONSOLE.print(f"reference classes, draw {draw_index + 1} of {draws}", style="dim")
        for class_map, rows in bounds.items():
            row = []
            for count in counts:
                classes = tuple(int(c) for c in sorted(order[:count]))
                reference = [
                    restricted_to_classes(task, classes).padded(n) for task, n in ((train, 3800), (held_out, 1300))
                ]
                result = task_relatedness(
                    reference[0],
                    target[0],
                    evaluate_on=(reference[1], target[1]),
                    method=Joint(class_map=class_map, ridge=0.01),  # type: ignore[arg-type]
                    key=draw_index,
                )
                row.append(float(result.raise_if_failed().bound))
            rows.append(row)
    return {
        "counts": counts,
        "draws": bounds,
        "increase": {name: increases(counts, rows) for name, rows in bounds.items()},
    }


def increases(levels: tuple[float, ...], rows: list[list[float]]) -> dict[str, Part]:
    """Paired differences from the first level."""
    values = np.array(rows)
    return {str(level): paired(values[:, i] - values[:, 0]) for i, level in enumerate(levels) if i}


def reference_difficulty(draws: int = 5) -> Part:
    """Bounds of MNIST -> digits for a reference of which a share of the labels is wrong."""
    shares = (0.0, 0.1, 0.2, 0.4)
    reference = load_encoded(ENCODERS, "mnist", "mnist")
    target = load_encoded(ENCODERS, "mnist", "digits")
    rows, losses = [], []
    for seed in range(draws):
        CONSOLE.print(f"reference difficulty, draw {seed + 1} of {draws}", style="dim")
        results = []
        for share in shares:
            noisy = [with_wrong_labels(task, share, seed) for task in reference]
            results.append(
                task_relatedness(
                    noisy[0], target[0], evaluate_on=(noisy[1], target[1]), method=Joint(ridge=0.01), key=seed
                ).raise_if_failed()
            )
        rows.append([float(result.bound) for result in results])
        losses.append([float(result.reweighted_reference_loss) for result in results])
    return {
        "shares": shares,
        "draws": rows,
        "mean_bound": np.mean(rows, axis=0).tolist(),
        "mean_reference_loss": np.mean(losses, axis=0).tolist(),
        "increase": increases(shares, rows),
    }


def with_wrong_labels(task: Task, share: float, seed: int) -> Task:
    """The task with a share of its labels replaced by another class."""
    generator = np.random.default_rng(seed)
    labels, num_classes = task.labelled
    wrong = generator.random(task.num_samples) < share
    shift = generator.integers(1, num_classes, task.num_samples)
    return Task(
        task.features, np.where(wrong, (np.asarray(labels) + shift) % num_classes, labels), num_classes=num_classes
    )


def show_increase(part: Part) -> None:
    """Print what the bound gains."""
    by_map = part["increase"] if "counts" in part else {"wrong labels": part["increase"]}
    table = Table(title="increase of the held-out bound, nats, mean of paired draws and 95 % interval")
    for column in ("", "level", "increase", "interval"):
        table.add_column(column)
    for name, levels in by_map.items():
        for level, row in levels.items():
            table.add_row(name, level, f"{row['mean']:+.3f}", f"{row['low']:+.3f} .. {row['high']:+.3f}")
    CONSOLE.print(table)


PARTS: dict[str, tuple[Callable[[], Part], Callable[[Part], None]]] = {
    "published": (published, show_published),
    "grid": (grid, show_grid),
    "reference_classes": (reference_classes, show_increase),
    "reference_difficulty": (reference_difficulty, show_increase),
}


def main() -> None:
    """Run the parts asked for, print them and keep the others of the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cold-joint", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cold_joint:
        print(json.dumps(cold_joint()))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["command"] = "python benchmarks/paper_small_scale.py"
    versions = {
        "jaxrel": __version__,
        "jax": jax.__version__,
        "POT": ot.__version__,
        "python": platform.python_version(),
    }
    results["versions"] = versions
    for name in options.only:
        compute, show = PARTS[name]
        results[name] = compute()
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        show(results[name])


if __name__ == "__main__":
    main()
