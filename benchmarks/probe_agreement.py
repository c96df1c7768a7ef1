"""Does the order of the ranking agree with the accuracy of a linear probe, and that of the bounds?

Run after `make demo`, whose results and cached features it reads:

    python benchmarks/probe_agreement.py --results jaxrel-results/reasons

The probe is a logistic regression on the target's training features (C by 3-fold cross-validation on them), evaluated
on the held-out samples of the ranking. Beside the ranking it prints Kendall's tau of transferability and of the bound
for each pair of tasks, and every pair of encoders that ranking and probe order differently, and whether they are tied.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import kendalltau
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from jaxrel.storage.records import write_atomically
from jaxrel.study import Settings, Split, Study

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Probe:
    """A linear probe: which held-out samples it gets right, and the C that cross-validation chose."""

    correct: np.ndarray
    penalty: float

    @property
    def accuracy(self) -> float:
        """Share of the held-out samples that it gets right."""
        return float(self.correct.mean())


@dataclass(frozen=True)
class Disagreement:
    """Two encoders that ranking and probe order differently; the ranking prefers the first."""

    preferred_by_ranking: str
    preferred_by_probe: str
    transferability_difference: float
    accuracy_difference: float
    tied_in_ranking: bool
    tied_in_probe: bool

    def __str__(self) -> str:
        """One line for the terminal."""
        ties = [name for name, tied in (("ranks", self.tied_in_ranking), ("probes", self.tied_in_probe)) if tied]
        why = f"{' and '.join(ties)} tied" if ties else "a real difference in both"
        return (
            f"{self.preferred_by_ranking} before {self.preferred_by_probe}: transferability "
            f"{self.transferability_difference:.1%} higher, probe {self.accuracy_difference:.1%} worse; {why}"
        )


def fit_probe(split: Split, seed: int) -> Probe:
    """Fit on the training task, evaluate on the held-out one."""
    assert split.held_out is not None
    train, held_out = (np.asarray(task.features, np.float32) for task in (split.train, split.held_out))
    # The floor under the deviations keeps features that are almost always 0 from ruling.
    centre, variance = train.mean(0), train.var(0)
    scale = np.sqrt(variance + 0.1 * variance.mean())
    probe = LogisticRegressionCV(
        Cs=PENALTIES,
        l1_ratios=(0,),
        cv=StratifiedKFold(3, shuffle=True, random_state=seed),
        scoring="neg_log_loss",
        tol=1e-3,
        max_iter=2000,
        use_legacy_attributes=False,
    ).fit((train - centre) / scale, np.asarray(split.train.labels))
    correct = probe.predict((held_out - centre) / scale) == np.asarray(split.held_out.labels)
    return Probe(correct, float(probe.C_))


def probes_tied(a: Probe, b: Probe) -> bool:
    """Whether the difference of two accuracies on the same samples is within its 90 % interval around 0."""
    difference = a.correct.astype(float) - b.correct
    return bool(abs(difference.mean()) <= 1.645 * difference.std() / np.sqrt(difference.size))


def disagreements(rows: Sequence[dict[str, Any]], probes: dict[str, Probe]) -> list[Disagreement]:
    """Every pair of encoders that ranking and probe order differently."""
    found = []
    for first, second in itertools.combinations(rows, 2):  # in the order of the ranking
        a, b = probes[first["encoder"]], probes[second["encoder"]]
        if a.accuracy >= b.accuracy:
            continue
        found.append(
            Disagreement(
                preferred_by_ranking=first["encoder"],
                preferred_by_probe=second["encoder"],
                transferability_difference=float(first["transferability"]) - float(second["transferability"]),
                accuracy_difference=b.accuracy - a.accuracy,
                tied_in_ranking=second["encoder"] in first["tied_with"],
                tied_in_probe=probes_tied(a, b),
            )
        )
    return found


def compare(pair: dict[str, Any], probes: dict[str, Probe], console: Console) -> dict[str, Any]:
    """Print one pair of tasks; return it for the JSON file."""
    rows = [row for row in pair["rows"] if row["status"] == "ok"]
    accuracies = [probes[row["encoder"]].accuracy for row in rows]
    by_accuracy = sorted(accuracies, reverse=True)
    tau = float(kendalltau([row["transferability"] for row in rows], accuracies).statistic)
    bound_tau = float(kendalltau([-float(row["bound"]) for row in rows], accuracies).statistic)
    console.print(
        f"\n{pair['reference']} → {pair['target']}: Kendall's tau {tau:.2f} (of the bound {bound_tau:.2f}) over "
        f"{len(rows)} encoders"
    )
    shown = Table("rank", "encoder", "transferability", "bound", "probe accuracy", "probe rank", box=None)
    for row, accuracy in zip(rows, accuracies, strict=True):
        shown.add_row(
            f"{'=' if row['tied_with_best'] else ''}{row['rank']}",
            row["encoder"],
            f"{row['transferability']:.1%}",
            f"{row['bound']:.3f}",
            f"{accuracy:.1%}",
            str(by_accuracy.index(accuracy) + 1),
        )
    console.print(shown)
    found = disagreements(rows, probes)
    for disagreement in found:
        console.print(f"  {disagreement}", soft_wrap=True)
    for row in pair["rows"]:
        if row["status"] != "ok":
            console.print(f"  {row['encoder']} has no score to compare: {row['status']}")
    return {
        "reference": pair["reference"],
        "target": pair["target"],
        "kendall_tau": tau,
        "kendall_tau_of_the_bound": bound_tau,
        "encoders": [
            {
                "encoder": row["encoder"],
                "transferability": row["transferability"],
                "bound": row["bound"],
                "probe_accuracy": accuracy,
                "C": probe.penalty,
            }
            for row, accuracy in zip(rows, accuracies, strict=True)
            for probe in [probes[row["encoder"]]]
        ],
        "num_pairs": len(rows) * (len(rows) - 1) // 2,
        "disagreements": [asdict(disagreement) for disagreement in found],
    }


def main() -> None:
    """Probe, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("jaxrel-results/reasons"), help="folder of `jaxrel rank`")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "probe_agreement.json")
    parser.add_argument("--data-path", nargs="+", default=[], metavar="NAME=PATH", help="as given to `jaxrel rank`")
    options = parser.parse_args()
    data_paths = {name: Path(path) for name, path in (entry.split("=", 1) for entry in options.data_path)}
    ranking = json.loads((options.results / "results.json").read_text())
    settings = Settings(**ranking["settings"] | {"method": None})
    names = {key: list(dict.fromkeys(pair[key] for pair in ranking["pairs"])) for key in ("reference", "target")}
    encoders = sorted({row["encoder"] for pair in ranking["pairs"] for row in pair["rows"]})
    study = Study(encoders, names["target"], names["reference"], settings=settings, data_paths=data_paths)
    targets = {name: study.plan().sources[name] for name in names["target"]}
    console = Console(highlight=False, width=120)
    probes: dict[str, dict[str, Probe]] = {name: {} for name in targets}
    for encoder, (name, target) in track(
        list(itertools.product(encoders, targets.items())), "linear probes", console=Console(stderr=True)
    ):
        split = target.features(encoder, lambda *_: None)
        probes[name][encoder] = fit_probe(split, settings.seed)
    pairs = [compare(pair, probes[pair["target"]], console) for pair in ranking["pairs"]]
    taus = [pair["kendall_tau"] for pair in pairs]
    found = [disagreement for pair in pairs for disagreement in pair["disagreements"]]
    tied = sum(entry["tied_in_ranking"] or entry["tied_in_probe"] for entry in found)
    total = sum(pair["num_pairs"] for pair in pairs)
    console.print(
        f"\nMean tau {np.mean(taus):.2f} over {len(pairs)} pairs of tasks. {len(found)} of {total} pairs of encoders "
        f"are ordered differently, {tied} of them tied in the ranking or in the probe.\n"
        f"{len(encoders)} encoders prove little: without any relation, the tau of one pair of tasks has standard "
        f"deviation {_tau_deviation(len(encoders)):.2f}, and tasks that share encoders and data are not independent.",
        soft_wrap=True,
    )
    document = {
        "versions": {name: version(name) for name in ("jax", "numpy", "scikit-learn")} | {"jaxrel": ranking["jaxrel"]},
        "settings": ranking["settings"],
        "mean_kendall_tau": float(np.mean(taus)),
        "tau_standard_deviation_under_no_relation": _tau_deviation(len(encoders)),
        "pairs": pairs,
    }
    write_atomically(options.output, (json.dumps(document, indent=1) + "\n").encode())
    console.print(f"Written to {options.output}", soft_wrap=True)


def _tau_deviation(n: int) -> float:
    return float(np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))))


if __name__ == "__main__":
    main()
