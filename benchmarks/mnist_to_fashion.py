"""The held-out bound from MNIST to Fashion-MNIST and back, judged by an exact solver of the transport problems.

    python benchmarks/mnist_to_fashion.py

Features of one small convolutional encoder (data/mnist_fmnist_features.npz: MNIST 4,000 / 1,000 samples, Fashion-MNIST
8,000 / 4,000, d = 200). Everything is learned on the train arrays and evaluated on the test arrays. The published code
of task-relatedness has a bound of 16.60 here; a constant guess has a loss of log 10 = 2.303.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
from rich.console import Console
from rich.table import Table

from jaxrel import Joint, Relatedness, Task, __version__, task_relatedness
from jaxrel.transport import margin_cost

FOLDER = Path(__file__).parent


def load(name: str) -> Task:
    """One of the four tasks of the file."""
    arrays = np.load(FOLDER / "data" / "mnist_fmnist_features.npz", allow_pickle=False)
    return Task(arrays[f"{name}_features"], arrays[f"{name}_labels"], num_classes=10)


def exact_transport(result: Relatedness, reference: Task, target: Task) -> float:
    """The distribution mismatch by POT's network simplex in float64, on the same logits and the margin cost."""
    t = result.transformation
    u = np.asarray(t.reference_logits(reference.features), np.float64)
    v = np.asarray(t.target_logits(target.features), np.float64)
    reference_labels, _ = reference.labelled
    target_labels, num_classes = target.labelled
    counts = np.bincount(np.asarray(reference_labels), minlength=u.shape[1])
    cloud = np.asarray(t.conditional, np.float64)[:, reference_labels] / counts[np.asarray(reference_labels)]
    total = 0.0
    with jax.enable_x64(True):
        for k in range(num_classes):
            rows, columns = np.flatnonzero(cloud[k]), np.flatnonzero(np.asarray(target_labels) == k)
            log_row = np.log(np.maximum(np.asarray(t.label_map, np.float64)[k], 1e-300))
            cost = np.asarray(margin_cost(*map(jnp.asarray, (u[rows], v[columns], log_row))))
            uniform = np.full(columns.size, 1 / columns.size)
            total += columns.size / v.shape[0] * ot.emd2(cloud[k, rows] / cloud[k, rows].sum(), uniform, cost)
    return total


def measure(method: Joint, *, back: bool = False) -> dict[str, Any]:
    """Terms, exact judge and seconds of one method; `back` is from Fashion-MNIST to MNIST."""
    sides = ("target", "reference") if back else ("reference", "target")
    tasks, held_out = ([load(f"{side}_{part}") for side in sides] for part in ("train", "test"))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        result = task_relatedness(*tasks, evaluate_on=(held_out[0], held_out[1]), method=method)
        jax.block_until_ready(result)
        seconds.append(time.perf_counter() - start)
    result.raise_if_failed()
    exact = exact_transport(result, *held_out)
    terms = {
        name: float(getattr(result, name))
        for name in (
            "bound",
            "tight_bound",
            "reweighted_reference_loss",
            "label_mismatch",
            "distribution_mismatch",
            "distribution_mismatch_lower",
            "target_loss",
            "target_accuracy",
        )
    }
    without_transport = terms["reweighted_reference_loss"] + terms["label_mismatch"]
    return terms | {
        "exact_transport": exact,
        "exact_bound": without_transport + exact,
        "seconds_first": seconds[0],
        "seconds_warm_median": float(np.median(seconds[1:])),
    }


def main() -> None:
    """Print the table and write the results."""
    rows = {
        "head learned jointly": measure(Joint(learn_head=True)),
        "ridge head, fixed": measure(Joint(learn_head=False)),
        "fixed, ridge by the bound": measure(Joint(learn_head=False, head_ridge="validated")),
        "back: head learned jointly": measure(Joint(learn_head=True), back=True),
        "back: ridge head, fixed": measure(Joint(learn_head=False), back=True),
        "back: fixed, ridge by the bound": measure(Joint(learn_head=False, head_ridge="validated"), back=True),
    }
    table = Table(title="MNIST -> Fashion-MNIST, and back, held-out, nats")
    for column in (
        "reference head",
        "bound",
        "exact bound",
        "transport in",
        "target loss",
        "accuracy",
        "s first / warm",
    ):
        table.add_column(column, justify="left" if column == "reference head" else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['bound']:.3f}",
            f"{row['exact_bound']:.3f}",
            f"[{row['distribution_mismatch_lower']:.3f}, {row['distribution_mismatch']:.3f}]",
            f"{row['target_loss']:.3f}",
            f"{row['target_accuracy']:.1%}",
            f"{row['seconds_first']:.1f} / {row['seconds_warm_median']:.1f}",
        )
    Console(markup=False).print(table)
    versions = {
        "jaxrel": __version__,
        "jax": jax.__version__,
        "POT": ot.__version__,
        "python": platform.python_version(),
    }
    output = FOLDER / "results" / "mnist_to_fashion.json"
    command = "python benchmarks/mnist_to_fashion.py"
    output.write_text(json.dumps({"command": command, "versions": versions, "methods": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
